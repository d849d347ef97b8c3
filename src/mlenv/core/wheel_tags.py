"""Where a wheel runs, by the tags in its file name, and which of several fits a target best (PEP 425, PEP 600)."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from mlenv.core.platform import GLIBC_FLOOR, Glibc, Target

if TYPE_CHECKING:
    from packaging.tags import Tag

#: Names that levels of manylinux had before PEP 600 (PEP 513, 571, 599).
_LEGACY: Final = {"manylinux1": Glibc(2, 5), "manylinux2010": Glibc(2, 12), "manylinux2014": Glibc(2, 17)}
_NAMES: Final = {level.minor: name for name, level in _LEGACY.items()}
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_\w+")
#: The macOS release that a lock for macOS may need: the oldest that Apple still cares for somewhat, as uv has it.
_MACOS: Final = (13, 0)
_WINDOWS: Final = {"amd64": "win_amd64", "arm64": "win_arm64"}


def glibc_needed(filename: str) -> Glibc | None:
    """The lowest glibc under which a wheel runs, or None if it says nothing of one (`any`, `linux_x86_64`, other systems)."""
    levels = []
    for tag in parse_wheel_filename(filename)[3]:
        if match := _MANYLINUX.fullmatch(tag.platform):
            levels.append(Glibc(int(match[1]), int(match[2])))
        elif (legacy := tag.platform.partition("_")[0]) in _LEGACY:
            levels.append(_LEGACY[legacy])
        else:
            return None
    return min(levels, default=None)


@lru_cache(maxsize=64)
def tags_of(target: Target) -> dict["Tag", int]:
    """Every tag that the target takes, the best first, with its rank: 0 is the best."""
    from packaging.tags import compatible_tags, cpython_tags

    minor = int(target.python_minor.split(".")[1])
    python = (3, minor)
    abi = f"cp3{minor}" + ("m" if minor < 8 else "")
    systems = list(_systems(target))
    tags = [*cpython_tags(python, [abi], systems), *compatible_tags(python, f"cp3{minor}", systems)]
    return {tag: rank for rank, tag in enumerate(dict.fromkeys(tags))}


def _systems(target: Target) -> Iterator[str]:
    """The platform tags that the target takes, the most specific first."""
    if target.platform.os == "darwin":
        from packaging.tags import mac_platforms

        yield from mac_platforms(_MACOS, "arm64" if target.platform.architecture == "arm64" else "x86_64")
    elif target.platform.os == "windows":
        yield _WINDOWS[target.platform.architecture]
    else:
        machine = target.platform.machine
        # Before 2.17, manylinux was for x86 alone.
        lowest = 5 if machine == "x86_64" else 17
        for minor in range((target.glibc or GLIBC_FLOOR).minor, lowest - 1, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in _NAMES:
                yield f"{_NAMES[minor]}_{machine}"
        yield f"linux_{machine}"


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
