"""Evidence about an image, read from a registry: what is attached to it, checked before it is believed."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from mlenv.core.digest import Digest, DigestMismatch, InvalidDigest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.evidence import (
    CREATED,
    MANIFEST_LIMIT,
    Artifact,
    EvidenceKind,
    InvalidEvidence,
    parse_artifact,
    parse_index,
)
from mlenv.core.image import INDEX_TYPE, Descriptor, Image
from mlenv.core.platform import Platform
from mlenv.errors import NotFound
from mlenv.service.evidence import ALWAYS_ATTACHED, Attachment
from mlenv.threads import in_threads

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs
    from mlenv.core.reference import EnvironmentName
    from mlenv.distribution.client import Repository as OpenRepository

_INDEX_TYPES: Final = frozenset({INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json"})
_LOCK: Final = "dev.mlenv.lock"
#: The most attachments of one image that are looked at.
_MOST: Final = 1000
_AT_ONCE: Final = 4


class NoEvidence(NotFound):
    """Nothing of what was asked for is attached to the image."""


class Repository(Protocol):
    """Where images are, and what is said of them. `mlenv.distribution.client.Repository` is one."""

    def manifest(self, reference: str) -> tuple[Descriptor, bytes]:
        """A manifest by tag or digest, checked against that digest."""

    def referrers(self, digest: Digest, artifact_type: str | None = None) -> list[Descriptor]:
        """What the registry says is attached to a manifest."""

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob's bytes, checked against its digest and size."""


class Subject(Struct, frozen=True):
    """
    What evidence is about.

    Attributes:
        manifest: The image, or the index of several.
        lock: The lock that the image says it was made from, or None.
    """

    manifest: Descriptor
    lock: Digest | None = None

    @property
    def platform(self) -> str | None:
        """The platform that an index gives for the image; None if it is not in one."""
        found = self.manifest.platform
        return f"{found.get('os')}/{found.get('architecture')}" if found else None


class Found(Struct, frozen=True):
    """One attachment: what it is about, its manifest's descriptor, and what that says."""

    subject: Subject
    manifest: Descriptor
    artifact: Artifact

    @property
    def created(self) -> str:
        """When, as it says itself; empty if it does not."""
        return self.artifact.annotations.get(CREATED, "")


class RemoteEvidence:
    """What a server attached to its images: as `mlenv.service.evidence.Evidence` knows it of the store's own."""

    def __init__(self, open_: "Callable[[EnvironmentName], OpenRepository]", blobs: "Blobs") -> None:
        """
        Args:
            open_: Opens an environment's repository.
            blobs: Where documents are kept on this machine.
        """
        self._open, self._blobs = open_, blobs

    def of(self, version: EnvironmentVersion, platform: Platform, image: Image) -> tuple[Attachment, ...]:
        """The evidence of a version's image, to the byte as it is there. Raises as `list_evidence` and `fetch`."""
        with self._open(version.name) as repository:
            found = list_evidence(repository, str(image.manifest.digest))
            return tuple(self._fetched(repository, each) for each in found if each.artifact.kind is not None)

    def _fetched(self, repository: "Repository", found: Found) -> Attachment:
        kind = found.artifact.kind
        assert kind is not None
        documents = fetch(repository, found)
        (content,) = found.artifact.layers
        self._blobs.put(documents, digest=content.digest, size=content.size, what=kind.filename)
        _, manifest = repository.manifest(str(found.manifest.digest))
        return Attachment(kind, manifest, content, self._blobs.path(content.digest))


def list_evidence(
    repository: Repository, reference: str, *, platform: Platform | None = None, kind: EvidenceKind | None = None
) -> list[Found]:
    """
    What is attached to an image, by anybody; for an index, to it and to each image in it.

    Args:
        reference: A tag or a digest.
        platform: Only of the image for it.
        kind: Only of this kind.

    Raises:
        InvalidEvidence: Something that is listed is no artifact, or is about something else.
        NoEvidence: There is no image for the platform.
        And what the repository raises.
    """
    return evidence_about(repository, subjects_of(repository, reference, platform), kind)


def evidence_about(repository: Repository, subjects: Iterable[Subject], kind: EvidenceKind | None) -> list[Found]:
    """What is attached to images and indexes. Raises as `list_evidence`."""
    found = []
    for subject in subjects:
        listed = repository.referrers(subject.manifest.digest, kind.artifact_type if kind else None)
        unique = list({each.digest: each for each in listed}.values())
        if len(unique) > _MOST:
            what = f"the image {subject.manifest.digest}"
            raise InvalidEvidence(what, f"has {len(unique)} attachments, at most {_MOST} are read")

        def look(each: Descriptor, subject: Subject = subject) -> Found:
            return _read(repository, subject, each)

        found += in_threads(look, unique, workers=_AT_ONCE)
    found = [each for each in found if kind in (None, each.artifact.kind)]
    return sorted(
        found, key=lambda each: (each.subject.platform or "", _rank(each), each.created, each.manifest.digest)
    )


def fetch(repository: Repository, found: Found) -> Iterator[bytes]:
    """
    The document of one of our own kinds, as it comes. Its last piece is only given once all of it was right.

    Raises:
        InvalidEvidence: It is too large, or not one document.
        DigestMismatch: It is something else; or it is a lock, and not the one that the image was made from.
        And what the repository raises.
    """
    kind, what = found.artifact.kind, f"the evidence {found.manifest.digest}"
    if kind is None or len(found.artifact.layers) != 1:
        raise InvalidEvidence(what, f"has {len(found.artifact.layers)} documents, expected one of a kind that is known")
    (content,) = found.artifact.layers
    if content.size > kind.limit:
        raise InvalidEvidence(what, f"has a {kind} of {content.size} bytes, at most {kind.limit} are read")
    if kind is EvidenceKind.LOCK and found.subject.lock not in (None, content.digest):
        image = found.subject.manifest.digest
        raise DigestMismatch(f"the lock of {image}", expected=str(found.subject.lock), got=str(content.digest))
    last = b""
    for chunk in repository.blob(content):
        yield last
        last = chunk
    yield last


def missing_evidence(subjects: Iterable[Subject], found: Sequence[Found]) -> dict[Digest, list[EvidenceKind]]:
    """What images lack that are attached to by whoever builds them, or pushes them, with mlenv: by their digests."""
    missing = {}
    for subject in subjects:
        digest = subject.manifest.digest
        there = {each.artifact.kind for each in found if each.subject.manifest.digest == digest}
        lacks = [each for each in ALWAYS_ATTACHED if each not in there]
        if lacks and subject.manifest.media_type not in _INDEX_TYPES:
            missing[digest] = lacks
    return missing


def subjects_of(repository: Repository, reference: str, platform: Platform | None) -> Iterator[Subject]:
    """An image; or an index with the images in it, or the one for a platform. Raises as `list_evidence`."""
    descriptor, data = repository.manifest(reference)
    what = f"the manifest {descriptor.digest}"
    if descriptor.media_type not in _INDEX_TYPES:
        image = parse_artifact(data, what)
        if platform is not None and (got := _platform_of(repository, image, what)) != str(platform):
            raise NoEvidence(f"{reference} is no image for {platform}, but for {got}")
        yield Subject(descriptor, _lock_of(image))
        return
    images = [each for each in parse_index(data, what) if (each.platform or {}).get("architecture") != "unknown"]
    if platform is None:
        yield Subject(descriptor)
    else:
        images = [each for each in images if Subject(each).platform == str(platform)]
        if not images:
            raise NoEvidence(f"{reference} has no image for {platform}")
    for each in images:
        _, manifest = repository.manifest(str(each.digest))
        yield Subject(each, _lock_of(parse_artifact(manifest, f"the manifest {each.digest}")))


def _read(repository: Repository, subject: Subject, listed: Descriptor) -> Found:
    """One attachment, which must be about the image: the list is only what the registry says."""
    descriptor, data = repository.manifest(str(listed.digest))
    artifact = parse_artifact(data, f"the evidence {listed.digest}")
    if artifact.subject is None or artifact.subject.digest != subject.manifest.digest:
        about = artifact.subject.digest if artifact.subject else "nothing"
        raise InvalidEvidence(f"the evidence {listed.digest}", f"is about {about}, not {subject.manifest.digest}")
    return Found(subject, descriptor, artifact)


def _lock_of(image: Artifact) -> Digest | None:
    """The lock that an image of ours says it was made from."""
    try:
        return Digest.parse(image.annotations[_LOCK])
    except (KeyError, InvalidDigest):
        return None


def _platform_of(repository: Repository, image: Artifact, what: str) -> str:
    """What an image's configuration says that it is for."""
    config = image.config
    if config is None or config.size > MANIFEST_LIMIT:
        raise InvalidEvidence(what, f"has no configuration of at most {MANIFEST_LIMIT} bytes")
    try:
        document = json.loads(b"".join(repository.blob(config)))
        return f"{document['os']}/{document['architecture']}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidEvidence(what, "has a configuration that names no platform") from error


def _rank(found: Found) -> int:
    """Our own kinds first, in their order."""
    return len(EvidenceKind) if found.artifact.kind is None else list(EvidenceKind).index(found.artifact.kind)
