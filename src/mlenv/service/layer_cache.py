"""Finished layers, remembered as rows while their blobs last."""

from mlenv.build.interface import Blobs
from mlenv.core.digest import Digest
from mlenv.core.layer import Layer
from mlenv.service.interface import Registry


class RegistryLayers:
    """A `build.interface.LayerCache` over a registry: a row counts only while its blob is there."""

    def __init__(self, registry: Registry, blobs: Blobs) -> None:
        self._registry = registry
        self._blobs = blobs

    def get(self, key: Digest) -> Layer | None:
        """The layer made for this key, if there is one and its blob is still there."""
        layer = self._registry.layer(key)
        return layer if layer is not None and self._blobs.has(layer.digest) else None

    def put(self, key: Digest, layer: Layer) -> None:
        """Remember a layer whose blob is stored. The first one stays, as long as its blob does."""
        if (kept := self._registry.layer(key)) is not None:
            if self._blobs.has(kept.digest):
                return
            self._registry.remove_layer(key)
        self._registry.add_layer(key, layer)

    def remove(self, key: Digest) -> None:
        """Forget a layer, and what is stored of it; no error if it is unknown."""
        if (layer := self._registry.layer(key)) is not None:
            self._registry.remove_layer(key)
            self._blobs.remove(layer.digest)
