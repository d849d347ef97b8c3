"""
The files of a conda package as its archive has them, verified on the way.

What the package says of its files is checked against them: each that `info/paths.json` lists is there, of that kind,
with that size and that sha256, and there are no others. Nothing leads out of the prefix, acts as another user, or is
anything but a file, a link or a directory.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from mlenv.core.conda_archive import CondaArchive
from mlenv.core.conda_contents import CondaContents, PathEntry, check_conda_path, check_target
from mlenv.core.tar_archive import CHUNK, Limited, Member

#: The tar's type flags for what may be in a package.
_FILE: Final = "0"
_HARD_LINK: Final = "1"
_SOFT_LINK: Final = "2"
_DIRECTORY: Final = "5"
#: Bits that let a program act as somebody else.
_SET_ID: Final = 0o6000


class RawFile(Struct):
    """
    One file of a package.

    Attributes:
        entry: What the package says of it.
        chunks: Its content, which must be read to its end before the next file. Empty for links and directories.
        size: Of the content, in bytes.
        executable: Whether any of its mode's executable bits is set.
        mtime: In seconds since 1970.
        target: What a symbolic link says, or the path in the archive that a hard link shares its content with.
        hard: Whether it is a hard link.
        sha256: Of the content, in hex; known once it was read.
    """

    entry: PathEntry
    chunks: Iterator[bytes]
    size: int = 0
    executable: bool = False
    mtime: int = 0
    target: str = ""
    hard: bool = False
    sha256: str = ""


def read_files(archive: CondaArchive, contents: CondaContents) -> Iterator[RawFile]:
    """
    Go through a package's files, in the archive's order.

    Raises:
        InvalidCondaArchive: What is in the archive may not be installed, or is not what the package says of itself;
            some of it is known only after the last file.
    """
    seen: dict[str, RawFile] = {}
    for member, stream in archive.content():
        path = member.name
        if path not in contents.paths:
            # Those that are listed were checked when the list was read.
            check_conda_path(archive, path)
        if member.kind == _DIRECTORY and path not in contents.paths:
            # Directories are made for the files below them.
            continue
        if path in seen:
            raise archive.fail(f"{path!r} is in it twice")
        entry = _described(archive, member, contents.paths.get(path))
        seen[path] = file = _file(archive, member, entry, stream, seen)
        yield file
    if missing := next((path for path in contents.paths if path not in seen), None):
        raise archive.fail(f"{missing!r} is listed in its paths.json, and is not in it")


def _described(archive: CondaArchive, member: Member, entry: PathEntry | None) -> PathEntry:
    """What the package says of a member. Raises `InvalidCondaArchive` if it does not go with it."""
    path = member.name
    if member.kind not in (_FILE, _HARD_LINK, _SOFT_LINK, _DIRECTORY):
        raise archive.fail(f"{path!r} is neither a file, a link nor a directory (type {member.kind!r})")
    if entry is None:
        raise archive.fail(f"{path!r} is not listed in its paths.json")
    kind = {_SOFT_LINK: "softlink", _DIRECTORY: "directory"}.get(member.kind, "hardlink")
    if entry.kind != kind:
        raise archive.fail(f"{path!r} is a {entry.kind} in its paths.json, and a {kind} in the archive")
    if member.mode & _SET_ID and kind == "hardlink":
        raise archive.fail(f"{path!r} would run as another user (mode {member.mode:o})")
    if member.kind == _FILE and entry.size is not None and entry.size != member.size:
        raise archive.fail(f"{path!r} has {member.size} bytes, and {entry.size} in its paths.json")
    return entry


def _file(
    archive: CondaArchive, member: Member, entry: PathEntry, stream: Limited, seen: dict[str, RawFile]
) -> RawFile:
    if member.kind == _SOFT_LINK:
        check_target(archive, entry.path, member.link)
        return RawFile(entry, iter(()), mtime=member.mtime, target=member.link)
    if member.kind == _DIRECTORY:
        return RawFile(entry, iter(()), mtime=member.mtime)
    if member.kind == _HARD_LINK:
        first = _linked(archive, member, entry, seen)
        return RawFile(
            entry,
            iter(()),
            first.size,
            first.executable,
            first.mtime,
            target=first.target if first.hard else first.entry.path,
            hard=True,
            sha256=first.sha256,
        )
    file = RawFile(entry, iter(()), member.size, bool(member.mode & 0o111), member.mtime)
    file.chunks = _verified(archive, file, stream)
    return file


def _linked(archive: CondaArchive, member: Member, entry: PathEntry, seen: dict[str, RawFile]) -> RawFile:
    """The file that a hard link is of: one that came before, of which the package says the same."""
    target = seen.get(member.link.removeprefix("./"))
    if target is None or target.entry.kind != "hardlink":
        raise archive.fail(f"{entry.path!r} is a hard link to {member.link[:200]!r}, which is no file before it")
    other = target.entry
    if entry.sha256 not in (None, target.sha256) or entry.size not in (None, target.size):
        raise archive.fail(f"{entry.path!r} is a hard link to {other.path!r}, and another file in its paths.json")
    if (entry.placeholder, entry.mode) != (other.placeholder, other.mode):
        raise archive.fail(f"{entry.path!r} is a hard link to {other.path!r}, which has another prefix to replace")
    return target


def _verified(archive: CondaArchive, file: RawFile, stream: Limited) -> Iterator[bytes]:
    left, hasher = file.size, hashlib.sha256()
    with archive.translated():
        while left:
            chunk = stream.read(min(left, CHUNK))
            if not chunk:
                raise archive.fail("ends in the middle of a file")
            left -= len(chunk)
            hasher.update(chunk)
            yield chunk
    file.sha256 = hasher.hexdigest()
    if file.entry.sha256 not in (None, file.sha256):
        raise archive.fail(f"the content of {file.entry.path!r} has another sha256 than its paths.json says")
