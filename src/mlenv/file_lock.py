"""
Locks between processes: on a file, by the operating system, which lets go of them when their holder dies.

NOTE: our own few lines, since the libraries for this import asyncio or tempfile and their like: 0.1 s of processor time
at the start of every build (flock(2); `_locking` of the Microsoft C runtime).
"""

import os
import sys
import time
from pathlib import Path
from typing import Final, Self

#: Seconds between two looks where waiting can't be left to the operating system.
_PAUSE: Final = 0.05


class Timeout(TimeoutError):
    """Somebody else holds the lock, and kept it for longer than was waited."""


class FileLock:
    """
    A lock that one process, and in it one holder, has at a time.

    Args:
        path: The file; it is made, stays, and its content means nothing.
        timeout: Seconds to wait for it; None waits for as long as it takes.
    """

    def __init__(self, path: Path, *, timeout: float | None = None) -> None:
        self.path, self._timeout = path, timeout
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock. Raises `Timeout`, and `OSError` if the file can't be made."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                while not _take(descriptor, wait=deadline is None):
                    if deadline is not None and time.monotonic() >= deadline:
                        raise Timeout(f"{self.path} is held")
                    time.sleep(_PAUSE)
                if _is_at(descriptor, self.path):
                    self._descriptor = descriptor
                    return
            except BaseException:
                os.close(descriptor)
                raise
            # The file was removed while we waited for it: what we hold is no longer what others ask for.
            os.close(descriptor)

    def release(self) -> None:
        """Let go."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(descriptor: int) -> bool:
    """Take the lock on an open file, unless somebody else has it. Who closes the file lets go of it."""
    return _take(descriptor, wait=False)


if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int, *, wait: bool) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _is_at(descriptor: int, path: Path) -> bool:
        return True  # An open file can't be removed.

else:
    import fcntl

    def _take(descriptor: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_at(descriptor: int, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(path))
        except FileNotFoundError:
            return False
