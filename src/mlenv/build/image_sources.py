"""Where an imported image's files are: a directory, or the members of a tar. Neither may lead anywhere else."""

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from mlenv.build.unpacking import CHUNK, InvalidArchive, Limited, Member, Readable, open_unpacked, walk_tar
from mlenv.build.validate import JSON_LIMIT, InvalidImage
from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.image import Descriptor

_MEMBERS: Final = 20_000
_UNPACKED: Final = 256 << 30
_LINKS: Final = 8


class Manifests(Protocol):
    """Where manifests and indexes are, by what points at them."""

    @property
    def path(self) -> object:
        """What it is called in messages."""

    def blob(self, descriptor: Descriptor) -> bytes:
        """A manifest or configuration, checked. Raises `InvalidImage`, `DigestMismatch`."""


class ImageSource(Manifests, Protocol):
    """Files by their names, such as `blobs/sha256/…`."""

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """A file as a stream. Raises `InvalidImage` if it is not there."""

    def small(self, name: str) -> bytes:
        """A file of at most 4 MiB. Raises `InvalidImage`."""


class _Source:
    """What directories and archives have in common."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> AbstractContextManager[Readable]:
        raise NotImplementedError

    def small(self, name: str) -> bytes:
        with self.open(name) as file:
            data = b"".join(copy(file, JSON_LIMIT + 1))
        if len(data) > JSON_LIMIT:
            raise InvalidImage(f"{self.path}: {name}", f"is larger than {JSON_LIMIT} bytes")
        return data

    def blob(self, descriptor: Descriptor) -> bytes:
        data = self.small(f"blobs/sha256/{descriptor.digest.hex}")
        if len(data) != descriptor.size or Digest.of(data) != descriptor.digest:
            expected = f"{descriptor.digest} of {descriptor.size} bytes"
            raise DigestMismatch(str(self.path), expected=expected, got=f"{Digest.of(data)} of {len(data)} bytes")
        return data


class Directory(_Source):
    """An OCI layout on disk."""

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        # NOTE: names are made here, of hexadecimal digits or fixed, and never taken from the image.
        try:
            file = (self.path / name).open("rb")
        except OSError as error:
            raise InvalidImage(str(self.path), f"can't read {name}: {error.strerror}") from error
        with file:
            yield file


class Archive(_Source):
    """The members of a plain tar, found by one pass over its headers."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path)
        self._file_path = Path(file.name)
        self._members: dict[str, Member] = {}
        stream = Limited(file, _UNPACKED, str(path))
        for member, _ in walk_tar(stream, what=str(path), members=_MEMBERS):
            name = posixpath.normpath(member.name)
            if name in self._members and member.kind != "5":
                raise InvalidArchive(str(path), f"has {name!r} twice")
            self._members[name] = member

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._members

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        member = self._resolve(name)
        with self._file_path.open("rb") as file:
            file.seek(member.offset)
            yield _Part(file, member.size)

    def _resolve(self, name: str) -> Member:
        """Follow links, which `docker save` uses for a layer that is there twice, inside the archive only."""
        current = posixpath.normpath(name)
        for _ in range(_LINKS):
            member = self._members.get(current)
            if member is None:
                break
            if member.kind == "0":
                return member
            if member.kind not in "12":
                break
            origin = posixpath.dirname(current) if member.kind == "2" else ""
            current = posixpath.normpath(posixpath.join(origin, member.link))
        raise InvalidImage(str(self.path), f"has no file {name!r}")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An archive's members. One that is compressed as a whole is first decompressed to a temporary file."""
    with path.open("rb") as file:
        if not file.read(4).startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zX")):
            file.seek(0)
            yield Archive(path, file)
            return
    with tempfile.NamedTemporaryFile(prefix="mlenv-") as plain:
        with open_unpacked(path, limit=_UNPACKED, what=str(path)) as stream:
            for chunk in copy(stream):
                plain.write(chunk)
        plain.flush()
        with Path(plain.name).open("rb") as file:
            yield Archive(path, file)


def copy(stream: Readable, limit: int | None = None) -> Iterator[bytes]:
    """What is left of a stream, in chunks; at most `limit` bytes of it."""
    left = limit
    while left != 0 and (chunk := stream.read(CHUNK if left is None else min(CHUNK, left))):
        yield chunk
        left = None if left is None else left - len(chunk)


class _Part:
    """A part of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int, /) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data
