"""An OCI image layout on disk (image-spec 1.1, image-layout.md): blobs by digest, and names in `index.json`."""

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from filelock import FileLock, Timeout

from mlenv import faults
from mlenv.core.digest import Digest, DigestMismatch, InvalidDigest
from mlenv.core.image import INDEX_TYPE, Descriptor, encode
from mlenv.core.progress import Progress, Silent
from mlenv.errors import InvalidInput, NotFound, Unavailable

#: The annotation that names an entry of `index.json` (image-spec, annotations.md).
REF_NAME: Final = "org.opencontainers.image.ref.name"
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_CHUNK: Final = 1 << 20
#: The largest blob that is read into memory as a whole, in bytes.
_READ_LIMIT: Final = 64 << 20
#: How long another process may hold a lock that is only ever held for milliseconds, in seconds.
_LOCK_TIMEOUT: Final = 60.0


class BlobNotFound(NotFound):
    """No blob of that digest is kept."""

    def __init__(self, digest: Digest, root: Path) -> None:
        super().__init__(f"no blob {digest} in {root}")
        self.digest = digest


@dataclass(frozen=True, slots=True)
class Problem:
    """
    Something wrong in a store.

    Attributes:
        kind: `corrupt`, `stray`, `missing`, `unreadable` or `unfinished`.
        what: One line for people.
        path: The file, or None.
        digest: The blob it is about, or None.
        harmless: Nothing that has a name is affected: a leftover that may be removed.
    """

    kind: str
    what: str
    path: Path | None = None
    digest: Digest | None = None
    harmless: bool = False


class FileWriter:
    """A blob being written to a file beside its final place. Made by `OciLayout.writer`."""

    def __init__(self, layout: "OciLayout", path: Path, file: BinaryIO) -> None:
        self._layout, self._path, self._file = layout, path, file
        self._hash, self._size, self._done = hashlib.sha256(), 0, False

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._hash.update(data)
        self._file.write(data)
        self._size += len(data) if isinstance(data, bytes) else data.nbytes

    def commit(self, *, expect: Digest | None = None) -> tuple[Digest, int]:
        """Keep the blob; durable when this returns. Raises `DigestMismatch`."""
        digest = Digest(self._hash.hexdigest())
        if expect is not None and digest != expect:
            raise DigestMismatch("blob", expected=str(expect), got=str(digest))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        faults.reach("blob.written")
        self._layout._keep(self._path, digest, self._size)
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

    A blob is written in `ingest/`, then renamed into `blobs/sha256/`: it is there whole or not at all. Each process
    writes in a session directory of its own, and holds that session's lock for as long as it lives, so that what a
    dead process left can be told from what a live one is writing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self._session: tuple[int, Path, FileLock] | None = None
        self._session_guard = threading.Lock()
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._ingest.mkdir(exist_ok=True)
        if not (root / "index.json").exists() or not (root / "oci-layout").exists():
            with self._locked("index.json"):
                if not (root / "oci-layout").exists():
                    self._replace("oci-layout", _LAYOUT)
                if not (root / "index.json").exists():
                    self._write_index([])

    def __reduce__(self) -> tuple[type["OciLayout"], tuple[Path]]:
        """Sent to another process, it is the same directory and another session."""
        return (OciLayout, (self.root,))

    # Blobs.

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there."""
        return (self._blobs / digest.hex).exists()

    def path(self, digest: Digest) -> Path:
        """The blob as a file that must not be changed. Raises `BlobNotFound`."""
        path = self._blobs / digest.hex
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
        if (got := Digest.of(data)) != digest:
            raise DigestMismatch(f"{path}", expected=str(digest), got=str(got))
        return data

    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None:
        """Store one blob, checking it on the way in; one that is there is not read again. Raises `DigestMismatch`."""
        if self.has(digest):
            if (kept := self.size(digest)) != size:
                raise DigestMismatch(what, expected=f"{size} bytes", got=f"{kept} bytes under the same digest")
            return
        with self.writer() as writer:
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
    def writer(self) -> Iterator[FileWriter]:
        """Write a blob whose digest is not known yet. What is not committed is gone when the context ends."""
        path = self._session_directory() / secrets.token_hex(8)
        writer = FileWriter(self, path, path.open("xb", buffering=_CHUNK))
        try:
            yield writer
        finally:
            writer.discard()

    def remove(self, digest: Digest) -> None:
        """Delete a blob that nothing needs any more; no error if it is gone already."""
        path = self._blobs / digest.hex
        with suppress(FileNotFoundError):
            path.chmod(0o644)
            path.unlink()

    def digests(self) -> Iterator[Digest]:
        """All blobs, in no order."""
        for entry in os.scandir(self._blobs):
            with suppress(InvalidDigest):
                yield Digest.parse(f"sha256:{entry.name}")

    # Names.

    def names(self) -> dict[str, Descriptor]:
        """What `index.json` names, sorted."""
        found = {each.annotations[REF_NAME]: each for each in self._entries() if REF_NAME in each.annotations}
        return dict(sorted(found.items()))

    def set_name(self, name: str, descriptor: Descriptor) -> None:
        """Point a name at a manifest, so that `skopeo inspect oci:DIR:NAME` finds it. Raises `BlobNotFound`."""
        self.path(descriptor.digest)
        named = replace(descriptor, annotations={**descriptor.annotations, REF_NAME: name})
        with self._locked("index.json"):
            kept = [each for each in self._entries() if each.annotations.get(REF_NAME) != name]
            self._write_index([*kept, named])

    def remove_name(self, name: str) -> None:
        """Forget a name; no error if it is unknown."""
        with self._locked("index.json"):
            self._write_index([each for each in self._entries() if each.annotations.get(REF_NAME) != name])

    # Care.

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """Hash every blob again, follow every name to its last layer, and look for leftovers. Changes nothing."""
        problems = self._verify_blobs(progress or Silent())
        try:
            entries = self._entries()
        except InvalidInput as error:
            return [*problems, Problem("unreadable", str(error), self.root / "index.json")]
        seen: set[Digest] = set()
        for entry in entries:
            label = entry.annotations.get(REF_NAME, str(entry.digest))
            problems += self._verify_reachable(entry, label, seen)
        for path in self._leftovers(older_than=0):
            problems.append(Problem("unfinished", f"{path} was left by a process that died", path, harmless=True))
        return problems

    def sweep_ingest(self, older_than: float = 3600) -> int:
        """
        Remove what dead processes left half-written.

        Args:
            older_than: Leave alone what was touched in the last so many seconds.

        Returns:
            How many leftovers were removed.
        """
        leftovers = list(self._leftovers(older_than, remove=True))
        return len(leftovers)

    def _keep(self, path: Path, digest: Digest, size: int) -> None:
        """Move a finished file to its place. Another process may have put the same bytes there meanwhile."""
        target = self._blobs / digest.hex
        if target.exists() and target.stat().st_size == size:
            path.unlink()
        else:
            path.chmod(0o444)
            os.replace(path, target)
        _sync_directory(self._blobs)

    def _session_directory(self) -> Path:
        """This process's own directory. A forked child does not inherit the lock, so it starts a session of its own."""
        with self._session_guard:
            if self._session is None or self._session[0] != os.getpid():
                name = secrets.token_hex(8)
                with self._locked("ingest"):
                    lock = FileLock(self._ingest / f"{name}.lock", thread_local=False)
                    lock.acquire()
                    directory = self._ingest / name
                    directory.mkdir()
                self._session = os.getpid(), directory, lock
            return self._session[1]

    def _leftovers(self, older_than: float, *, remove: bool = False) -> Iterator[Path]:
        """Sessions whose process is dead: nobody holds their lock."""
        newest = time.time() - older_than
        own = self._session[1].name if self._session and self._session[0] == os.getpid() else None
        with self._locked("ingest"):
            for name in sorted({entry.name.removesuffix(".lock") for entry in os.scandir(self._ingest)}):
                directory, lock = self._ingest / name, self._ingest / f"{name}.lock"
                if name == own or not _is_free(lock) or _last_touched(directory, lock) > newest:
                    continue
                files = directory.is_file() or (directory.is_dir() and any(directory.iterdir()))
                if remove:
                    shutil.rmtree(directory) if directory.is_dir() else directory.unlink(missing_ok=True)
                    lock.unlink(missing_ok=True)
                if files:
                    yield directory

    def _verify_blobs(self, progress: Progress) -> list[Problem]:
        paths = sorted(Path(entry.path) for entry in os.scandir(self._blobs))
        total = sum(path.stat().st_size for path in paths)
        problems: list[Problem] = []
        with progress.step("Verifying blobs", total=total, unit="bytes") as step:

            def check(path: Path) -> Problem | None:
                try:
                    digest = Digest.parse(f"sha256:{path.name}")
                except InvalidDigest:
                    return Problem("stray", f"{path} is not named as a blob", path, harmless=True)
                with path.open("rb") as file:
                    got = hashlib.sha256()
                    while chunk := file.read(_CHUNK):
                        got.update(chunk)
                        step.advance(len(chunk))
                if got.hexdigest() != digest.hex:
                    return Problem("corrupt", f"{path} holds sha256:{got.hexdigest()}", path, digest)
                return None

            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                problems = [each for each in pool.map(check, paths) if each]
            step.note(f"{len(paths)} blobs, {len(problems)} problems")
        return problems

    def _verify_reachable(self, descriptor: Descriptor, label: str, seen: set[Digest]) -> list[Problem]:
        """Follow an entry to its blobs. An index can't be a part of itself, but one blob may be reached many times."""
        if descriptor.digest in seen:
            return []
        seen.add(descriptor.digest)
        path = self._blobs / descriptor.digest.hex
        if not path.exists():
            return [Problem("missing", f"{label}: {descriptor.digest} is not there", path, descriptor.digest)]
        if (size := path.stat().st_size) != descriptor.size:
            what = f"{label}: {descriptor.digest} has {size} bytes, expected {descriptor.size}"
            return [Problem("corrupt", what, path, descriptor.digest)]
        if descriptor.media_type != INDEX_TYPE and "manifest" not in descriptor.media_type:
            return []
        try:
            document = json.loads(self.read(descriptor.digest))
            children = [Descriptor.from_dict(each) for each in _children(document)]
        except DigestMismatch:
            return []  # The pass over all blobs has told of it.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
            return [Problem("unreadable", f"{label}: {descriptor.digest}: {error!r}", path, descriptor.digest)]
        return [problem for each in children for problem in self._verify_reachable(each, label, seen)]

    def _entries(self) -> list[Descriptor]:
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
        temporary = self._session_directory() / f"{name}.{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.root / name)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(self.root)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self.root / f".{name}.lock"
        try:
            with FileLock(path, timeout=_LOCK_TIMEOUT):
                yield
        except Timeout as error:
            raise Unavailable(f"{path} has been locked by another process for {_LOCK_TIMEOUT:.0f} s") from error


def _children(document: Mapping[str, Any]) -> list[Any]:
    """The descriptors in an index or a manifest."""
    if "manifests" in document:
        return list(document["manifests"])
    return [document["config"], *document["layers"]]


def _by_name(descriptor: Descriptor) -> tuple[str, str]:
    return descriptor.annotations.get(REF_NAME, ""), descriptor.digest.hex


def _is_free(lock: Path) -> bool:
    """Whether no process holds the lock."""
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _last_touched(directory: Path, lock: Path) -> float:
    """When the newest file of a session was written, in seconds since the epoch."""
    files = list(directory.iterdir()) if directory.is_dir() else []
    times = []
    for path in (directory, lock, *files):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def _sync_directory(path: Path) -> None:
    """Make a rename durable. Windows has no such call, and needs none."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
