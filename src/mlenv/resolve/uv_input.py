"""One attempt to resolve, written down for uv: a project file, a configuration file, and the command line."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.utils import canonicalize_name

from mlenv.core.platform import GLIBC_FLOOR, Target
from mlenv.core.spec import Index, Sources
from mlenv.resolve.credentials import find_keyring
from mlenv.resolve.interface import ResolveRequest
from mlenv.resolve.requirement_lines import Line

#: The project that stands for the user in uv's explanations.
PROJECT: Final = "mlenv-request"
#: The manylinux levels, besides 2.17, that uv can resolve for; `uv pip compile --help` lists them.
_LEVELS: Final = (40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17)
#: Pages may be ten minutes old; files never change. Many indexes say neither.
_CACHE_CONTROL: Final = {"api": "max-age=600", "files": "max-age=365000000, immutable"}


class Attempt(Struct, frozen=True):
    """
    What one run of uv is asked.

    Attributes:
        request: Target, sources and options.
        lines: What to resolve.
        constraints: Bounds that ask for nothing.
        source: Projects that are taken as source, and may be built for their metadata.
        assumed: Projects that are taken as source, with what they are assumed to need, so that nothing is built: for
            finding out what would happen if their build were allowed.
        setuptools: Bounds on the setuptools that builds get.
        guarded: The addresses of indexes that want credentials which only the keyring may have: uv asks it without
            a user's name only for indexes that are said to want them always.
    """

    request: ResolveRequest
    lines: tuple[Line, ...]
    constraints: tuple[Line, ...] = ()
    source: frozenset[str] = frozenset()
    assumed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    setuptools: str | None = None
    guarded: frozenset[str] = frozenset()

    @property
    def hashes(self) -> Mapping[str, frozenset[str]]:
        """What the files of a project may have for a hash, by its name, where the user's lines and bounds list some."""
        listed: dict[str, frozenset[str]] = {}
        for lines in (self.lines, self.constraints):
            together: dict[str, frozenset[str]] = {}
            for each in lines:
                if each.source.hashes:
                    together[each.name] = together.get(each.name, frozenset()).union(each.source.hashes)
            for name, hashes in together.items():
                listed[name] = listed.get(name, hashes) & hashes
        return listed

    def with_lines(self, lines: Iterable[Line]) -> "Attempt":
        """The same with other lines."""
        return replace(self, lines=tuple(lines))


def pinned_names(sources: Sources) -> frozenset[str]:
    """The projects that come from one index only."""
    return frozenset(canonicalize_name(name) for each in sources.extra for name in each.packages)


def write(attempt: Attempt, directory: Path, *, public: str | None) -> None:
    """Write `pyproject.toml`, `uv.toml`, `constraints.txt` and `build-constraints.txt` into the directory."""
    import tomli_w

    directory.mkdir(parents=True, exist_ok=True)
    indexes = _indexes(attempt, public)
    (directory / "uv.toml").write_text(tomli_w.dumps(_configuration(attempt, indexes)), encoding="utf-8")
    (directory / "pyproject.toml").write_text(tomli_w.dumps(_project(attempt, indexes)), encoding="utf-8")
    provided = [f"{each.name} @ {each.wheel.as_uri()}" for each in attempt.request.provided]
    constraints = "".join(f"{each}\n" for each in (*provided, *(line.text for line in attempt.constraints)))
    (directory / "constraints.txt").write_text(constraints, encoding="utf-8")
    build = f"setuptools{attempt.setuptools}\n" if attempt.setuptools else ""
    (directory / "build-constraints.txt").write_text(build, encoding="utf-8")


def uv_platform(target: Target) -> str:
    """The target in the words of uv's `--python-platform`: the highest level that is not above the target's."""
    machine = target.platform.machine
    if target.platform.os == "darwin":
        return f"{machine}-apple-darwin"
    if target.platform.os == "windows":
        return f"{machine}-pc-windows-msvc"
    minor = (target.glibc or GLIBC_FLOOR).minor
    return f"{machine}-manylinux_2_{next((level for level in _LEVELS if level <= minor), 17)}"


def compile_arguments(attempt: Attempt, python: str) -> list[str]:
    """
    The command line for an attempt that was written.

    Args:
        attempt: What was written.
        python: The interpreter that builds metadata, and that uv then does not have to look for.
    """
    source = attempt.source | attempt.assumed.keys()
    arguments = [
        *("pip", "compile", "pyproject.toml", "--config-file", "uv.toml", "--no-header", "--python", python),
        *("--python-version", attempt.request.target.python, "--python-platform", uv_platform(attempt.request.target)),
        *("--only-binary", ":all:"),
    ]
    if attempt.constraints or attempt.request.provided:
        arguments += ["--constraints", "constraints.txt"]
    for each in attempt.request.provided:
        arguments += ["--no-emit-package", each.name]
    if attempt.setuptools:
        arguments += ["--build-constraints", "build-constraints.txt"]
    for name in sorted(source):
        arguments += ["--no-binary", name]
    return arguments


def _configuration(attempt: Attempt, indexes: list[dict[str, Any]]) -> dict[str, Any]:
    request = attempt.request
    document: dict[str, Any] = {"index-strategy": "first-index"}
    if request.as_of is not None:
        document["exclude-newer"] = request.as_of.strftime("%Y-%m-%dT%H:%M:%SZ")
    if request.prereleases:
        document["prerelease"] = "allow"
    if request.sources.no_index:
        document["no-index"] = True
    elif indexes:
        document["index"] = indexes
    if flat := [each.url for each in request.sources.extra if each.flat]:
        document["find-links"] = flat
    if find_keyring() is not None:
        document["keyring-provider"] = "subprocess"
    if attempt.assumed:
        document["dependency-metadata"] = [
            {"name": name, "requires-dist": list(needs)} for name, needs in sorted(attempt.assumed.items())
        ]
    return document


def _project(attempt: Attempt, indexes: list[dict[str, Any]]) -> dict[str, Any]:
    names = {each.name for each in (*attempt.lines, *attempt.constraints)}
    pins = {
        canonicalize_name(name): {"index": entry["name"]}
        for entry, index in zip(indexes, _searched(attempt.request.sources), strict=False)
        for name in index.packages
        if canonicalize_name(name) in names
    }
    # NOTE: an empty workspace table keeps uv from looking for a project in the directories above.
    tool: dict[str, Any] = {"workspace": {}}
    if pins:
        tool |= {"sources": pins, "index": [each for each in indexes if each.get("explicit")]}
    project = {"name": PROJECT, "version": "0", "dependencies": [each.text for each in attempt.lines]}
    return {"project": project, "tool": {"uv": tool}}


def _searched(sources: Sources) -> list[Index]:
    return [each for each in sources.extra if not each.flat]


def _indexes(attempt: Attempt, public: str | None) -> list[dict[str, Any]]:
    """uv's `[[index]]` tables: the extra ones in order, the default last."""
    sources = attempt.request.sources
    tables = []
    for number, index in enumerate(_searched(sources)):
        table: dict[str, Any] = {"name": index.name or f"index-{number}", "url": index.url}
        if index.packages:
            table["explicit"] = True
        tables.append(table | _cached(index.url))
    default = sources.default or (Index(public) if public else None)
    if default is not None:
        named = {"name": default.name} if default.name else {}
        tables.append(named | {"url": default.url, "default": True} | _cached(default.url))
    for table in tables:
        if table["url"] in attempt.guarded:
            table["authenticate"] = "always"
    return tables


def _cached(url: str) -> dict[str, Any]:
    return {"cache-control": _CACHE_CONTROL} if url.startswith("http") else {}
