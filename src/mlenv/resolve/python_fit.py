"""Which of a project's files fit a target, and which other Python or version would."""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mlenv.core.platform import Target
from mlenv.core.wheel_tags import rank
from mlenv.resolve.index_pages import IndexFile, ProjectPage

#: The Pythons that are worth naming.
_PYTHONS: Final = tuple(f"3.{minor}" for minor in range(6, 16))


def has_wheel(files: Iterable[IndexFile], target: Target) -> bool:
    """Whether a wheel among them runs on the target."""
    return any(
        each.admits(target.python) and rank(each.filename, target) is not None for each in files if each.is_wheel
    )


def has_source(files: Iterable[IndexFile], target: Target) -> bool:
    """Whether there is source that the target's Python may use."""
    return any(not each.is_wheel and each.admits(target.python) for each in files)


def fitting_pythons(files: Sequence[IndexFile], target: Target) -> tuple[str, ...]:
    """The other minor versions of Python for which there is a wheel on the same platform, in order."""
    others = [each for each in _PYTHONS if each != target.python_minor]
    return tuple(each for each in others if has_wheel(files, replace(target, python=each)))


def nearest(bounds: str, page: ProjectPage, target: Target, *, count: int = 3) -> tuple[str, ...]:
    """
    Versions that exist, near those asked for, and have a file for the target: the nearest first.

    A release counts as nearer, the longer the beginning it has in common, then by the first place that differs; of those
    before what was asked for the newest, of those after it the oldest.
    """
    usable = {
        each.version
        for each in page.files
        if not each.yanked
        and not each.version.is_prerelease
        and each.admits(target.python)
        and (not each.is_wheel or rank(each.filename, target) is not None)
    }
    wanted = _release(bounds)
    ordered = sorted(usable, key=lambda each: _distance(each.release, wanted))
    return tuple(str(each) for each in ordered[:count])


def _release(bounds: str) -> tuple[int, ...]:
    """The release that bounds speak of: the highest that is named."""
    try:
        versions = [Version(each.version.removesuffix(".*")) for each in SpecifierSet(bounds)]
    except (InvalidSpecifier, InvalidVersion):
        return ()
    return max(versions).release if versions else ()


def _distance(release: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """How far a release is from the one wanted: first the places that agree, then the first that does not, then the rest."""
    length = max(len(release), len(wanted))
    pad = (0,) * length
    steps = [mine - theirs for mine, theirs in zip((*release, *pad)[:length], (*wanted, *pad)[:length], strict=True)]
    same = next((place for place, step in enumerate(steps) if step), length)
    after = same < length and steps[same] > 0
    rest = release[same + 1 :]
    return (-same, *map(abs, steps[same : same + 1]), *(rest if after else (-each for each in rest)))


def listed(pythons: Sequence[str]) -> str:
    """`3.9 to 3.12` for a run without gaps, else all of them."""
    minors = [int(each.split(".")[1]) for each in pythons]
    if len(minors) > 2 and minors == list(range(minors[0], minors[-1] + 1)):
        return f"{pythons[0]} to {pythons[-1]}"
    return ", ".join(pythons)
