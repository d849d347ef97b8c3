"""
Tar bytes in, a compressed blob and its diff id out, in one pass and with the same bytes on every machine.

zstd (RFC 8878) runs at one level, in one thread: with threads, libzstd cuts the input otherwise. It gets the content of a
frame at once: it is a quarter slower where it has to gather a stream in a window of its own. gzip (RFC 1952) is spliced:
a large member of a wheel is a deflate stream already, and becomes a member of the gzip file as it stands, so that only
what is small, or made here, is compressed. That is done by zlib, whose output has been the same for years on every
processor; isa-l chooses its code, and so perhaps its output, by the processor.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections.abc import Iterable
from functools import cache
from typing import Final, Protocol

import zstandard

from mlenv.build.interface import BlobWriter
from mlenv.core.digest import Digest
from mlenv.core.layer import Compression
from mlenv.core.wheel_archive import DEFLATED, Member, Piece

#: NOTE: other levels, frames and versions of libzstd give other bytes: change `core.layer.RECIPE` together with these.
ZSTD_LEVEL: Final = 2
ZSTD_VERSION: Final = (1, 5, 7)
#: How much of a tar becomes one zstd frame, in bytes. Smaller frames find less that repeats: 1 MiB makes layers 3 % larger.
_FRAME: Final = 8 << 20
#: What becomes gzip is gathered to this size before it is hashed and compressed, in bytes.
_GATHER: Final = 1 << 18
#: A deflate stream of at least this size becomes a gzip member of its own. Every member costs the receiver a little.
_SPLICE: Final = 1 << 15
_GZIP_LEVEL: Final = 1
#: Deflate, no flags, no time, no extra flags, unknown system (RFC 1952, 2.3.1).
_GZIP_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


class LayerStream(Protocol):
    """A layer being written."""

    def write(self, data: bytes) -> None:
        """Add tar bytes that are made here."""

    def add(self, pieces: Iterable[Piece], member: Member | None) -> None:
        """Add a file's content, whose stored form may be used as it stands; `member` says what form that is."""

    def close(self) -> Digest:
        """Finish the blob, without committing it, and give the digest of the tar."""


def open_stream(compression: Compression, out: BlobWriter) -> LayerStream:
    """A stream that writes to a blob."""
    return ZstdStream(out) if compression is Compression.ZSTD else GzipStream(out)


class ZstdStream:
    """A zstd frame for every `_FRAME` bytes of the tar."""

    def __init__(self, out: BlobWriter) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        # NOTE: memory that the kernel gives out as it is written to. Most layers that change do not fill a frame.
        self._frame = mmap.mmap(-1, _FRAME)
        self._filled = 0

    def write(self, data: bytes) -> None:
        while len(data) > (room := _FRAME - self._filled):
            self._frame[self._filled :] = data[:room]
            self._filled = _FRAME
            self._flush()
            data = data[room:]
        end = self._filled + len(data)
        self._frame[self._filled : end] = data
        self._filled = end

    def add(self, pieces: Iterable[Piece], member: Member | None) -> None:
        for _, plain in pieces:
            self.write(plain)

    def _flush(self) -> None:
        with memoryview(self._frame)[: self._filled] as content:
            self._hash.update(content)
            self._out.write(self._compressor.compress(content))
        self._filled = 0

    def close(self) -> Digest:
        self._flush()
        return Digest(self._hash.hexdigest())


class GzipStream:
    """A gzip file of many members."""

    def __init__(self, out: BlobWriter) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self._pending: list[bytes] = []
        self._size = 0
        self._compressor: zlib._Compress | None = None
        self._crc = self._length = 0

    def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _GATHER:
            self._flush()

    def add(self, pieces: Iterable[Piece], member: Member | None) -> None:
        if member is None or member.method != DEFLATED or member.packed < _SPLICE:
            for _, plain in pieces:
                self.write(plain)
            return
        self._end_member()
        self._out.write(_GZIP_HEADER)
        # NOTE: the pieces verify that the stream ends with the member, has its size and its checksum. Where it does
        # not, they raise, and the blob is never committed: there is no odd stream that would have to be made anew.
        for raw, plain in pieces:
            if raw:
                self._out.write(raw)
            self._hash.update(plain)
        self._out.write(_trailer(member.crc, member.size))

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending, self._size = [], 0
        if not data:
            return
        self._hash.update(data)
        if self._compressor is None:
            self._out.write(_GZIP_HEADER)
            self._compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -15)
            self._crc = self._length = 0
        self._crc = zlib.crc32(data, self._crc)
        self._length += len(data)
        self._out.write(self._compressor.compress(data))

    def _end_member(self) -> None:
        self._flush()
        if self._compressor is not None:
            self._out.write(self._compressor.flush())
            self._out.write(_trailer(self._crc, self._length))
            self._compressor = None

    def close(self) -> Digest:
        self._end_member()
        return Digest(self._hash.hexdigest())


def _trailer(crc: int, size: int) -> bytes:
    return crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


@cache
def unlike_reference(compression: Compression) -> str | None:
    """Why layers made here may differ in their bytes from those made elsewhere; None if they do not."""
    if compression is Compression.ZSTD:
        if zstandard.ZSTD_VERSION == ZSTD_VERSION:
            return None
        return f"libzstd {_dotted(zstandard.ZSTD_VERSION)} is used, layers are made alike by {_dotted(ZSTD_VERSION)}"
    if Digest.of(_sample()).hex == _SAMPLE:
        return None
    return f"zlib {zlib.ZLIB_RUNTIME_VERSION} is used, which does not compress as the original one does"


#: What `_sample` hashes to with the original zlib, 1.2 and 1.3.
_SAMPLE: Final = "eba9d4646f8c8c491f487725cafbe6e8c6b0f97156109aafc11bcae3d7803e31"


def _sample() -> bytes:
    """Something compressed that other implementations of deflate compress otherwise."""
    text = b"".join(b"%d:%d;" % (number * number % 977, number % 13) for number in range(60_000))
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -15)
    return compressor.compress(text) + compressor.flush()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
