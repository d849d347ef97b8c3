"""Which wheels run on a target, and which of them best (PEP 425, PEP 600)."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from mlenv.core.platform import GLIBC_FLOOR, Glibc, Target

#: The manylinux levels, besides 2.17, that uv can resolve for; `uv pip compile --help` lists them.
_LEVELS: Final = (40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17)
_LEGACY: Final = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
#: The macOS release that a lock for macOS may need: the oldest that Apple still cares for somewhat, as uv has it.
_MACOS: Final = (13, 0)
_WINDOWS: Final = {"amd64": "win_amd64", "arm64": "win_arm64"}


def uv_platform(target: Target) -> str:
    """The target in the words of uv's `--python-platform`: the highest level that is not above the target's."""
    machine = target.platform.machine
    if target.platform.os == "darwin":
        return f"{machine}-apple-darwin"
    if target.platform.os == "windows":
        return f"{machine}-pc-windows-msvc"
    minor = _glibc(target).minor
    return f"{machine}-manylinux_2_{next((level for level in _LEVELS if level <= minor), 17)}"


def platforms(target: Target) -> Iterator[str]:
    """The platform tags that the target takes, the most specific first."""
    if target.platform.os == "darwin":
        yield from mac_platforms(_MACOS, "arm64" if target.platform.architecture == "arm64" else "x86_64")
    elif target.platform.os == "windows":
        yield _WINDOWS[target.platform.architecture]
    else:
        machine = target.platform.machine
        lowest = 5 if machine == "x86_64" else 17
        for minor in range(_glibc(target).minor, lowest - 1, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in _LEGACY:
                yield f"{_LEGACY[minor]}_{machine}"
        yield f"linux_{machine}"


@lru_cache(maxsize=64)
def tags_of(target: Target) -> dict[Tag, int]:
    """Every tag that the target takes, with its rank: 0 is the best."""
    minor = int(target.python_minor.split(".")[1])
    python = (3, minor)
    abi = f"cp3{minor}" + ("m" if minor < 8 else "")
    systems = list(platforms(target))
    tags = [
        *cpython_tags(python, [abi], systems),
        *compatible_tags(python, f"cp3{minor}", systems),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def rank(filename: str, target: Target) -> tuple[int, int, str] | None:
    """How well a wheel fits, less is better; None if it does not run there, or is no wheel."""
    try:
        _, _, build, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return None
    known = tags_of(target)
    best = min((known[tag] for tag in tags if tag in known), default=None)
    return None if best is None else (best, -(build[0] if build else 0), filename)


def best_wheel(filenames: Iterable[str], target: Target) -> str | None:
    """The wheel that fits best, or None if none runs there."""
    ranked = [found for found in (rank(each, target) for each in filenames) if found is not None]
    return min(ranked)[2] if ranked else None


def _glibc(target: Target) -> Glibc:
    return target.glibc or GLIBC_FLOOR
