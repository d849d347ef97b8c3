"""Which Pythons a base image has: Debian's, those of the official images, conda's, and those that uv or pyenv put there."""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mlenv.build.facts_system import dpkg_version
from mlenv.build.facts_tree import Interest, Tree
from mlenv.core.facts import Interpreter

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EXECUTABLE: Final = re.compile(r"python(3\.\d{1,3})")
_CONDA_PACKAGE: Final = re.compile(r"python-(3\.\d+\.\d+\w*)-[^/]*\.json")
_PYTHON_VERSION: Final = re.compile(rb"\0(3\.\d{1,3}\.\d{1,3}(?:(?:a|b|rc)\d{1,3})?)\+?\0")
_HEADER_VERSION: Final = re.compile(rb'#define\s+PY_VERSION\s+"(3\.[0-9.abrc]+)\+?"')


def _from_binary(data: bytes) -> bytes | None:
    """`PY_VERSION` as it stands among a binary's texts. Two that differ say nothing."""
    found = set(_PYTHON_VERSION.findall(data))
    return found.pop() if len(found) == 1 else None


def _from_header(data: bytes) -> bytes | None:
    match = _HEADER_VERSION.search(data)
    return match[1] if match else None


PYTHON_INTERESTS: Final = (
    Interest(re.compile(r"(?:.*/)?bin/python3\.\d{1,3}"), 64 << 20, _from_binary),
    Interest(re.compile(r"(?:.*/)?lib/(?:[^/]+/)?libpython3\.\d{1,3}\.so\.1\.0"), 64 << 20, _from_binary),
    Interest(re.compile(r"(?:.*/)?include/python3\.\d{1,3}/patchlevel\.h"), 64 << 10, _from_header),
)


def conda_prefixes(tree: Tree) -> list[str]:
    """Directories with a `conda-meta/history`, sorted; a base before the environments in it."""
    return sorted(
        path
        for path, node in tree.directories()
        if path and (meta := (node.children or {}).get("conda-meta")) and "history" in (meta.children or {})
    )


def find_pythons(tree: Tree, variables: Mapping[str, str], conda: Sequence[str]) -> tuple[Interpreter, ...]:
    """Interpreters, those on `PATH` first and in its order, and then the others by path."""
    found: dict[str, Interpreter] = {}
    for path in _candidates(tree, variables.get("PATH") or _PATH):
        real = tree.real_path(path)
        if real is None or real in found or _is_package_cache(real, conda):
            continue
        match = _EXECUTABLE.fullmatch(posixpath.basename(real))
        node = tree.find(real)
        if not match or node is None or node.children is not None:
            continue
        prefix = posixpath.dirname(posixpath.dirname(real)) or "/"
        version = _version(tree, prefix, real, match[1], variables)
        found[real] = Interpreter(real, version, prefix, conda=prefix in conda)
    return tuple(found.values())


def _candidates(tree: Tree, path: str) -> Iterator[str]:
    for directory in path.split(":"):
        if directory.startswith("/"):
            names = tree.names(directory)
            yield from (f"{directory}/{name}" for name in ("python3", "python") if name in names)
            yield from (
                f"{directory}/{name}" for name in sorted(names, key=_newest_first) if _EXECUTABLE.fullmatch(name)
            )
    for place, node in tree.directories():
        if place.endswith("/bin"):
            names = list(node.children or ())
            yield from (f"{place}/{name}" for name in sorted(names, key=_newest_first) if _EXECUTABLE.fullmatch(name))


def _newest_first(name: str) -> tuple[int, str]:
    match = _EXECUTABLE.fullmatch(name)
    return (-int(match[1].split(".")[1]) if match else 0, name)


def _is_package_cache(path: str, conda: Sequence[str]) -> bool:
    """conda keeps the packages it unpacked in `pkgs`: whole Pythons, but not ones to be used."""
    return any(path.startswith(f"{prefix}/pkgs/") for prefix in conda)


def _version(tree: Tree, prefix: str, path: str, minor: str, variables: Mapping[str, str]) -> str:
    """The exact version, from the best witness there is; only `3.11` if there is none."""
    for version in _witnesses(tree, prefix, path, minor, variables):
        if version and re.fullmatch(rf"{re.escape(minor)}\.\d+(?:(?:a|b|rc)\d+)?", version):
            return version
    return minor


def _witnesses(tree: Tree, prefix: str, path: str, minor: str, variables: Mapping[str, str]) -> Iterator[str | None]:
    for name in tree.names(f"{prefix}/conda-meta"):
        if match := _CONDA_PACKAGE.fullmatch(name):
            yield match[1]
    if prefix == "/usr":
        package = dpkg_version(tree, f"python{minor}-minimal") or ""
        yield re.sub(r"-[^-]*$", "", package).replace("~", "").split("+")[0]
    libraries = (
        f"{prefix}/lib",
        f"{prefix}/lib/x86_64-linux-gnu",
        f"{prefix}/lib/aarch64-linux-gnu",
        f"{prefix}/lib64",
    )
    for file in (
        f"{prefix}/include/python{minor}/patchlevel.h",
        path,
        *(f"{directory}/libpython{minor}.so.1.0" for directory in libraries),
    ):
        fact = tree.fact(file)
        yield fact.decode() if fact else None
    if prefix == "/usr/local":
        yield variables.get("PYTHON_VERSION")
    yield posixpath.basename(prefix).removeprefix("cpython-").split("-")[0]
