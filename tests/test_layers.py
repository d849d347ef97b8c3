"""Arrows between packages point down: `cli, server, web → service → resolve | build | run → core → errors`."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[1] / "src" / "mlenv"

_BOTTOM = {"certificates", "errors", "faults", "file_lock", "threads"}
_CORE = {"core"} | _BOTTOM
_WORKERS = {"resolve", "build", "run", "distribution"}
_SERVICE = {"api", "service"} | _WORKERS | _CORE

#: What each package may import, besides itself. A package that is not here has no place yet.
_MAY_IMPORT: dict[str, set[str]] = {
    "certificates": set(),
    "errors": set(),
    "faults": set(),
    "file_lock": set(),
    "threads": set(),
    "home": set(),
    "core": {"errors"},
    "resolve": _CORE,
    "build": _CORE,
    "run": _CORE,
    "distribution": _CORE,
    "store": _CORE,
    "api": _CORE,
    "client": {"api"} | _CORE,
    "work": _SERVICE,
    "service": _SERVICE - {"service"},
    "web": _SERVICE,
    "server": {"web"} | _SERVICE,
    "wiring": {"store", "home", "client", "work"} | _SERVICE,
    "remote": {"client", "wiring"} | _SERVICE,
    "child": {"wiring", "work"},
    # It knows py-rattler, and nothing of mlenv.
    "conda_child": set(),
    "cli": {"client", "remote", "wiring", "home", "server"} | _SERVICE,
    # The package itself re-exports the client; running it is running the command line.
    "__init__": {"client"} | _CORE,
    "__main__": {"cli"},
}

#: `core` opens nothing, asks no clock and draws no lots.
_NOT_IN_CORE = {"os", "subprocess", "socket", "shutil", "tempfile", "time", "random", "secrets", "uuid", "sqlite3"}
_NO_CALLS_IN_CORE = {"open", "now", "today", "utcnow", "read_text", "read_bytes", "write_text", "write_bytes"}


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(_SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text(), filename=str(path))


def _package(module: str) -> str:
    """`mlenv.core.digest` belongs to `core`, `mlenv` to `__init__`."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or "__init__"


def _imported(tree: ast.Module, path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a module names in an import, wherever it stands, with its line."""
    parents = ("mlenv", *path.relative_to(_SOURCE).with_suffix("").parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parents[: -node.level]) if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            if source == "mlenv":
                yield from ((node.lineno, f"mlenv.{each.name}") for each in node.names if _is_module(each.name))
            else:
                yield node.lineno, source
        elif isinstance(node, ast.Call) and _called(node) == "import_module":
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value)


def _is_module(name: str) -> bool:
    return (_SOURCE / name).is_dir() or (_SOURCE / f"{name}.py").is_file()


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _arrows(tree: ast.Module, path: Path) -> list[str]:
    """The imports of one module that point where they may not."""
    own = path.relative_to(_SOURCE).with_suffix("").parts[0]
    where = f"{path.relative_to(_SOURCE.parent)}"
    if own not in _MAY_IMPORT:
        return [f"{where}: the package {own} has no place among the layers"]
    wrong = []
    for line, module in _imported(tree, path):
        if module.partition(".")[0] == "mlenv" and _package(module) not in _MAY_IMPORT[own] | {own}:
            wrong.append(f"{where}:{line}: {own} → {_package(module)} ({module})")
    return wrong


def test_arrows_point_down() -> None:
    wrong = [arrow for path, tree in _modules() for arrow in _arrows(tree, path)]
    assert not wrong, "arrows that point up, or between siblings:\n" + "\n".join(wrong)


def _when_imported(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.Import | ast.ImportFrom):
            yield each
        elif isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING":
            for other in each.orelse:
                yield from _when_imported(other)
        elif not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _when_imported(each)


def test_modules_import_each_other_in_no_circle() -> None:
    """So each can be the first: the tests' own processes have imported all of them before a command begins."""
    names = {path: ".".join(("mlenv", *path.relative_to(_SOURCE).with_suffix("").parts)) for path, _ in _modules()}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    known, needs = set(names.values()), dict[str, set[str]]()
    for path, tree in _modules():
        found = needs[names[path]] = set[str]()
        for node in _when_imported(tree):
            if isinstance(node, ast.Import):
                found |= {each.name for each in node.names} & known
                continue
            assert node.module is not None, f"{path}:{node.lineno}: say from which module"
            below = {f"{node.module}.{each.name}" for each in node.names}
            found |= (below & known) or ({node.module} & known)
    # Raises `CycleError`, with the circle.
    assert len(list(TopologicalSorter(needs).static_order())) == len(known)


def test_core_opens_nothing_and_asks_no_clock() -> None:
    wrong = []
    for path, tree in _modules():
        if path.relative_to(_SOURCE).parts[0] != "core":
            continue
        for line, module in _imported(tree, path):
            if module.partition(".")[0] in _NOT_IN_CORE:
                wrong.append(f"{path.name}:{line}: imports {module}")
        for node in ast.walk(tree):
            # A file object that was handed in may be opened as an archive: `ZipFile.open` is not `open`.
            if isinstance(node, ast.Call) and _called(node) in _NO_CALLS_IN_CORE:
                is_name = isinstance(node.func, ast.Name)
                if is_name or _called(node) != "open":
                    wrong.append(f"{path.name}:{node.lineno}: calls {_called(node)}")
    assert not wrong, "core reaches out of itself:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "text", "arrow"),
    [
        ("build/plan.py", "from mlenv.resolve.pip import Pip", "build → resolve"),
        ("core/lock.py", "import mlenv.service", "core → service"),
        ("service/building.py", "def f():\n    from mlenv.store import sql", "service → store"),
        ("store/sql.py", "from ..service.interface import Registry", "store → service"),
        ("cli/main.py", "from mlenv import store", "cli → store"),
        ("run/local.py", "import_module('mlenv.build.layers')", "run → build"),
        ("attic/old.py", "", "attic has no place"),
    ],
)
def test_an_arrow_that_points_up_is_found(file: str, text: str, arrow: str) -> None:
    (found,) = _arrows(ast.parse(text), _SOURCE / file)
    assert arrow in found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("service/building.py", "from mlenv.build.layers import build_layers"),
        ("cli/main.py", "from mlenv import wiring"),
        ("core/lock.py", "from .digest import Digest"),
        ("errors.py", "import typing"),
    ],
)
def test_an_arrow_that_points_down_is_let_pass(file: str, text: str) -> None:
    assert _arrows(ast.parse(text), _SOURCE / file) == []
