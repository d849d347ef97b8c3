"""Two needs of one project that exclude each other: the heart of a conflict."""

from collections.abc import Callable, Sequence
from itertools import combinations

from msgspec import Struct
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mlenv.resolve.explanation import Need
from mlenv.resolve.index_pages import ProjectPage
from mlenv.resolve.requirement_lines import Line


class Clash(Struct, frozen=True):
    """
    Two needs of a project that no version meets.

    Attributes:
        project: Whose versions.
        one, other: The needs.
    """

    project: str
    one: Need
    other: Need

    @property
    def parents(self) -> tuple[str, ...]:
        """The projects that have these needs; the project itself where the user asks for it directly."""
        return tuple(each.parent_name or self.project for each in (self.one, self.other))

    @property
    def chain(self) -> tuple[str, ...]:
        """Both needs, as text."""
        return tuple(_said(each) for each in (self.one, self.other))

    @property
    def text(self) -> str:
        """Both needs, as a sentence."""
        if self.one.parent is None and self.other.parent is None:
            return f"{self.one.text} and {self.other.text} exclude each other"
        return f"{_said(self.one)}, but {_said(self.other)}"


def find_clash(needs: Sequence[Need], lines: Sequence[Line], page: Callable[[str], ProjectPage | None]) -> Clash | None:
    """
    The first two needs of the same project that exclude each other, or None.

    Args:
        needs: What uv says of who needs what.
        lines: The user's own.
        page: What the index has of a project: needs exclude each other if none of its versions meets both. Where it
            is not known, the versions that the needs themselves speak of stand for all.
    """
    own = [Need(None, each.name, str(each.pep508.specifier)) for each in lines if each.pep508.specifier]
    every = [*own, *(each for each in needs if each.parent is not None and each.bounds)]
    projects: dict[str, list[Need]] = {}
    for need in every:
        projects.setdefault(need.name, []).append(need)
    # NOTE: where more needs meet, more is wrong; but a pin of the user's own speaks first.
    ordered = sorted(projects.items(), key=lambda item: not any(each.parent is None for each in item[1]))
    for project, found in ordered:
        if len(found) < 2:
            continue
        versions = _versions(project, found, page)
        for one, other in combinations(found, 2):
            if one.parent_name == other.parent_name and one.parent is not None:
                continue
            if not any(_meets(each, one.bounds) and _meets(each, other.bounds) for each in versions):
                return Clash(project, one, other)
    return None


def _versions(project: str, needs: Sequence[Need], page: Callable[[str], ProjectPage | None]) -> list[Version]:
    known = page(project)
    if known is not None:
        return known.versions(yanked=True)
    found = []
    for need in needs:
        try:
            found += [Version(each.version.removesuffix(".*")) for each in SpecifierSet(need.bounds)]
        except (InvalidSpecifier, InvalidVersion):
            continue
    return found


def _meets(version: Version, bounds: str) -> bool:
    try:
        return SpecifierSet(bounds).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True


def _said(need: Need) -> str:
    return f"{need.parent} needs {need.text}" if need.parent else f"you ask for {need.text}"
