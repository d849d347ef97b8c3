"""Whether a lock can run here: what its wheels say of themselves, against what this machine is."""

import platform
import re
from typing import Final

from mlenv.core.lock import Lock
from mlenv.core.wheel_tags import glibc_needed
from mlenv.errors import Conflict
from mlenv.run.pythons import HostPython

_MACOS = re.compile(r"-macosx_(\d+)_(\d+)_")
#: How many wheels a message names.
_SHOWN: Final = 3


class NotSupportedHere(Conflict):
    """A lock that this machine, or this Python, can't run."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(f"this environment can't run here: {reasons[0]}")
        self.reasons = tuple(reasons)
        self.detail = "\n".join(reasons[1:]) or None
        self.hint = "run it with `--engine container`, or lock it for this machine"


def require_support(lock: Lock, python: HostPython) -> None:
    """Raise `NotSupportedHere` if the lock can't run with this Python on this machine."""
    if reasons := unsupported_here(lock, python):
        raise NotSupportedHere(reasons)


def unsupported_here(lock: Lock, python: HostPython) -> list[str]:
    """Why a lock can't run with this Python on this machine, one sentence each; empty if it can."""
    if lock.target.platform != python.platform:
        return [f"it is locked for {lock.target.platform}, and this is {python.platform}"]
    reasons = []
    if lock.target.python_minor != python.minor:
        reasons.append(f"it is locked for Python {lock.target.python_minor}, and {python.path} is {python.version}")
    filenames = sorted(each.artifact.filename for each in lock.packages)
    reasons += [f"{name} {reason}" for name in filenames if (reason := _objection(name, python))]
    if len(reasons) > _SHOWN:
        reasons = [*reasons[:_SHOWN], f"and {len(reasons) - _SHOWN} more"]
    return reasons


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
