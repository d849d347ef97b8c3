"""The bytes of a namespace's images and their bases, for whoever may read it: manifests, configurations and layers."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
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
        A part of an image or base of this namespace. Bytes of others are not handed out, though the store has them.

        Raises:
            NoSuchBytes: No image here has it.
        """
        for manifest in self._manifests():
            if digest in self._parts(manifest):
                return self._blobs.path(digest)
        raise NoSuchBytes(digest)

    def _manifests(self) -> Iterator[Digest]:
        yield from dict.fromkeys(manifest.digest for _, manifest in self._registry.all_images())
        # Whoever pushes an image asks which of its layers are its base's, and could be mounted.
        yield from set(self._registry.bases().values())

    def _parts(self, manifest: Digest) -> frozenset[Digest]:
        """What an image is made of. It never changes, so what was read once is remembered; a lost one has nothing."""
        known = _PARTS.get(manifest)
        if known is None:
            try:
                image = load_image(manifest, self._blobs)
            except NotFound:
                return frozenset()
            known = frozenset({manifest, image.config_digest, *(layer.digest for layer, _ in image.layers)})
            if len(_PARTS) >= _REMEMBERED:
                _PARTS.clear()
            _PARTS[manifest] = known
        return known
