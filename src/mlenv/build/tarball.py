"""
Tar headers that depend on nothing but path, size and mode (POSIX.1-2017, pax, "ustar Interchange Format").

Owner and group are 0 and have no names, the time is `MTIME` if none is given, modes are 755 and 644. A path that ustar
can't hold, or that is not ASCII, and a size of 8 GiB or more go into a pax record before the entry.
"""

from typing import Final

from mlenv.core.layer import MTIME

BLOCK: Final = 512
#: What ends a tar: two blocks of zeros.
END: Final = bytes(2 * BLOCK)

_ZEROS: Final = bytes(BLOCK)
_SIZE_LIMIT: Final = 8**11
_FILE: Final = b"0"
_HARD_LINK: Final = b"1"
_LINK: Final = b"2"
_DIRECTORY: Final = b"5"
_PAX: Final = b"x"
# Fields in their order: mode, uid, gid | size | mtime | checksum | type | linkname, magic, version, uname, gname,
# devmajor, devminor | prefix, and 12 bytes of padding.
_IDS: Final = b"0000000\0" * 2
_TIME: Final = b"%011o\0" % MTIME
_NO_LINK: Final = bytes(100)
_AFTER_LINK: Final = b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
_FIXED_SUM: Final = sum(_IDS) + sum(_AFTER_LINK) + 8 * ord(" ")


def file_header(path: str, size: int, *, executable: bool, mtime: int = MTIME) -> bytes:
    """What comes before a file's content. `path` is relative, with `/`; `mtime` is in seconds, below 8**11."""
    return _entry(path, size, b"0000755\0" if executable else b"0000644\0", _FILE, mtime)


def link_header(path: str, target: str, *, hard: bool, mtime: int = MTIME) -> bytes:
    """A link; what a hard one says is the path of an entry that came before."""
    return _entry(path, 0, b"0000644\0" if hard else b"0000777\0", _HARD_LINK if hard else _LINK, mtime, target)


def directory_header(path: str) -> bytes:
    """A directory. `path` is relative, without a slash at its end."""
    return _entry(path + "/", 0, b"0000755\0", _DIRECTORY)


def padding(size: int) -> bytes:
    """What fills the last block of a file of `size` bytes."""
    return _ZEROS[: -size % BLOCK]


def _entry(path: str, size: int, mode: bytes, kind: bytes, mtime: int = MTIME, target: str = "") -> bytes:
    name, prefix, records = path.encode(), b"", b""
    if len(name) > 100 or not name.isascii():
        prefix, separate, rest = _split(name)
        if separate and name.isascii():
            name = rest
        else:
            records = _record(b"path", name)
            # The shortened name is only seen by what does not know pax.
            name, prefix = name[-101:-1] + b"/" if kind == _DIRECTORY else name[-100:], b""
            name = name[-100:]
    if size >= _SIZE_LIMIT:
        records += _record(b"size", b"%d" % size)
        size = 0
    link = target.encode()
    if len(link) > 100 or not link.isascii():
        records += _record(b"linkpath", link)
        link = link[:100]
    time = _TIME if mtime == MTIME else b"%011o\0" % mtime
    header = _header(name, prefix, size, mode, kind, time, link)
    if not records:
        return header
    return _header(b"PaxHeader", b"", len(records), b"0000644\0", _PAX) + records + padding(len(records)) + header


def _split(name: bytes) -> tuple[bytes, bool, bytes]:
    """A long name in ustar's two fields, of at most 155 and 100 bytes, parted at a slash that is in neither."""
    cut = name.find(b"/", max(0, len(name) - 101))
    if 0 < cut <= 155 and cut + 1 < len(name):
        return name[:cut], True, name[cut + 1 :]
    return b"", False, name


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts itself (pax, "pax Extended Header")."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def _header(
    name: bytes, prefix: bytes, size: int, mode: bytes, kind: bytes, time: bytes = _TIME, link: bytes = b""
) -> bytes:
    digits = b"%011o\0" % size
    total = _FIXED_SUM + sum(name) + sum(prefix) + sum(mode) + sum(digits) + sum(time) + sum(link) + kind[0]
    return b"".join(
        (
            name.ljust(100, b"\0"), mode, _IDS, digits, time, b"%06o\0 " % total, kind,
            link.ljust(100, b"\0") if link else _NO_LINK, _AFTER_LINK, prefix.ljust(167, b"\0"),
        )
    )  # fmt: skip
