"""Blobs that are pulled, in whole or in part, and deleted (distribution-spec, "Pulling blobs", "Deleting Blobs")."""

import os
import re
from typing import Final

from msgspec import Struct

from mlenv.core.access import Operation
from mlenv.core.digest import Digest
from mlenv.core.repositories import BlobNotInRepository
from mlenv.server.oci.answers import Answer, Asked, FilePart, header
from mlenv.server.oci.door import Door
from mlenv.server.oci.errors import MethodNotAllowed
from mlenv.server.threads import Threads
from mlenv.service.repositories import StoredBlob

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))", re.IGNORECASE)
#: Up to so many bytes are read here, which is quicker than to have them sent from the file.
_SMALL: Final = 64 << 10
#: What is named by its content never changes. It is for who asked alone.
FOREVER: Final = header("cache-control", "private, max-age=31536000, immutable")
_BYTES: Final = header("content-type", "application/octet-stream")
_RANGES: Final = header("accept-ranges", "bytes")


class Blobs(Struct, frozen=True):
    """The routes of blobs."""

    door: Door
    threads: Threads

    async def answer(self, asked: Asked, name: str, text: str) -> Answer:
        """One request for one blob."""
        if asked.method == "DELETE":
            return await self._delete(asked, name, text)
        if asked.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed(("GET", "HEAD", "DELETE"))
        services, repository = await self.door.open(asked, Operation.BLOB_READ, name)
        digest = Digest.parse(text)
        head, blob = asked.method == "HEAD", services.repositories.blob
        return await self.threads.run(lambda: _pull(asked, blob(repository, digest, for_push=head), name))

    async def _delete(self, asked: Asked, name: str, text: str) -> Answer:
        services, repository = await self.door.open(asked, Operation.BLOB_WRITE, name)
        await self.threads.run(services.repositories.delete_blob, repository, Digest.parse(text))
        return Answer(202)


def _pull(asked: Asked, blob: StoredBlob, name: str) -> Answer:
    etag = f'"{blob.digest}"'
    headers = [header("docker-content-digest", str(blob.digest)), header("etag", etag), FOREVER, _BYTES, _RANGES]
    if is_known(asked, etag):
        return Answer(304, headers)
    if asked.method == "HEAD":
        return Answer(200, headers, length=blob.size)
    part = _part(asked, etag, blob.size)
    if part is None:
        return Answer(416, [header("content-range", f"bytes */{blob.size}"), _RANGES])
    first, count, whole = part
    if not whole:
        headers.append(header("content-range", f"bytes {first}-{first + count - 1}/{blob.size}"))
    answer = Answer(200 if whole else 206, headers)
    try:
        descriptor = os.open(blob.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise BlobNotInRepository(name, blob.digest) from None
    if count > _SMALL:
        answer.part = FilePart(descriptor, first, count)
        return answer
    with open(descriptor, "rb", buffering=0) as file:
        answer.body = os.pread(file.fileno(), count, first)
    return answer


def is_known(asked: Asked, etag: str) -> bool:
    """Whether the client has it already (RFC 9110, section 13.1.2)."""
    known = asked.header(b"if-none-match")
    return known is not None and any(each.strip().removeprefix("W/") in {"*", etag} for each in known.split(","))


def _part(asked: Asked, etag: str, size: int) -> tuple[int, int, bool] | None:
    """
    The first byte that is asked for, how many are, and whether that is the whole; None for a range that is not there.

    What is no range of bytes, or several, is answered with the whole blob (RFC 9110, section 14.2).
    """
    said = asked.header(b"range")
    if said is None or asked.header(b"if-range") not in {None, etag}:
        return 0, size, True
    if not (match := _RANGE.fullmatch(said.replace(" ", ""))):
        return 0, size, True
    if match[3] is not None:
        count = min(int(match[3]), size)
        return (size - count, count, False) if count else None
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if first >= size or last < first:
        return None
    return first, min(last, size - 1) - first + 1, False
