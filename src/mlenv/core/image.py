"""OCI images as values: descriptors, configurations and manifests (image-spec 1.1), composed without touching a byte."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlenv.core.digest import Digest

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points at a blob (image-spec, descriptor.md): media type, digest, and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The descriptor's JSON object."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform:
            document["platform"] = dict(self.platform)
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Descriptor":
        """Read a descriptor's JSON object. Raises `KeyError` or `TypeError` if it is none."""
        return cls(
            media_type=document["mediaType"],
            digest=Digest.parse(document["digest"]),
            size=int(document["size"]),
            annotations=dict(document.get("annotations") or {}),
            platform=document.get("platform"),
        )


@dataclass(frozen=True, slots=True)
class Image:
    """
    An image that the store holds.

    Attributes:
        manifest: Its manifest's descriptor.
        config: Its configuration, parsed (image-spec, config.md).
        layers: Its layers, the lowest first, with their diff ids.
        config_digest: The configuration's digest.
    """

    manifest: Descriptor
    config: Mapping[str, Any]
    config_digest: Digest
    layers: tuple[tuple[Descriptor, Digest], ...]


def encode(document: Mapping[str, Any]) -> bytes:
    """JSON for a manifest or configuration: sorted keys, no spaces, so that the same content has the same digest."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
