"""What a wheel's file name says of where it runs (PEP 425, PEP 600)."""

import re
from typing import Final

from packaging.utils import parse_wheel_filename

from mlenv.core.platform import Glibc

_LEGACY: Final = {"manylinux1": Glibc(2, 5), "manylinux2010": Glibc(2, 12), "manylinux2014": Glibc(2, 17)}
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_\w+")


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
