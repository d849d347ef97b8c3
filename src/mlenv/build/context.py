"""
A build context as one archive, the same for the same files: its digest is what a version says it is built of.

The archive is a tar (POSIX.1-2017, pax): the Dockerfile as `Dockerfile`, wherever it stood, and below `context/` what
`.dockerignore` leaves, sorted. Owners are 0, times are `core.layer.MTIME`, modes 755 and 644: who packed, when, and under
which umask does not count. Links stay links, and lead nowhere but into the context. There is nothing else in it.
"""

import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from mlenv.build.dockerignore import Ignore
from mlenv.build.interface import Blobs
from mlenv.build.unpacking import CHUNK, InvalidArchive, Limited, walk_tar
from mlenv.core.digest import Digest
from mlenv.core.layer import MTIME
from mlenv.errors import InvalidInput, NotFound

#: Where the parts are in the archive.
DOCKERFILE: Final = "Dockerfile"
CONTEXT: Final = "context"
_IGNORE: Final = ".dockerignore"
_LARGEST: Final = 5
_TEXT_LIMIT: Final = 1 << 20
_DEPTH: Final = 128


class InvalidContext(InvalidInput):
    """A build context with something in it that none may have. `path` is in the context."""

    def __init__(self, path: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path!r} in the build context {why}")
        self.path, self.why, self.hint = path, why, hint


class ContextTooLarge(InvalidInput):
    """A build context that exceeds a limit."""

    def __init__(self, what: str, largest: Iterable[tuple[str, int]]) -> None:
        shown = ", ".join(f"{path} ({size} bytes)" for path, size in largest)
        super().__init__(f"the build context {what}; the largest files are {shown}")
        self.hint = "leave out what the Dockerfile does not copy, with a .dockerignore beside it"


class DockerfileNotHere(NotFound):
    """There is no Dockerfile where it should be."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is no Dockerfile {path!r} in the build context")
        self.path = path
        self.hint = "name it with `build.dockerfile_path`, from the root of the context"


class ContextLimits(Struct, frozen=True):
    """The most that a context may measure: in all and one file, in bytes, and how many files, links and directories."""

    total: int = 4 << 30
    file: int = 2 << 30
    entries: int = 50_000


class Entry(Struct, frozen=True):
    """
    A file, directory or link of a context.

    Attributes:
        path: Relative, with `/`.
        link: What a symbolic link says, or None.
        open: Opens a file's content; None for directories and links.
        size: Of a file, in bytes.
    """

    path: str
    link: str | None = None
    open: Callable[[], AbstractContextManager[BinaryIO]] | None = None
    size: int = 0
    executable: bool = False


class PackedContext(Struct, frozen=True):
    """A context in the store: its digest, the archive's size in bytes, and how many files it has."""

    digest: Digest
    size: int
    files: int


def pack_directory(
    directory: Path, dockerfile: str, blobs: Blobs, *, limits: ContextLimits | None = None
) -> PackedContext:
    """
    Take a context into the store.

    Raises:
        DockerfileNotHere, InvalidContext, ContextTooLarge, InvalidIgnoreFile: It is none, or not one that can be taken.
        OSError: It can't be read.
    """
    if not directory.is_dir():
        raise NotFound(f"the build context {directory} is not a directory")
    limits = limits or ContextLimits()
    ignore = _ignore_of(dockerfile, lambda path: _small(directory, path))
    return pack(walk_directory(directory, ignore, limits), _resolved(directory, dockerfile), blobs, limits=limits)


def pack_files(
    files: Mapping[str, tuple[Path, int]], dockerfile: str, blobs: Blobs, *, limits: ContextLimits | None = None
) -> PackedContext:
    """
    Take a context into the store that was uploaded file by file.

    Args:
        files: Where the content of each file is, and its size, by the file's path in the context.
    """

    def small(path: str) -> str | None:
        return _text(files[path][0].read_bytes()[: _TEXT_LIMIT + 1], path) if path in files else None

    ignore = _ignore_of(dockerfile, small)
    path = _plain(dockerfile)
    if path not in files:
        raise DockerfileNotHere(dockerfile)
    entries = []
    for name in files:
        if ignore.excludes(_plain(name)):
            continue
        # NOTE: who uploads tells nothing of modes; scripts are mostly run by name, so all may be.
        content, size = files[name]
        entries.append(Entry(name, None, _opener(content), size, executable=True))
    content, size = files[path]
    return pack(entries, Entry(DOCKERFILE, None, _opener(content), size), blobs, limits=limits)


def pack(
    entries: Iterable[Entry], dockerfile: Entry, blobs: Blobs, *, limits: ContextLimits | None = None
) -> PackedContext:
    """Write the archive. Raises `InvalidContext`, `ContextTooLarge`."""
    limits = limits or ContextLimits()
    found = _checked(entries, limits)
    with blobs.writer() as writer:
        writer.write(_header(DOCKERFILE, dockerfile))
        _copy(dockerfile, writer.write)
        for each in found:
            writer.write(_header(f"{CONTEXT}/{each.path}", each))
            _copy(each, writer.write)
        writer.write(bytes(1024))
        digest, size = writer.commit()
    return PackedContext(digest, size, sum(each.open is not None for each in found))


def walk_directory(directory: Path, ignore: Ignore, limits: ContextLimits) -> Iterator[Entry]:
    """What `.dockerignore` leaves of a directory, sorted. No link is followed."""
    count = 0
    stack = [""]
    while stack:
        parent = stack.pop()
        if parent.count("/") > _DEPTH:
            raise InvalidContext(parent, f"is more than {_DEPTH} directories deep")
        with os.scandir(directory / parent) as scan:
            found = sorted(scan, key=lambda each: each.name)
        for each in found:
            path = f"{parent}/{each.name}" if parent else each.name
            excluded = ignore.excludes(path)
            if each.is_dir(follow_symlinks=False):
                if not excluded or ignore.may_keep:
                    stack.append(path)
                if excluded:
                    continue
                entry = Entry(path)
            elif excluded:
                continue
            else:
                entry = _entry(path, Path(each.path))
            count += 1
            if count > limits.entries:
                raise ContextTooLarge(f"has more than {limits.entries} files", [(path, entry.size)])
            yield entry


def unpack(archive: Path, target: Path, *, limits: ContextLimits | None = None, what: str = "build context") -> None:
    """
    Write an archive's files below a directory that is empty and ours.

    Raises:
        InvalidArchive: It is not one that `pack` writes, whoever wrote it.
    """
    limits = limits or ContextLimits()
    seen, directories = {CONTEXT}, {"", CONTEXT}
    (target / CONTEXT).mkdir()
    with archive.open("rb") as file:
        stream = Limited(file, limits.total + limits.entries * 4096 + CHUNK, what)
        for member, content in walk_tar(stream, what=what, members=limits.entries + 2):
            name = member.name.rstrip("/")
            if posixpath.normpath(name) != name or not (name == DOCKERFILE or name.startswith(f"{CONTEXT}/")):
                raise InvalidArchive(what, f"has {name[:200]!r}, which has no place in it")
            if name in seen or posixpath.dirname(name) not in directories or "\0" in name:
                raise InvalidArchive(what, f"has {name[:200]!r} twice, or without its directory")
            seen.add(name)
            path = target / name
            if member.kind == "5":
                path.mkdir(mode=0o755)
                directories.add(name)
            elif member.kind == "2" and name != DOCKERFILE and _stays(name.removeprefix(f"{CONTEXT}/"), member.link):
                path.symlink_to(member.link)
            elif member.kind == "0":
                if member.size > limits.file:
                    raise InvalidArchive(what, f"has {name[:200]!r} of {member.size} bytes")
                _write(path, member.size, content, 0o755 if member.mode & 0o100 else 0o644, what)
            else:
                raise InvalidArchive(what, f"has {name[:200]!r}, which is neither file, directory nor link in it")
    if not (target / DOCKERFILE).is_file():
        raise InvalidArchive(what, "has no Dockerfile")


def read_dockerfile(archive: Path, what: str = "build context") -> str:
    """The Dockerfile of an archive, which stands at its beginning. Raises `InvalidArchive`, `InvalidContext`."""
    with archive.open("rb") as file:
        for member, content in walk_tar(Limited(file, 1 << 40, what), what=what, members=1 << 30):
            if member.name != DOCKERFILE or member.kind != "0" or member.size > _TEXT_LIMIT:
                raise InvalidArchive(what, "does not begin with a Dockerfile of at most 1 MiB")
            return _text(content.exactly(member.size), DOCKERFILE)
    raise InvalidArchive(what, "is empty")


def _write(path: Path, size: int, content: Limited, mode: int, what: str) -> None:
    with path.open("xb") as file:
        left = size
        while left:
            data = content.read(min(CHUNK, left))
            if not data:
                raise InvalidArchive(what, "ends in the middle of a file")
            file.write(data)
            left -= len(data)
        os.fchmod(file.fileno(), mode)


def _checked(entries: Iterable[Entry], limits: ContextLimits) -> list[Entry]:
    found = _with_parents(entries)
    sizes = sorted(((each.path, each.size) for each in found), key=lambda pair: -pair[1])[:_LARGEST]
    if len(found) > limits.entries:
        raise ContextTooLarge(f"has {len(found)} files, at most {limits.entries} are taken", sizes)
    if sizes and sizes[0][1] > limits.file:
        raise ContextTooLarge(f"has a file of {sizes[0][1]} bytes, at most {limits.file} are taken", sizes)
    if (total := sum(each.size for each in found)) > limits.total:
        raise ContextTooLarge(f"is {total} bytes large, at most {limits.total} are taken", sizes)
    for each in found:
        try:
            each.path.encode()
        except UnicodeEncodeError as error:
            raise InvalidContext(each.path, "has a name that is not Unicode") from error
        if each.link is not None and not _stays(each.path, each.link):
            raise InvalidContext(
                each.path,
                f"is a link out of it, to {each.link!r}",
                hint="put a copy of the file there, or leave the link out with a .dockerignore",
            )
    return found


def _with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Entries in order, with the directories that they are in: one may be left out, and what is in it taken back."""
    found = {each.path: each for each in entries}
    for path in list(found):
        while path := posixpath.dirname(path):
            if path not in found:
                found[path] = Entry(path)
            elif found[path].open is not None or found[path].link is not None:
                raise InvalidContext(path, "is both a file and a directory")
    return sorted(found.values(), key=lambda each: each.path.split("/"))


def _stays(path: str, link: str) -> bool:
    """Whether a link at a path of the context leads to a place in it."""
    parts = [part for part in link.split("/") if part != "."]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    # NOTE: `..` after the name of another link would lead from where that one leads to.
    return bool(link) and parts[:1] != [""] and "\0" not in link and ups <= path.count("/") and ".." not in parts[ups:]


def _entry(path: str, file: Path) -> Entry:
    status = file.lstat()
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, link=os.readlink(file))
    if not stat.S_ISREG(status.st_mode):
        raise InvalidContext(path, "is neither file, directory nor link", hint="leave it out with a .dockerignore")
    return Entry(path, None, _opener(file), status.st_size, bool(status.st_mode & 0o100))


def _opener(file: Path) -> Callable[[], BinaryIO]:
    def open_it() -> BinaryIO:
        # NOTE: what was a file when it was looked at may be something else by now.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InvalidContext(str(file), "is not a file any more")
        return os.fdopen(descriptor, "rb")

    return open_it


def _copy(entry: Entry, write: Callable[[bytes], None]) -> None:
    if entry.open is None:
        return
    left = entry.size
    with entry.open() as file:
        while left and (data := file.read(min(CHUNK, left))):
            write(data)
            left -= len(data)
        if left or file.read(1):
            raise InvalidContext(entry.path, "changed while it was read", hint="try it again")
    write(bytes(-entry.size % 512))


def _header(name: str, entry: Entry) -> bytes:
    info = tarfile.TarInfo(name)
    info.mtime = MTIME
    if entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    elif entry.open is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size, info.mode = entry.size, 0o755 if entry.executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _ignore_of(dockerfile: str, read: Callable[[str], str | None]) -> Ignore:
    """`<Dockerfile>.dockerignore` beside the Dockerfile, or else `.dockerignore` at the root of the context."""
    for name in (f"{_plain(dockerfile)}{_IGNORE}", _IGNORE):
        if (text := read(name)) is not None:
            return Ignore.parse(text, name)
    return Ignore()


def _plain(path: str) -> str:
    """A path in the context, from its root. Raises `InvalidContext` if it leads elsewhere."""
    cleaned = posixpath.normpath(path.lstrip("/"))
    if cleaned.split("/")[0] == ".." or "\0" in cleaned:
        raise InvalidContext(path, "is not inside it")
    return cleaned


def _resolved(directory: Path, dockerfile: str) -> Entry:
    """The Dockerfile, which may be a link inside the context."""
    root = directory.resolve()
    try:
        real = (root / _plain(dockerfile)).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DockerfileNotHere(dockerfile) from error
    if not real.is_relative_to(root):
        raise InvalidContext(dockerfile, "is a link out of it")
    if not real.is_file():
        raise DockerfileNotHere(dockerfile)
    return Entry(DOCKERFILE, None, _opener(real), real.stat().st_size)


def _small(directory: Path, path: str) -> str | None:
    """A text of the context, or None if there is none."""
    file = directory / path
    if not file.is_file() or not file.resolve().is_relative_to(directory.resolve()):
        return None
    with _opener(file.resolve())() as content:
        return _text(content.read(_TEXT_LIMIT + 1), path)


def _text(data: bytes, path: str) -> str:
    if len(data) > _TEXT_LIMIT:
        raise InvalidContext(path, f"is larger than {_TEXT_LIMIT} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidContext(path, "is not UTF-8") from error
