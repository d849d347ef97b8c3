"""The order of versions, and the one that comes next."""

import re
from collections.abc import Iterable

from mlenv.core.reference import VersionName

_PARTS = re.compile(r"(\d+)|(\D+)")


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

    Versions that are not plain whole numbers (`1.2`, `2024-01-01`, `007`) do not count.
    """
    numbers = [int(text) for text in taken if text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")]
    return VersionName(str(max(numbers, default=0) + 1))
