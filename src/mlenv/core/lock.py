"""A spec resolved for one platform, to exact bytes, and its form on disk: `pylock.toml` (PEP 751)."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import tomli
from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    from mlenv.core.conda_package import CondaPackage

#: What a lock is called, by itself and at the root of an environment that was made from it.
LOCK_NAME: Final = "pylock.toml"
_LOCK_VERSION: Final = "1.0"
_T = TypeVar("_T")
#: The version of what `[tool.mlenv]` holds; with conda packages it is another one, which older programs refuse.
_FORMAT: Final = 1
_FORMAT_CONDA: Final = 2
#: Who installs a package, where both are told of together.
PYPI: Final = "pypi"
CONDA: Final = "conda"
_FILE_NAME: Final = re.compile(r"[^/\\\x00-\x1f]+")


class InvalidLock(InvalidInput):
    """Text that should be a lock, and is not, or is one that nothing can be installed from."""

    hint = "make it anew with `mlenv environment lock`, or with a tool that writes PEP 751"


class Artifact(Struct, frozen=True):
    """
    One file that is installed.

    Attributes:
        filename: Its name: `numpy-2.1.0-cp311-cp311-manylinux_2_28_x86_64.whl`.
        size: In bytes.
        digest: Its sha256.
        url: Where it came from, without credentials; None if it was built here and only the store has it.
    """

    filename: str
    size: int
    digest: Digest
    url: str | None

    def __post_init__(self) -> None:
        # Names and sizes come from indexes and other people's locks.
        if not _FILE_NAME.fullmatch(self.filename) or self.filename in {".", ".."}:
            raise InvalidLock(f"a lock names an artifact {self.filename!r}, which is no file name")
        if self.size < 0:
            raise InvalidLock(f"a lock gives {self.filename} the size {self.size}")


class LockedPackage(Struct, frozen=True):
    """
    One package at one version.

    Attributes:
        name: Normalised (PEP 503).
        version: As PEP 440 writes it.
        artifact: The wheel.
        requires: Names of the locked packages it needs, sorted.
        requested: Whether the user asked for it by name (PEP 376, `REQUESTED`).
        built_from: The source that the wheel was built from here, or None.
    """

    name: str
    version: str
    artifact: Artifact
    requires: tuple[str, ...] = ()
    requested: bool = False
    built_from: Artifact | None = None


class LockedBase(Struct, frozen=True):
    """An image that a Dockerfile names: as it is written there, its platform if that is another one, and its manifest."""

    name: str
    digest: Digest
    platform: Platform | None = None


class LockedContext(Struct, frozen=True):
    """
    A Dockerfile context, to exact bytes.

    Attributes:
        digest: Of the context's archive, Dockerfile and all (`build/context.py`).
        dockerfile: The Dockerfile's path in the context.
        bases: The images that the Dockerfile needs, in its order.
        arguments: Build arguments, sorted by name.
    """

    digest: Digest
    dockerfile: str
    bases: tuple[LockedBase, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()


class Lock(Struct, frozen=True, dict=True):
    """
    A spec resolved for one platform. Without slots: its text, which takes milliseconds to write, is kept.

    Attributes:
        target: What it was resolved for.
        packages: Sorted by name; one version of each.
        resolver: What resolved it: `uv 0.9.0`.
        base: The base image it was resolved for, or None if that was not at hand and `target.glibc` is assumed.
        as_of: The index is taken as it stood at this time (RFC 3339), or None for now.
        bytecode: The full version of the interpreter that compiles the bytecode in images, `3.11.2`; None for images
            without bytecode. It is of the target's minor version, whose patch releases read each other's bytecode.
        context: The Dockerfile context that it is a lock of. Such a lock has no packages, and its target no Python.
        conda: What conda installs below `packages`, sorted by name; one build of each. If Python is among them, it is
            the target's.
    """

    target: Target
    packages: tuple[LockedPackage, ...]
    resolver: str
    base: Digest | None = None
    as_of: str | None = None
    bytecode: str | None = None
    context: LockedContext | None = None
    conda: "tuple[CondaPackage, ...]" = ()

    def __post_init__(self) -> None:
        for names in ([each.name for each in self.packages], [each.name for each in self.conda]):
            if names != sorted(set(names)):
                raise InvalidLock("the packages of a lock are sorted by name, one version of each")
        if self.conda:
            self._check_conda()

    def _check_conda(self) -> None:
        from mlenv.core.conda_package import NOARCH, subdir_of

        fitting = (subdir_of(self.target.platform), NOARCH)
        if strange := [each for each in self.conda if each.subdir not in fitting]:
            raise InvalidLock(f"a lock for {self.target.platform} with {strange[0].name} for {strange[0].subdir}")
        if self.context is not None:
            raise InvalidLock("a lock of a Dockerfile has no conda packages")

    @cached_property
    def digest(self) -> Digest:
        """The name of this lock: of its `pylock.toml` bytes."""
        return Digest.of(self.to_pylock().encode())

    @property
    def foundation(self) -> Digest | None:
        """What images of this lock are known by besides the lock: the base, or the context where that is `scratch`."""
        return self.base or (self.context.digest if self.context else None)

    @property
    def size(self) -> int:
        """Bytes to download in all."""
        return sum(each.artifact.size for each in self.everything)

    @property
    def everything(self) -> "tuple[CondaPackage | LockedPackage, ...]":
        """All that is locked: conda's packages, and the wheels on top of them."""
        return (*self.conda, *self.packages)

    @property
    def count(self) -> int:
        """How many packages are locked in all."""
        return len(self.packages) + len(self.conda)

    def package(self, name: str) -> LockedPackage | None:
        """The package of that normalised name, if it is locked."""
        return next((each for each in self.packages if each.name == name), None)

    def conda_package(self, name: str) -> "CondaPackage | None":
        """The conda package of that name, if it is locked."""
        return next((each for each in self.conda if each.name == name), None)

    def to_pylock(self) -> str:
        """The lock as `pylock.toml` text: the same lock gives the same text."""
        return self._text

    @cached_property
    def _text(self) -> str:
        import tomli_w

        document: dict[str, Any] = {
            "lock-version": _LOCK_VERSION,
            "environments": [_marker(self.target)],
            "requires-python": f"=={self.target.python_minor}.*",
            "created-by": "mlenv",
            "packages": [_package_to_dict(each) for each in self.packages],
            "tool": {"mlenv": self._tool()},
        }
        if not self.target.python:
            del document["requires-python"]
        return tomli_w.dumps(document)

    def _tool(self) -> dict[str, Any]:
        tool: dict[str, Any] = {
            "format": _FORMAT_CONDA if self.conda else _FORMAT,
            "platform": str(self.target.platform),
            "python": self.target.python,
            "resolver": self.resolver,
        }
        if self.context is not None:
            del tool["python"]
            tool["context"] = _context_to_dict(self.context)
        optional = {"bytecode": self.bytecode, "glibc": self.target.glibc, "base": self.base, "as-of": self.as_of}
        tool |= {key: str(value) for key, value in optional.items() if value is not None}
        if self.conda:
            from mlenv.core.lock_conda import conda_to_dict

            tool["conda"] = [conda_to_dict(each) for each in self.conda]
        return tool

    @classmethod
    def from_pylock(cls, text: str) -> Self:
        """
        Read what `to_pylock` wrote.

        Raises:
            InvalidLock: It is not TOML, not PEP 751, or was not written by mlenv.
        """
        try:
            document = tomli.loads(text)
            tool = document["tool"]["mlenv"]
            expected = _FORMAT_CONDA if "conda" in tool else _FORMAT
            if document["lock-version"] != _LOCK_VERSION or tool["format"] != expected:
                raise InvalidLock(
                    f"this lock has version {document['lock-version']!r}, format {tool['format']!r}; "
                    f"expected {_LOCK_VERSION!r} and {expected!r}"
                )
            return cls(
                target=Target(
                    platform=Platform.parse(get_typed(tool, "platform", str)),
                    python="" if "context" in tool else get_typed(tool, "python", str),
                    glibc=Glibc.parse(get_typed(tool, "glibc", str)) if "glibc" in tool else None,
                ),
                packages=tuple(_package_from_dict(each) for each in document["packages"]),
                resolver=get_typed(tool, "resolver", str),
                base=Digest.parse(get_typed(tool, "base", str)) if "base" in tool else None,
                as_of=get_typed(tool, "as-of", str) if "as-of" in tool else None,
                bytecode=get_typed(tool, "bytecode", str) if "bytecode" in tool else None,
                context=_context_from_dict(tool["context"]) if "context" in tool else None,
                conda=_conda_from_list(get_typed(tool, "conda", list)) if "conda" in tool else (),
            )
        except tomli.TOMLDecodeError as error:
            raise InvalidLock(f"a lock that is not TOML: {error}") from error
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InvalidLock(f"a lock without what mlenv needs: {error!r}") from error

    @classmethod
    def kept(cls, text: str) -> Self:
        """Read what `to_pylock` wrote and the store kept, checked: its text is not made again. Raises as `from_pylock`."""
        lock = cls.from_pylock(text)
        lock.__dict__["_text"] = text
        return lock


def _marker(target: Target) -> str:
    system = {"linux": "linux", "darwin": "darwin", "windows": "win32"}[target.platform.os]
    machine = {"linux": target.platform.machine, "darwin": "arm64", "windows": "AMD64"}[target.platform.os]
    if target.platform.architecture == "amd64" and target.platform.os == "darwin":
        machine = "x86_64"
    if target.platform.architecture == "arm64" and target.platform.os == "windows":
        machine = "ARM64"
    return f"sys_platform == '{system}' and platform_machine == '{machine}'"


def _context_to_dict(context: LockedContext) -> dict[str, Any]:
    bases = []
    for each in context.bases:
        base = {"name": each.name, "digest": str(each.digest)}
        bases.append(base if each.platform is None else base | {"platform": str(each.platform)})
    document: dict[str, Any] = {"digest": str(context.digest), "dockerfile": context.dockerfile, "bases": bases}
    if context.arguments:
        document["arguments"] = dict(context.arguments)
    return document


def _context_from_dict(document: Mapping[str, Any]) -> LockedContext:
    bases = [
        LockedBase(
            get_typed(each, "name", str),
            Digest.parse(get_typed(each, "digest", str)),
            Platform.parse(get_typed(each, "platform", str)) if "platform" in each else None,
        )
        for each in get_typed(document, "bases", list)
    ]
    arguments = document.get("arguments", {})
    return LockedContext(
        digest=Digest.parse(get_typed(document, "digest", str)),
        dockerfile=get_typed(document, "dockerfile", str),
        bases=tuple(bases),
        arguments=tuple((name, get_typed(arguments, name, str)) for name in sorted(arguments)),
    )


def _conda_from_list(entries: list[Any]) -> "tuple[CondaPackage, ...]":
    from mlenv.core.lock_conda import conda_from_dict

    if not entries:
        raise InvalidLock("a lock with an empty list of conda packages")
    return tuple(map(conda_from_dict, entries))


def _package_to_dict(package: LockedPackage) -> dict[str, Any]:
    """One `[[packages]]` (PEP 751, "packages"); our own facts under `packages.tool`."""
    document: dict[str, Any] = {"name": package.name, "version": package.version}
    if package.requires:
        document["dependencies"] = [{"name": name} for name in package.requires]
    document["wheels"] = [_artifact_to_dict(package.artifact)]
    tool: dict[str, Any] = {}
    if package.requested:
        tool["requested"] = True
    if package.built_from:
        tool["built-from"] = _artifact_to_dict(package.built_from)
    if tool:
        document["tool"] = {"mlenv": tool}
    return document


def _package_from_dict(document: Mapping[str, Any]) -> LockedPackage:
    tool = document.get("tool", {}).get("mlenv", {})
    return LockedPackage(
        name=get_typed(document, "name", str),
        version=get_typed(document, "version", str),
        artifact=_artifact_from_dict(document["wheels"][0]),
        requires=tuple(get_typed(each, "name", str) for each in document.get("dependencies", ())),
        requested=get_typed(tool, "requested", bool) if "requested" in tool else False,
        built_from=_artifact_from_dict(tool["built-from"]) if "built-from" in tool else None,
    )


def _artifact_to_dict(artifact: Artifact) -> dict[str, Any]:
    place = {"path": f"./{artifact.filename}"} if artifact.url is None else {"url": artifact.url}
    return {
        "name": artifact.filename,
        **place,
        "size": artifact.size,
        "hashes": {"sha256": artifact.digest.hex},
    }


def _artifact_from_dict(document: Mapping[str, Any]) -> Artifact:
    return Artifact(
        filename=get_typed(document, "name", str),
        size=get_typed(document, "size", int),
        digest=Digest.parse(f"sha256:{document['hashes']['sha256']}"),
        url=get_typed(document, "url", str) if "url" in document else None,
    )


def get_typed(document: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    """A value that must be there and be of that type. Raises `KeyError` or `InvalidLock`."""
    value = document[key]
    if type(value) is not kind:
        raise InvalidLock(f"a lock with {key} = {value!r}, expected {kind.__name__}")
    return value
