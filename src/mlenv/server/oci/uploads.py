"""Blobs that are pushed: at once, in chunks, or from another repository (distribution-spec, "Pushing Blobs")."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

from msgspec import Struct, field
from starlette.requests import ClientDisconnect

from mlenv.core.access import NotAllowed, Operation
from mlenv.core.digest import ALGORITHMS, SHA256, Digest, InvalidDigest
from mlenv.core.repositories import (
    ChunkOutOfOrder,
    InvalidRepository,
    RepositoryName,
    RepositoryNotFound,
    UploadBusy,
    WrongLength,
)
from mlenv.server.oci.answers import Answer, Asked, header
from mlenv.server.oci.bodies import Batch, Body
from mlenv.server.oci.door import Door
from mlenv.server.oci.errors import MethodNotAllowed, refusal
from mlenv.server.oci.writing import Writing
from mlenv.server.threads import Threads
from mlenv.service.repositories import Repositories, Upload

T = TypeVar("T")

#: Seconds to wait for a request that writes to the same upload: of a client that lost its connection and tries again.
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.05
#: Seconds between two looks for uploads that nobody goes on with.
_SWEEP_EVERY: Final = 600.0


class Uploading(Struct):
    """
    The routes of uploads.

    Attributes:
        sweep: Removes uploads that nobody goes on with.
    """

    door: Door
    threads: Threads
    sweep: Callable[[], object]
    _swept: float = field(default_factory=time.monotonic)
    _sweeping: asyncio.Future[object] | None = None

    async def start(self, asked: Asked, name: str) -> Answer:
        """Begin an upload, or be done with it at once."""
        if asked.method != "POST":
            raise MethodNotAllowed(("POST",))
        services, repository = await self.door.open(asked, Operation.BLOB_WRITE, name)
        repositories = services.repositories
        if (algorithm := asked.parameter("digest-algorithm")) is not None and algorithm not in ALGORITHMS:
            raise InvalidDigest(f"{algorithm}:…")
        if asked.parameter("mount") is not None:
            mounted = await self._mount(asked, repositories, repository)
            if mounted is not None:
                return _created(name, mounted)
        elif (text := asked.parameter("digest")) is not None:
            receiving = _Receiving(self, Body(asked), repositories, repository, None, Digest.parse(text))
            await receiving.run()
            return _created(name, Digest.parse(text))
        self._sweep()
        id = await self.threads.run(repositories.start_upload, repository)
        return _accepted(name, id, 0)

    async def answer(self, asked: Asked, name: str, id: str) -> Answer:
        """One request for one upload."""
        if asked.method not in {"GET", "PATCH", "PUT", "DELETE"}:
            raise MethodNotAllowed(("GET", "PATCH", "PUT", "DELETE"))
        services, repository = await self.door.open(asked, Operation.BLOB_WRITE, name)
        repositories = services.repositories
        if asked.method == "GET":
            size = await self.threads.run(repositories.upload_size, repository, id)
            return _accepted(name, id, size, status=204)
        if asked.method == "DELETE":
            await self.opened(lambda: repositories.open_upload(repository, id), _cancel)
            return Answer(204)
        digest = Digest.parse(asked.parameter("digest") or "") if asked.method == "PUT" else None
        try:
            size = await _Receiving(self, Body(asked), repositories, repository, id, digest).run()
        except ChunkOutOfOrder as error:
            where, told = _accepted(name, id, error.offset), refusal(error)
            return Answer(told.status, [*where.headers, *told.headers], told.body)
        return _accepted(name, id, size) if digest is None else _created(name, digest)

    async def opened(self, open_upload: Callable[[], Upload], then: Callable[[Upload], T]) -> T:
        """Go on with an upload once nobody else does, and do something with it in the same thread."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self.threads.run(lambda: then(open_upload()))
            except UploadBusy:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_PAUSE)

    async def _mount(self, asked: Asked, repositories: Repositories, repository: RepositoryName) -> Digest | None:
        """
        Take a blob from another repository that the caller may read, any if none is named.

        Returns:
            The blob's digest; None if there is none, or it is not there: then it is uploaded as any other.
        """
        try:
            digest = Digest.parse(asked.parameter("mount") or "")
            if (source := asked.parameter("from")) is not None:
                services, other = await self.door.open(asked, Operation.BLOB_READ, source)
                found = await self.threads.run(services.repositories.has_blob, other, digest)
            else:
                caller = await self.door.caller(asked)
                found = await self.threads.run(
                    lambda: self.door.may_read_any(caller, repositories.having(digest)),
                )
        except (InvalidDigest, InvalidRepository, RepositoryNotFound, NotAllowed):
            return None
        return digest if found and await self.threads.run(repositories.add_blob, repository, digest) else None

    def _sweep(self) -> None:
        if time.monotonic() - self._swept > _SWEEP_EVERY:
            self._swept = time.monotonic()
            self._sweeping = asyncio.ensure_future(self.threads.run(self.sweep))


class _Receiving(Struct):
    """
    A body that becomes the next bytes of an upload, and ends it if there is a digest.

    Attributes:
        id: The upload; None to begin one, of which nothing is to stay if it fails.
    """

    uploading: Uploading
    body: Body
    repositories: Repositories
    repository: RepositoryName
    id: str | None
    digest: Digest | None
    _start: int = 0

    async def run(self) -> int:
        """Returns how many bytes the upload has then. Raises `ChunkOutOfOrder`, `WrongLength`, `DigestMismatch`."""
        first = await self.body.batch()
        if self.body.whole:
            # Most blobs are small: one thread does all of it.
            size = await self.uploading.opened(self._open, lambda upload: self._at_once(upload, first))
            self.body.release(first)
            return size
        return await self._stream(await self.uploading.opened(self._open, self._begun), first)

    async def _stream(self, upload: Upload, batch: Batch) -> int:
        """Write what has come while more comes in."""
        threads = self.uploading.threads
        writing = Writing(threads, upload.write, self.body.release)
        try:
            while not self.body.whole:
                await writing.put(batch)
                batch = await self.body.batch()
            await writing.all()
            size = await threads.run(self._end, upload, batch)
            self.body.release(batch)
            return size
        except ClientDisconnect:
            # What has come is kept: the client may go on with it.
            await writing.all()
            await threads.run(upload.write, self.body.taken())
            if self.id is None:
                await threads.run(upload.cancel)
            raise
        finally:
            await writing.end()
            await threads.run(upload.close)

    def _open(self) -> Upload:
        if self.id is None:
            return self.repositories.open_upload(self.repository, self.repositories.start_upload(self.repository))
        return self.repositories.open_upload(self.repository, self.id)

    def _begun(self, upload: Upload) -> Upload:
        try:
            self._begin(upload)
        except BaseException:
            upload.close()
            raise
        return upload

    def _at_once(self, upload: Upload, batch: Batch) -> int:
        try:
            self._begin(upload)
            return self._end(upload, batch)
        finally:
            upload.close()

    def _begin(self, upload: Upload) -> None:
        self._start = upload.size
        self.body.check_place(self._start)
        upload.expect(SHA256 if self.digest is None else self.digest.algorithm)

    def _end(self, upload: Upload, batch: Batch) -> int:
        upload.write(batch)
        try:
            self.body.check_length(upload.size - self._start)
        except WrongLength:
            upload.truncate(self._start)
            raise
        if self.digest is not None:
            self.repositories.finish_upload(self.repository, upload, self.digest)
        return upload.size


def _cancel(upload: Upload) -> None:
    upload.cancel()
    upload.close()


def _accepted(name: str, id: str, size: int, *, status: int = 202) -> Answer:
    """How far an upload has come. Of none and of one byte, clients are told the same, as ever."""
    headers = [
        header("location", f"/v2/{name}/blobs/uploads/{id}"),
        header("range", f"0-{max(size - 1, 0)}"),
        header("docker-upload-uuid", id),
        header("cache-control", "no-store"),
    ]
    return Answer(status, headers)


def _created(name: str, digest: Digest) -> Answer:
    location = header("location", f"/v2/{name}/blobs/{digest}")
    return Answer(201, [location, header("docker-content-digest", str(digest))])
