"""Whether what an interpreter has installed is what a lock says: the comparison behind `mlenv check`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import Struct
from msgspec.structs import replace
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlenv.core.lock import CONDA, PYPI, Lock
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    from mlenv.core.conda_package import CondaPackage

#: What interpreters and virtual environments bring by themselves: reported when extra, but no drift.
SEEDS: Final = frozenset({"pip", "setuptools", "wheel"})


class NothingToAsk(InvalidInput):
    """A check of an environment that has no Python, and so nothing that could say what it has."""

    hint = (
        "what changed between two versions is told by `mlenv diff`; with `python` among its packages it can be checked"
    )

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} has no Python, and only an interpreter can say what is installed")
        self.what = what


def require_python(lock: Lock, what: str) -> None:
    """Raise `NothingToAsk` if an environment of that lock has no Python to be inspected with."""
    if lock.conda and not lock.target.python:
        raise NothingToAsk(what)


class InstalledDistribution(Struct, frozen=True):
    """
    One distribution as it lies on disk.

    Attributes:
        name: Normalised (PEP 503).
        version: As its metadata says it.
        path: Its `.dist-info` or `.egg-info`, absolute.
        modified: Files whose bytes are not those of `RECORD`, relative to the directory that holds `path`.
        missing: Files that `RECORD` names and that are not there.
        editable: It is a link to a source tree (PEP 660).
        recorded: It has a `RECORD` that could be read, so `modified` and `missing` mean something.
        owner: The conda package that has brought `path`, or None.
        covers: Files of conda packages that are as its own `RECORD` has them, relative to the prefix.
    """

    name: str
    version: str
    path: str
    modified: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    editable: bool = False
    recorded: bool = True
    owner: str | None = None
    covers: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read one entry of what the inspecting script prints. Raises `KeyError` or `TypeError` if it is none."""
        return cls(
            name=canonicalize_name(str(data["name"])),
            version=str(data["version"]),
            path=str(data["path"]),
            modified=tuple(str(each) for each in data["modified"]),
            missing=tuple(str(each) for each in data["missing"]),
            editable=bool(data["editable"]),
            recorded=bool(data["recorded"]),
            owner=None if data["owner"] is None else str(data["owner"]),
            covers=tuple(str(each) for each in data["covers"]),
        )


class InstalledConda(Struct, frozen=True):
    """
    One conda package as its record in `conda-meta/` says it.

    Attributes:
        name: In lower case.
        version: As conda writes it; empty if the record is damaged, and so is the build.
        build: The build string.
        file: The record, relative to the prefix.
        sha256: Of the package's file, in hex, if the record has it.
        modified: Files that are not as recorded, relative to the prefix.
        missing: Files that are recorded and not there.
        recorded: The record has hashes, so `modified` means something.
        problem: Why the record can't be used, or None if it can.
    """

    name: str
    version: str
    build: str
    file: str
    sha256: str | None = None
    modified: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    recorded: bool = True
    problem: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read one entry of what the inspecting script prints. Raises `KeyError` or `TypeError` if it is none."""
        return cls(
            name=str(data["name"]),
            version=str(data["version"]),
            build=str(data["build"]),
            file=str(data["file"]),
            sha256=None if data["sha256"] is None else str(data["sha256"]),
            modified=tuple(str(each) for each in data["modified"]),
            missing=tuple(str(each) for each in data["missing"]),
            recorded=bool(data["recorded"]),
            problem=None if data["problem"] is None else str(data["problem"]),
        )

    @property
    def stem(self) -> str:
        """`1.26.4=py311h64a7726_0`, as conda writes version and build."""
        return f"{self.version}={self.build}"


class Finding(Struct, frozen=True):
    """
    One thing that is not as locked.

    Attributes:
        kind: `missing`, `extra`, `version`, `modified`, `editable`, `duplicate`, `unrecorded` or `python`; of conda's
            packages `build` and `damaged`, too.
        name: The package, or `python`.
        expected: The locked version, or None for what is extra; of conda's packages with the build, `1.0=h123_0`.
        found: The installed version, likewise, or None for what is missing.
        files: The files at fault, for `modified`.
        drift: Whether it counts. A seed that is extra, or a package without `RECORD`, is only said.
        manager: Whose package it is, `pypi` or `conda`.
    """

    kind: str
    name: str
    expected: str | None = None
    found: str | None = None
    files: tuple[str, ...] = ()
    drift: bool = True
    manager: str = PYPI

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `-o json`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "manager": self.manager,
            "expected": self.expected,
            "found": self.found,
            "files": list(self.files),
            "drift": self.drift,
        }


class CheckReport(Struct, frozen=True):
    """
    The outcome of one comparison.

    Attributes:
        python: The interpreter's full version.
        prefix: Its `sys.prefix`.
        locked: How many packages the lock names.
        matching: How many of them are installed as locked, byte for byte by `RECORD` and conda's records.
        findings: Everything else, by package name.
    """

    python: str
    prefix: str
    locked: int
    matching: int
    findings: tuple[Finding, ...]

    @property
    def drift(self) -> bool:
        """Whether anything differs that counts."""
        return any(each.drift for each in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `-o json`."""
        return {
            "drift": self.drift,
            "python": self.python,
            "prefix": self.prefix,
            "locked": self.locked,
            "matching": self.matching,
            "findings": [each.to_dict() for each in self.findings],
        }


def compare_installed(
    lock: Lock,
    installed: Iterable[InstalledDistribution],
    conda: Iterable[InstalledConda] = (),
    *,
    python: str,
    prefix: str,
) -> CheckReport:
    """
    Compare an interpreter with a lock.

    Args:
        lock: What should be there. Where it has no conda packages, those that are there are the interpreter's own.
        installed: What is, in the order in which imports would find it: the first of a name is the one that counts.
        conda: What conda has installed there.
        python: The interpreter's full version, such as `3.11.2`.
        prefix: Its `sys.prefix`.
    """
    findings = _python_findings(lock, python)
    matching = 0
    if lock.conda:
        installed = list(installed)
        matching += _compare_conda(lock.conda, _without_covered(lock, conda, installed), findings)
        installed = _without_conda(lock, installed)
    matching += _compare_distributions(lock, installed, findings)
    findings.sort(key=lambda each: (each.kind != "python", each.name, each.manager, each.kind))
    return CheckReport(python, prefix, lock.count, matching, tuple(findings))


def _compare_distributions(lock: Lock, installed: Iterable[InstalledDistribution], findings: list[Finding]) -> int:
    """Compare with the wheels of a lock. Gives how many are as locked, and adds what else there is to say."""
    first: dict[str, InstalledDistribution] = {}
    for each in installed:
        if each.name in first:
            findings.append(Finding("duplicate", each.name, first[each.name].version, each.version, (each.path,)))
        else:
            first[each.name] = each
    matching = 0
    for package in lock.packages:
        there = first.get(package.name)
        if there is None:
            findings.append(Finding("missing", package.name, package.version))
            continue
        wrong = _package_findings(package.version, there)
        findings += wrong
        matching += not any(each.drift for each in wrong)
    locked = {each.name for each in lock.packages}
    findings += [
        Finding("extra", name, found=each.version, drift=name not in SEEDS)
        for name, each in first.items()
        if name not in locked
    ]
    return matching


def _without_covered(
    lock: Lock, records: Iterable[InstalledConda], installed: Sequence[InstalledDistribution]
) -> list[InstalledConda]:
    """Conda's packages, without the changes that are locked wheels lying over them."""
    wheels = {each.name for each in lock.packages}
    covered = {path for each in installed if each.name in wheels for path in each.covers}
    return [replace(each, modified=tuple(path for path in each.modified if path not in covered)) for each in records]


def _without_conda(lock: Lock, installed: Sequence[InstalledDistribution]) -> list[InstalledDistribution]:
    """
    Without what conda has brought, which its records answer for.

    A locked wheel that lies over a conda package of the same version has its metadata in the same place.
    """
    wheels = {each.name for each in lock.packages} - {each.name for each in installed if each.owner is None}
    return [each for each in installed if each.owner is None or each.name in wheels]


def _compare_conda(locked: "Sequence[CondaPackage]", records: Iterable[InstalledConda], findings: list[Finding]) -> int:
    """Compare with the conda packages of a lock. Gives how many are as locked, and adds what else there is to say."""
    by_name: dict[str, list[InstalledConda]] = {}
    for each in records:
        if each.problem is None:
            by_name.setdefault(each.name, []).append(each)
        else:
            files = (f"{each.file} ({each.problem})",)
            findings.append(Finding("damaged", each.name, files=files, manager=CONDA))
    damaged = {each.name for each in findings if each.kind == "damaged"}
    matching = 0
    for package in locked:
        expected = f"{package.version}={package.build}"
        # The one that is as locked counts, if there are several.
        there = sorted(by_name.pop(package.name, ()), key=lambda each: each.stem != expected)
        if not there and package.name not in damaged:
            findings.append(Finding("missing", package.name, expected, manager=CONDA))
        wrong = _conda_findings(package, expected, there[0]) if there else []
        findings += wrong
        findings += [
            Finding("duplicate", each.name, expected, each.stem, (each.file,), manager=CONDA) for each in there[1:]
        ]
        matching += bool(there) and not any(each.drift for each in wrong)
    findings += [
        Finding("extra", each.name, found=each.stem, manager=CONDA) for several in by_name.values() for each in several
    ]
    return matching


def _conda_findings(package: "CondaPackage", expected: str, there: InstalledConda) -> list[Finding]:
    sha256 = package.artifact.digest.hex
    findings = []
    if there.stem != expected:
        kind = "version" if there.version != package.version else "build"
        findings.append(Finding(kind, package.name, expected, there.stem, manager=CONDA))
    elif there.sha256 not in (None, sha256):
        # Another channel's package of that name, version and build.
        found = f"{there.stem} (sha256:{there.sha256})"
        findings.append(Finding("build", package.name, f"{expected} (sha256:{sha256})", found, manager=CONDA))
    return findings + _content_findings(there, package.name, expected, there.stem, CONDA)


def _python_findings(lock: Lock, python: str) -> list[Finding]:
    """
    Another minor version is drift; another patch release, where the lock names one, is only said.

    Where the lock has the Python itself, that is compared as a package.
    """
    expected = lock.target.python
    if python.split(".")[:2] != expected.split(".")[:2]:
        return [Finding("python", "python", expected, python)]
    if expected.count(".") == 2 and expected != python and lock.conda_package("python") is None:
        return [Finding("python", "python", expected, python, drift=False)]
    return []


def _package_findings(expected: str, there: InstalledDistribution) -> list[Finding]:
    findings = []
    if not _same_version(expected, there.version):
        findings.append(Finding("version", there.name, expected, there.version))
    if there.editable:
        findings.append(Finding("editable", there.name, expected, there.version, (there.path,)))
        # A link to a source tree records nothing.
        there = replace(there, recorded=True)
    return findings + _content_findings(there, there.name, expected, there.version, PYPI)


def _content_findings(
    there: InstalledDistribution | InstalledConda, name: str, expected: str, found: str, manager: str
) -> list[Finding]:
    """What the files of one package are like."""
    findings = []
    if there.modified or there.missing:
        files = (*there.modified, *(f"{each} (missing)" for each in there.missing))
        findings.append(Finding("modified", name, expected, found, files, manager=manager))
    if not there.recorded:
        findings.append(Finding("unrecorded", name, expected, found, drift=False, manager=manager))
    return findings


def _same_version(left: str, right: str) -> bool:
    """Whether two versions are equal by PEP 440: `1.0` and `1.0.0` are."""
    if left == right:
        return True
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return False
