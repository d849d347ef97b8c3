"""The bytes of a namespace's images, for whoever may read it: manifests, configurations and layers."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
from mlenv.core.image import Descriptor
from mlenv.errors import NotFound

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs
    from mlenv.service.interface import Registry

#: What an image is made of, by its manifest's digest; and of how many images that is remembered.
_PARTS: Final[dict[Digest, frozenset[Digest]]] = {}
_REMEMBERED: Final = 10_000


class NoSuchBytes(NotFound):
    """No image of the namespace has a part of that digest."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"no image or lock here has a part {digest}")
        self.digest = digest


class ImageFiles:
    """The images of one namespace, as files."""

    def __init__(self, registry: "Registry", blobs: "Blobs") -> None:
        self._registry, self._blobs = registry, blobs

    def path(self, digest: Digest) -> Path:
        """
        A part of an image of this namespace. Bytes of others are not handed out, though the store has them.

        Raises:
            NoSuchBytes: No image here has it.
        """
        for manifest in self._manifests():
            if digest in self._parts(manifest):
                return self._blobs.path(digest)
        raise NoSuchBytes(digest)

    def _manifests(self) -> Iterator[Descriptor]:
        seen: set[Digest] = set()
        for _, manifest in self._registry.all_images():
            if manifest.digest not in seen:
                seen.add(manifest.digest)
                yield manifest

    def _parts(self, manifest: Descriptor) -> frozenset[Digest]:
        """What an image is made of. It never changes, so what was read once is remembered; a lost one has nothing."""
        known = _PARTS.get(manifest.digest)
        if known is None:
            try:
                image = load_image(manifest, self._blobs)
            except NotFound:
                return frozenset()
            known = frozenset({manifest.digest, image.config_digest, *(layer.digest for layer, _ in image.layers)})
            if len(_PARTS) >= _REMEMBERED:
                _PARTS.clear()
            _PARTS[manifest.digest] = known
        return known
