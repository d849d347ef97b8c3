"""What the operating system says of a disk that is full or has failed (errno(3)): no fault of who asked, and it may pass."""

import errno
import re
from typing import Final

from mlenv.errors import Unavailable

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FAILED: Final = frozenset({errno.EROFS, errno.EIO})
#: How programs that are not ours tell of the same (strerror(3)).
_FULL_TEXT: Final = re.compile(r"No space left on device|Disk quota exceeded")
_FAILED_TEXT: Final = re.compile(r"Read-only file system|Input/output error")


class DiskFull(Unavailable):
    """There is no room left for what was to be written. Nothing of it was kept."""

    hint = "make room on the disk of MLENV_HOME, and try again"

    def __init__(self, text: str = "the disk has no room left; nothing was kept") -> None:
        super().__init__(text)


class DiskFailed(Unavailable):
    """A disk is read-only, or gives errors."""

    hint = "see that the disk of MLENV_HOME is in order and may be written to, and try again"

    def __init__(self, text: str = "the disk can't be written to; nothing was kept") -> None:
        super().__init__(text)


def disk_fault(error: BaseException) -> DiskFull | DiskFailed | None:
    """What an error means if it is the disk's fault; None if it is not."""
    if isinstance(error, (DiskFull, DiskFailed)):
        return error
    if not isinstance(error, OSError):
        return None
    return DiskFull() if error.errno in FULL else DiskFailed() if error.errno in _FAILED else None


def told_disk_fault(text: str) -> DiskFull | DiskFailed | None:
    """The same for what another program wrote when it failed."""
    return DiskFull() if _FULL_TEXT.search(text) else DiskFailed() if _FAILED_TEXT.search(text) else None
