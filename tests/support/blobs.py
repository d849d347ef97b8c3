"""A directory of blobs, and a memory of layers: as little as a build needs."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.layer import Layer
from mlenv.core.lock import Artifact, LockedPackage


class DirectoryBlobs:
    """Blobs as files named by their digests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def has(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def path(self, digest: Digest) -> Path:
        return self.root / digest.hex

    def read(self, digest: Digest) -> bytes:
        return self.path(digest).read_bytes()

    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None:
        with self.writer() as out:
            for chunk in chunks:
                out.write(chunk)
            out.commit(expect=digest)

    @contextmanager
    def writer(self) -> Iterator["Writer"]:
        with tempfile.TemporaryDirectory(dir=self.root) as directory, open(f"{directory}/blob", "wb") as file:
            yield Writer(self, file.write, Path(file.name), file.flush)

    def remove(self, digest: Digest) -> None:
        self.path(digest).unlink(missing_ok=True)

    def add_wheel(self, path: Path, *, requested: bool = False) -> LockedPackage:
        """Store a wheel, as the package that a lock would have for it."""
        data = path.read_bytes()
        artifact = Artifact(path.name, len(data), Digest.of(data), None)
        self.path(artifact.digest).write_bytes(data)
        name, version = path.name.split("-")[:2]
        return LockedPackage(name.replace("_", "-").lower(), version, artifact, requested=requested)

    def names(self) -> set[str]:
        """What is there, half-written things included."""
        return {each.name for each in self.root.iterdir()}


class Writer:
    """A blob being written."""

    def __init__(self, blobs: DirectoryBlobs, write: object, path: Path, flush: object) -> None:
        self._blobs, self._path = blobs, path
        self._write, self._flush = write, flush
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        assert callable(self._write)
        self._write(data)
        self._hash.update(data)
        self._size += len(data)

    def commit(self, *, expect: Digest | None = None) -> tuple[Digest, int]:
        assert callable(self._flush)
        self._flush()
        digest = Digest(self._hash.hexdigest())
        if expect is not None and digest != expect:
            raise DigestMismatch("blob", expected=str(expect), got=str(digest))
        self._path.rename(self._blobs.path(digest))
        return digest, self._size


class LayerMemory(dict[Digest, Layer]):
    """A `LayerCache` that counts what it was told."""

    def put(self, key: Digest, layer: Layer) -> None:
        self.setdefault(key, layer)

    def remove(self, key: Digest) -> None:
        self.pop(key, None)
