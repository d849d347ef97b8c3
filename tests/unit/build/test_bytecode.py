import importlib.util
import io
import py_compile
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard
from support.blobs import DirectoryBlobs, LayerMemory
from support.wheels import make_wheel

from mlenv.build import compiler as module
from mlenv.build.bytecode import bytecode_key, compile_to_files, compile_wheel, recall
from mlenv.build.compiler import Compiler, CompilerFailed, bytecode_path
from mlenv.build.layers import build_layers
from mlenv.core.layer import LayerPlan, LayerRecipe
from mlenv.core.progress import Silent
from mlenv.core.wheel import InstalledTree, Scheme, read_wheel

_VERSION = ".".join(map(str, sys.version_info[:3]))
_MINOR = ".".join(map(str, sys.version_info[:2]))
_TAG = sys.implementation.cache_tag
_SITE = f"lib/python{_MINOR}/site-packages"
_PYTHON = Path(sys.executable)

#: Sources whose bytecode depends on what the process has interned, if nothing is done about it.
_DELICATE = {
    "sets.py": (
        b"def f(x):\n    return x in {'alpha', 'beta', 'gamma'}\n"
        b"def g(x):\n    return x in {'alpha', 'beta', 'gamma'}\n"
        b"def h(x):\n    return x in {('nested', 'pair'), 'al' 'pha'}\n"
    ),
    "one.py": b"A = ['/', '.', ' ', '(', '\\xe9', '']\nB = {'/': 1, '(': 2}\n",
    "nested.py": b"class A:\n    def f(self):\n        class B:\n            pass\n        return B\n",
    "copy.py": b"class A:\n    def f(self):\n        class B:\n            pass\n        return B, 'A.f.<locals>.B'\n",
    "names.py": b"import alpha, beta, gamma, nested, pair\nC = ('alpha', 'beta', 'gamma', 'nested', 'pair')\n",
}


def _tree(path: Path) -> InstalledTree:
    wheel = read_wheel(io.BytesIO(path.read_bytes()), filename=path.name)
    return wheel.install(Scheme.posix(_MINOR, script_python="/opt/env/bin/python"), requested=False)


def _compiled(path: Path, *, workers: int | None = None) -> dict[str, bytes | None]:
    with Compiler(_PYTHON, _VERSION, workers=workers) as compiler:
        return dict(compiler.compile(path, _tree(path)))


def test_bytecode_is_unchecked_and_names_its_place(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", files={"pkg/mod.py": b"def f():\n    return 1\n"})
    ((name, content),) = _compiled(path).items()
    assert name == f"{_SITE}/pkg/__pycache__/mod.{_TAG}.pyc"
    assert content is not None
    assert content[:16] == importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(
        b"def f():\n    return 1\n"
    )
    assert f"/opt/env/{_SITE}/pkg/mod.py".encode() in content


def test_python_imports_it_without_the_source(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", files={"mod.py": b"X = 41 in {41, 'a'}\nprint(X, __cached__)\n"})
    ((_, content),) = _compiled(path).items()
    assert content is not None
    target = tmp_path / "place" / "__pycache__" / f"mod.{_TAG}.pyc"
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    # The hash is never checked: even another source does not make Python compile again.
    (tmp_path / "place" / "mod.py").write_text("raise SystemExit(3)\n")
    command = [sys.executable, "-W", "ignore", "-c", "import mod"]
    result = subprocess.run(command, cwd=tmp_path / "place", capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", str(target)]


@pytest.mark.parametrize("path", ["pkg/tests/test_x.py", "tests/__init__.py", "pkg/data.txt", "pkg/x.pyi"])
def test_some_files_are_left_alone(tmp_path: Path, path: str) -> None:
    wheel = make_wheel(tmp_path, "pkg", files={path: b"x = 1\n", "pkg/testing.py": b"", "test/y.py": b""})
    assert set(_compiled(wheel)) == {
        f"{_SITE}/pkg/__pycache__/testing.{_TAG}.pyc",
        f"{_SITE}/test/__pycache__/y.{_TAG}.pyc",
    }


@pytest.mark.parametrize(
    "source",
    [b"print 'two'\n", b"x = {{ template }}.\n", b"\0", b"# coding: nonsense\n", b"\xff\xfe", b"(" * 5000, b"return\n"],
)
def test_what_can_not_be_compiled_is_skipped(tmp_path: Path, source: bytes) -> None:
    wheel = make_wheel(tmp_path, "pkg", files={"bad.py": source, "good.py": b"x = 1\n"})
    compiled = _compiled(wheel)
    assert compiled[f"{_SITE}/__pycache__/bad.{_TAG}.pyc"] is None
    assert compiled[f"{_SITE}/__pycache__/good.{_TAG}.pyc"] is not None


def test_a_source_that_kills_the_interpreter_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is told to die of one source, as it would of processor time; the others are compiled by a new one."""
    script = Path(module.__file__).with_name("_compile_worker.py").read_text()
    deadly = script.replace(
        "    known: set[str] = set()\n",
        "    known: set[str] = set()\n    if b'DEADLY' in source:\n        os.abort()\n",
    )
    assert deadly != script
    monkeypatch.setattr(module, "_worker_script", lambda: deadly)
    files = {f"m{number}.py": b"x = 1\n" for number in range(9)} | {"m4.py": b"'DEADLY'\n"}
    compiled = _compiled(make_wheel(tmp_path, "pkg", files=files), workers=1)
    assert [path for path, content in compiled.items() if content is None] == [f"{_SITE}/__pycache__/m4.{_TAG}.pyc"]
    assert len(compiled) == 9


def test_bytes_do_not_depend_on_what_was_compiled_before(tmp_path: Path) -> None:
    names = sorted(_DELICATE)
    seen: dict[str, set[bytes | None]] = {}
    for number in range(len(names)):
        rotated = names[number:] + names[:number]
        for order in (rotated, rotated[::-1]):
            # The order of compiling is the order of paths, so the packages say it.
            files = {f"p{place}/{name}": _DELICATE[name] for place, name in enumerate(order)}
            with Compiler(_PYTHON, _VERSION, workers=1) as compiler:
                wheel = make_wheel(tmp_path / str(len(seen)) / str(number), "pkg", files=files)
                sources = [(tmp_path / name, f"/x/{name}", name) for name in order]
                for name in order:
                    (tmp_path / name).write_bytes(_DELICATE[name])
                for path, content in compiler.compile_files(sources):
                    seen.setdefault(path, set()).add(content)
                assert None not in dict(compiler.compile(wheel, _tree(wheel))).values()
    assert {name: len(each) for name, each in seen.items()} == dict.fromkeys(names, 1)


def test_an_interpreter_of_another_version_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "pkg")
    with (
        Compiler(_PYTHON, "3.11.99") as compiler,
        pytest.raises(CompilerFailed, match=r"expected CPython 3\.11\.99, got"),
    ):
        list(compiler.compile(wheel, _tree(wheel)))


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/true"])
def test_something_that_is_no_interpreter_is_refused(tmp_path: Path, python: str) -> None:
    wheel = make_wheel(tmp_path, "pkg")
    with Compiler(Path(python), _VERSION) as compiler, pytest.raises(CompilerFailed, match=python):
        list(compiler.compile(wheel, _tree(wheel)))


def test_a_wheel_is_compiled_once(tmp_path: Path) -> None:
    blobs, cache = DirectoryBlobs(tmp_path / "blobs"), LayerMemory()
    wheel = make_wheel(tmp_path, "pkg", files={"a.py": b"x = 1\n", "b.py": b"print 1\n"})
    package = blobs.add_wheel(wheel)
    key = bytecode_key(package.artifact.digest, _VERSION)
    assert recall(key, blobs=blobs, cache=cache) is None
    with Compiler(_PYTHON, _VERSION) as compiler:
        first = compile_wheel(wheel, _tree(wheel), key=key, compiler=compiler, blobs=blobs, cache=cache)
        expected = {path: content for path, content in compiler.compile(wheel, _tree(wheel)) if content is not None}
    with Compiler(Path("/nowhere/python"), _VERSION) as never_started:
        second = compile_wheel(wheel, _tree(wheel), key=key, compiler=never_started, blobs=blobs, cache=cache)
    assert first == second == recall(key, blobs=blobs, cache=cache)
    assert dict(first.contents(blobs)) == expected
    assert first.skipped == (f"{_SITE}/__pycache__/b.{_TAG}.pyc",)


def test_a_layer_has_the_bytecode_and_record_lists_it(tmp_path: Path) -> None:
    blobs, cache = DirectoryBlobs(tmp_path / "blobs"), LayerMemory()
    shipped = f"a/__pycache__/m.{_TAG}.pyc"
    packages = [
        blobs.add_wheel(make_wheel(tmp_path, "aa", files={"a/m.py": b"x = 1\n", shipped: b"stale", "both.py": b"1"})),
        blobs.add_wheel(make_wheel(tmp_path, "bb", files={"b/m.py": b"y = 1\n", "both.py": b"x = ("})),
    ]
    recipe = LayerRecipe(_MINOR, _VERSION)
    plans = [LayerPlan("x", tuple(packages))]
    with Compiler(_PYTHON, _VERSION) as compiler:
        (layer,) = build_layers(plans, recipe, blobs=blobs, cache=cache, compiler=compiler)
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(blobs.read(layer.digest))
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        files = {each.name: tar.extractfile(each).read() for each in tar if each.isreg()}  # type: ignore[union-attr]
    site = f"opt/env/{_SITE}"
    assert files[f"{site}/{shipped}"].startswith(importlib.util.MAGIC_NUMBER)
    record = files[f"{site}/aa-1.0.dist-info/RECORD"].decode().splitlines()
    assert [line for line in record if "m.cpython" in line] == [f"{shipped},,"]
    # The winner of a path could not be compiled: the loser's bytecode must not stand in for it.
    assert files[f"{site}/both.py"] == b"x = ("
    assert f"{site}/__pycache__/both.{_TAG}.pyc" not in files
    assert list(files) == sorted(files)


@dataclass(frozen=True)
class _File:
    source: Path
    target: Path
    name: str


def test_files_on_disk_are_compiled_for_a_local_run(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_text("x = (\n")
    files = [_File(tmp_path / name, tmp_path / "out" / f"{name}c", f"site/{name}") for name in ("m.py", "bad.py")]
    compile_to_files(_PYTHON, files, Silent())
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["m.pyc"]
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    theirs = py_compile.compile(str(tmp_path / "m.py"), str(tmp_path / "theirs"), "site/m.py", invalidation_mode=mode)
    assert theirs is not None
    assert (tmp_path / "out" / "m.pyc").read_bytes()[:16] == Path(theirs).read_bytes()[:16]


def test_paths_of_bytecode() -> None:
    assert bytecode_path("a/b.py", "cpython-311") == "a/__pycache__/b.cpython-311.pyc"
