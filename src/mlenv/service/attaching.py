"""Evidence in the site's own repositories: attached to what is built, and taken along when a version is shared."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
from mlenv.core.evidence import Artifact, EvidenceKind
from mlenv.core.image import Descriptor
from mlenv.core.image_name import repository_of
from mlenv.core.manifests import read_manifest
from mlenv.core.records import BuildRecord, BuildStatus
from mlenv.core.redact import redact
from mlenv.core.reference import EnvironmentName
from mlenv.core.repositories import RepositoryName, StoredManifest
from mlenv.errors import MlenvError
from mlenv.service.builds import LOG_GRACE
from mlenv.service.evidence import ALWAYS_ATTACHED, Attached, Evidence, maker_of, push_evidence

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs
    from mlenv.service.interface import Clock, Registry
    from mlenv.service.repositories import Repositories

#: The most attachments of one image that are looked at.
_MOST: Final = 1000

_log = logging.getLogger(__name__)


class _Own:
    """An environment's repository of this site, as evidence is pushed to it."""

    def __init__(self, repositories: "Repositories", name: EnvironmentName) -> None:
        self._repositories, self._name = repositories, RepositoryName(repository_of(name))

    def stored(self, image: Digest) -> list[StoredManifest]:
        """What is attached to an image."""
        return self._repositories.referrers(self._name, image, None, limit=_MOST)

    def referrers(self, digest: Digest, artifact_type: str | None = None) -> list[Descriptor]:
        """The same, as descriptors."""
        return [Descriptor(each.media_type, each.digest, each.size) for each in self.stored(digest)]

    def push_blob(self, descriptor: Descriptor, content: bytes | Path) -> None:
        """Let the repository have a blob. One that is a file is in the store already."""
        if isinstance(content, bytes):
            self._repositories.put_blob(self._name, content)
        else:
            self._repositories.add_blob(self._name, descriptor.digest)

    def push_manifest(self, data: bytes, media_type: str) -> None:
        """Let the repository have a manifest."""
        self._repositories.put_manifest(self._name, data, media_type)

    def take(self, manifest: StoredManifest, source: "_Own") -> None:
        """Let the repository have a manifest of another one, with all that it names."""
        _, data = source._repositories.manifest(source._name, manifest.digest)
        for each in read_manifest(data, manifest.media_type).blobs:
            self._repositories.add_blob(self._name, each.digest)
        self.push_manifest(data, manifest.media_type)


class BuiltEvidence(Evidence):
    """The evidence of a namespace of the site."""

    def __init__(
        self,
        registry: "Registry",
        blobs: "Blobs",
        repositories: "Callable[[], Repositories]",
        *,
        builder: str,
        clock: "Clock",
    ) -> None:
        super().__init__(registry, blobs, builder=builder)
        self._repositories, self._clock = repositories, clock

    def attach(self, build: BuildRecord) -> list[Attached]:
        """
        Attach what is known of a build's image to it, in its environment's repository. Done again, nothing changes.

        Raises:
            EnvironmentNotFound, VersionNotFound, NotFound, InvalidInput: What the build was made from is gone.
        """
        if build.status is not BuildStatus.SUCCEEDED or build.image is None:
            return []
        version = self._registry.version(build.name, build.version)
        evidence = self.of(version, build.platform, load_image(build.image, self._blobs))
        return push_evidence(_Own(self._repositories(), build.name), build.image, evidence)

    def complete(self, build: BuildRecord) -> None:
        """
        Attach what is missing, if something is: whoever should have done it may have died, or met a full disk.

        What fails here fails nothing: it is tried again when the build is asked for again.
        """
        try:
            if self._is_incomplete(build):
                self.attach(build)
        except (MlenvError, OSError) as error:
            _log.warning("the evidence of build %s is not attached: %s", build.id, redact(str(error)))

    def _is_incomplete(self, build: BuildRecord) -> bool:
        if build.image is None:
            return False
        stored = _Own(self._repositories(), build.name).stored(build.image)
        attached = {Artifact(each.artifact_type or "", None, (), each.annotations).kind for each in stored}
        if attached >= {*ALWAYS_ATTACHED, EvidenceKind.LOG}:
            return False
        made = maker_of(self._registry.builds(build.name, build.version), build.image)
        if made is not None and made.log is not None:
            return True
        if made is not None and made.attempts and made.ended_at and self._clock() - made.ended_at <= LOG_GRACE:
            # NOTE: its worker is about to close the log, which the provenance names, and to attach both.
            return False
        return not attached >= {*ALWAYS_ATTACHED}


def share_evidence(
    source: "Repositories", name: EnvironmentName, target: "Repositories", shared: EnvironmentName, image: Digest
) -> None:
    """Let an image's evidence, and what else is attached to it, come along to another namespace."""
    own, other = _Own(target, shared), _Own(source, name)
    there = {each.digest for each in own.stored(image)}
    for each in other.stored(image):
        if each.digest not in there:
            own.take(each, other)
