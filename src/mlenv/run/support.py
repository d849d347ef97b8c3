"""Whether a lock can run here: what its wheels say of themselves, against what this machine is."""

import os
import platform
import re
from collections.abc import Iterable
from typing import Final

from mlenv.core.lock import Lock
from mlenv.core.platform import Glibc, Platform
from mlenv.core.wheel_tags import glibc_needed
from mlenv.errors import Conflict, InvalidInput
from mlenv.run.pythons import HostPython

_MACOS = re.compile(r"-macosx_(\d+)_(\d+)_")
_GLIBC = re.compile(r"__glibc\s*>=\s*(\d+)\.(\d+)")
#: How many wheels a message names.
_SHOWN: Final = 3


class NotSupportedHere(Conflict):
    """A lock that this machine, or this Python, can't run."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(f"this environment can't run here: {reasons[0]}")
        self.reasons = tuple(reasons)
        self.detail = "\n".join(reasons[1:]) or None
        self.hint = "run it with `--engine container`, or lock it for this machine"


def require_support(lock: Lock, python: HostPython | None) -> None:
    """Raise `NotSupportedHere` if the lock can't run with this Python, or conda's own for None, on this machine."""
    reasons = unsupported_here(lock, python) if python is not None else _unsupported_conda(lock)
    if reasons:
        raise NotSupportedHere(reasons)


def unsupported_here(lock: Lock, python: HostPython) -> list[str]:
    """Why a lock can't run with this Python on this machine, one sentence each; empty if it can."""
    if lock.target.platform != python.platform:
        return [f"it is locked for {lock.target.platform}, and this is {python.platform}"]
    reasons = []
    if lock.target.python_minor != python.minor:
        reasons.append(f"it is locked for Python {lock.target.python_minor}, and {python.path} is {python.version}")
    filenames = sorted(each.artifact.filename for each in lock.packages)
    found = [f"{name} {reason}" for name in filenames if (reason := _objection(name, python))]
    return _first(reasons + found)


def _unsupported_conda(lock: Lock) -> list[str]:
    """The same where conda's packages bring all but the C library."""
    here = Platform.parse(f"{platform.system()}/{platform.machine()}")
    if lock.target.platform != here:
        return [f"it is locked for {lock.target.platform}, and this is {here}"]
    glibc = _own_glibc()
    needs = [(each.artifact.filename, _glibc_of(each.depends)) for each in lock.conda]
    needs += [(each.artifact.filename, glibc_needed(each.artifact.filename)) for each in lock.packages]
    has = f"this machine has {glibc}" if glibc else "this machine has none"
    return _first(
        f"{name} needs glibc {need}, and {has}"
        for name, need in sorted(needs)
        if need is not None and (glibc is None or need > glibc)
    )


def _first(reasons: Iterable[str]) -> list[str]:
    first = list(reasons)
    return first if len(first) <= _SHOWN else [*first[:_SHOWN], f"and {len(first) - _SHOWN} more"]


def _own_glibc() -> Glibc | None:
    try:
        name, _, level = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return Glibc.parse(level) if name == "glibc" else None
    except (AttributeError, ValueError, OSError, InvalidInput):
        return None


def _glibc_of(depends: Iterable[str]) -> Glibc | None:
    """The glibc that a conda package needs (`__glibc >=2.17,<3.0.a0`): none where it does not say, or says more."""
    found = (_GLIBC.match(each) for each in depends)
    return max((Glibc(int(each[1]), int(each[2])) for each in found if each), default=None)


def _objection(filename: str, python: HostPython) -> str | None:
    if python.platform.os == "linux" and (needed := glibc_needed(filename)) is not None:
        if python.glibc is None:
            return f"needs glibc {needed}, and {python.path} does not run with glibc"
        if needed > python.glibc:
            return f"needs glibc {needed}, and this machine has {python.glibc}"
    if python.platform.os == "darwin" and (match := _MACOS.search(filename)):
        release = tuple(int(part) for part in re.findall(r"\d+", platform.mac_ver()[0])[:2])
        if release and (int(match[1]), int(match[2])) > release:
            return f"needs macOS {match[1]}.{match[2]}, and this machine has {platform.mac_ver()[0]}"
    return None
