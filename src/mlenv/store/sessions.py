"""
Directories for what is half done: one for each process, and none for long.

A process holds the lock of its directory for as long as it lives, so that what a dead one left can be told from what a
live one is writing. Whoever starts a session removes what dead ones have left.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from mlenv.errors import Unavailable
from mlenv.file_lock import FileLock, Timeout

#: How long another process may hold a lock that is only ever held for milliseconds, in seconds.
_TIMEOUT: Final = 60.0
#: What was touched in the last so many seconds is not removed, whatever its lock says: some network file systems keep
#: locks on one machine only.
_LIVELY: Final = 3600.0


class Sessions:
    """The sessions below one directory, which is made when the first one starts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._own: tuple[int, Path, FileLock] | None = None
        self._guard = threading.Lock()

    def directory(self) -> Path:
        """
        This process's own directory, for this user's eyes only. A forked child starts a session of its own.

        Raises:
            Unavailable: Another process holds the lock of `root` for too long.
        """
        with self._guard:
            if self._own is None or self._own[0] != os.getpid():
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                name = os.urandom(8).hex()
                with self._locked():
                    lock = FileLock(self._root / f"{name}.lock")
                    lock.acquire()
                    directory = self._root / name
                    directory.mkdir(mode=0o700)
                self._own = os.getpid(), directory, lock
                self.sweep()
            return self._own[1]

    def leftovers(self) -> list[Path]:
        """Files and directories that dead processes have left with something in them."""
        with self._locked():
            return [path for path in self._dead() if path.is_file() or (path.is_dir() and any(path.iterdir()))]

    def sweep(self, older_than: float = _LIVELY) -> int:
        """
        Remove what dead processes left.

        Args:
            older_than: Leave alone what was touched in the last so many seconds.

        Returns:
            How many sessions were removed.
        """
        newest, removed = time.time() - older_than, 0
        with self._locked():
            for path in self._dead():
                if _last_touched(path, _lock_file(path)) > newest:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                _lock_file(path).unlink(missing_ok=True)
                removed += 1
        return removed

    def close(self) -> None:
        """End this process's session, and remove its directory with all that is in it."""
        with self._guard:
            if self._own is None or self._own[0] != os.getpid():
                return
            _, directory, lock = self._own
            self._own = None
            # On a disk that has failed it stays, as that of a process that dies does.
            with suppress(Unavailable, OSError), self._locked():
                shutil.rmtree(directory, ignore_errors=True)
                lock.release()
                _lock_file(directory).unlink(missing_ok=True)

    def _dead(self) -> Iterator[Path]:
        """Sessions whose lock nobody holds."""
        own = self._own[1].name if self._own and self._own[0] == os.getpid() else None
        if not self._root.is_dir():
            return
        names = sorted({entry.name.removesuffix(".lock") for entry in os.scandir(self._root)})
        yield from (self._root / name for name in names if name != own and _is_free(self._root / f"{name}.lock"))

    def _locked(self) -> AbstractContextManager[None]:
        return short_lock(self._root.with_name(f".{self._root.name}.lock"))


@contextmanager
def short_lock(path: Path) -> Iterator[None]:
    """Hold a lock that is held for milliseconds only. Raises `Unavailable` if another process does not let go of it."""
    try:
        with FileLock(path, timeout=_TIMEOUT):
            yield
    except Timeout as error:
        raise Unavailable(f"{path} has been locked by another process for {_TIMEOUT:.0f} s") from error


def _lock_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")


def _is_free(lock: Path) -> bool:
    """Whether no process holds the lock."""
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _last_touched(directory: Path, lock: Path) -> float:
    """When the newest file of a session was written, in seconds since the epoch."""
    files = list(directory.iterdir()) if directory.is_dir() else []
    times = []
    for path in (directory, lock, *files):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)
