"""Images into registries: what is not there yet is mounted, sent, or copied from the registry where a base came from."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.image import CONFIG_TYPE, INDEX_TYPE, Descriptor, Image, encode
from mlenv.core.layer import Compression
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress, Silent, Step
from mlenv.errors import NotFound
from mlenv.service.bases import LayersNotHere, base_of
from mlenv.threads import in_threads

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs
    from mlenv.distribution.client import Repository
    from mlenv.distribution.names import RemoteName
    from mlenv.distribution.registries import KnownBlobs, Registries
    from mlenv.service.bases import Bases
    from mlenv.service.building import BuildResult
    from mlenv.service.evidence import Attachment


_CHUNK: Final = 1 << 20


class Builder(Protocol):
    """Gives images. `mlenv.service.building.Building` does."""

    def build(
        self, version: EnvironmentVersion, platform: Platform, *, compression: Compression, progress: Progress
    ) -> "BuildResult":
        """The version's image for a platform: the one that was built, or else one built now."""

    def find(self, version: EnvironmentVersion, platform: Platform, compression: Compression) -> Image | None:
        """The version's image, if it was built."""


class EvidenceOf(Protocol):
    """Knows about images. `mlenv.service.evidence.Evidence` does."""

    def of(self, version: EnvironmentVersion, platform: Platform, image: Image) -> "tuple[Attachment, ...]":
        """Documents about a version's image."""


class PushedBlob(Struct, frozen=True):
    """
    One part of what was pushed.

    Attributes:
        kind: `base`, `layer`, `config`, `manifest`, `index` or `evidence`.
        size: In bytes.
        became: `sent`, `mounted` or `skipped`.
    """

    kind: str
    digest: Digest
    size: int
    became: str


class Pushed(Struct, frozen=True):
    """
    What a push came to.

    Attributes:
        name: Where it is now, with its tag.
        digest: What the tag points at.
        blobs: Its parts, each once, with what became of them.
    """

    name: "RemoteName"
    digest: Digest
    blobs: tuple[PushedBlob, ...]

    def sum(self, became: str) -> int:
        """Bytes of the parts of which that became."""
        return sum(each.size for each in self.blobs if each.became == became)


class _Part(Struct, frozen=True):
    """A blob to be pushed, and the base that it belongs to, if it is one of a base's."""

    kind: str
    descriptor: Descriptor
    base: Digest | None


class Pushing:
    """Pushes images of environments, and base images."""

    def __init__(
        self,
        blobs: "Blobs",
        bases: "Bases",
        builder: Builder,
        registries: "Registries",
        evidence: EvidenceOf | None = None,
    ) -> None:
        """
        Args:
            evidence: What is attached to images; None for nothing.
        """
        self._blobs, self._bases, self._builder = blobs, bases, builder
        self._registries, self._evidence = registries, evidence

    def push(
        self,
        version: EnvironmentVersion,
        platforms: Sequence[Platform],
        target: "RemoteName",
        *,
        progress: Progress,
    ) -> Pushed:
        """
        Push a version's images, with gzip layers, which every engine takes; they are built if they are not there.

        Args:
            platforms: One for an image, several for an index of them.
            target: Where; without a tag, that of the version.

        Raises:
            AccessRefused, RegistryUnreachable, UnexpectedAnswer: The registry does not take it.
            And what `Building.build` raises.
        """
        images = [
            self._builder.build(version, each, compression=Compression.GZIP, progress=progress).image
            for each in platforms
        ]
        attached = [
            list(self._evidence.of(version, platform, image)) if self._evidence is not None else []
            for platform, image in zip(platforms, images, strict=True)
        ]
        return self._push(images, platforms, attached, target, progress)

    def push_built(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        platforms: Sequence[Platform],
        prefix: str,
        *,
        progress: Progress,
    ) -> Pushed:
        """
        Push what was built of a version, where its namespace's settings say.

        Args:
            platform: What was built just now.
            platforms: What the version is for; those that are built go into one index.
            prefix: `REGISTRY/PREFIX`.

        Raises:
            As `push`.
        """
        from mlenv.core.image_name import repository_of, tag_of
        from mlenv.distribution.names import RemoteName

        there = [
            each
            for each in dict.fromkeys((*platforms, platform))
            if each == platform or self._builder.find(version, each, Compression.GZIP) is not None
        ]
        target = RemoteName.parse(f"{prefix}/{repository_of(version.name)}").with_tag(tag_of(version.version))
        return self.push(version, there, target, progress=progress)

    def push_evidence_built(self, version: EnvironmentVersion, platform: Platform, prefix: str) -> None:
        """
        Push what became known of an image after it was pushed by `push_built`: how its build ended, and its log.

        Raises:
            As `push`.
        """
        from mlenv.core.image_name import repository_of
        from mlenv.distribution.names import RemoteName

        image = self._builder.find(version, platform, Compression.GZIP)
        if image is None or self._evidence is None:
            return
        target = RemoteName.parse(f"{prefix}/{repository_of(version.name)}")
        with self._registries.open(target, progress=Silent(), write=True) as repository:
            list(_push_evidence(repository, image, self._evidence.of(version, platform, image)))

    def push_base(self, name: str, target: "RemoteName", *, progress: Progress) -> Pushed:
        """
        Push a base image, with the list of its Debian packages, if it has one, as evidence.

        Raises:
            BaseNotHere: It is not in the store.
            And as `push`.
        """
        from mlenv.service.base_evidence import package_list

        base = self._bases.need(name, pull=False, progress=progress)
        self._bases.complete(base.image, base.image.manifest.digest, progress=progress)
        evidence = package_list(base.image, self._blobs)
        found = [evidence] if evidence is not None else []
        return self._push([base.image], [base.facts.platform], [found], target, progress)

    def _push(
        self,
        images: Sequence[Image],
        platforms: Sequence[Platform],
        evidence: "Sequence[Sequence[Attachment]]",
        target: "RemoteName",
        progress: Progress,
    ) -> Pushed:
        parts = list({part.descriptor.digest: part for image in images for part in self._parts(image)}.values())
        known = self._registries.known(target.registry)
        total = sum(each.descriptor.size for each in parts)
        with ExitStack() as stack:
            repository = stack.enter_context(self._registries.open(target, progress=progress, write=True))
            with progress.step(f"Pushing to {target}", total=total, unit="bytes") as step:
                sources = _Sources(self._blobs, self._bases, self._registries, stack, progress)

                def push(part: _Part) -> PushedBlob:
                    return _push_part(part, repository, sources, known, step)

                def stop() -> None:
                    repository.stop()
                    sources.stop()

                done = in_threads(push, parts, workers=self._registries.settings.parallel, stop=stop)
                known.save()
                single = target.tag if len(images) == 1 else None
                done += [_push_manifest(repository, each.manifest, self._blobs, tag=single) for each in images]
                digest = images[0].manifest.digest
                if len(images) > 1:
                    done.append(_push_index(repository, images, platforms, target.tag))
                    digest = done[-1].digest
                for image, attachments in zip(images, evidence, strict=True):
                    done += _push_evidence(repository, image, attachments)
                sent = sum(each.size for each in done if each.became == "sent")
                step.note(f"{sent} bytes sent, of {sum(each.size for each in done)}")
        return Pushed(target, digest, tuple(done))

    def _parts(self, image: Image) -> Iterator[_Part]:
        base = base_of(image)
        below = self._layers_of(base)
        for layer, _ in image.layers:
            of_base = base if layer.digest in below else None
            yield _Part("base" if of_base is not None else "layer", layer, of_base)
        size = len(self._blobs.read(image.config_digest))
        yield _Part("config", Descriptor(CONFIG_TYPE, image.config_digest, size), None)

    def _layers_of(self, base: Digest | None) -> frozenset[Digest]:
        """A base's layers; none if it is not known any more."""
        if base is None:
            return frozenset()
        try:
            return frozenset(layer.digest for layer, _ in load_image(base, self._blobs).layers)
        except NotFound:
            return frozenset()


class _Sources:
    """Where the bytes of blobs are: in the store, or in the registry that a base came from."""

    def __init__(
        self, blobs: "Blobs", bases: "Bases", registries: "Registries", stack: ExitStack, progress: Progress
    ) -> None:
        self._blobs, self._bases, self._registries = blobs, bases, registries
        self._stack, self._progress = stack, progress
        self._open: dict[str, Repository] = {}

    def mountable(self, part: _Part, registry: str, known: "KnownBlobs") -> str | None:
        """A repository of the same registry that should have a blob."""
        origins = self._bases.origins(part.base) if part.base is not None else []
        here = [each.repository for each in origins if each.registry == registry]
        return here[0] if here else known.repository(part.descriptor.digest)

    def content(self, part: _Part, start: int) -> Iterator[bytes]:
        """The bytes from an offset on. Raises `LayersNotHere`."""
        try:
            path = self._blobs.path(part.descriptor.digest)
        except NotFound:
            origins = self._bases.origins(part.base) if part.base is not None else []
            if not origins:
                raise LayersNotHere([part.descriptor]) from None
            yield from self._repository(origins[0]).blob(part.descriptor, start=start)
            return
        with path.open("rb") as file:
            file.seek(start)
            while chunk := file.read(_CHUNK):
                yield chunk

    def stop(self) -> None:
        """Let what is read end soon."""
        for each in list(self._open.values()):
            each.stop()

    def _repository(self, name: "RemoteName") -> "Repository":
        key = f"{name.host}/{name.repository}"
        if key not in self._open:
            opened = self._registries.open(name, progress=self._progress)
            self._open.setdefault(key, opened)
            self._stack.callback(opened.close)
        return self._open[key]


def _push_part(part: _Part, repository: "Repository", sources: _Sources, known: "KnownBlobs", step: Step) -> PushedBlob:
    from mlenv.distribution.client import Sent

    descriptor = part.descriptor
    became = repository.push_blob(
        descriptor,
        lambda start: sources.content(part, start),
        mount_from=sources.mountable(part, repository.name.registry, known),
        advance=step.advance,
    )
    if became is not Sent.SENT:
        step.advance(descriptor.size)
    known.add(descriptor.digest, repository.name.repository)
    return PushedBlob(part.kind, descriptor.digest, descriptor.size, became.value)


def _push_manifest(repository: "Repository", manifest: Descriptor, blobs: "Blobs", *, tag: str | None) -> PushedBlob:
    return _put(repository, "manifest", blobs.read(manifest.digest), manifest, tag)


def _push_index(
    repository: "Repository", images: Sequence[Image], platforms: Sequence[Platform], tag: str | None
) -> PushedBlob:
    """An index (image-spec, image-index.md) of one image for each platform."""
    entries = [
        Descriptor(
            image.manifest.media_type,
            image.manifest.digest,
            image.manifest.size,
            platform={"os": platform.os, "architecture": platform.architecture},
        )
        for image, platform in zip(images, platforms, strict=True)
    ]
    data = encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [each.to_dict() for each in entries]})
    return _put(repository, "index", data, Descriptor(INDEX_TYPE, Digest.of(data), len(data)), tag)


def _put(repository: "Repository", kind: str, data: bytes, descriptor: Descriptor, tag: str | None) -> PushedBlob:
    """Push a manifest, unless it is there under that name."""
    there = repository.head(tag or str(descriptor.digest))
    if there is not None and there.digest == descriptor.digest:
        return PushedBlob(kind, descriptor.digest, descriptor.size, "skipped")
    repository.push_manifest(data, descriptor.media_type, tag=tag)
    return PushedBlob(kind, descriptor.digest, descriptor.size, "sent")


def _push_evidence(repository: "Repository", image: Image, evidence: "Sequence[Attachment]") -> Iterator[PushedBlob]:
    from mlenv.service.evidence import push_evidence

    for each in push_evidence(repository, image.manifest.digest, evidence) if evidence else ():
        yield PushedBlob("evidence", each.manifest, each.size, "sent" if each.sent else "skipped")
