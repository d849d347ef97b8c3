"""OCI images as values: descriptors, configurations and manifests (image-spec 1.1), composed without touching a byte."""

import json
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from mlenv.core.digest import Digest

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
#: The annotation of which a docker whose images containerd keeps takes an image's name, in full (containerd, `images/`).
CONTAINERD_NAME: Final = "io.containerd.image.name"


class Descriptor(Struct, frozen=True):
    """
    What points at a blob (image-spec, descriptor.md): media type, digest, and size in bytes.

    Attributes:
        artifact_type: What a manifest is, where a list of referrers says so; None elsewhere.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] | None = None
    artifact_type: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The descriptor's JSON object."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform:
            document["platform"] = dict(self.platform)
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Descriptor":
        """Read a descriptor's JSON object. Raises `KeyError`, `TypeError` or `InvalidDigest` if it is none."""
        media_type, size, artifact_type = document["mediaType"], document["size"], document.get("artifactType")
        annotations, platform = document.get("annotations") or {}, document.get("platform")
        if type(size) is not int or size < 0 or not isinstance(media_type, str):
            raise TypeError(f"size {size!r} and media type {media_type!r}")
        if not isinstance(annotations, dict) or not isinstance(platform or {}, dict):
            raise TypeError("annotations or platform are no objects")
        if not isinstance(artifact_type, str | None):
            raise TypeError("the artifact type is no text")
        return cls(media_type, Digest.parse(document["digest"]), size, dict(annotations), platform, artifact_type)


class Image(Struct, frozen=True):
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
