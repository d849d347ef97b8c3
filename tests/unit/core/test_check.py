"""What is installed against what is locked: every kind of finding, and which of them count."""

import pytest

from mlenv.core.check import CheckReport, InstalledDistribution, compare_installed
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Platform, Target


def _lock(python: str = "3.11", **versions: str) -> Lock:
    packages = tuple(
        LockedPackage(name, version, Artifact(f"{name}-{version}-py3-none-any.whl", 1, Digest.of(b""), None))
        for name, version in sorted(versions.items())
    )
    return Lock(Target(Platform("linux", "amd64"), python), packages, "test")


def _installed(name: str, version: str = "1.0", **facts: object) -> InstalledDistribution:
    return InstalledDistribution(name, version, f"/env/{name}-{version}.dist-info", **facts)  # type: ignore[arg-type]


def _report(lock: Lock, *installed: InstalledDistribution, python: str = "3.11.7") -> CheckReport:
    return compare_installed(lock, installed, python=python, prefix="/env")


def test_the_same_is_no_drift() -> None:
    report = _report(_lock(numpy="2.1.0", six="1.0"), _installed("numpy", "2.1.0"), _installed("six", "1.0.0"))
    assert (report.findings, report.drift, report.locked, report.matching) == ((), False, 2, 2)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ((), ("missing", "1.0", None)),
        ((_installed("six", "1.1"),), ("version", "1.0", "1.1")),
        ((_installed("six", modified=("six.py",)),), ("modified", "1.0", "1.0")),
        ((_installed("six", missing=("six.py",)),), ("modified", "1.0", "1.0")),
        ((_installed("six", editable=True),), ("editable", "1.0", "1.0")),
        ((_installed("six"), _installed("six", "0.9")), ("duplicate", "1.0", "0.9")),
        ((_installed("six", "not a version"),), ("version", "1.0", "not a version")),
    ],
)
def test_each_kind_of_drift(
    installed: tuple[InstalledDistribution, ...], expected: tuple[str, str | None, str | None]
) -> None:
    report = _report(_lock(six="1.0"), *installed)
    [finding] = report.findings
    assert (finding.kind, finding.expected, finding.found) == expected
    assert report.drift
    assert report.to_dict()["drift"] is True


def test_an_extra_package_is_drift_and_an_extra_seed_is_not() -> None:
    assert _report(_lock(), _installed("requests")).drift
    report = _report(_lock(), _installed("pip"), _installed("setuptools"))
    assert [(each.kind, each.name) for each in report.findings] == [("extra", "pip"), ("extra", "setuptools")]
    assert not report.drift


def test_a_package_without_record_is_said_and_does_not_count() -> None:
    report = _report(_lock(six="1.0"), _installed("six", recorded=False))
    assert [each.kind for each in report.findings] == ["unrecorded"]
    assert (report.drift, report.matching) == (False, 1)


@pytest.mark.parametrize(
    ("locked", "running", "kinds", "drift"),
    [
        ("3.11", "3.11.7", [], False),
        ("3.11.7", "3.11.7", [], False),
        ("3.11.2", "3.11.7", ["python"], False),
        ("3.11", "3.12.1", ["python"], True),
        ("3.1", "3.11.7", ["python"], True),
    ],
)
def test_another_minor_version_of_python_is_drift(locked: str, running: str, kinds: list[str], drift: bool) -> None:
    report = _report(_lock(locked), python=running)
    assert [each.kind for each in report.findings] == kinds
    assert report.drift == drift


def test_files_are_named_with_what_happened_to_them() -> None:
    report = _report(_lock(six="1.0"), _installed("six", modified=("a.py",), missing=("b.py",)))
    assert report.findings[0].files == ("a.py", "b.py (missing)")
    assert report.matching == 0


def test_names_are_compared_normalised() -> None:
    data = {"name": "Ruamel.Yaml", "version": "1.0", "path": "/env", "modified": [], "missing": []}
    installed = InstalledDistribution.from_dict(data | {"editable": False, "recorded": True})
    assert _report(_lock(**{"ruamel-yaml": "1.0"}), installed).findings == ()
