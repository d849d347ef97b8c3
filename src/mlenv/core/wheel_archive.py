"""
The zip file that a wheel is, read from its central directory and trusted in nothing (PKWARE APPNOTE 6.3).

Only what a wheel needs is accepted: regular files and directories, stored or deflated, on one disk, nothing encrypted,
no two entries of one name, no overlapping entries. What a local header says must be what the central directory says,
and content must have the size and the checksum that both promise.
"""

import re
import stat
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, Final

from isal import isal_zlib
from msgspec import Struct

from mlenv.errors import InvalidInput

STORED: Final = 0
DEFLATED: Final = 8
#: How much of a member is read, inflated and handed on at a time, in bytes.
CHUNK: Final = 1 << 20

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
# NOTE: isal's stub has the class as an instance.
_INFLATE_ERROR: Final[type[Exception]] = isal_zlib.error  # type: ignore[assignment]
_FULL32: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 1 | 1 << 6 | 1 << 13
_DESCRIPTOR: Final = 1 << 3
_UTF8: Final = 1 << 11
#: Parts that are empty, `.` or `..`, an absolute path, a drive, a backslash, a control character.
_UNSAFE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|(?:^|/)[A-Za-z]:|[\\\x00-\x1f\x7f]")


class InvalidPackage(InvalidInput):
    """A file that should be a package, and is not one that may be installed."""

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(f"{filename}: {reason}")
        self.filename, self.reason = filename, reason


class InvalidWheel(InvalidPackage):
    """A file that should be a wheel, and is not one that may be installed."""

    hint = "do not install it; take the file from its publisher again, or another version"


class WheelTooLarge(InvalidWheel):
    """A wheel that unpacks to more than the limits allow: a decompression bomb, or not for here."""


class WheelLimits(Struct, frozen=True):
    """
    What a wheel may unpack to. Sizes in bytes.

    Attributes:
        total: All files together.
        members: How many entries.
        ratio: How many times its compressed size a file, or the wheel, may be, once it is larger than `ratio_from`.
        ratio_from: Below this, the ratio does not matter: a file of zeros may shrink a thousandfold.
        metadata: One file that is read as a whole: METADATA, RECORD, WHEEL, entry_points.txt, a script to rewrite.
    """

    total: int = 20 << 30
    members: int = 1_000_000
    ratio: int = 250
    ratio_from: int = 64 << 20
    metadata: int = 64 << 20


class Member(Struct, frozen=True):
    """
    One file in the archive. Sizes and offsets in bytes.

    Attributes:
        name: Its path in the archive.
        raw_name: The same as it is spelled in the file.
        method: `STORED` or `DEFLATED`.
        crc: The CRC-32 of its content.
        packed: Its size in the archive.
        size: Its size unpacked.
        offset: Where its local header starts.
        executable: Whether its mode has an executable bit.
    """

    name: str
    raw_name: bytes
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    executable: bool


#: A step through a member: some bytes as they stand in the archive, and some of its content. Either may be empty.
Piece = tuple[bytes, bytes]


class Archive:
    """
    An opened zip file.

    Attributes:
        filename: What messages call it.
        members: Its files by name, in the archive's order. Directories are checked and left out.
    """

    def __init__(self, file: BinaryIO, *, filename: str, limits: WheelLimits) -> None:
        """Read the central directory. Raises `InvalidWheel` and `WheelTooLarge`."""
        self.filename = filename
        self.limits = limits
        self._file = file
        start, data, count = self._directory()
        self.members = self._entries(data, count)
        self._check_spans(start)
        self._check_sizes(file.seek(0, 2))

    def _fail(self, reason: str) -> InvalidWheel:
        return InvalidWheel(self.filename, reason)

    def _directory(self) -> tuple[int, bytes, int]:
        """Where the central directory starts, its bytes, and how many entries it has (APPNOTE 4.3.12 to 4.3.16)."""
        end = self._file.seek(0, 2)
        tail_start = max(0, end - _END.size - 0xFFFF)
        self._file.seek(tail_start)
        tail = self._file.read(end - tail_start)
        found = tail.rfind(b"PK\5\6")
        if found < 0 or len(tail) - found < _END.size:
            raise self._fail("not a zip file: it has no end record")
        _, disk, disk_start, here, count, size, start, comment = _END.unpack_from(tail, found)
        if found + _END.size + comment != len(tail):
            raise self._fail("the zip file's end record is not at its end")
        directory_end = tail_start + found
        if count == 0xFFFF or size == _FULL32 or start == _FULL32:
            disk, disk_start, here, count, size, start, directory_end = self._end64(directory_end)
        if disk or disk_start or here != count:
            raise self._fail("the zip file is in several parts")
        if start + size != directory_end:
            raise self._fail("the zip file's directory is not where its end record says")
        if count > self.limits.members or size > count * (_CENTRAL.size + 3 * 0xFFFF):
            raise WheelTooLarge(self.filename, f"{count} entries, at most {self.limits.members} are allowed")
        self._file.seek(start)
        return start, self._file.read(size), count

    def _end64(self, end: int) -> tuple[int, int, int, int, int, int, int]:
        """The zip64 end record, which stands right before its locator (APPNOTE 4.3.14, 4.3.15)."""
        try:
            self._file.seek(max(0, end - _END64_LOCATOR.size))
            magic, _, place, _ = _END64_LOCATOR.unpack(self._file.read(_END64_LOCATOR.size))
            self._file.seek(min(place, end))
            magic64, _, _, _, disk, disk_start, here, count, size, start = _END64.unpack(self._file.read(_END64.size))
        except struct.error:
            magic = magic64 = b""
        if magic != b"PK\6\7" or magic64 != b"PK\6\6":
            raise self._fail("the zip file claims to be zip64, without the records for it")
        return disk, disk_start, here, count, size, start, place

    def _entries(self, data: bytes, count: int) -> dict[str, Member]:
        members: dict[str, Member] = {}
        directories: set[str] = set()
        position = 0
        for _ in range(count):
            if len(data) - position < _CENTRAL.size:
                raise self._fail("the zip file's directory is cut short")
            fields = _CENTRAL.unpack_from(data, position)
            raw_end = position + _CENTRAL.size + fields[10]
            raw_name = data[position + _CENTRAL.size : raw_end]
            extra = data[raw_end : raw_end + fields[11]]
            position = raw_end + fields[11] + fields[12]
            if fields[0] != b"PK\1\2" or position > len(data):
                raise self._fail("the zip file's directory is damaged")
            self._enter(fields, raw_name, extra, members, directories)
        if position != len(data):
            raise self._fail("the zip file's directory has more than its entries")
        if clash := next((name for name in members if name in directories), None):
            raise self._fail(f"{clash!r} is both a file and a directory")
        return members

    def _enter(
        self,
        fields: tuple[int, ...],
        raw_name: bytes,
        extra: bytes,
        members: dict[str, Member],
        directories: set[str],
    ) -> None:
        """Check one entry of the directory, and put it where it belongs."""
        flags, method, crc, packed, size, disk, attributes, offset = (
            fields[each] for each in (3, 4, 7, 8, 9, 13, 15, 16)
        )
        name = self._name(raw_name, flags)
        kind = stat.S_IFMT(attributes >> 16)
        if kind == stat.S_IFLNK:
            raise self._fail(f"{name!r} is a symbolic link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > name.endswith("/"):
            raise self._fail(f"{name!r} is not a regular file")
        if flags & _ENCRYPTED:
            raise self._fail(f"{name!r} is encrypted")
        if _FULL32 in (packed, size, offset):
            size, packed, offset = self._zip64(name, extra, size, packed, offset)
        if disk:
            raise self._fail(f"{name!r} is on another disk")
        if name.endswith("/"):
            if size:
                raise self._fail(f"{name!r} is a directory with content")
            directories.add(name[:-1])
        elif method not in (STORED, DEFLATED) or (method == STORED and packed != size):
            raise self._fail(f"{name!r} is compressed in a way that wheels are not (method {method})")
        elif name in members:
            raise self._fail(f"{name!r} is in it twice")
        else:
            members[name] = Member(
                name, raw_name, method, crc, packed, size, offset, executable=bool(attributes >> 16 & 0o111)
            )
        parent = name.rstrip("/").rpartition("/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition("/")[0]

    def _name(self, raw: bytes, flags: int) -> str:
        """A checked path. Without the UTF-8 flag it is UTF-8 all the same if it can be, as tools write it; else cp437."""
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            if flags & _UTF8:
                raise self._fail(f"{raw!r} is not the UTF-8 that it says it is") from None
            name = raw.decode("cp437")
        check_path(self.filename, name.removesuffix("/"))
        return name

    def _zip64(self, name: str, extra: bytes, *values: int) -> tuple[int, int, int]:
        """Size, packed size and offset, from the zip64 extra field where they don't fit 32 bits (APPNOTE 4.5.3)."""
        position = 0
        while position + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, position)
            if kind == 1:
                field = extra[position + 4 : position + 4 + length]
                break
            position += 4 + length
        else:
            raise self._fail(f"{name!r} claims a zip64 size, without the field for it")
        wanted = sum(value == _FULL32 for value in values)
        if len(field) < 8 * wanted:
            raise self._fail(f"{name!r} claims a zip64 size, without the field for it")
        numbers = iter(struct.unpack_from(f"<{wanted}Q", field))
        size, packed, offset = (next(numbers) if value == _FULL32 else value for value in values)
        return size, packed, offset

    def _check_spans(self, directory: int) -> None:
        """No entry may reach into the next, or bytes could be counted many times (a zip bomb of overlapping files)."""
        spans = sorted(
            (each.offset, each.offset + _LOCAL.size + len(each.raw_name) + each.packed, each.name)
            for each in self.members.values()
        )
        for (_, end, name), (start, _, _) in pairwise([*spans, (directory, directory, "")]):
            if end > start:
                raise self._fail(f"{name!r} overlaps what follows it")

    def _check_sizes(self, whole: int) -> None:
        limits = self.limits
        total = sum(each.size for each in self.members.values())
        if total > limits.total:
            raise WheelTooLarge(self.filename, f"unpacks to {total} bytes, at most {limits.total} are allowed")
        for each in self.members.values():
            if each.size > limits.ratio_from and each.size > limits.ratio * each.packed:
                raise WheelTooLarge(self.filename, f"{each.name!r} unpacks to {each.size} bytes from {each.packed}")
        if total > limits.ratio_from and total > limits.ratio * whole:
            raise WheelTooLarge(self.filename, f"unpacks to {total} bytes from {whole}")

    def read(self, member: Member) -> bytes:
        """
        The content of a file that is needed as a whole.

        Raises:
            InvalidWheel: It is not what the directory says.
            WheelTooLarge: It is larger than `limits.metadata`.
        """
        if member.size > self.limits.metadata:
            raise WheelTooLarge(
                self.filename, f"{member.name!r} has {member.size} bytes, which is too many for its kind"
            )
        return b"".join(plain for _, plain in self.pieces(member))

    def pieces(self, member: Member) -> Iterator[Piece]:
        """
        A file's stored bytes and its content, in step, a chunk at a time; size and checksum are verified at the end.

        Raises:
            InvalidWheel: It is not what the directory says, or does not inflate to what was promised.
        """
        raw, left = self._first(member)
        if member.method == STORED:
            pieces: Iterator[Piece] = ((each, each) for each in self._more(raw, left))
        else:
            pieces = self._inflate(member, raw, left)
        crc, size = 0, 0
        for piece in pieces:
            crc = isal_zlib.crc32(piece[1], crc)
            size += len(piece[1])
            if size >= member.size and (size > member.size or crc != member.crc):
                break
            yield piece
        if size != member.size:
            raise self._fail(f"{member.name!r} has another size than the directory says ({member.size} bytes)")
        if crc != member.crc:
            raise self._fail(f"{member.name!r} does not have the checksum that the directory says")

    def data_offset(self, member: Member) -> int:
        """Where the member's stored bytes start in the file. Raises `InvalidWheel` as `pieces` does."""
        return self._header(member)[1]

    def _header(self, member: Member, ahead: int = 0) -> tuple[bytes, int]:
        """The local header with `ahead` bytes more or less, and where in the file the content starts (APPNOTE 4.3.7)."""
        self._file.seek(member.offset)
        fixed = _LOCAL.size + len(member.raw_name)
        head = self._file.read(fixed + 32 + ahead)
        if len(head) < fixed:
            raise self._fail(f"{member.name!r} is cut short")
        magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(head)
        if magic != b"PK\3\4" or name_length != len(member.raw_name) or head[_LOCAL.size : fixed] != member.raw_name:
            raise self._fail(f"{member.name!r} has another name in the file than in the directory")
        agrees = method == member.method and not flags & _ENCRYPTED
        if not flags & _DESCRIPTOR or crc or packed or size:
            agrees = agrees and crc == member.crc
            agrees = agrees and packed in (member.packed, _FULL32) and size in (member.size, _FULL32)
        if not agrees:
            raise self._fail(f"{member.name!r} is described otherwise in the file than in the directory")
        return head, member.offset + fixed + extra_length

    def _first(self, member: Member) -> tuple[bytes, int]:
        """The first chunk of the stored bytes, the file standing after it, and how many are left."""
        head, start = self._header(member, min(member.packed, CHUNK))
        skip = start - member.offset
        raw = head[skip : skip + member.packed]
        self._file.seek(start + len(raw))
        return raw, member.packed - len(raw)

    def _more(self, raw: bytes, left: int) -> Iterator[bytes]:
        yield raw
        while left:
            raw = self._file.read(min(left, CHUNK))
            if not raw:
                return
            left -= len(raw)
            yield raw

    def _inflate(self, member: Member, raw: bytes, left: int) -> Iterator[Piece]:
        inflater = isal_zlib.decompressobj(-15)
        try:
            if not left and member.size <= CHUNK:
                # One byte more than promised is enough to see a lie, without ever holding a bomb.
                yield raw, inflater.decompress(raw, member.size + 1)
            else:
                for each in self._more(raw, left):
                    yield each, inflater.decompress(each, CHUNK)
                    while inflater.unconsumed_tail:
                        yield b"", inflater.decompress(inflater.unconsumed_tail, CHUNK)
            while not inflater.eof and (plain := inflater.decompress(inflater.unconsumed_tail, CHUNK)):
                yield b"", plain
        except _INFLATE_ERROR as error:
            raise self._fail(f"{member.name!r} is damaged: {error}") from error
        if not inflater.eof or inflater.unused_data:
            raise self._fail(f"{member.name!r} does not end where the directory says")


def check_path(filename: str, path: str) -> None:
    """Refuse what is not a relative path below where it is put, on any system. Raises `InvalidWheel`."""
    if not path or _UNSAFE.search(path):
        raise InvalidWheel(filename, f"{path!r} is not a path that may be unpacked")
    if len(path) > 60 and (len(path.encode()) > 3000 or any(len(part.encode()) > 255 for part in path.split("/"))):
        raise InvalidWheel(filename, f"a path of {len(path)} characters is too long: {path[:60]!r}…")
