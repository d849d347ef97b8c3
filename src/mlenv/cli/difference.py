"""The text that `mlenv diff` prints: packages, facts, variables, and both specs side by side."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

from mlenv.cli.progress import human_size
from mlenv.core.diff import Change, EnvironmentDifference, PackageChange
from mlenv.core.difference import describe
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.lock import PYPI, LockedPackage

if TYPE_CHECKING:
    from mlenv.core.conda_package import CondaPackage

#: Columns that one side of a spec gets at most.
_WIDTH = 56


def render(old: EnvironmentVersion, new: EnvironmentVersion, difference: EnvironmentDifference) -> str:
    """The difference as text that ends with a line end."""
    return "\n".join(_lines(old, new, difference)) + "\n"


def _lines(old: EnvironmentVersion, new: EnvironmentVersion, difference: EnvironmentDifference) -> Iterator[str]:
    yield f"{old} → {new}"
    if difference.empty:
        yield "  no difference" if difference.locked else "  no difference between the specs"
        return
    if difference.locked:
        growth = difference.new_size - difference.old_size
        sizes = f"{human_size(difference.old_size)} → {human_size(difference.new_size)}"
        count = len(difference.packages)
        yield f"Packages: {count} differ{'s' * (count == 1)}, {sizes} ({_signed(growth)})"
    for change in difference.packages:
        yield f"  {_package(change)}"
    yield from _changes("Base and Python", difference.facts)
    yield from _changes("Variables", difference.variables)
    if difference.spec:
        yield "Specs, side by side"
        yield from _side_by_side(old, new)


def _package(change: PackageChange) -> str:
    before, after = _version(change.old), _version(change.new)
    mark = {"added": "+", "removed": "-"}.get(change.kind, "~")
    versions = f"{before} → {after}" if before and after else before or after
    manager = "" if change.manager == PYPI else f"{change.manager}, "
    return f"{mark} {change.name} {versions} ({manager}{_signed(change.growth)})"


def _version(package: "LockedPackage | CondaPackage | None") -> str:
    """Of conda's packages with the build, as conda writes it."""
    if package is None or isinstance(package, LockedPackage):
        return package.version if package else ""
    return f"{package.version}={package.build}"


def _changes(title: str, changes: Iterable[Change]) -> Iterator[str]:
    for number, each in enumerate(changes):
        if number == 0:
            yield title
        yield f"  {each.what}: {each.old or 'none'} → {each.new or 'none'}"


def _side_by_side(old: EnvironmentVersion, new: EnvironmentVersion) -> Iterator[str]:
    """Field by field; `|` between lines that differ."""
    before, after = describe(old.spec), describe(new.spec)
    for name in dict.fromkeys([*before, *after]):
        yield f"  {name}"
        for left, right in zip_longest(before.get(name, []), after.get(name, []), fillvalue=""):
            mark = " " if left == right else "|"
            yield f"    {_cut(left):<{_WIDTH}} {mark} {_cut(right)}".rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _signed(count: int) -> str:
    return f"{'+' if count >= 0 else '-'}{human_size(abs(count))}"
