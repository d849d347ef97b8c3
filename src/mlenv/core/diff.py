"""What changed between two environments once both are locked: packages with their sizes, base, Python, variables."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mlenv.core.difference import difference
from mlenv.core.digest import Digest
from mlenv.core.lock import CONDA, PYPI, Lock, LockedPackage
from mlenv.core.spec import Spec

if TYPE_CHECKING:
    from mlenv.core.conda_package import CondaPackage


class PackageChange(Struct, frozen=True):
    """
    One package that is not the same on both sides.

    Attributes:
        name: Normalised.
        manager: Whose package it is, `pypi` or `conda`. What moves from one to the other is removed here and added there.
        old, new: What is locked on each side; None where it is not there. Both have the same version if only the
            artifact differs (another wheel, or one that was built here; another build of conda's).
    """

    name: str
    manager: str
    old: "LockedPackage | CondaPackage | None"
    new: "LockedPackage | CondaPackage | None"

    @property
    def kind(self) -> str:
        """`added`, `removed`, `changed` (another version) or `rebuilt` (the same version, another build or bytes)."""
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        return "changed" if self.old.version != self.new.version else "rebuilt"

    @property
    def growth(self) -> int:
        """By how many bytes the download grows; negative if it shrinks."""
        return (self.new.artifact.size if self.new else 0) - (self.old.artifact.size if self.old else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `-o json`."""
        return {
            "name": self.name,
            "manager": self.manager,
            "kind": self.kind,
            "old": _package(self.old),
            "new": _package(self.new),
            "growth": self.growth,
        }


class Change(Struct, frozen=True):
    """One fact that is not the same on both sides, as text; None where it is not there."""

    what: str
    old: str | None
    new: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `-o json`."""
        return {"what": self.what, "old": self.old, "new": self.new}


class EnvironmentDifference(Struct, frozen=True):
    """
    Everything that differs between two locked environments.

    Attributes:
        packages: Sorted by name; of one name, conda's before PyPI's.
        facts: Platform, Python, base, glibc, bytecode and index date, in this order, where they differ.
        variables: Environment variables that differ, sorted by name.
        spec: What leads from one spec to the other, in lines that a person reads (`mlenv.core.difference`).
        old_size, new_size: Bytes to download for each side as a whole.
        locked: Both sides have a lock. Otherwise packages and facts are not compared, and the sizes mean nothing.
    """

    packages: tuple[PackageChange, ...]
    facts: tuple[Change, ...]
    variables: tuple[Change, ...]
    spec: tuple[str, ...]
    old_size: int
    new_size: int
    locked: bool = True

    @property
    def empty(self) -> bool:
        """Whether nothing differs, neither in what was asked for nor in what it gives."""
        return not (self.packages or self.facts or self.variables or self.spec)

    def of_kind(self, kind: str) -> tuple[PackageChange, ...]:
        """The package changes of one kind."""
        return tuple(each for each in self.packages if each.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `-o json`."""
        return {
            "packages": [each.to_dict() for each in self.packages],
            "facts": [each.to_dict() for each in self.facts],
            "variables": [each.to_dict() for each in self.variables],
            "spec": list(self.spec),
            "old_size": self.old_size,
            "new_size": self.new_size,
            "locked": self.locked,
        }


def compare_environments(old: tuple[Spec, Lock | None], new: tuple[Spec, Lock | None]) -> EnvironmentDifference:
    """What `new` has that `old` has not, and the other way round; of the specs alone if a side has no lock."""
    (old_spec, old_lock), (new_spec, new_lock) = old, new
    return EnvironmentDifference(
        packages=tuple(_package_changes(old_lock, new_lock)) if old_lock and new_lock else (),
        facts=_changes(_facts(old_lock), _facts(new_lock)) if old_lock and new_lock else (),
        variables=_changes(
            dict(sorted(old_spec.environment_variables)), dict(sorted(new_spec.environment_variables)), ordered=False
        ),
        spec=tuple(difference(old_spec, new_spec)),
        old_size=old_lock.size if old_lock else 0,
        new_size=new_lock.size if new_lock else 0,
        locked=bool(old_lock and new_lock),
    )


def _package_changes(old: Lock, new: Lock) -> Iterator[PackageChange]:
    before, after = _by_key(old), _by_key(new)
    for key in sorted(before.keys() | after.keys()):
        if _identity(before.get(key)) != _identity(after.get(key)):
            yield PackageChange(*key, before.get(key), after.get(key))


def _by_key(lock: Lock) -> "dict[tuple[str, str], LockedPackage | CondaPackage]":
    """All packages of a lock, by name and manager."""
    wheels = {(each.name, PYPI): each for each in lock.packages}
    return {**wheels, **{(each.name, CONDA): each for each in lock.conda}}


def _identity(package: "LockedPackage | CondaPackage | None") -> tuple[str, Digest] | None:
    return (package.version, package.artifact.digest) if package else None


def _facts(lock: Lock) -> dict[str, str | None]:
    return {
        "platform": str(lock.target.platform),
        "python": lock.target.python or None,
        "base": str(lock.base) if lock.base else None,
        "glibc": str(lock.target.glibc) if lock.target.glibc else None,
        "bytecode": lock.bytecode,
        "as of": lock.as_of,
    }


def _changes(
    old: Mapping[str, str | None], new: Mapping[str, str | None], *, ordered: bool = True
) -> tuple[Change, ...]:
    names = list(old) if ordered else sorted(old.keys() | new.keys())
    return tuple(Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


def _package(package: "LockedPackage | CondaPackage | None") -> dict[str, Any] | None:
    if package is None:
        return None
    return {
        "version": package.version,
        **({} if isinstance(package, LockedPackage) else {"build": package.build, "channel": package.channel}),
        "size": package.artifact.size,
        "filename": package.artifact.filename,
        "digest": str(package.artifact.digest),
    }
