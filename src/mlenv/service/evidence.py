"""What is known of an image, as documents that are attached to it: its lock, its spec, its build's log, its provenance."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.evidence import EMPTY, EvidenceKind, artifact_manifest, empty_descriptor, spec_document
from mlenv.core.image import MANIFEST_TYPE, Descriptor, Image
from mlenv.core.layer import Compression
from mlenv.core.lock import Lock
from mlenv.core.platform import Platform
from mlenv.core.provenance import PREDICATE_TYPE, BuildFacts, provenance
from mlenv.core.records import BuildRecord, BuildStatus
from mlenv.service.lock_files import LockNotMade

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs
    from mlenv.service.interface import Registry

#: What every image has attached that mlenv built or pushed. Some have more: a log, if one was kept.
ALWAYS_ATTACHED: Final = (EvidenceKind.LOCK, EvidenceKind.SPEC, EvidenceKind.PROVENANCE)
_BASE: Final = "org.opencontainers.image.base.digest"


class Attachment(Struct, frozen=True):
    """
    One document about an image, ready to be attached to it.

    Attributes:
        kind: What it is.
        manifest: The artifact's manifest, which has the image as its subject.
        content: The document's descriptor.
        data: The document, or a file with it.
    """

    kind: EvidenceKind
    manifest: bytes
    content: Descriptor
    data: bytes | Path

    @property
    def descriptor(self) -> Descriptor:
        """What points at the artifact."""
        return Descriptor(MANIFEST_TYPE, Digest.of(self.manifest), len(self.manifest))


class Repository(Protocol):
    """Where images are, and what is said of them. `mlenv.distribution.client.Repository` is one."""

    def referrers(self, digest: Digest, artifact_type: str | None = None) -> list[Descriptor]:
        """What is attached to a manifest."""

    def push_blob(self, descriptor: Descriptor, content: bytes | Path) -> object:
        """Have a blob there."""

    def push_manifest(self, data: bytes, media_type: str) -> object:
        """Have a manifest there, by its digest, and listed by its subject."""


class Attached(Struct, frozen=True):
    """A document about an image that is in a repository: its manifest, and whether it was sent now."""

    kind: EvidenceKind
    manifest: Digest
    size: int
    sent: bool


class Evidence:
    """What the store knows of its images. The same image and build give the same bytes, whenever it is asked."""

    def __init__(self, registry: "Registry", blobs: "Blobs", *, builder: str) -> None:
        """
        Args:
            builder: mlenv's version.
        """
        self._registry, self._blobs, self._builder = registry, blobs, builder

    def of(self, version: EnvironmentVersion, platform: Platform, image: Image) -> tuple[Attachment, ...]:
        """
        The evidence of a version's image. A log is among it if one was kept.

        While the image is being built, or where that is not known yet, there is no provenance: it would be another one
        when the build has ended.

        Raises:
            LockNotMade: The version has no lock for the platform, so the image is not its own.
            NotFound, DigestMismatch: The lock's bytes are lost or damaged.
        """
        digest = self._registry.lock_of(version.name, version.version, platform)
        if digest is None:
            raise LockNotMade(version, platform)
        text = self._blobs.read(digest)
        lock = Lock.from_pylock(text.decode())
        found = [
            _attachment(EvidenceKind.LOCK, image.manifest, text),
            _attachment(EvidenceKind.SPEC, image.manifest, spec_document(version.spec)),
        ]
        builds = self._registry.builds(version.name, version.version)
        record = maker_of(builds, image.manifest.digest)
        if record is None and any(not each.status.ended and each.platform == platform for each in builds):
            return tuple(found)
        base, compression = _base_of(image, lock), _compression(image, lock)
        facts = BuildFacts(version.spec, lock, base, compression, self._builder, record)
        statement = provenance([image.manifest], facts)
        found.append(_attachment(EvidenceKind.PROVENANCE, image.manifest, statement, record))
        if record is not None and record.log is not None and self._blobs.has(record.log):
            found.append(self._log(image.manifest, record.log, record))
        return tuple(found)

    def _log(self, image: Descriptor, log: Digest, record: BuildRecord) -> Attachment:
        path = self._blobs.path(log)
        size = path.stat().st_size
        kind = EvidenceKind.LOG
        manifest = artifact_manifest(kind, image, log, size, created=record.ended_at)
        return Attachment(kind, manifest, Descriptor(kind.media_type, log, size), path)


def push_evidence(repository: Repository, image: Digest, evidence: Sequence[Attachment]) -> list[Attached]:
    """
    Attach documents to an image in a repository that has it, or will have it.

    What is attached already is not sent again.

    Raises:
        As the repository does.
    """
    there = {each.digest for each in repository.referrers(image)}
    done = []
    for each in evidence:
        new = each.descriptor.digest not in there
        if new:
            repository.push_blob(empty_descriptor(), EMPTY)
            repository.push_blob(each.content, each.data)
            repository.push_manifest(each.manifest, MANIFEST_TYPE)
        done.append(Attached(each.kind, each.descriptor.digest, each.content.size, new))
    return done


def maker_of(builds: Sequence[BuildRecord], image: Digest) -> BuildRecord | None:
    """
    The build that made an image: of those that ended with it, the first that did something.

    Others found it there. Records stay, so this is the same one whenever it is asked.
    """
    made = [each for each in builds if each.status is BuildStatus.SUCCEEDED and each.image == image]
    return min(made, key=lambda each: (not each.steps, each.started_at, each.id), default=None)


def _attachment(kind: EvidenceKind, image: Descriptor, data: bytes, record: BuildRecord | None = None) -> Attachment:
    content = Descriptor(kind.media_type, Digest.of(data), len(data))
    created = record.ended_at if record is not None else None
    predicate = PREDICATE_TYPE if kind is EvidenceKind.PROVENANCE else None
    manifest = artifact_manifest(kind, image, content.digest, content.size, created=created, predicate=predicate)
    return Attachment(kind, manifest, content, data)


def _base_of(image: Image, lock: Lock) -> Digest | None:
    """The base that the image stands on, as its labels say; or the one that the lock is for."""
    labels = (image.config.get("config") or {}).get("Labels") or {}
    return Digest.parse(labels[_BASE]) if _BASE in labels else lock.base


def _compression(image: Image, lock: Lock) -> Compression | None:
    """Of the layers above the base's; None if there are none."""
    if not lock.count or not image.layers:
        return None
    media_type = image.layers[-1][0].media_type
    return next((each for each in Compression if each.media_type == media_type), None)
