"""What differs between two locked environments."""

from datetime import UTC, datetime

from msgspec import structs
from support.conda_locked import conda_lock, locked
from support.conda_packages import make_package

from mlenv.cli.difference import render
from mlenv.core.diff import Change, compare_environments
from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import Requirement, Spec, WrittenSpec

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _package(name: str, version: str, size: int, content: bytes = b"") -> LockedPackage:
    digest = Digest.of(content or f"{name} {version}".encode())
    return LockedPackage(name, version, Artifact(f"{name}-{version}-py3-none-any.whl", size, digest, None))


def _lock(*packages: LockedPackage, python: str = "3.11", base: bytes | None = None) -> Lock:
    target = Target(Platform("linux", "amd64"), python, Glibc(2, 28))
    return Lock(target, packages, "test", base=Digest.of(base) if base else None)


def test_an_environment_does_not_differ_from_itself() -> None:
    side = (Spec(image="debian", requirements=(Requirement("six"),)), _lock(_package("six", "1.0", 10)))
    difference = compare_environments(side, side)
    assert difference.empty
    assert (difference.old_size, difference.new_size) == (10, 10)


def test_packages_that_came_went_and_changed() -> None:
    old = _lock(_package("a", "1.0", 10), _package("b", "1.0", 20), _package("c", "1.0", 30), _package("d", "1", 1))
    new = _lock(
        _package("b", "2.0", 25), _package("c", "1.0", 31, b"rebuilt"), _package("d", "1", 1), _package("e", "1", 5)
    )
    difference = compare_environments((Spec(), old), (Spec(), new))
    assert [(each.name, each.kind, each.growth) for each in difference.packages] == [
        ("a", "removed", -10),
        ("b", "changed", 5),
        ("c", "rebuilt", 1),
        ("e", "added", 5),
    ]
    assert sum(each.growth for each in difference.packages) == difference.new_size - difference.old_size
    assert [each.name for each in difference.of_kind("added")] == ["e"]
    plain = difference.to_dict()["packages"][1]
    assert (plain["old"]["version"], plain["new"]["version"], plain["new"]["size"]) == ("1.0", "2.0", 25)


def test_base_python_and_variables() -> None:
    old = Spec(environment_variables=(("A", "1"), ("B", "2")))
    new = Spec(environment_variables=(("B", "3"), ("C", "")))
    difference = compare_environments((old, _lock(base=b"old")), (new, _lock(python="3.12")))
    assert difference.facts == (Change("python", "3.11", "3.12"), Change("base", str(Digest.of(b"old")), None))
    assert difference.variables == (Change("A", "1", None), Change("B", "2", "3"), Change("C", None, ""))
    assert difference.spec
    assert not difference.empty


def test_what_only_the_specs_say_differently() -> None:
    old, new = Spec(requirements=(Requirement("six"),)), Spec(requirements=(Requirement("six>=1"),))
    difference = compare_environments((old, _lock()), (new, _lock()))
    assert (difference.packages, difference.facts, difference.variables) == ((), (), ())
    assert any("six>=1" in line for line in difference.spec)
    assert not difference.empty


def test_packages_of_conda() -> None:
    old = conda_lock(*map(locked, (make_package("a"), make_package("b"), make_package("c"), make_package("same"))))
    new = conda_lock(
        *map(
            locked, (make_package("b", "2.0"), make_package("c", build="h_1"), make_package("d"), make_package("same"))
        )
    )
    difference = compare_environments((Spec(), old), (Spec(), new))
    assert [(each.name, each.manager, each.kind) for each in difference.packages] == [
        ("a", "conda", "removed"),
        ("b", "conda", "changed"),
        ("c", "conda", "rebuilt"),
        ("d", "conda", "added"),
    ]
    assert sum(each.growth for each in difference.packages) == difference.new_size - difference.old_size
    assert difference.facts == ()
    plain = difference.to_dict()["packages"][2]
    assert (plain["manager"], plain["old"]["build"], plain["new"]["build"]) == ("conda", "0", "h_1")
    assert plain["new"]["channel"] == "https://conda.example.org/main"
    other_bytes = structs.replace(
        old.conda[0], artifact=structs.replace(old.conda[0].artifact, digest=Digest.of(b"other"))
    )
    rebuilt = structs.replace(old, conda=(other_bytes, *old.conda[1:]))
    assert [each.kind for each in compare_environments((Spec(), old), (Spec(), rebuilt)).packages] == ["rebuilt"]


def test_what_moves_from_pip_to_conda_is_removed_and_added() -> None:
    old = _lock(_package("numpy", "1.0", 10))
    new = structs.replace(_lock(), conda=(locked(make_package("numpy", "1.0", build="h_0")),))
    difference = compare_environments((Spec(), old), (Spec(), new))
    assert [(each.name, each.manager, each.kind) for each in difference.packages] == [
        ("numpy", "conda", "added"),
        ("numpy", "pypi", "removed"),
    ]
    version = EnvironmentVersion(
        EnvironmentName("train"), VersionName("1"), WrittenSpec.of(Spec()), None, {}, False, _NOW, _NOW
    )
    lines = render(version, version, difference).splitlines()
    assert lines[2].startswith("  + numpy 1.0=h_0 (conda, +")
    assert lines[3] == "  - numpy 1.0 (-10 B)"
    assert difference.to_dict()["packages"][1]["old"].keys() == {"version", "size", "filename", "digest"}
