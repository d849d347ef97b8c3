"""Compressed and tarred bytes from elsewhere, read as streams and never unpacked to disk (gzip, RFC 1952; zstd, RFC 8878)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zstandard
from isal import igzip

from mlenv.core.tar_archive import CHUNK, InvalidArchive, Limited, Member, Readable, walk_tar

__all__ = ["CHUNK", "InvalidArchive", "Limited", "Member", "Readable", "open_unpacked", "walk_tar"]

_ZSTD_WINDOW: Final = 1 << 27


@contextmanager
def open_unpacked(path: Path, *, limit: int, what: str) -> Iterator[Limited]:
    """A file's content, decompressed if it is gzip or zstd, and as it is if it is not."""
    with path.open("rb", buffering=CHUNK) as file:
        magic = file.read(4)
        file.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            with igzip.IGzipFile(fileobj=file, mode="rb") as stream:  # type: ignore[no-untyped-call]
                yield Limited(stream, limit, what)
        elif magic == b"\x28\xb5\x2f\xfd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
            with decompressor.stream_reader(file, read_size=CHUNK, read_across_frames=True) as stream:
                yield Limited(stream, limit, what)
        elif magic.startswith((b"\xfd7zX", b"BZh")):
            raise InvalidArchive(what, "is compressed with xz or bzip2; expected gzip, zstd or a plain tar")
        else:
            yield Limited(file, limit, what)
