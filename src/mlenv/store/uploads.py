"""
Uploads: blobs that come in pieces, in files that any process can go on with.

An upload is a file in `uploads/` beside the blobs; how far it has come is its size. While a request writes to it, the
request's process holds a lock on it, which the operating system takes from what dies. When it is whole, it becomes a
blob by one rename.
"""

import hashlib
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv import faults
from mlenv.core.digest import SHA256, Digest, DigestMismatch
from mlenv.core.repositories import UploadBusy, UploadNotFound
from mlenv.file_lock import try_lock
from mlenv.store.oci import OciLayout

if TYPE_CHECKING:
    from hashlib import _Hash

_ID: Final = re.compile(r"[0-9a-f]{48}")
_CHUNK: Final = 1 << 20
#: How many uploads' hashes one process remembers between two requests.
_REMEMBERED: Final = 1000
#: Most buffers of one `writev` (IOV_MAX of Linux and macOS).
_BUFFERS: Final = 1024


class Uploads:
    """
    Uploads beside the blobs of a layout.

    Args:
        layout: Where they become blobs.
    """

    def __init__(self, layout: OciLayout) -> None:
        self._layout = layout
        self._root = layout.root / "uploads"
        # The hash of what has come, by upload: its algorithm is the hash's own. Another process has to read it again.
        self._hashes: OrderedDict[str, tuple[int, _Hash]] = OrderedDict()

    def start(self, owner: str) -> str:
        """
        Begin an upload. Returns its id, which nobody can guess.

        Args:
            owner: Who may go on with it: an upload of another owner is not found.
        """
        id = secrets.token_hex(16) + _mark(owner)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(self._root / id, flags, 0o600)
        except FileNotFoundError:
            self._root.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._root / id, flags, 0o600)
        os.close(descriptor)
        return id

    def size(self, owner: str, id: str) -> int:
        """How many bytes have come. Raises `UploadNotFound`."""
        try:
            return self._path(owner, id).stat().st_size
        except FileNotFoundError:
            raise UploadNotFound(id) from None

    def open(self, owner: str, id: str) -> "Upload":
        """Go on with an upload; nobody else can until it is closed. Raises `UploadNotFound`, `UploadBusy`."""
        path = self._path(owner, id)
        try:
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            raise UploadNotFound(id) from None
        try:
            if not try_lock(descriptor):
                raise UploadBusy(id)
            # Whoever had the lock may have finished or cancelled it.
            if not _is_at(descriptor, path):
                raise UploadNotFound(id)
            return Upload(self._layout, self._hashes, path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def sweep(self, older_than: float) -> int:
        """Remove uploads that nobody has gone on with for so many seconds. Returns how many bytes that were."""
        freed, newest = 0, time.time() - older_than
        if not self._root.is_dir():
            return 0
        for entry in os.scandir(self._root):
            path = Path(entry.path)
            try:
                if not _ID.fullmatch(entry.name) or path.stat().st_mtime > newest:
                    continue
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if try_lock(descriptor) and os.fstat(descriptor).st_mtime <= newest and _is_at(descriptor, path):
                    freed += os.fstat(descriptor).st_size
                    path.unlink()
            finally:
                os.close(descriptor)
        return freed

    def _path(self, owner: str, id: str) -> Path:
        if not _ID.fullmatch(id) or not id.endswith(_mark(owner)):
            raise UploadNotFound(id)
        return self._root / id


class Upload:
    """
    An upload that a request goes on with. Made by `Uploads.open`.

    Attributes:
        size: How many bytes have come.
    """

    def __init__(
        self, layout: OciLayout, hashes: "OrderedDict[str, tuple[int, _Hash]]", path: Path, descriptor: int
    ) -> None:
        self._layout, self._hashes, self._path, self._descriptor = layout, hashes, path, descriptor
        self.size = os.lseek(descriptor, 0, os.SEEK_END)
        known = hashes.pop(path.name, None)
        self._hash: _Hash | None = known[1] if known is not None and known[0] == self.size else None

    def expect(self, algorithm: str = SHA256) -> None:
        """Say what the blob will be named by, before the first byte is written: it is hashed as it comes."""
        if self.size == 0:
            self._hash = hashlib.new(algorithm)

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Add bytes. If that fails, what came so far stays, and is read again to be hashed."""
        known, self._hash = self._hash, None
        for first in range(0, len(buffers), _BUFFERS):
            self._write(buffers[first : first + _BUFFERS])
        if known is not None:
            for each in buffers:
                known.update(each)
        self._hash = known

    def truncate(self, size: int) -> None:
        """Forget what came after the first `size` bytes."""
        os.ftruncate(self._descriptor, size)
        self.size = os.lseek(self._descriptor, size, os.SEEK_SET)
        self._hash = None

    def finish(self, digest: Digest) -> int:
        """
        Make it a blob, durable when this returns. Returns its size in bytes.

        Raises:
            DigestMismatch: It is something else. Nothing is kept, and the upload has ended.
        """
        got = self._digest(digest.algorithm)
        if got != digest:
            self.cancel()
            raise DigestMismatch("blob", expected=str(digest), got=str(got))
        place = self._layout.place(digest)
        if self._layout.has(digest) and place.stat().st_size == self.size:
            self.cancel()
            return self.size
        os.fsync(self._descriptor)
        faults.reach("upload.written")
        self._layout.keep(self._path, digest)
        faults.reach("upload.kept")
        return self.size

    def cancel(self) -> None:
        """End it, and forget what has come."""
        self._path.unlink(missing_ok=True)
        self._hash = None

    def close(self) -> None:
        """Let others go on with it."""
        if self._hash is not None and self.size and _is_at(self._descriptor, self._path):
            self._hashes[self._path.name] = self.size, self._hash
            while len(self._hashes) > _REMEMBERED:
                self._hashes.popitem(last=False)
        os.close(self._descriptor)

    def _write(self, buffers: Sequence[bytes | memoryview]) -> None:
        rest: list[bytes | memoryview] = list(buffers)
        while rest:
            written = os.writev(self._descriptor, rest)
            self.size += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = memoryview(rest[0])[written:]

    def _digest(self, algorithm: str) -> Digest:
        if self._hash is None or self._hash.name != algorithm:
            # Another process, or this one before it was started anew, has received some of it.
            found = hashlib.new(algorithm)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            while chunk := os.read(self._descriptor, _CHUNK):
                found.update(chunk)
            self._hash = found
        return Digest(self._hash.hexdigest(), algorithm)


def _mark(owner: str) -> str:
    """What ids of an owner end with."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
