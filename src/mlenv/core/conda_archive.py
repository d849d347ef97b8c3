"""
The archive that a conda package is, read as a stream and trusted in nothing: `.conda` (CEP 4) and `.tar.bz2`.

A `.conda` is a zip of stored members, two of which are tars compressed with zstd: `info-…` says what is in `pkg-…`. A
`.tar.bz2` is one tar of both. `open_archive` reads what the package says of itself; `CondaArchive.content` goes through
its files, once, in their order.
"""

import bz2
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

import zstandard
from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.tar_archive import CHUNK, InvalidArchive, Limited, Member, Readable, walk_tar
from mlenv.core.wheel_archive import STORED, Archive, InvalidPackage, InvalidWheel, WheelLimits

INDEX: Final = "info/index.json"
PATHS: Final = "info/paths.json"
LINK: Final = "info/link.json"
#: What a package says of itself that decides how it is installed.
_READ: Final = (INDEX, PATHS, LINK)
_ENDINGS: Final = (".conda", ".tar.bz2")
_INFO: Final = "info/"
#: The largest window that a zstd frame may ask memory for, in bytes: what `zstd --ultra` goes to.
_WINDOW: Final = 1 << 27
_FILE: Final = "0"


class InvalidCondaArchive(InvalidPackage):
    """A file that should be a conda package, and is not one that may be installed."""

    hint = "do not install it; take the file from its channel again, or another build"


class CondaArchiveTooLarge(InvalidCondaArchive):
    """A conda package that unpacks to more than the limits allow: a decompression bomb, or not for here."""


class CondaLimits(Struct, frozen=True):
    """
    What a conda package may unpack to. Sizes in bytes.

    Attributes:
        total: All files together.
        members: How many entries.
        ratio: How many times its compressed size the package may be, once it is larger than `ratio_from`.
        ratio_from: Below this, the ratio does not matter.
        metadata: One file that is read as a whole: those below `info/`, and text whose prefix is replaced.
    """

    total: int = 40 << 30
    members: int = 1_000_000
    ratio: int = 250
    ratio_from: int = 64 << 20
    metadata: int = 64 << 20

    def unpacked(self, packed: int) -> int:
        """How much so many bytes may unpack to."""
        return min(self.total, max(self.ratio_from, self.ratio * packed))


class CondaArchive(Struct, frozen=True):
    """
    An opened package.

    Attributes:
        filename: What messages call it.
        limits: What it may unpack to.
        info: What it says of itself, by path: `info/index.json`, `info/paths.json`, and `info/link.json` if it has one.
    """

    filename: str
    limits: CondaLimits
    info: dict[str, bytes]
    _file: BinaryIO
    _zip: Archive | None = None

    def fail(self, reason: str) -> InvalidCondaArchive:
        """An error that names this package."""
        return InvalidCondaArchive(self.filename, reason)

    def content(self) -> Iterator[tuple[Member, Limited]]:
        """
        The members that are to be installed, in the archive's order, each with the stream its content is read from.

        Raises:
            InvalidCondaArchive: The archive is damaged, or has what no package has.
            CondaArchiveTooLarge: It unpacks to too much.
        """
        with self.translated():
            if self._zip is not None:
                for member, stream in self._walk("pkg-"):
                    if member.name.startswith(_INFO):
                        raise self.fail(f"{member.name!r} is among the files to be installed")
                    yield member, stream
                return
            for member, stream in self._walk_bz2():
                if not member.name.startswith(_INFO):
                    yield member, stream
                elif member.name in _READ and member.name not in self.info:
                    raise self.fail(f"{member.name} comes after files that it speaks of")

    def _read_info(self) -> None:
        """Read `_READ`; of a `.tar.bz2` no further than to its first file, as conda-build puts `info/` first."""
        with self.translated():
            walk = self._walk("info-") if self._zip is not None else self._walk_bz2()
            for member, stream in walk:
                if not member.name.startswith(_INFO):
                    if self._zip is not None:
                        raise self.fail(f"{member.name!r} is among what the package says of itself")
                    if INDEX in self.info and PATHS in self.info:
                        break
                elif member.name in _READ:
                    if member.name in self.info:
                        raise self.fail(f"{member.name} is in it twice")
                    if member.kind != _FILE:
                        raise self.fail(f"{member.name} is not a regular file")
                    self.info[member.name] = self.whole(member, stream)
        for each in (INDEX, PATHS):
            if each not in self.info:
                raise self.fail(f"there is no {each}")

    def whole(self, member: Member, stream: Limited) -> bytes:
        """The content of a file that is needed as a whole. Raises `CondaArchiveTooLarge`, `InvalidArchive`."""
        if member.size > self.limits.metadata:
            raise CondaArchiveTooLarge(
                self.filename, f"{member.name!r} has {member.size} bytes, which is too many for its kind"
            )
        data = stream.exactly(member.size)
        if len(data) < member.size:
            raise self.fail("ends in the middle of a file")
        return data

    def _walk(self, start: str) -> Iterator[tuple[Member, Limited]]:
        """One of the two tars in a `.conda`."""
        assert self._zip is not None
        stem = self.filename.removesuffix(".conda")
        inner = self._zip.members.get(f"{start}{stem}.tar.zst")
        if inner is None:
            raise self.fail(f"there is no {start}{stem}.tar.zst in it")
        source = _Pieces(self._zip, inner.name)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        # NOTE: the stub wants a whole file object; only `read` is called.
        with decompressor.stream_reader(
            cast(BinaryIO, source), read_size=CHUNK, read_across_frames=True, closefd=False
        ) as stream:
            yield from self._members(stream, inner.size)
        if source.read(1):
            raise self.fail(f"{inner.name} has something behind its end")

    def _walk_bz2(self) -> Iterator[tuple[Member, Limited]]:
        packed = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        with bz2.BZ2File(self._file) as stream:
            yield from self._members(stream, packed)

    def _members(self, stream: Readable, packed: int) -> Iterator[tuple[Member, Limited]]:
        limited = Limited(stream, self.limits.unpacked(packed), self.filename)
        for member, content in walk_tar(limited, what=self.filename, members=self.limits.members):
            plain = member.name.removeprefix("./").rstrip("/")
            yield (member if plain == member.name else replace(member, name=plain)), content
        # What padding there is must be padding: another reader might go on where this one stopped.
        while rest := limited.read(CHUNK):
            if rest.strip(b"\0"):
                raise self.fail("has something behind its end")

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Faults of the archive as errors that name the package; for whoever reads from the streams of `content`."""
        try:
            yield
        except InvalidArchive as error:
            kind = CondaArchiveTooLarge if "more than" in error.problem else InvalidCondaArchive
            raise kind(self.filename, error.problem) from error
        except InvalidWheel as error:
            raise self.fail(error.reason) from error


class _Pieces:
    """The content of a stored member of a zip, as a file to read from."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._pieces = archive.pieces(archive.members[name])
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes."""
        data = self._rest or next((plain for _, plain in self._pieces if plain), b"")
        self._rest = data[size:] if 0 <= size < len(data) else b""
        return data[:size] if self._rest else data


def open_archive(file: BinaryIO, *, filename: str, limits: CondaLimits | None = None) -> CondaArchive:
    """
    Read what a package says of itself.

    Args:
        file: The archive, at any place; kept, and read again by `CondaArchive.content`.
        filename: Its name, by whose ending its form is known.
        limits: What it may unpack to.

    Raises:
        InvalidCondaArchive: It is no conda package, or is damaged.
        CondaArchiveTooLarge: It unpacks to too much.
    """
    limits = limits or CondaLimits()
    if not filename.endswith(_ENDINGS):
        raise InvalidCondaArchive(filename, f"not a conda package's file name; it ends in {' or '.join(_ENDINGS)}")
    outer = None
    if filename.endswith(".conda"):
        try:
            outer = Archive(file, filename=filename, limits=WheelLimits(total=limits.total, members=64))
        except InvalidWheel as error:
            raise InvalidCondaArchive(filename, error.reason) from error
        if packed := next((each.name for each in outer.members.values() if each.method != STORED), None):
            raise InvalidCondaArchive(filename, f"{packed!r} is compressed, expected as it is")
    archive = CondaArchive(filename, limits, {}, file, outer)
    archive._read_info()
    return archive
