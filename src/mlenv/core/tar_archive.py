"""
Tar archives from elsewhere, read as streams and trusted in nothing.

Formats: POSIX.1-2017 pax and ustar, and GNU's long names and large numbers. Everything is limited.
"""

import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import zstandard
from msgspec import Struct

from mlenv.errors import InvalidInput

CHUNK: Final = 1 << 20
_BLOCK: Final = 512
#: The most bytes of a long name or of pax records.
_RECORD_LIMIT: Final = 1 << 20
#: Times that pax records may have, besides or instead of that in the header.
_TIMES: Final = frozenset({"mtime", "atime", "ctime", "LIBARCHIVE.creationtime"})
#: The last time that eleven octal digits hold, in the year 2242.
_LAST_TIME: Final = 8**11 - 1


class InvalidArchive(InvalidInput):
    """An archive that is damaged, or is made to do harm."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what, self.problem = what, problem


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


class Member(Struct, frozen=True):
    """
    One entry of a tar.

    Attributes:
        name: As it stands there, which may be anything.
        kind: The type flag: `0` file, `1` hard link, `2` symbolic link, `5` directory …
        size: Of the content, in bytes.
        link: What a link points at.
        mode: Permission bits.
        offset: Where the content begins in the tar.
        mtime: When it was changed last, in whole seconds since 1970; what no ustar header holds is 0.
    """

    name: str
    kind: str
    size: int
    link: str
    mode: int
    offset: int
    mtime: int = 0


class Limited:
    """A stream that may not give more than so many bytes, and that counts them."""

    def __init__(self, stream: Readable, limit: int, what: str) -> None:
        self._stream, self._limit, self._what = stream, limit, what
        self.position = 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. Raises `InvalidArchive`."""
        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise InvalidArchive(self._what, f"can't be decompressed: {error}") from error
        self.position += len(data)
        if self.position > self._limit:
            raise InvalidArchive(self._what, f"unpacks to more than {self._limit} bytes")
        return data

    def exactly(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        parts, left = [], size
        while left and (part := self.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over so many bytes. Raises `InvalidArchive` if the end comes first."""
        if size > CHUNK and isinstance(self._stream, io.BufferedReader):
            # The last chunk is read, to see that it is there.
            far = size - CHUNK
            self._stream.seek(far, io.SEEK_CUR)
            self.position += far
            size = CHUNK
        while size:
            data = self.read(min(size, CHUNK))
            if not data:
                raise InvalidArchive(self._what, "ends in the middle of a file")
            size -= len(data)


def walk_tar(stream: Limited, *, what: str, members: int) -> Iterator[tuple[Member, Limited]]:
    """
    Go through a tar's entries in order. A consumer may read up to `size` bytes of the content before it goes on.

    Args:
        stream: At the first header.
        what: The archive's name in messages.
        members: The most entries it may have.

    Raises:
        InvalidArchive: It is no tar, ends early, or exceeds a limit.
    """
    overrides: dict[str, str] = {}
    for count in range(members + 1):
        member = _next_member(stream, overrides, what)
        if member is None:
            return
        if count == members:
            raise InvalidArchive(what, f"has more than {members} entries")
        yield member, stream
        end = member.offset + member.size + -member.size % _BLOCK
        stream.skip(end - stream.position)
        overrides = {}


def retimed(stream: Limited, mtime: int, *, what: str, members: int) -> Iterator[bytes]:
    """
    The same tar with one time for everything in it, in pieces.

    Args:
        stream: At the first header.
        mtime: In whole seconds since 1970, at most the last that eleven octal digits hold. Other times are left out.
        what: The archive's name in messages.
        members: The most entries it may have.

    Raises:
        InvalidArchive: It is no tar, ends early, has sparse files, or exceeds a limit.
    """
    overrides: dict[str, str] = {}
    while header := _next_header(stream, what):
        kind, size = chr(header[156]), _number(header[124:136], what)
        if kind in "xgLK":
            data = _record(stream, size, what)
            if kind in "xg":
                records = _pax_records(data, what)
                overrides |= records if kind == "x" else {}
                data = _pax_data({key: value for key, value in records.items() if key not in _TIMES})
            if data:
                yield _timed(header, mtime, len(data))
                yield data + bytes(-len(data) % _BLOCK)
            continue
        member = _member(header, kind, size, overrides, stream.position, what)
        if (members := members - 1) < 0:
            raise InvalidArchive(what, "has too many entries")
        yield _timed(header, mtime)
        left = member.size + -member.size % _BLOCK
        while left:
            if not (data := stream.read(min(left, CHUNK))):
                raise InvalidArchive(what, "ends in the middle of a file")
            yield data
            left -= len(data)
        overrides = {}
    yield bytes(2 * _BLOCK)


def _timed(header: bytes, mtime: int, size: int | None = None) -> bytes:
    """A header with another time, and perhaps another size (POSIX.1-2017, pax, "ustar Interchange Format")."""
    changed = bytearray(header)
    changed[136:148] = b"%011o\0" % mtime
    if size is not None:
        changed[124:136] = b"%011o\0" % size
    if header[257:265] == b"ustar  \0":
        # GNU's own format has further times here.
        changed[345:369] = bytes(24)
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def _pax_data(records: Mapping[str, str]) -> bytes:
    """Records as they are written; their length counts its own digits."""
    lines = []
    for key, value in records.items():
        text = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length = len(str(length)) + len(text)
        lines.append(str(length).encode() + text)
    return b"".join(lines)


def _next_header(stream: Limited, what: str) -> bytes | None:
    """The next block, which must be a header; None at the end."""
    header = stream.exactly(_BLOCK)
    if not header.strip(b"\0"):
        return None
    if len(header) < _BLOCK or not _is_header(header):
        raise InvalidArchive(what, f"is not a tar: no header at byte {stream.position - len(header)}")
    return header


def _record(stream: Limited, size: int, what: str) -> bytes:
    """What a header of a long name, or of pax records, is followed by."""
    if size > _RECORD_LIMIT:
        raise InvalidArchive(what, f"has a name or record of {size} bytes")
    data = stream.exactly(size + -size % _BLOCK)
    if len(data) < size:
        raise InvalidArchive(what, "ends in the middle of a record")
    return data[:size]


def _next_member(stream: Limited, overrides: dict[str, str], what: str) -> Member | None:
    """The next entry, after the records that speak of it."""
    while header := _next_header(stream, what):
        kind, size = chr(header[156]), _number(header[124:136], what)
        if kind not in "xgLK":
            return _member(header, kind, size, overrides, stream.position, what)
        data = _record(stream, size, what)
        if kind == "x":
            overrides |= _pax_records(data, what)
        elif kind in "LK":
            overrides["path" if kind == "L" else "linkpath"] = _text(data.rstrip(b"\0"))
    return None


def _member(header: bytes, kind: str, size: int, overrides: dict[str, str], offset: int, what: str) -> Member:
    name = _text(header[:100].split(b"\0")[0])
    if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500].split(b"\0")[0])):
        name = f"{prefix}/{name}"
    if "size" in overrides:
        if not overrides["size"].isascii() or not overrides["size"].isdigit() or len(overrides["size"]) > 18:
            raise InvalidArchive(what, f"has a file of {overrides['size'][:40]!r} bytes")
        size = int(overrides["size"])
    if any(key.startswith("GNU.sparse") for key in overrides) or kind == "S":
        raise InvalidArchive(what, f"has a sparse file, {name[:200]!r}")
    return Member(
        name=overrides.get("path", name),
        kind="0" if kind in "\0007" else kind,
        size=0 if kind in "123456" else size,
        link=overrides.get("linkpath", _text(header[157:257].split(b"\0")[0])),
        mode=_number(header[100:108], what) & 0o7777,
        offset=offset,
        mtime=_time(overrides.get("mtime"), header[136:148], what),
    )


def _is_header(header: bytes) -> bool:
    """Whether the checksum fits, summed as unsigned bytes with the checksum field as spaces."""
    stored = header[148:156].strip(b" \0")
    if not stored or stored.strip(b"01234567"):
        return False
    return int(stored, 8) == sum(header) - sum(header[148:156]) + 256


def _number(field: bytes, what: str) -> int:
    """An octal number, or GNU's binary one for large sizes."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") if field[0] == 0x80 else 0
    digits = field.split(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise InvalidArchive(what, f"has {digits!r} where an octal number is expected")
    return int(digits or b"0", 8)


def _time(record: str | None, field: bytes, what: str) -> int:
    """Whole seconds, of the pax record if there is one: `1700000000.25`."""
    if record is None:
        seconds = _number(field, what)
    else:
        digits = record.partition(".")[0]
        seconds = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 11 else 0
    return seconds if seconds <= _LAST_TIME else 0


def _pax_records(data: bytes, what: str) -> dict[str, str]:
    """`LENGTH KEY=VALUE\\n`, one after the other."""
    records: dict[str, str] = {}
    while data:
        digits, space, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not space or not equals or length > len(data) or not value.endswith(b"\n"):
            raise InvalidArchive(what, "has a damaged pax record")
        records[_text(key)] = _text(value[:-1])
        data = data[length:]
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
