"""Prefixes of environments that were materialised here: where each one is, and whether it is whole."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.lock import LOCK_NAME, Lock
from mlenv.core.spec import canonical_json
from mlenv.run.activation import scripts_directory
from mlenv.run.pythons import HostPython

#: Changes whenever what is in the cache of wheels, or in a prefix, does.
RECIPE: Final = 1


class Prefix(Struct, frozen=True):
    """
    A materialised environment.

    Attributes:
        path: Its root: `sys.prefix` of what runs in it.
        python: The interpreter it was made for; None if conda's packages bring one, or have none.
        reused: Whether it was there already.
        unpacked: How many packages had to be unpacked for it; the others were in the cache.
    """

    path: Path
    python: HostPython | None
    reused: bool
    unpacked: int = 0

    @property
    def interpreter(self) -> Path:
        """Its own `python`."""
        return interpreter_of(self.path)


def prefix_path(lock: Lock, python: HostPython | None, prefixes: Path) -> Path:
    """Where the prefix for a lock and an interpreter of this machine, if it needs one, is, or will be."""
    content = {"recipe": RECIPE, "lock": str(lock.digest)}
    if python is not None:
        content |= {"python": python.version, "path": str(python.path)}
    return prefixes / Digest.of(canonical_json(content).encode()).hex[:32]


def find_prefix(lock: Lock, python: HostPython | None, prefixes: Path) -> Prefix | None:
    """The prefix for a lock and an interpreter, if it is there and whole."""
    path = prefix_path(lock, python, prefixes)
    return Prefix(path, python, reused=True) if is_whole(path, python) else None


def is_whole(prefix: Path, python: HostPython | None) -> bool:
    """A prefix appears as a whole, so its lock tells that it is there; a machine's interpreter may be gone since."""
    if not (prefix / LOCK_NAME).exists() or (python is not None and not interpreter_of(prefix).exists()):
        return False
    # When it was last used, for whoever cleans up.
    with suppress(OSError):
        os.utime(prefix)
    return True


def interpreter_of(prefix: Path) -> Path:
    """The `python` of a prefix, whether or not it has one."""
    return scripts_directory(prefix) / ("python.exe" if sys.platform == "win32" else "python")
