"""
Repositories of images, as clients of the OCI distribution specification see them: blobs, manifests, tags, referrers.

A repository is either an environment's, whose tags are computed of what was built (`mlenv.service.environment_images`),
or free: it has what was pushed to it.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

from mlenv.build.interface import Blobs
from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.manifests import Part, read_manifest
from mlenv.core.reference import EnvironmentName
from mlenv.core.repositories import (
    BlobNotInRepository,
    InvalidTag,
    ManifestNotFound,
    PartsMissing,
    RepositoryName,
    RepositoryNotFound,
    StoredManifest,
    Tag,
    WrittenByBuilds,
    parse_tag,
)
from mlenv.errors import NotFound

if TYPE_CHECKING:
    from mlenv.service.environment_images import EnvironmentImages
    from mlenv.service.interface import Clock

#: Seconds that an upload may rest before it is forgotten.
UPLOAD_LIFETIME: Final = 24 * 3600.0


class RepositoryStore(Protocol):
    """Rows of repositories of one namespace. Every method is one transaction; manifests and tags leave audit records."""

    def blob(self, repository: RepositoryName, digest: Digest) -> int | None:
        """The size of a blob that a repository has, in bytes, or None."""

    def add_blob(self, repository: RepositoryName, digest: Digest, size: int, *, now: datetime) -> None:
        """Let a repository have a blob that is stored."""

    def remove_blob(self, repository: RepositoryName, digest: Digest, *, now: datetime) -> bool:
        """Take a blob from a repository. False if it has none of that digest."""

    def having(self, digest: Digest) -> Iterable[str]:
        """The namespaces, of all, in which some repository has a blob."""

    def manifest(self, repository: RepositoryName, reference: Digest | Tag) -> StoredManifest | None:
        """A manifest by its digest, or by a tag that was pushed; or None."""

    def put_manifest(
        self,
        repository: RepositoryName,
        manifest: StoredManifest,
        parts: Iterable[Part],
        tags: Sequence[Tag] = (),
        *,
        now: datetime,
    ) -> None:
        """
        Let a repository have a manifest that is stored, and point tags at it.

        Raises:
            PartsMissing: The repository does not have all that the manifest names.
            InvalidManifest: A part has another size than the manifest says.
        """

    def add_composed(self, repository: RepositoryName, manifest: StoredManifest) -> None:
        """Remember a manifest that was composed to answer somebody, so that it is found by its digest from now on."""

    def remove_manifest(self, repository: RepositoryName, digest: Digest, *, now: datetime) -> bool:
        """Take a manifest from a repository, and the tags that point at it. False if it has none of that digest."""

    def referrers(
        self, repository: RepositoryName, subject: Digest, artifact_type: str | None, *, after: str, limit: int
    ) -> list[StoredManifest]:
        """Manifests about a manifest, in the order of their digests; `after` is the last digest of the page before."""

    def tags(self, repository: RepositoryName, *, after: str | None, limit: int) -> list[Tag]:
        """Tags that were pushed, in order; `after` is any tag, there or not."""

    def remove_tag(self, repository: RepositoryName, tag: Tag, *, now: datetime) -> bool:
        """Forget a tag. False if there is none."""

    def is_known(self, repository: RepositoryName) -> bool:
        """Whether anything was ever pushed there that is there still."""

    def names(self, *, after: str, limit: int) -> list[RepositoryName]:
        """Repositories with manifests, sorted."""


class Upload(Protocol):
    """An upload that a request goes on with; nobody else can until it is closed."""

    @property
    def size(self) -> int:
        """How many bytes have come."""

    def expect(self, algorithm: str = ...) -> None:
        """Say, before the first byte, what the blob will be named by."""

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Add bytes."""

    def truncate(self, size: int) -> None:
        """Forget what came after the first `size` bytes."""

    def finish(self, digest: Digest) -> int:
        """Make it a blob. Returns its size. Raises `DigestMismatch`; the upload has ended then."""

    def cancel(self) -> None:
        """End it."""

    def close(self) -> None:
        """Let others go on with it."""


class Uploads(Protocol):
    """Uploads that go on, each of one owner."""

    def start(self, owner: str) -> str:
        """Begin one. Returns its id."""

    def size(self, owner: str, id: str) -> int:
        """How many bytes have come. Raises `UploadNotFound`."""

    def open(self, owner: str, id: str) -> Any:
        """Go on with one: an `Upload`. Raises `UploadNotFound`, `UploadBusy`."""


class Bytes(Blobs, Protocol):
    """The blobs of all namespaces. What `has` finds stays for a while, whatever names it."""

    def place(self, digest: Digest) -> Path:
        """Where a blob is, if it is there."""


class StoredBlob(Struct, frozen=True):
    """A blob that a repository has: its file, which must not be changed, and its size in bytes."""

    digest: Digest
    path: Path
    size: int


class Repositories:
    """
    The repositories of one namespace.

    Args:
        prefix: What their names begin with on the wire: the namespace's own.
    """

    def __init__(
        self,
        prefix: str,
        store: RepositoryStore,
        blobs: Bytes,
        uploads: Uploads,
        environments: Callable[[], "EnvironmentImages"],
        clock: "Clock",
    ) -> None:
        self._prefix = prefix
        self._store = store
        self._blobs = blobs
        self._uploads = uploads
        self._environments = environments
        self._clock = clock

    # What is pulled.

    def blob(self, repository: RepositoryName, digest: Digest, *, for_push: bool = False) -> StoredBlob:
        """
        A blob that a repository has.

        Args:
            for_push: Whether it is looked for by somebody who will name it if it is there: then it stays for a while.

        Raises:
            BlobNotInRepository, RepositoryNotFound: It is not there.
        """
        size = self._store.blob(repository, digest)
        if size is None:
            size = self._environments().part(repository, digest)
        if size is None:
            self._require_known(repository)
        if size is None or (for_push and not self._blobs.has(digest)):
            raise BlobNotInRepository(self._full(repository), digest)
        return StoredBlob(digest, self._blobs.place(digest), size)

    def manifest(self, repository: RepositoryName, reference: Digest | str) -> tuple[StoredManifest, bytes]:
        """
        A manifest by digest or tag, with its bytes.

        Raises:
            ManifestNotFound: There is none; for a version of an environment that was not built, it says how to.
            RepositoryNotFound: There is not even a repository.
        """
        found = self.find_manifest(repository, reference)
        try:
            return found, self._blobs.read(found.digest)
        except NotFound as error:
            raise ManifestNotFound(self._full(repository), str(reference), "its bytes are lost") from error

    def find_manifest(self, repository: RepositoryName, reference: Digest | str) -> StoredManifest:
        """The same without its bytes."""
        environments = self._environments()
        if isinstance(reference, Digest):
            found = self._store.manifest(repository, reference) or environments.image(repository, reference)
        elif (name := environments.named(repository)) is not None:
            found = self._composed(environments, repository, name, reference)
        else:
            found = self._pushed(repository, reference)
        if found is None:
            self._require_known(repository)
            raise ManifestNotFound(self._full(repository), str(reference))
        return found

    def tags(self, repository: RepositoryName, *, after: str | None, limit: int) -> list[str]:
        """Tags in order, after one that may or may not be there. Raises `RepositoryNotFound`."""
        environments = self._environments()
        if (name := environments.named(repository)) is not None:
            return environments.tags(name, after=after, limit=limit)
        found = self._store.tags(repository, after=after, limit=limit)
        if not found:
            self._require_known(repository)
        return list(found)

    def referrers(
        self, repository: RepositoryName, subject: Digest, artifact_type: str | None, *, after: str = "", limit: int
    ) -> list[StoredManifest]:
        """Manifests about a manifest, which need not be there, nor need the repository."""
        return self._store.referrers(repository, subject, artifact_type, after=after, limit=limit)

    def names(self, *, after: str, limit: int) -> list[RepositoryName]:
        """Names of repositories, those of environments as well, sorted."""
        pushed = self._store.names(after=after, limit=limit)
        environments = [each for each in self._environments().names() if each > after]
        return sorted({*pushed, *environments})[:limit]

    # What is pushed.

    def start_upload(self, repository: RepositoryName) -> str:
        """Begin an upload. Returns its id."""
        return self._uploads.start(self._full(repository))

    def upload_size(self, repository: RepositoryName, id: str) -> int:
        """How far an upload has come, in bytes. Raises `UploadNotFound`."""
        return self._uploads.size(self._full(repository), id)

    def open_upload(self, repository: RepositoryName, id: str) -> Upload:
        """Go on with an upload. Raises `UploadNotFound`, `UploadBusy`."""
        upload: Upload = self._uploads.open(self._full(repository), id)
        return upload

    def finish_upload(self, repository: RepositoryName, upload: Upload, digest: Digest) -> None:
        """Make an upload a blob of the repository. Raises `DigestMismatch`."""
        size = upload.finish(digest)
        self._store.add_blob(repository, digest, size, now=self._clock())

    def put_blob(self, repository: RepositoryName, data: bytes) -> Digest:
        """Let a repository have a blob of bytes that are at hand."""
        digest = Digest.of(data)
        self._blobs.put([data], digest=digest, size=len(data), what=f"blob of {self._full(repository)}")
        self._store.add_blob(repository, digest, len(data), now=self._clock())
        return digest

    def add_blob(self, repository: RepositoryName, digest: Digest) -> bool:
        """Let a repository have a blob that is stored, and that the caller may read somewhere. False if it is lost."""
        if not self._blobs.has(digest):
            return False
        self._store.add_blob(repository, digest, self._blobs.place(digest).stat().st_size, now=self._clock())
        return True

    def has_blob(self, repository: RepositoryName, digest: Digest) -> bool:
        """Whether a repository has a blob."""
        return (
            self._store.blob(repository, digest) is not None
            or self._environments().part(repository, digest) is not None
        )

    def having(self, digest: Digest) -> Iterable[str]:
        """The namespaces, of all, in which some repository has a blob."""
        return self._store.having(digest)

    def put_manifest(
        self,
        repository: RepositoryName,
        data: bytes,
        media_type: str | None = None,
        *,
        digest: Digest | None = None,
        tags: Sequence[str] = (),
    ) -> StoredManifest:
        """
        Let a repository have a manifest.

        Args:
            media_type: What it is said to be; None for what it says itself.
            digest: What it must hash to, if it is pushed by that.
            tags: To point at it.

        Raises:
            ManifestTooLarge, InvalidManifest: It is none.
            DigestMismatch: It is another.
            InvalidTag: A tag is none.
            PartsMissing: The repository does not have what it names.
            WrittenByBuilds: It is an environment's repository, and the manifest is tagged, or about nothing.
        """
        parsed_tags = [parse_tag(each) for each in dict.fromkeys(tags)]
        got = Digest.of(data, digest.algorithm) if digest is not None else Digest.of(data)
        if digest is not None and got != digest:
            raise DigestMismatch("manifest", expected=str(digest), got=str(got))
        read = read_manifest(data, media_type)
        if (parsed_tags or read.subject is None) and self._environments().named(repository) is not None:
            raise WrittenByBuilds(self._full(repository))
        # Blobs that were there before this push are in use from now on.
        missing = [each.digest for each in read.parts if not self._blobs.has(each.digest) and not each.optional]
        if missing:
            raise PartsMissing(self._full(repository), missing)
        self._blobs.put([data], digest=got, size=len(data), what=f"manifest of {self._full(repository)}")
        now = self._clock()
        told = (read.subject, read.artifact_type, read.annotations)
        manifest = StoredManifest(got, read.media_type, len(data), now, *told)
        self._store.put_manifest(repository, manifest, read.parts, parsed_tags, now=now)
        return manifest

    # What is deleted.

    def delete_blob(self, repository: RepositoryName, digest: Digest) -> None:
        """Take a blob from a repository; others keep it. Raises `BlobNotInRepository`, `WrittenByBuilds`."""
        if not self._store.remove_blob(repository, digest, now=self._clock()):
            if self._environments().part(repository, digest) is not None:
                raise WrittenByBuilds(self._full(repository))
            raise BlobNotInRepository(self._full(repository), digest)

    def delete_manifest(self, repository: RepositoryName, reference: Digest | str) -> None:
        """Take a manifest and its tags from a repository, or a tag alone. Raises `ManifestNotFound`, `WrittenByBuilds`."""
        environments, now = self._environments(), self._clock()
        if isinstance(reference, Digest):
            gone = self._store.remove_manifest(repository, reference, now=now)
            if not gone and environments.image(repository, reference) is not None:
                raise WrittenByBuilds(self._full(repository))
        else:
            if environments.named(repository) is not None:
                raise WrittenByBuilds(self._full(repository))
            tag = _tag(reference)
            gone = tag is not None and self._store.remove_tag(repository, tag, now=now)
        if not gone:
            raise ManifestNotFound(self._full(repository), str(reference))

    # Steps of the above.

    def _pushed(self, repository: RepositoryName, reference: str) -> StoredManifest | None:
        tag = _tag(reference)
        return None if tag is None else self._store.manifest(repository, tag)

    def _composed(
        self, environments: "EnvironmentImages", repository: RepositoryName, name: EnvironmentName, tag: str
    ) -> StoredManifest:
        """The image of a version. An index over several is asked for by its digest next, so that has a row."""
        found = environments.tagged(repository, name, tag)
        if environments.is_composed(found) and self._store.manifest(repository, found.digest) is None:
            self._store.add_composed(repository, found)
        return found

    def _require_known(self, repository: RepositoryName) -> None:
        if self._environments().named(repository) is None and not self._store.is_known(repository):
            raise RepositoryNotFound(self._full(repository))

    def _full(self, repository: RepositoryName) -> str:
        return f"{self._prefix}/{repository}"


def _tag(text: str) -> Tag | None:
    try:
        return parse_tag(text)
    except InvalidTag:
        return None
