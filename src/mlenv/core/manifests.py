"""Manifests that somebody pushes: what they are, and what they name (image-spec 1.1, manifest.md and image-index.md)."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct, field

from mlenv.core.digest import Digest, InvalidDigest
from mlenv.core.image import INDEX_TYPE, MANIFEST_TYPE
from mlenv.core.repositories import InvalidManifest, ManifestTooLarge

#: The largest manifest, in bytes: what registries agree on (distribution-spec, "Pushing Manifests").
MANIFEST_LIMIT: Final = 4 << 20
_DOCKER: Final = "application/vnd.docker.distribution.manifest"
_IMAGES: Final = frozenset({MANIFEST_TYPE, f"{_DOCKER}.v2+json"})
_INDEXES: Final = frozenset({INDEX_TYPE, f"{_DOCKER}.list.v2+json"})
#: In the media types of layers that are kept elsewhere: they may not be there (image-spec, layer.md).
_KEPT_ELSEWHERE: Final = (".nondistributable.", ".foreign.")
#: The largest size that a descriptor may tell: what databases keep.
_LARGEST: Final = (1 << 63) - 1


class Part(Struct, frozen=True):
    """
    What a manifest names: a blob, or another manifest.

    Attributes:
        size: In bytes, as it says.
        optional: Whether it may be missing.
    """

    digest: Digest
    size: int
    optional: bool = False


class Manifest(Struct, frozen=True):
    """
    A manifest that was read.

    Attributes:
        media_type: One of OCI's or Docker's.
        blobs: Its configuration and layers.
        manifests: An index's entries.
        subject, artifact_type, annotations: As `StoredManifest` has them.
    """

    media_type: str
    blobs: tuple[Part, ...]
    manifests: tuple[Part, ...]
    subject: Digest | None
    artifact_type: str | None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that it names, but for its subject."""
        return self.blobs + self.manifests


def read_manifest(data: bytes, media_type: str | None = None) -> Manifest:
    """
    Read a manifest: of an image or an artifact, or an index.

    Args:
        media_type: What it was said to be; None if nothing was said.

    Raises:
        ManifestTooLarge: It is above the limit.
        InvalidManifest: It is none, or not what was said.
    """
    if len(data) > MANIFEST_LIMIT:
        raise ManifestTooLarge(MANIFEST_LIMIT)
    document = _object(data)
    if (version := document.get("schemaVersion")) != 2 or isinstance(version, bool):
        raise InvalidManifest(f"has schemaVersion {version!r}, expected 2")
    kind = _kind(document, media_type)
    annotations = _annotations(document)
    subject = _descriptor(document["subject"], "subject")[1].digest if document.get("subject") is not None else None
    artifact_type = document.get("artifactType") or None
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise InvalidManifest("has an artifactType that is no text")
    if kind in _INDEXES:
        entries = tuple(part for _, part in _descriptors(document, "manifests"))
        return Manifest(kind, (), entries, subject, artifact_type, annotations)
    config_type, config = _descriptor(document.get("config"), "config")
    layers = (_layer(name, part) for name, part in _descriptors(document, "layers"))
    return Manifest(kind, (config, *layers), (), subject, artifact_type or config_type, annotations)


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest("is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidManifest("is not a JSON object")
    return document


def _kind(document: Mapping[str, Any], said: str | None) -> str:
    inside = document.get("mediaType")
    said = said.partition(";")[0].strip().lower() if said else None
    if inside is not None and said is not None and inside != said:
        raise InvalidManifest(f"says that it is {inside!r}, and was sent as {said!r}")
    kind = inside or said or (INDEX_TYPE if "manifests" in document else MANIFEST_TYPE)
    if kind not in _IMAGES | _INDEXES:
        raise InvalidManifest(f"is of the type {kind!r}, which is not kept here")
    # An index must not be taken for an image by whoever believes the content, nor the other way about.
    other = ("config", "layers") if kind in _INDEXES else ("manifests",)
    if found := [name for name in other if name in document]:
        raise InvalidManifest(f"is of the type {kind!r}, and has {found[0]!r}")
    return str(kind)


def _annotations(document: Mapping[str, Any]) -> Mapping[str, str]:
    found = document.get("annotations") or {}
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise InvalidManifest("has annotations that are no texts")
    return found


def _descriptors(document: Mapping[str, Any], name: str) -> Iterator[tuple[str, Part]]:
    found = document.get(name)
    if found is None:
        found = []
    if not isinstance(found, list):
        raise InvalidManifest(f"has {name!r} that is no list")
    for number, each in enumerate(found):
        yield _descriptor(each, f"{name}[{number}]")


def _descriptor(document: object, where: str) -> tuple[str, Part]:
    """A descriptor's media type, and what it names (image-spec, descriptor.md)."""
    if not isinstance(document, dict):
        raise InvalidManifest(f"has no descriptor in {where!r}")
    media_type, digest, size = (document.get(name) for name in ("mediaType", "digest", "size"))
    if not isinstance(media_type, str) or not media_type:
        raise InvalidManifest(f"has no media type in '{where}.mediaType'")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST:
        raise InvalidManifest(f"has no size in '{where}.size'")
    try:
        return media_type, Part(Digest.parse(digest if isinstance(digest, str) else ""), size)
    except InvalidDigest as error:
        raise InvalidManifest(f"has no digest in '{where}.digest'") from error


def _layer(media_type: str, part: Part) -> Part:
    return Part(part.digest, part.size, optional=any(each in media_type for each in _KEPT_ELSEWHERE))
