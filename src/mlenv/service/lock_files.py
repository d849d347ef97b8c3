"""Locks as files: what is handed out of a lock that was made, and a lock taken in that somebody else made."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Pep508
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.lock import InvalidLock, Lock, LockedPackage
from mlenv.core.platform import Platform, Target
from mlenv.core.python_version import admits
from mlenv.core.redact import has_credentials
from mlenv.core.spec import CondaFile, Requirement, Spec
from mlenv.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs
    from mlenv.service.interface import Clock, Registry

#: What locks have that was built here, by the lock's digest, and of how many locks that is remembered.
_REMEMBERED: Final = 10_000
_NOT_EVERYBODY: Final = "its address is not one that everybody can fetch it from"
_MACHINE: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_SYSTEM: Final = {"linux": "linux", "darwin": "darwin", "windows": "win32"}


_BUILT: Final[dict[Digest, frozenset[Digest]]] = {}


class LockNotMade(NotFound):
    """The version has no lock for that platform yet."""

    def __init__(self, version: EnvironmentVersion, platform: Platform) -> None:
        super().__init__(f"{version} is not locked for {platform} yet")
        self.hint = f"lock it with `mlenv environment lock {version} --platform {platform}`"


class ForeignLock(InvalidInput):
    """A lock that does not belong to the version it is given for."""

    def __init__(self, version: EnvironmentVersion, platform: Platform, why: str) -> None:
        super().__init__(f"not a lock of {version} for {platform}: {why}")
        self.why = why


class OtherLock(Conflict):
    """The version is locked for that platform, and not like this."""

    hint = "a version is locked once: create a new version to lock it in another way"

    def __init__(self, version: EnvironmentVersion, platform: Platform) -> None:
        super().__init__(f"{version} has another lock for {platform} already")


class WheelNotHere(NotFound):
    """No lock here has a wheel of that digest that was built here."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"no lock here has a wheel {digest} that was built here")
        self.digest = digest


class LockFiles:
    """The lock files of one namespace."""

    def __init__(self, registry: "Registry", blobs: "Blobs", clock: "Clock") -> None:
        self._registry, self._blobs, self._clock = registry, blobs, clock

    def read(self, version: EnvironmentVersion, platform: Platform) -> tuple[Digest, bytes]:
        """
        A lock that was made: its digest, and the bytes of its `pylock.toml`.

        Raises:
            LockNotMade: There is none.
            NotFound, DigestMismatch: Its bytes are lost or damaged.
        """
        digest = self._registry.lock_of(version.name, version.version, platform)
        if digest is None:
            raise LockNotMade(version, platform)
        return digest, self._blobs.read(digest)

    def add(self, version: EnvironmentVersion, platform: Platform, text: str) -> tuple[Digest, bool]:
        """
        Take in a lock that was made elsewhere.

        Returns:
            Its digest, and whether it is new; otherwise it was there before.

        Raises:
            InvalidLock: It is none, or not in the words that mlenv writes.
            ForeignLock: It is not one of this version and platform, or needs bytes that are not here.
            OtherLock: There is another one already.
        """
        lock = Lock.from_pylock(text)
        if lock.to_pylock() != text:
            raise InvalidLock("a lock that says the same as one that mlenv wrote, in other words")
        if why := why_not(lock, version.spec, platform):
            raise ForeignLock(version, platform, why)
        known = self._registry.lock_of(version.name, version.version, platform)
        if known is None:
            data = text.encode()
            self._blobs.put([data], digest=lock.digest, size=len(data), what="pylock.toml")
            kept = self._registry.add_lock(version.name, version.version, platform, lock.digest, now=self._clock())
        else:
            kept = known
        if kept != lock.digest:
            raise OtherLock(version, platform)
        return kept, known is None

    def wheel(self, digest: Digest) -> Path:
        """
        A wheel that was built here, for a lock of this namespace. Other bytes are not handed out.

        Raises:
            WheelNotHere: There is no such wheel.
        """
        for *_, lock in self._registry.all_locks():
            if digest in self._built(lock):
                return self._blobs.path(digest)
        raise WheelNotHere(digest)

    def _built(self, lock: Digest) -> frozenset[Digest]:
        """What a lock has that was built here. A lock never changes, so what was read once is remembered."""
        known = _BUILT.get(lock)
        if known is None:
            packages = Lock.from_pylock(self._blobs.read(lock).decode()).packages
            known = frozenset(each.artifact.digest for each in packages if each.artifact.url is None)
            if len(_BUILT) >= _REMEMBERED:
                _BUILT.clear()
            _BUILT[lock] = known
        return known


def why_not(lock: Lock, spec: Spec, platform: Platform) -> str | None:
    """
    Why a lock is not one of a spec for a platform, or None if it may be.

    Whether a resolver would have chosen the same is not asked: only whether what is asked for is there, and everything
    comes from where anybody can fetch it.
    """
    if lock.context is not None or spec.build is not None:
        return "a Dockerfile is locked where it is built"
    if lock.conda and not spec.needs_conda:
        return "it has conda packages, and the spec asks for none"
    wanted = spec.wanted_python
    if lock.target.platform != platform:
        return f"it is for {lock.target.platform}"
    if spec.conda is not None and (why := _why_not_conda(lock, spec.conda, spec.resolver)):
        return why
    # Conda's packages may do without a Python, if nothing of PyPI is to go with them.
    needs_python = not lock.conda or lock.target.python or lock.packages or wanted
    if needs_python and not (re.fullmatch(r"3\.\d+\.\d+", lock.target.python) and admits(wanted, lock.target.python)):
        return f"it is for {_python(lock)}, the spec asks for {wanted or '3'}"
    if (lock.target.glibc is None) != (platform.os != "linux"):
        return "it is for a glibc, which is Linux's" if lock.target.glibc else "it names no glibc"
    if lock.base is not None and (spec.image is None or platform.os != "linux"):
        return "it is for a base image, and the spec has none"
    for package in lock.packages:
        if why := _why_not_package(package):
            return f"{package.name}: {why}"
    if spec.pylock is not None:
        strange = [each.name for each in lock.packages if each.artifact.digest.hex not in spec.pylock]
        return f"the spec's own lock has no {', '.join(strange[:3])} like that" if strange else None
    if not spec.has_dependencies and lock.packages:
        return "the spec asks for no packages"
    for requirement in spec.pip_requirements:
        if why := _why_not_requirement(lock, requirement):
            return why
    for bound in spec.constraints:
        bounded = lock.package(canonicalize_name(Pep508(bound.text).name)) if bound.hashes else None
        if bounded is not None and (why := _why_not_hash(bounded, bound)):
            return why
    return None


def _python(lock: Lock) -> str:
    return f"Python {lock.target.python}" if lock.target.python else "no Python"


def _why_not_conda(lock: Lock, conda: CondaFile, resolver: str) -> str | None:
    """Why a lock has not what a conda file asks conda for."""
    if resolver == "conda" and conda.needs_conda and not lock.conda:
        return f"it has no conda packages, and the spec asks for {conda.needs_conda[0].text}"
    if not lock.conda:
        return None
    from mlenv.core.match_spec import match_specs, parse_match_spec

    for each in lock.conda:
        if not each.url.startswith(("https://", "http://")):
            return f"{each.name}: {_NOT_EVERYBODY}"
    python = lock.conda_package("python")
    if python is not None and python.version != lock.target.python:
        return f"it is for {_python(lock)}, and has conda's python {python.version}"
    asked: dict[str, list[str]] = {}
    for line in match_specs(conda):
        asked.setdefault(parse_match_spec(line.text).name, []).append(line.text)
    for name, lines in asked.items():
        package = lock.conda_package(name)
        # NOTE: whether a version is within bounds, only conda's solver can tell. The lock says which line it was for.
        # Of Python, the environment file may say something else; its version is looked at by itself.
        if package is None or (name != "python" and package.requested not in lines):
            return f"it has no conda package for {lines[0]}, which the spec asks for"
    return None


def _why_not_package(package: LockedPackage) -> str | None:
    if package.name != canonicalize_name(package.name):
        return "not a normalised name"
    try:
        name, version, _, _ = parse_wheel_filename(package.artifact.filename)
        if name != package.name or version != Version(package.version):
            return f"{package.artifact.filename} is a wheel of something else"
    except (InvalidWheelFilename, InvalidVersion):
        return f"{package.artifact.filename} is no wheel's name"
    for artifact in filter(None, (package.artifact, package.built_from)):
        if artifact.url is None:
            return "it was built where the lock was made, and is not here: have it locked by the server"
        if not artifact.url.startswith(("https://", "http://")) or has_credentials(artifact.url):
            return _NOT_EVERYBODY
    return None


def _why_not_requirement(lock: Lock, requirement: Requirement) -> str | None:
    try:
        asked = Pep508(requirement.text)
    except InvalidRequirement:
        # A bare URL says no name. Whether it is among the packages can't be told.
        return None
    if asked.marker is not None and not _applies(asked.marker, lock.target):
        return None
    package = lock.package(canonicalize_name(asked.name))
    if package is None and lock.conda:
        # Conda may have brought it, in a package of another name.
        return None
    if package is None:
        return f"it has no {asked.name}, which the spec asks for"
    if not asked.specifier.contains(package.version, prereleases=True):
        return f"it has {package.name} {package.version}, the spec asks for {requirement.text}"
    return _why_not_hash(package, requirement)


def _why_not_hash(package: LockedPackage, line: Requirement) -> str | None:
    file = package.built_from or package.artifact
    if line.hashes and str(file.digest) not in line.hashes:
        return f"its {file.filename} has none of the hashes that the spec lists behind {line.text}"
    return None


def _applies(marker: Marker, target: Target) -> bool:
    """Whether a marker is true on the target (PEP 508, "Environment Markers"); one that can't be told does not count."""
    environment = {
        "python_version": target.python_minor,
        "python_full_version": target.python,
        "implementation_name": "cpython",
        "implementation_version": target.python,
        "platform_python_implementation": "CPython",
        "sys_platform": _SYSTEM[target.platform.os],
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "windows": "Windows"}[target.platform.os],
        "os_name": "nt" if target.platform.os == "windows" else "posix",
        "platform_machine": _MACHINE[target.platform.architecture],
        "platform_release": "",
        "platform_version": "",
        "extra": "",
    }
    if target.platform.os == "darwin" and target.platform.architecture == "arm64":
        environment["platform_machine"] = "arm64"
    if target.platform.os == "windows":
        environment["platform_machine"] = target.platform.architecture.upper()
    return marker.evaluate(environment)
