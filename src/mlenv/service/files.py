"""
Use cases of files that clients upload: build contexts, and code.

A file is written as a blob while it comes in, and named when it is whole. Large ones come in blocks, which count for
nothing until they are put together; those that never are can be forgotten after a while.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.files import FileExists, FileNotHere, FileSealed, StoredFile, check_path
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    from mlenv.service.interface import Clock

#: Most bytes of one file, of one block, and most blocks of one file.
FILE_LIMIT: Final = 16 << 30
BLOCK_LIMIT: Final = 128 << 20
BLOCKS_LIMIT: Final = 50_000
#: Most bytes of a file's metadata.
METADATA_LIMIT: Final = 8 << 10
#: How long blocks that were not put together are remembered.
BLOCKS_LIFETIME: Final = timedelta(days=1)
#: Most files of one directory that is sealed or copied.
TREE_LIMIT: Final = 100_000
_CHUNK: Final = 1 << 20
_PAGE: Final = 1000


class FileTooLarge(InvalidInput):
    """More than a file, a block or its metadata may measure."""

    status = 413

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is too large: more than {limit} bytes")
        self.limit = limit


class UnknownBlock(InvalidInput):
    """A block that was never sent, or is forgotten, was to be part of a file."""

    def __init__(self, block: str) -> None:
        super().__init__(f"there is no block {block[:100]!r}: it was never sent, or too long ago")
        self.block = block


class TreeTooLarge(InvalidInput):
    """A directory has more files than one can have."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path[:200]!r} has more than {TREE_LIMIT} files")


class BlobWriter(Protocol):
    """A blob that is being written."""

    def write(self, data: bytes) -> None:
        """Add bytes."""

    def commit(self, *, expect: Digest | None = None) -> tuple[Digest, int]:
        """Keep the blob: its digest, and its size."""


class FileBlobs(Protocol):
    """Where the bytes are."""

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """Write a blob; what is not committed is gone when the context ends."""

    def path(self, digest: Digest) -> Path:
        """A blob as a file that must not be changed."""


class FileStore(Protocol):
    """Rows of files of one namespace. Every change is one transaction, with its audit record where one is due."""

    def file(self, container: str, path: str) -> StoredFile | None:
        """A file, or None."""

    def page(self, container: str, prefix: str, *, after: str | None, limit: int) -> list[StoredFile]:
        """Files whose path begins so, by path."""

    def put(self, file: StoredFile, *, replace: bool) -> bool:
        """Name a file. False if there is one already that is not to be replaced. Raises `FileSealed`."""

    def set_metadata(
        self, container: str, path: str, metadata: Mapping[str, str], *, now: datetime
    ) -> StoredFile | None:
        """Replace a file's metadata, which may be done to sealed ones, too. None if there is none."""

    def copy(self, files: Iterable[StoredFile], *, now: datetime) -> None:
        """Name files, all or none; those that are there stay."""

    def seal(self, container: str, directory: str, *, now: datetime) -> None:
        """Let nothing in a directory change any more. A directory's path ends in `/`."""

    def put_block(self, container: str, path: str, block: str, digest: Digest, size: int, *, now: datetime) -> None:
        """Remember a block of a file that is not whole yet."""

    def blocks(self, container: str, path: str) -> dict[str, tuple[Digest, int]]:
        """The blocks of a file that is not whole yet, by id."""

    def forget_blocks(self, container: str, path: str | None, *, before: datetime) -> None:
        """Forget blocks that came before a time; of all of the namespace's files if `path` is None."""


class Upload(Struct, frozen=True):
    """Bytes that are in the blob store, and have no name yet."""

    digest: Digest
    size: int


class Receiving:
    """Takes bytes in, one chunk after the other, within a limit. Made by `Files.receive`."""

    def __init__(self, writer: BlobWriter, what: str, limit: int) -> None:
        self._writer, self._what, self._limit, self._size = writer, what, limit, 0

    def write(self, chunk: bytes) -> None:
        """Add bytes. Raises `FileTooLarge`."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise FileTooLarge(self._what, self._limit)
        self._writer.write(chunk)

    def finish(self) -> Upload:
        """Keep them."""
        return Upload(*self._writer.commit())


class Files:
    """The files of one namespace."""

    def __init__(self, store: FileStore, blobs: FileBlobs, clock: "Clock") -> None:
        self._store, self._blobs, self._clock = store, blobs, clock

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """Where bytes go that come in; see `Receiving`."""
        return self._blobs.writer()

    def put(
        self, container: str, path: str, upload: Upload, metadata: Mapping[str, str], *, replace: bool
    ) -> StoredFile:
        """
        Name what came in.

        Args:
            replace: A file that is there gives way.

        Raises:
            InvalidPath, FileTooLarge: Path or metadata can't be kept.
            FileExists: There is one, and it is not to be replaced.
            FileSealed: It belongs to something that was registered.
        """
        _check_metadata(metadata)
        now = self._clock()
        file = StoredFile(container, check_path(path), upload.digest, upload.size, now, now, dict(metadata))
        if not self._store.put(file, replace=replace):
            raise FileExists(container, path)
        return file

    def get(self, container: str, path: str) -> StoredFile:
        """A file. Raises `FileNotHere`."""
        found = self._store.file(container, path)
        if found is None:
            raise FileNotHere(container, path)
        return found

    def content(self, file: StoredFile) -> Path:
        """A file's bytes, as a file on disk that must not be changed. Raises `NotFound`."""
        return self._blobs.path(file.digest)

    def set_metadata(self, container: str, path: str, metadata: Mapping[str, str]) -> StoredFile:
        """Replace a file's metadata. Raises `FileNotHere`, `FileTooLarge`."""
        _check_metadata(metadata)
        found = self._store.set_metadata(container, path, metadata, now=self._clock())
        if found is None:
            raise FileNotHere(container, path)
        return found

    def page(self, container: str, prefix: str, *, after: str | None = None, limit: int = _PAGE) -> list[StoredFile]:
        """Files whose path begins so, by path."""
        return self._store.page(container, prefix, after=after, limit=limit)

    def tree(self, container: str, directory: str) -> Iterator[StoredFile]:
        """All files below a directory, whose path ends in `/`, by path."""
        after = None
        while page := self._store.page(container, directory, after=after, limit=_PAGE):
            yield from page
            after = page[-1].path

    def put_block(self, container: str, path: str, block: str, upload: Upload) -> None:
        """Remember a block of a file that comes in several. Raises `InvalidPath`."""
        now = self._clock()
        self._store.forget_blocks(container, None, before=now - BLOCKS_LIFETIME)
        self._store.put_block(container, check_path(path), block, upload.digest, upload.size, now=now)

    def put_blocks(
        self, container: str, path: str, blocks: Sequence[str], metadata: Mapping[str, str], *, replace: bool
    ) -> StoredFile:
        """
        Make a file of blocks that were sent.

        Raises:
            UnknownBlock: One of them was not.
            FileTooLarge: They are too large together, or too many.
            FileExists, FileSealed: As `put`.
        """
        if len(blocks) > BLOCKS_LIMIT:
            raise FileTooLarge(f"a file of {len(blocks)} blocks", FILE_LIMIT)
        known = self._store.blocks(container, check_path(path))
        if missing := next((each for each in blocks if each not in known), None):
            raise UnknownBlock(missing)
        if sum(known[each][1] for each in blocks) > FILE_LIMIT:
            raise FileTooLarge("the file", FILE_LIMIT)
        with self._blobs.writer() as writer:
            for block in blocks:
                with self._blobs.path(known[block][0]).open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        writer.write(chunk)
            upload = Upload(*writer.commit())
        made = self.put(container, path, upload, metadata, replace=replace)
        self._store.forget_blocks(container, path, before=self._clock() + BLOCKS_LIFETIME)
        return made

    def seal(self, container: str, directory: str) -> None:
        """Let nothing in a directory change any more: a version was registered that is built of it."""
        self._store.seal(container, check_path(directory.rstrip("/")) + "/", now=self._clock())

    def settle(self, container: str, directory: str, target: str) -> str:
        """
        Move what was uploaded for a while to where it stays, named by its content, and seal it.

        Args:
            container, directory: Where it was uploaded; the directory's path ends in `/`.
            target: The container where it stays.

        Returns:
            The directory's path in the target: `LocalUpload/{sha256 of the tree}/{name}/`.

        Raises:
            FileNotHere: Nothing was uploaded there.
            TreeTooLarge: Too much was.
        """
        files, tree = [], sha256()
        for file in self.tree(container, directory):
            files.append(file)
            tree.update(f"{file.path.removeprefix(directory)}\0{file.digest.hex}\n".encode())
            if len(files) > TREE_LIMIT:
                raise TreeTooLarge(directory)
        if not files:
            raise FileNotHere(container, directory)
        name = directory.rstrip("/").rpartition("/")[2]
        settled = f"LocalUpload/{tree.hexdigest()}/{name}/"
        now = self._clock()
        moved = (
            replace(each, container=target, path=settled + each.path.removeprefix(directory), modified_at=now)
            for each in files
        )
        self._store.copy(moved, now=now)
        self._store.seal(target, settled, now=now)
        return settled


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_LIMIT:
        raise FileTooLarge("the metadata", METADATA_LIMIT)


__all__ = ["FileExists", "FileNotHere", "FileSealed", "Files", "Receiving", "StoredFile", "Upload"]
