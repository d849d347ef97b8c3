"""An OCI image layout on disk (image-spec 1.1, image-layout.md): blobs by digest, and names in `index.json`."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from msgspec.structs import replace

from mlenv import faults
from mlenv.core.digest import ALGORITHMS, SHA256, Digest, DigestMismatch, InvalidDigest
from mlenv.core.image import INDEX_TYPE, Descriptor, encode
from mlenv.errors import InvalidInput, NotFound
from mlenv.store.sessions import Sessions, short_lock

#: The annotation that names an entry of `index.json` (image-spec, annotations.md).
REF_NAME: Final = "org.opencontainers.image.ref.name"
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_CHUNK: Final = 1 << 20
#: The largest blob that is read into memory as a whole, in bytes.
_READ_LIMIT: Final = 64 << 20


class BlobNotFound(NotFound):
    """No blob of that digest is kept."""

    def __init__(self, digest: Digest, root: Path) -> None:
        super().__init__(f"no blob {digest} in {root}")
        self.digest = digest


class FileWriter:
    """A blob being written to a file beside its final place. Made by `OciLayout.writer`."""

    def __init__(self, layout: "OciLayout", path: Path, file: BinaryIO, algorithm: str) -> None:
        self._layout, self._path, self._file = layout, path, file
        self._hash, self._size, self._done = hashlib.new(algorithm), 0, False

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._hash.update(data)
        self._file.write(data)
        self._size += len(data) if isinstance(data, bytes) else data.nbytes

    def commit(self, *, expect: Digest | None = None) -> tuple[Digest, int]:
        """Keep the blob; durable when this returns. Raises `DigestMismatch`."""
        digest = Digest(self._hash.hexdigest(), self._hash.name)
        if expect is not None and digest != expect:
            raise DigestMismatch("blob", expected=str(expect), got=str(digest))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        faults.reach("blob.written")
        self._layout.keep(self._path, digest)
        self._done = True
        faults.reach("blob.kept")
        return digest, self._size

    def discard(self) -> None:
        """Forget what was written, unless it was committed."""
        self._file.close()
        if not self._done:
            self._path.unlink(missing_ok=True)


class OciLayout:
    """
    A directory of blobs that many processes write to at once.

    A blob is written in `ingest/`, then renamed into `blobs/sha256/`: it is there whole or not at all. What is found to
    be there, and so will be used in place of bytes that are at hand, is marked as used now (`has`): the collection of
    what nothing names (`mlenv.store.sweep`) leaves alone what was used a while ago.

    Attributes:
        root: The layout.
        blobs: Its `blobs/sha256`, where all blobs are that mlenv makes itself.
        sessions: Where processes write what is not whole yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.sessions = Sessions(root / "ingest")
        self.blobs.mkdir(parents=True, exist_ok=True)
        if not (root / "index.json").exists() or not (root / "oci-layout").exists():
            with short_lock(self.root / ".index.json.lock"):
                if not (root / "oci-layout").exists():
                    self._replace("oci-layout", _LAYOUT)
                if not (root / "index.json").exists():
                    self._write_index([])

    def close(self) -> None:
        """Leave nothing half-written. It may be used again."""
        self.sessions.close()

    def __reduce__(self) -> tuple[type["OciLayout"], tuple[Path]]:
        """Sent to another process, it is the same directory and another session."""
        return (OciLayout, (self.root,))

    # Blobs.

    def place(self, digest: Digest) -> Path:
        """Where the blob is, if it is there."""
        if digest.algorithm == SHA256:
            return self.blobs / digest.hex
        return self.root / "blobs" / digest.algorithm / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there. If so, it stays for a while."""
        path = self.place(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            # Somebody else's file is not ours to mark.
            return path.exists()
        return True

    def path(self, digest: Digest) -> Path:
        """The blob as a file that must not be changed. Raises `BlobNotFound`."""
        path = self.place(digest)
        if not path.exists():
            raise BlobNotFound(digest, self.root)
        return path

    def size(self, digest: Digest) -> int:
        """Its size in bytes. Raises `BlobNotFound`."""
        return self.path(digest).stat().st_size

    def read(self, digest: Digest) -> bytes:
        """A small blob, checked. Raises `BlobNotFound`, `DigestMismatch`, or `InvalidInput` for one over 64 MiB."""
        path = self.path(digest)
        if (size := path.stat().st_size) > _READ_LIMIT:
            raise InvalidInput(f"{digest} is too large to be read at once: {size} bytes, at most {_READ_LIMIT}")
        data = path.read_bytes()
        if (got := Digest.of(data, digest.algorithm)) != digest:
            raise DigestMismatch(f"{path}", expected=str(digest), got=str(got))
        return data

    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None:
        """
        Store one blob, checking it on the way in. Raises `DigestMismatch`.

        One that is there is not read again, unless it has another size: then it, or what is put, is not what it should
        be, and only the bytes can tell.
        """
        if self.has(digest) and self.size(digest) == size:
            return
        with self.writer(digest.algorithm) as writer:
            total = 0
            for chunk in chunks:
                total += len(chunk)
                if total > size:
                    raise DigestMismatch(what, expected=f"{size} bytes", got="more")
                writer.write(chunk)
            if total != size:
                raise DigestMismatch(what, expected=f"{size} bytes", got=f"{total} bytes")
            try:
                writer.commit(expect=digest)
            except DigestMismatch as error:
                raise DigestMismatch(what, expected=error.expected, got=error.got) from error

    @contextmanager
    def writer(self, algorithm: str = SHA256) -> Iterator[FileWriter]:
        """Write a blob whose digest is not known yet. What is not committed is gone when the context ends."""
        path = self.sessions.directory() / os.urandom(8).hex()
        writer = FileWriter(self, path, path.open("xb", buffering=_CHUNK), algorithm)
        try:
            yield writer
        finally:
            writer.discard()

    def remove(self, digest: Digest) -> None:
        """Delete a blob that nothing needs any more; no error if it is gone already."""
        path = self.place(digest)
        with suppress(FileNotFoundError):
            path.chmod(0o644)
            path.unlink()

    def digests(self) -> Iterator[Digest]:
        """All blobs, in no order."""
        for algorithm in ALGORITHMS:
            with suppress(FileNotFoundError):
                for entry in os.scandir(self.root / "blobs" / algorithm):
                    with suppress(InvalidDigest):
                        yield Digest.parse(f"{algorithm}:{entry.name}")

    # Names.

    def names(self) -> dict[str, Descriptor]:
        """What `index.json` names, sorted."""
        found = {each.annotations[REF_NAME]: each for each in self.entries() if REF_NAME in each.annotations}
        return dict(sorted(found.items()))

    def set_name(self, name: str, descriptor: Descriptor) -> None:
        """Point a name at a manifest, so that `skopeo inspect oci:DIR:NAME` finds it. Raises `BlobNotFound`."""
        self.path(descriptor.digest)
        named = replace(descriptor, annotations={**descriptor.annotations, REF_NAME: name})
        with short_lock(self.root / ".index.json.lock"):
            kept = [each for each in self.entries() if each.annotations.get(REF_NAME) != name]
            self._write_index([*kept, named])

    def remove_name(self, name: str) -> None:
        """Forget a name; no error if it is unknown."""
        with short_lock(self.root / ".index.json.lock"):
            self._write_index([each for each in self.entries() if each.annotations.get(REF_NAME) != name])

    def keep(self, path: Path, digest: Digest) -> None:
        """
        Move a finished file, which is on the disk and has this digest, to its place; durable when this returns.

        What is there under its name has the same bytes, or is damaged.
        """
        path.chmod(0o444)
        place = self.place(digest)
        try:
            os.replace(path, place)
        except FileNotFoundError:
            place.parent.mkdir(exist_ok=True)
            os.replace(path, place)
            _sync_directory(place.parent.parent)
        _sync_directory(place.parent)

    def entries(self) -> list[Descriptor]:
        """What `index.json` lists, with and without names. Raises `InvalidInput` if it can't be read."""
        path = self.root / "index.json"
        try:
            document = json.loads(path.read_bytes())
            return [Descriptor.from_dict(each) for each in document["manifests"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
            raise InvalidInput(f"{path} is not an OCI index: {error!r}") from error

    def _write_index(self, entries: Iterable[Descriptor]) -> None:
        manifests = [each.to_dict() for each in sorted(entries, key=_by_name)]
        self._replace("index.json", encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}))

    def _replace(self, name: str, data: bytes) -> None:
        """Write a file so that a reader, or a crash, sees the old content or the new."""
        temporary = self.sessions.directory() / f"{name}.{os.urandom(8).hex()}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.root / name)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(self.root)


def _by_name(descriptor: Descriptor) -> tuple[str, str]:
    return descriptor.annotations.get(REF_NAME, ""), descriptor.digest.hex


def _sync_directory(path: Path) -> None:
    """Make a rename durable. Windows has no such call, and needs none."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
