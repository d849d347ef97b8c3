"""Putting a file in a second place: by hard link where that works, by sharing blocks, or by copying."""

import errno
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

#: `FICLONE`, which makes one file share another's blocks (Linux, `ioctl_ficlonerange(2)`).
_FICLONE: Final = 0x40049409
_NO_LINKS: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES})


class Linker:
    """
    Links files, and remembers what the two file systems can do.

    Attributes:
        how: `link`, `clone` or `copy`: what the last file was done by.
    """

    def __init__(self, how: str = "link") -> None:
        self.how = how

    def __call__(self, source: str, target: str) -> None:
        """Make `target` have the content and mode of `source`. Raises `FileExistsError` if there is one already."""
        if self.how == "link":
            try:
                os.link(source, target)
            except OSError as error:
                # One file may have as many links as there can be; the next ones need not.
                if error.errno not in _NO_LINKS:
                    raise
                if error.errno != errno.EMLINK:
                    self.how = "clone"
                self._clone_or_copy(source, target)
            return
        self._clone_or_copy(source, target)

    def _clone_or_copy(self, source: str, target: str) -> None:
        mode = stat.S_IMODE(os.stat(source).st_mode)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        with os.fdopen(descriptor, "wb") as stream, open(source, "rb") as origin:
            if self.how != "copy" and _clone(origin.fileno(), stream.fileno()):
                return
            if self.how == "clone":
                self.how = "copy"
            shutil.copyfileobj(origin, stream, 1 << 20)


def _clone(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def make_durable(path: Path) -> None:
    """
    Have everything that was written to the path's file system on disk before this returns.

    What is renamed into place afterwards is whole even after a power cut: otherwise the new name may survive, and the
    content of thousands of files behind it may not. One call, since waiting for each file takes many times as long.
    """
    if sys.platform == "win32":
        return
    if sys.platform == "linux":
        import ctypes

        library = ctypes.CDLL(None)
        if hasattr(library, "syncfs"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if library.syncfs(descriptor) == 0:
                    return
            finally:
                os.close(descriptor)
    os.sync()


def remove_tree(path: Path) -> None:
    """Remove a directory tree, its read-only directories too. What is gone already is no fault."""
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o755)
    shutil.rmtree(path, ignore_errors=True)
