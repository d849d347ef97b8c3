"""Which Python a spec asks for, and whether one that is at hand will do."""

import re
from collections.abc import Iterable
from typing import Final

#: What a wish is met with when neither base nor host has a Python that meets it: a late patch release of each minor
#: version, the newest first. A patch release matters, since `Requires-Python: >=3.7.1` rules out a plain 3.7.
LATE_RELEASES: Final = ("3.14.2", "3.13.11", "3.12.12", "3.11.14", "3.10.19", "3.9.25", "3.8.20", "3.7.17", "3.6.15")
_BARE = re.compile(r"3\.\d+(\.\d+)?")


def is_bare(wanted: str) -> bool:
    """Whether the wish is a version, `3.10` or `3.10.4`, not a set of specifiers."""
    return _BARE.fullmatch(wanted) is not None


def minor_of(version: str) -> str:
    """`3.10` of `3.10.4`."""
    return ".".join(version.split(".")[:2])


def admits(wanted: str | None, version: str) -> bool:
    """
    Whether a Python of this full version meets the wish.

    A bare version is met by every patch release of its minor version: `3.7.9` says which Python was tried, and
    wheels are made per minor version. A specifier set is taken at its word (PEP 440), and one that can't be read is
    met by nothing.
    """
    if wanted is None:
        return True
    if is_bare(wanted):
        return minor_of(wanted) == minor_of(version)
    # NOTE: few wishes are specifier sets, and their import is slow.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import Version

    try:
        return SpecifierSet(wanted).contains(Version(version), prereleases=True)
    except InvalidSpecifier:
        return False


def choose(wanted: str | None, offered: Iterable[str]) -> str | None:
    """The first of the offered full versions that meets the wish, or None."""
    return next((version for version in offered if admits(wanted, version)), None)


def without_offer(wanted: str | None) -> str | None:
    """
    The full version to lock for when nothing at hand meets the wish.

    A wish for a patch release is taken at its word; else the newest late release that meets it; None if none does.
    """
    if wanted is None:
        return None
    if is_bare(wanted) and wanted.count(".") == 2:
        return wanted
    return choose(wanted, LATE_RELEASES)
