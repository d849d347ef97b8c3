"""What is installed against what is locked: every kind of finding, and which of them count."""

import pytest

from mlenv.core.check import (
    CheckReport,
    InstalledConda,
    InstalledDistribution,
    NothingToAsk,
    compare_installed,
    require_python,
)
from mlenv.core.conda_package import CondaPackage
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


def _report(
    lock: Lock, *installed: InstalledDistribution, conda: tuple[InstalledConda, ...] = (), python: str = "3.11.7"
) -> CheckReport:
    return compare_installed(lock, installed, conda, python=python, prefix="/env")


def _conda_package(name: str, version: str = "1.0") -> CondaPackage:
    filename = f"{name}-{version}-h_0.conda"
    artifact = Artifact(filename, 1, Digest.of(b""), f"https://conda.example.org/main/linux-64/{filename}")
    return CondaPackage(name, version, "h_0", 0, "linux-64", "https://conda.example.org/main", artifact)


def _conda_lock(*packages: CondaPackage, python: str = "3.11.7", wheels: Lock | None = None) -> Lock:
    target = Target(Platform("linux", "amd64"), python)
    return Lock(target, wheels.packages if wheels else (), "test", conda=packages)


def _conda(name: str, version: str = "1.0", build: str = "h_0", **facts: object) -> InstalledConda:
    return InstalledConda(name, version, build, f"conda-meta/{name}-{version}-{build}.json", **facts)  # type: ignore[arg-type]


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
    installed = InstalledDistribution.from_dict(
        data | {"editable": False, "recorded": True, "owner": None, "covers": []}
    )
    assert _report(_lock(**{"ruamel-yaml": "1.0"}), installed).findings == ()


@pytest.mark.parametrize(
    ("there", "kind", "expected", "found"),
    [
        ((), "missing", "1.0=h_0", None),
        ((_conda("zlib", "1.1"),), "version", "1.0=h_0", "1.1=h_0"),
        # Conda's versions are what they are written as.
        ((_conda("zlib", "1.0.0"),), "version", "1.0=h_0", "1.0.0=h_0"),
        ((_conda("zlib", build="h_1"),), "build", "1.0=h_0", "1.0=h_1"),
        ((_conda("zlib", modified=("a",), missing=("b",)),), "modified", "1.0=h_0", "1.0=h_0"),
        ((_conda("zlib", "0.9"), _conda("zlib")), "duplicate", "1.0=h_0", "0.9=h_0"),
        ((_conda("zlib", problem="is not JSON"),), "damaged", None, None),
        ((_conda("zlib"), _conda("xz")), "extra", None, "1.0=h_0"),
    ],
)
def test_each_kind_of_drift_of_a_conda_package(
    there: tuple[InstalledConda, ...], kind: str, expected: str | None, found: str | None
) -> None:
    report = _report(_conda_lock(_conda_package("zlib")), conda=there)
    [finding] = report.findings
    assert (finding.kind, finding.expected, finding.found, finding.manager) == (kind, expected, found, "conda")
    assert report.drift
    assert report.to_dict()["findings"][0]["manager"] == "conda"
    assert (report.locked, report.matching) == (1, int(kind in ("duplicate", "extra")))


def test_what_conda_has_is_the_interpreters_own_where_the_lock_has_nothing_of_conda() -> None:
    report = _report(_lock(six="1.0"), _installed("six", owner="six"), conda=(_conda("six"), _conda("zlib")))
    assert (report.findings, report.locked, report.matching) == ((), 1, 1)


def test_the_python_of_the_lock_is_compared_as_a_package() -> None:
    lock = _conda_lock(_conda_package("python", "3.11.2"), python="3.11.2")
    report = _report(lock, conda=(_conda("python", "3.11.7"),))
    assert [(each.kind, each.manager) for each in report.findings] == [("version", "conda")]
    report = _report(lock, conda=(), python="3.12.1")
    assert [(each.kind, each.name) for each in report.findings] == [("python", "python"), ("missing", "python")]


def test_distributions_of_conda_packages_are_no_findings() -> None:
    lock = _conda_lock(_conda_package("torch"), wheels=_lock(six="1.0"))
    own, six = _installed("torch-stubs", owner="torch"), _installed("six")
    assert _report(lock, own, six, conda=(_conda("torch"),)).findings == ()
    report = _report(lock, _installed("torch-stubs"), six, conda=(_conda("torch"),))
    assert [(each.kind, each.name, each.manager) for each in report.findings] == [("extra", "torch-stubs", "pypi")]
    # Of an older one, over which the locked wheel lies, only the metadata is left.
    older = _installed("six", "0.9", owner="torch")
    assert _report(lock, older, six, conda=(_conda("torch"),)).findings == ()
    assert [each.kind for each in _report(lock, older, conda=(_conda("torch"),)).findings] == ["version"]


def test_an_environment_without_python_cannot_be_asked() -> None:
    require_python(_lock(), "train:1")
    require_python(_conda_lock(_conda_package("python")), "train:1")
    with pytest.raises(NothingToAsk, match="train:1 has no Python") as caught:
        require_python(_conda_lock(_conda_package("zlib"), python=""), "train:1")
    assert "mlenv diff" in str(caught.value.hint)
