"""Small blobs that a client has asked for, while it lasts."""

from collections.abc import Iterable
from typing import Final

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.errors import NotFound

#: How many are remembered.
_MOST: Final = 64


class MemoryBlobs:
    """A few blobs; the oldest is forgotten for a new one."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}

    def read(self, digest: Digest) -> bytes:
        """A blob. Raises `NotFound`."""
        if digest not in self._blobs:
            raise NotFound(f"no blob {digest} is remembered")
        return self._blobs[digest]

    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None:
        """Remember a blob. Raises `DigestMismatch`."""
        data = b"".join(chunks)
        if (got := Digest.of(data)) != digest or len(data) != size:
            raise DigestMismatch(what, expected=str(digest), got=str(got))
        self._blobs[digest] = data
        while len(self._blobs) > _MOST:
            del self._blobs[next(iter(self._blobs))]
