"""What a build needs of the world: where bytes are, and which layers exist already."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from mlenv.core.digest import Digest
from mlenv.core.image import Descriptor
from mlenv.core.layer import Layer, Sized

_Key = TypeVar("_Key")


class BlobWriter(Protocol):
    """A blob being written. What is not committed when its context ends is gone."""

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes."""

    def commit(self, *, expect: Digest | None = None) -> tuple[Digest, int]:
        """
        Keep the blob, under the digest of what was written. Durable and visible to others when this returns.

        Raises:
            DigestMismatch: It is not what was expected; nothing was kept.
        """


class Blobs(Protocol):
    """Content-addressed bytes: an OCI image layout's `blobs/` directory."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there."""

    def path(self, digest: Digest) -> Path:
        """The blob as a file that must not be changed. Raises `NotFound`."""

    def read(self, digest: Digest) -> bytes:
        """A small blob, such as a manifest, checked against its digest. Raises `NotFound`, `DigestMismatch`."""

    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None:
        """
        Store one blob, checking it on the way in.

        Args:
            chunks: The content in order, read once.
            digest: What the content must hash to.
            size: What the content must measure, in bytes. Reading stops at the first byte too many.
            what: The content's name in messages.

        Raises:
            DigestMismatch: The content was something else; nothing was kept.
        """

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """Write a blob whose digest is not known yet."""

    def remove(self, digest: Digest) -> None:
        """Delete a blob that nothing needs any more; no error if it is gone already."""


class Incomplete(Exception):
    """Packages that layers are to be made of do not come. Whoever brings them says why."""


class Incoming(Protocol):
    """Packages on their way into the store, while layers are made of those that are there."""

    def whole(self, groups: Mapping[_Key, Sequence[Sized]]) -> Iterator[_Key]:
        """
        The keys of groups of packages, each as soon as all files of its group are there; of several, the first.

        Ends before the last one where files do not come, or nobody wants more of them.
        """

    def stop(self) -> None:
        """Nobody wants more of them. May be called from any thread."""


class AllHere:
    """`Incoming`, where nothing is on its way any more."""

    def whole(self, groups: Mapping[_Key, Sequence[Sized]]) -> Iterator[_Key]:
        return iter(groups)

    def stop(self) -> None:
        pass


class LayerCache(Protocol):
    """What is remembered of finished layers, by the key of their plan."""

    def get(self, key: Digest) -> Layer | None:
        """The layer made for this key, if there is one and its blob is still there."""

    def put(self, key: Digest, layer: Layer) -> None:
        """Remember a layer whose blob is stored. The first one stays, as long as its blob does."""

    def remove(self, key: Digest) -> None:
        """Forget a layer, and what is stored of it; no error if it is unknown."""


class ImageNames(Protocol):
    """Names for images in an OCI image layout, so that other tools find them (image-spec, image-layout.md)."""

    def set_name(self, name: str, manifest: Descriptor) -> None:
        """Point a name at a stored manifest, atomically."""
