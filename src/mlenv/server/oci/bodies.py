"""The body of a request that pushes a blob, as it comes in."""

import re
from typing import Final, TypeAlias

from starlette.requests import ClientDisconnect

from mlenv.core.repositories import ChunkOutOfOrder, WrongLength
from mlenv.server.large_bodies import EXTENSION, Buffers
from mlenv.server.oci.answers import Asked

#: What has come, in pieces that are given back when they are not needed any more.
Batch: TypeAlias = list[bytes | memoryview]

#: A chunk's place (distribution-spec, "Pushing a blob in chunks"): no unit before it, no length behind it.
_PLACE: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
#: Bytes that are handed to a thread at once.
_BATCH: Final = 1 << 20


class Body:
    """
    A body that comes in.

    Attributes:
        whole: Whether all of it has come.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._taken: Batch = []
        self._buffers: Buffers | None = (asked.scope.get("extensions") or {}).get(EXTENSION)
        self.whole = False
        self._said = asked.header(b"content-range")
        match = _PLACE.fullmatch(self._said) if self._said is not None else None
        self._first, self._last = (int(match[1]), int(match[2])) if match else (-1, -1)

    async def batch(self) -> Batch:
        """What comes next, a megabyte or so, to be given back with `release`. Raises `ClientDisconnect`."""
        if self._buffers is not None:
            self._buffers.begin()
        size = 0
        while not self.whole and size < _BATCH:
            message = await self._asked.receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            if data := message.get("body", b""):
                self._taken.append(data)
                size += len(data)
            self.whole = not message.get("more_body", False)
        return self.taken()

    def release(self, batch: Batch) -> None:
        """Say that a batch is not needed any more, so that its memory may be used again."""
        if self._buffers is not None:
            for each in batch:
                self._buffers.release(each)

    def taken(self) -> Batch:
        """What has come since it was last asked."""
        taken, self._taken = self._taken, []
        return taken

    def check_place(self, offset: int) -> None:
        """See that the chunk continues the upload, which has so many bytes. Raises `ChunkOutOfOrder`, `WrongLength`."""
        if self._said is None:
            return
        if self._first != offset or self._last < self._first:
            raise ChunkOutOfOrder(self._said, offset)
        length = self._asked.header(b"content-length")
        if length is not None and length.isdigit():
            self.check_length(int(length))

    def check_length(self, got: int) -> None:
        """See that as much has come as was said. Raises `WrongLength`."""
        if self._said is not None and got != self._last - self._first + 1:
            raise WrongLength("chunk", expected=self._last - self._first + 1, got=got)
