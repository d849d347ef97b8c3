"""Bytes on this machine, and those that only the server has: fetched when they are needed, and kept here."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from mlenv.client.http import Http
from mlenv.client.registry import quoted
from mlenv.core.digest import Digest, DigestMismatch


class LocalBlobs(Protocol):
    """An OCI layout on this machine."""

    def has(self, digest: Digest) -> bool: ...
    def path(self, digest: Digest) -> Path: ...
    def read(self, digest: Digest) -> bytes: ...
    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None: ...
    def writer(self) -> AbstractContextManager[Any]: ...
    def remove(self, digest: Digest) -> None: ...
    def close(self) -> None: ...


class RemoteBlobs:
    """A `build.interface.Blobs` on this machine, behind which a server stands. What is asked for by content is fetched."""

    def __init__(self, local: LocalBlobs, http: Http, root: str) -> None:
        """
        Args:
            root: The workspace's or registry's path: `/workspaces/default`.
        """
        self._local, self._http, self._root = local, http, root

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here. The server is not asked."""
        return self._local.has(digest)

    def path(self, digest: Digest) -> Path:
        """The blob as a file that must not be changed. Raises `NotFound` if the server has none either."""
        if not self._local.has(digest):
            self._fetch(digest)
        return self._local.path(digest)

    def read(self, digest: Digest) -> bytes:
        """A small blob. Raises `NotFound`, `DigestMismatch`."""
        if not self._local.has(digest):
            self._fetch(digest)
        return self._local.read(digest)

    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None:
        """Store one blob here. Raises `DigestMismatch`."""
        self._local.put(chunks, digest=digest, size=size, what=what)

    def writer(self) -> AbstractContextManager[Any]:
        """Write a blob here."""
        return self._local.writer()

    def remove(self, digest: Digest) -> None:
        """Delete a blob here."""
        self._local.remove(digest)

    def close(self) -> None:
        """Let go of files."""
        self._local.close()

    def _fetch(self, digest: Digest) -> None:
        path = f"{self._root}/blobs/{quoted(str(digest))}"
        with self._http.stream("GET", path, headers={"accept": "*/*"}) as answer, self._local.writer() as writer:
            for chunk in answer.iter_bytes():
                writer.write(chunk)
            try:
                writer.commit(expect=digest)
            except DigestMismatch as error:
                raise DigestMismatch(f"what {self._http.server} sent", expected=str(digest), got=error.got) from error
