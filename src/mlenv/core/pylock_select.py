"""Which files of a foreign `pylock.toml` go onto a target (PEP 751, "Installation")."""

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import tomli
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, InvalidLock, LockedPackage
from mlenv.core.platform import Target

if TYPE_CHECKING:
    from packaging.pylock import Package, PackageWheel, Pylock

_SYSTEM: Final = {"linux": "Linux", "darwin": "Darwin", "windows": "Windows"}
_SYS_PLATFORM: Final = {"linux": "linux", "darwin": "darwin", "windows": "win32"}


class NothingToInstall(InvalidLock):
    """
    A lock that has no file for some packages that the target can take.

    Attributes:
        packages: Their names, with why.
    """

    hint = "lock again for this platform and Python, with wheels from an index for every package"

    def __init__(self, packages: Iterable[tuple[str, str]]) -> None:
        self.packages = tuple(packages)
        super().__init__("nothing to install for " + "; ".join(f"{name}: {why}" for name, why in self.packages))


class NoSize(InvalidLock):
    """A lock whose files have no sizes, which PEP 751 leaves open."""

    hint = "lock with a tool that writes sizes: `uv pip compile --format pylock.toml`, or `uv export`"

    def __init__(self, package: str, filename: str) -> None:
        super().__init__(f"{package}: its wheel {filename} has no size")
        self.package, self.filename = package, filename


def read_pylock(text: str) -> "Pylock":
    """Read and check a lock of any tool. Raises `InvalidLock` if it is not TOML or not PEP 751."""
    from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError

    try:
        return Pylock.from_dict(tomli.loads(text))
    except tomli.TOMLDecodeError as error:
        raise InvalidLock(f"not TOML: {error}") from error
    except PylockUnsupportedVersionError as error:
        raise InvalidLock(f"a lock of a version that is not known: {error}") from error
    except PylockValidationError as error:
        raise InvalidLock(f"not a lock as PEP 751 has it: {error}") from error


def select_pylock(
    text: str,
    target: Target,
    *,
    extras: Iterable[str] = (),
    groups: Iterable[str] | None = None,
    size_of: Callable[[str], int] | None = None,
) -> tuple[LockedPackage, ...]:
    """
    Choose one wheel for each package that the target needs.

    Args:
        text: The lock.
        target: What it is to be installed on. A Python without a patch release counts as its `.0`, except against
            `requires-python`, where any patch release of that minor version will do.
        extras: Extras of the lock to include.
        groups: Dependency groups to include; None for the lock's default groups.
        size_of: Finds the size in bytes of what is at a URL, for locks that don't say (pip's own); None refuses them.

    Returns:
        The packages, sorted by name. `requested` is true for all: a lock doesn't say what was asked for.

    Raises:
        NothingToInstall: Some packages have no wheel for the target, or come from a directory or version control.
        InvalidLock: The lock is not valid, not meant for the target, or has no sha256 for a wheel.
    """
    from packaging.pylock import PackageWheel, PylockSelectError
    from packaging.utils import canonicalize_name

    from mlenv.core.wheel_tags import tags_of

    lock = read_pylock(text)
    wanted = [canonicalize_name(each) for each in extras]
    _check_names("extra", wanted, lock.extras or ())
    chosen = None if groups is None else [canonicalize_name(each) for each in groups]
    _check_names("group", chosen or (), [*(lock.dependency_groups or ()), *(lock.default_groups or ())])
    packages: list[LockedPackage] = []
    missing: list[tuple[str, str]] = []
    lock = _with_every_source(lock)
    try:
        for package, source in lock.select(
            environment=marker_environment(_with_patch(lock, target)),  # type: ignore[arg-type]
            tags=list(tags_of(target)),
            extras=wanted,
            dependency_groups=chosen,
        ):
            if isinstance(source, PackageWheel):
                packages.append(_locked(package, source, size_of))
            else:
                missing.append((package.name, _why_not(package, target)))
    except PylockSelectError as error:
        raise InvalidLock(f"the lock is not for {target.platform} with Python {target.python}: {error}") from error
    if missing:
        raise NothingToInstall(sorted(missing))
    return tuple(sorted(packages, key=lambda each: each.name))


def _check_names(what: str, asked: Iterable[str], known: Iterable[str]) -> None:
    there = set(known)
    for each in asked:
        if each not in there:
            raise InvalidLock(f"the lock has no {what} {each!r}; it has {', '.join(sorted(there)) or 'none'}")


def _with_every_source(lock: "Pylock") -> "Pylock":
    """
    The lock with a source distribution for packages that have only wheels.

    It is never installed: it makes the selection go on past a package without a fitting wheel, so that one error can
    name them all.
    """
    import dataclasses

    from packaging.pylock import PackageSdist

    nowhere = PackageSdist(name="none-0.tar.gz", path="none-0.tar.gz", hashes={"sha256": "0" * 64})
    packages = [
        dataclasses.replace(each, sdist=nowhere) if each.wheels and each.sdist is None else each
        for each in lock.packages
    ]
    return dataclasses.replace(lock, packages=packages)


def _with_patch(lock: "Pylock", target: Target) -> Target:
    """The target at the lowest patch release that the lock's `requires-python` takes, if it names none itself."""
    if target.python.count(".") >= 2 or lock.requires_python is None:
        return target
    patches = (f"{target.python}.{patch}" for patch in range(100))
    return replace(target, python=next((each for each in patches if each in lock.requires_python), target.python))


def _why_not(package: "Package", target: Target) -> str:
    if package.vcs is not None:
        return f"it comes from version control, {package.vcs.url or package.vcs.path}"
    if package.directory is not None:
        return f"it is a local directory, {package.directory.path}"
    if package.archive is not None:
        return "it is an archive from outside an index, which may be source"
    if not package.wheels:
        return "it has a source distribution only"
    floor = f" and glibc {target.glibc}" if target.glibc else ""
    return f"none of its {len(package.wheels)} wheels fits {target.platform}, Python {target.python}{floor}"


def _locked(package: "Package", wheel: "PackageWheel", size_of: Callable[[str], int] | None) -> LockedPackage:
    sha256 = wheel.hashes.get("sha256")
    if sha256 is None:
        raise InvalidLock(f"{package.name}: its wheel {wheel.filename} has no sha256")
    if wheel.url is None:
        raise InvalidLock(f"{package.name}: its wheel {wheel.filename} has no URL, only a path on another machine")
    if wheel.size is None and size_of is None:
        raise NoSize(package.name, wheel.filename)
    if package.version is None:
        raise InvalidLock(f"{package.name}: it has no version")
    size = wheel.size if wheel.size is not None else size_of(wheel.url) if size_of else 0
    filename = wheel.name or unquote(PurePosixPath(urlsplit(wheel.url).path).name)
    if not re.fullmatch(r"[A-Za-z0-9_.!+-]+\.whl", filename):
        raise InvalidLock(f"{package.name}: not the name of a wheel: {filename!r}")
    return LockedPackage(
        name=package.name,
        version=str(package.version),
        artifact=Artifact(filename, size, Digest.parse(f"sha256:{sha256.lower()}"), wheel.url),
        requires=tuple(sorted({each["name"] for each in package.dependencies or () if "name" in each})),
        requested=True,
    )


def marker_environment(target: Target) -> dict[str, str]:
    """What environment markers see on the target (PEP 508, "Environment Markers"), CPython assumed."""
    full = target.python if target.python.count(".") >= 2 else f"{target.python}.0"
    machine = target.platform.machine
    if target.platform.os == "darwin" and machine == "aarch64":
        machine = "arm64"
    if target.platform.os == "windows":
        machine = {"x86_64": "AMD64", "aarch64": "ARM64"}[machine]
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "nt" if target.platform.os == "windows" else "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": _SYSTEM[target.platform.os],
        "platform_version": "",
        "python_full_version": full,
        "python_version": target.python_minor,
        "sys_platform": _SYS_PLATFORM[target.platform.os],
    }
