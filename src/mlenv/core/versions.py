"""The order of versions, and the one that comes next."""

import re
from collections.abc import Iterable
from typing import Final

from mlenv.core.reference import VersionName

#: What the first version is called when nobody says.
FIRST_VERSION: Final = VersionName("1")

_PARTS = re.compile(r"([0-9]+)|([^0-9]+)")
#: A plain whole number, with room for one more digit below the limit of 255.
_WHOLE = re.compile(r"0|[1-9][0-9]{0,253}")


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """
    A sort key under which numbers inside versions count as numbers: `2` < `10`, `1.9` < `1.10`, `1.0` < `1.0-rc`.

    A total order: two different versions never compare equal, since the text itself decides last.
    """
    parts = [(0, int(digits), "") if digits else (1, 0, text) for digits, text in _PARTS.findall(version)]
    return (*parts, (-1, 0, version))


def next_version(taken: Iterable[str]) -> VersionName:
    """
    The version that an environment gets when none is named: one more than the highest whole number taken, or `1`.

    Versions that are not plain whole numbers (`1.2`, `2024-01-01`, `007`), or so long that the next would not be a
    version any more, do not count. The answer is never taken.
    """
    versions = set(taken)
    version = FIRST_VERSION
    for each in versions:
        version = next_after(version, VersionName(each))
    while version in versions:
        version = VersionName(str(int(version) + 1))
    return version


def next_after(following: VersionName, added: VersionName) -> VersionName:
    """What follows once `added` is taken, when it was `following` before: `3` and `7` give `8`, `3` and `1.2` give `3`."""
    if not _WHOLE.fullmatch(added):
        return following
    return VersionName(str(max(int(following), int(added) + 1)))
