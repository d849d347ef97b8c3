"""
Evidence about an image, as OCI artifacts that point at it (image-spec 1.1, manifest.md, "Guidelines for Artifact Usage").

An artifact is a manifest with an `artifactType`, an empty configuration, one layer that is the document itself, and the
image as its `subject`. A registry lists them by the image's digest (distribution-spec 1.1, "Listing Referrers"). The
same document about the same image has the same digest, whoever writes it down.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.image import INDEX_TYPE, MANIFEST_TYPE, Descriptor, encode
from mlenv.core.spec import CondaFile, Requirement, Spec, canonical_json
from mlenv.errors import InvalidInput

#: The configuration of an artifact that needs none (image-spec, manifest.md, "Guidance for an Empty Descriptor").
EMPTY: Final = b"{}"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
#: What in-toto calls a statement, whoever writes it; BuildKit and others attach theirs under the same type.
IN_TOTO_TYPE: Final = "application/vnd.in-toto+json"
#: The annotation that says of an in-toto statement which predicate it has, as BuildKit writes it.
PREDICATE_TYPE: Final = "in-toto.io/predicate-type"
TITLE: Final = "org.opencontainers.image.title"
CREATED: Final = "org.opencontainers.image.created"
#: The largest manifest of an artifact that is read (distribution-spec, "Pushing Manifests"), in bytes.
MANIFEST_LIMIT: Final = 4 << 20
#: The most layers of an artifact that are looked at.
_LAYERS: Final = 1000
_PLATFORM: Final = ("os", "architecture")
_DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_SPEC_FORMAT: Final = "dev.mlenv.spec.v1"
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


class InvalidEvidence(InvalidInput):
    """A manifest that should be evidence about an image, and is not."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what} {problem}")
        self.what, self.problem = what, problem


class EvidenceKind(StrEnum):
    """What mlenv attaches to an image."""

    LOCK = "lock"
    SPEC = "spec"
    LOG = "log"
    PROVENANCE = "provenance"
    PACKAGES = "packages"

    @property
    def artifact_type(self) -> str:
        """The `artifactType`, by which registries filter."""
        return _KINDS[self][0]

    @property
    def media_type(self) -> str:
        """The document's own media type."""
        return _KINDS[self][1]

    @property
    def filename(self) -> str:
        """What a file with the document is called."""
        return _KINDS[self][2]

    @property
    def limit(self) -> int:
        """The largest document of its kind that is read, in bytes."""
        return _KINDS[self][3]


_KINDS: Final = {
    EvidenceKind.LOCK: ("application/vnd.mlenv.lock.v1", "application/toml", "pylock.toml", 16 << 20),
    EvidenceKind.SPEC: ("application/vnd.mlenv.spec.v1", "application/json", "spec.json", 32 << 20),
    EvidenceKind.LOG: ("application/vnd.mlenv.log.v1", "text/plain", "build.log", 1 << 30),
    EvidenceKind.PROVENANCE: (IN_TOTO_TYPE, IN_TOTO_TYPE, "provenance.json", 64 << 20),
    EvidenceKind.PACKAGES: ("application/vnd.mlenv.debian-packages.v1", "application/json", "packages.json", 16 << 20),
}


class Artifact(Struct, frozen=True):
    """
    An artifact's manifest, read.

    Attributes:
        type: Its `artifactType`, or else the media type of its configuration; empty if it has neither.
        subject: What it is about, or None.
        layers: Its documents.
        annotations: Free text by name.
        config: Its configuration; an index has none.
    """

    type: str
    subject: Descriptor | None
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    config: Descriptor | None = None

    @property
    def kind(self) -> EvidenceKind | None:
        """Which of our own kinds it is; None for what others attached."""
        found = next((each for each in EvidenceKind if each.artifact_type == self.type), None)
        if found is EvidenceKind.PROVENANCE and not self.predicate.startswith("https://slsa.dev/provenance/"):
            return None
        return found

    @property
    def predicate(self) -> str:
        """The type of an in-toto statement's predicate, as its annotations have it; or empty."""
        layers = (each.annotations for each in self.layers)
        return next((each[PREDICATE_TYPE] for each in (self.annotations, *layers) if PREDICATE_TYPE in each), "")


def empty_descriptor() -> Descriptor:
    """What points at the configuration that says nothing."""
    return Descriptor(EMPTY_TYPE, Digest.of(EMPTY), len(EMPTY))


def artifact_manifest(
    kind: EvidenceKind,
    subject: Descriptor,
    content: Digest,
    size: int,
    *,
    created: datetime | None = None,
    predicate: str | None = None,
) -> bytes:
    """
    The manifest that attaches a document to an image: the same arguments give the same bytes.

    Args:
        subject: The image's manifest.
        content: The document, of `size` bytes.
        created: When the image was made, if a record says so (UTC).
        predicate: The type of an in-toto statement's predicate.
    """
    extra = {PREDICATE_TYPE: predicate} if predicate else {}
    layer = Descriptor(kind.media_type, content, size, {TITLE: kind.filename, **extra})
    # NOTE: what else a descriptor has (annotations, a platform) depends on where it was found, not on the image.
    about = Descriptor(subject.media_type, subject.digest, subject.size)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": kind.artifact_type,
        "config": empty_descriptor().to_dict(),
        "layers": [layer.to_dict()],
        "subject": about.to_dict(),
    }
    annotations = ({CREATED: timestamp(created)} if created else {}) | extra
    if annotations:
        document["annotations"] = annotations
    return encode(document)


def timestamp(time: datetime) -> str:
    """`2026-11-22T18:05:00Z`: RFC 3339 in UTC, to the second, as both OCI and in-toto take it."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def parse_artifact(data: bytes, what: str) -> Artifact:
    """
    Read the manifest of an artifact, mlenv's or another's. An index can be one, too; it has no layers.

    Args:
        data: At most 4 MiB.
        what: What it is called in messages.

    Raises:
        InvalidEvidence: It is not an image manifest, or none of these.
    """
    if len(data) > MANIFEST_LIMIT:
        raise InvalidEvidence(what, f"is {len(data)} bytes large, at most {MANIFEST_LIMIT} are read")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidEvidence(what, "is not JSON") from error
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise InvalidEvidence(what, "is not an image manifest")
    media_type = document.get("mediaType", MANIFEST_TYPE)
    if media_type not in {MANIFEST_TYPE, INDEX_TYPE, _DOCKER_MANIFEST}:
        raise InvalidEvidence(what, "is not an image manifest")
    type_ = document.get("artifactType") or ""
    config: Descriptor | None = None
    layers: Any = []
    if media_type != INDEX_TYPE:
        config = _descriptor(document.get("config"), f"{what}: config")
        type_ = type_ or ("" if config.media_type == EMPTY_TYPE else config.media_type)
        layers = document.get("layers")
        if not isinstance(layers, list) or len(layers) > _LAYERS:
            raise InvalidEvidence(what, f"has no list of at most {_LAYERS} layers")
    subject = document.get("subject")
    return Artifact(
        _media_type(type_, what) if type_ else "",
        _descriptor(subject, f"{what}: subject") if subject is not None else None,
        tuple(_descriptor(each, f"{what}: layers[{number}]") for number, each in enumerate(layers)),
        _annotations(document.get("annotations"), what),
        config,
    )


def parse_index(data: bytes, what: str) -> tuple[Descriptor, ...]:
    """The images of an index (image-spec, image-index.md), each with its platform. Raises `InvalidEvidence`."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidEvidence(what, "is not JSON") from error
    entries = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _LAYERS:
        raise InvalidEvidence(what, f"has no list of at most {_LAYERS} manifests")
    found = []
    for number, each in enumerate(entries):
        descriptor = _descriptor(each, f"{what}: manifests[{number}]")
        platform = each.get("platform") or {}
        if not isinstance(platform, dict) or not all(isinstance(platform.get(key, ""), str) for key in _PLATFORM):
            raise InvalidEvidence(f"{what}: manifests[{number}]", "has a platform that is none")
        found.append(replace(descriptor, platform=platform or None))
    return tuple(found)


def _media_type(text: object, what: str) -> str:
    """Check a media type (RFC 6838, section 4.2). Raises `InvalidEvidence`."""
    if not isinstance(text, str) or not _MEDIA_TYPE.fullmatch(text):
        raise InvalidEvidence(what, f"has a media type {str(text)[:64]!r}, which is none")
    return text


def _descriptor(document: object, what: str) -> Descriptor:
    if not isinstance(document, dict):
        raise InvalidEvidence(what, "is not a descriptor")
    digest, size = document.get("digest"), document.get("size")
    if not isinstance(digest, str) or type(size) is not int or size < 0:
        raise InvalidEvidence(what, "has no digest and size")
    try:
        parsed = Digest.parse(digest)
    except InvalidInput as error:
        raise InvalidEvidence(what, f"has a digest {digest[:80]!r}, expected sha256 or sha512") from error
    media_type = _media_type(document.get("mediaType"), what)
    return Descriptor(media_type, parsed, size, _annotations(document.get("annotations"), what))


def _annotations(document: object, what: str) -> dict[str, str]:
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(each, str) for each in document.values()):
        raise InvalidEvidence(what, "has annotations that are not all text")
    return dict(document)


# The spec as a document.


def spec_document(spec: Spec) -> bytes:
    """
    A spec as JSON that can be registered again: it gives a version with the same content.

    Where its lines stood in the user's own files is left out. It is not part of the content, and nobody else's concern.
    """
    return (canonical_json({"format": _SPEC_FORMAT, "spec": without_origins(spec).to_dict()}) + "\n").encode()


def is_spec_document(document: object) -> bool:
    """Whether parsed JSON is what `spec_document` writes; what the spec in it says must still be checked."""
    return (
        isinstance(document, dict)
        and document.keys() == {"format", "spec"}
        and document["format"] == _SPEC_FORMAT
        and isinstance(document["spec"], dict)
    )


def without_origins(spec: Spec) -> Spec:
    """The same spec, without where its lines stood in the user's own files."""

    def bare(lines: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
        return tuple(replace(each, origin=None) for each in lines)

    conda: CondaFile | None = None
    if spec.conda is not None:
        conda = replace(
            spec.conda,
            packages=bare(spec.conda.packages),
            needs_conda=bare(spec.conda.needs_conda),
            pip=bare(spec.conda.pip),
        )
    requirements = None if spec.requirements is None else bare(spec.requirements)
    return replace(spec, conda=conda, requirements=requirements, constraints=bare(spec.constraints))
