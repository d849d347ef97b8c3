"""Whether what an interpreter has installed is what a lock says: the comparison behind `mlenv check`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlenv.core.lock import Lock

#: What interpreters and virtual environments bring by themselves: reported when extra, but no drift.
SEEDS: Final = frozenset({"pip", "setuptools", "wheel"})


@dataclass(frozen=True, slots=True)
class InstalledDistribution:
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
    """

    name: str
    version: str
    path: str
    modified: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    editable: bool = False
    recorded: bool = True

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
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is not as locked.

    Attributes:
        kind: `missing`, `extra`, `version`, `modified`, `editable`, `duplicate`, `unrecorded` or `python`.
        name: The package, or `python`.
        expected: The locked version, or None for what is extra.
        found: The installed version, or None for what is missing.
        files: The files at fault, for `modified`.
        drift: Whether it counts. A seed that is extra, or a package without `RECORD`, is only said.
    """

    kind: str
    name: str
    expected: str | None = None
    found: str | None = None
    files: tuple[str, ...] = ()
    drift: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `-o json`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "expected": self.expected,
            "found": self.found,
            "files": list(self.files),
            "drift": self.drift,
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """
    The outcome of one comparison.

    Attributes:
        python: The interpreter's full version.
        prefix: Its `sys.prefix`.
        locked: How many packages the lock names.
        matching: How many of them are installed as locked, byte for byte by `RECORD`.
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
    lock: Lock, installed: Iterable[InstalledDistribution], *, python: str, prefix: str
) -> CheckReport:
    """
    Compare an interpreter with a lock.

    Args:
        lock: What should be there.
        installed: What is, in the order in which imports would find it: the first of a name is the one that counts.
        python: The interpreter's full version, such as `3.11.2`.
        prefix: Its `sys.prefix`.
    """
    first: dict[str, InstalledDistribution] = {}
    findings = _python_findings(lock, python)
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
    findings.sort(key=lambda each: (each.name != "python", each.name, each.kind))
    return CheckReport(python, prefix, len(lock.packages), matching, tuple(findings))


def _python_findings(lock: Lock, python: str) -> list[Finding]:
    """Another minor version is drift; another patch release, where the lock names one, is only said."""
    expected = lock.target.python
    if python.split(".")[:2] != expected.split(".")[:2]:
        return [Finding("python", "python", expected, python)]
    if expected.count(".") == 2 and expected != python:
        return [Finding("python", "python", expected, python, drift=False)]
    return []


def _package_findings(expected: str, there: InstalledDistribution) -> list[Finding]:
    findings = []
    if not _same_version(expected, there.version):
        findings.append(Finding("version", there.name, expected, there.version))
    if there.editable:
        findings.append(Finding("editable", there.name, expected, there.version, (there.path,)))
    if there.modified or there.missing:
        files = (*there.modified, *(f"{each} (missing)" for each in there.missing))
        findings.append(Finding("modified", there.name, expected, there.version, files))
    if not there.recorded and not there.editable:
        findings.append(Finding("unrecorded", there.name, expected, there.version, drift=False))
    return findings


def _same_version(left: str, right: str) -> bool:
    """Whether two versions are equal by PEP 440: `1.0` and `1.0.0` are."""
    if left == right:
        return True
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return False
