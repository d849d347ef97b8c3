"""
The images of environments, as repositories of the OCI distribution specification show them.

Nothing of it is stored: tags are the versions and labels that there are now, and point at what was built of them. A
version that was built for several platforms is shown as an index over its images.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from msgspec import Struct, field

from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
from mlenv.core.environment import Environment, View
from mlenv.core.image import INDEX_TYPE, Descriptor, encode
from mlenv.core.image_name import repository_of, tag_of
from mlenv.core.layer import Compression
from mlenv.core.platform import Platform
from mlenv.core.reference import LATEST, EnvironmentName, LabelName, VersionName
from mlenv.core.refusals import VersionNotFound
from mlenv.core.repositories import Built, ManifestNotFound, RepositoryName, StoredManifest, order_of_tag
from mlenv.errors import NotFound

if TYPE_CHECKING:
    from mlenv.service.interface import Clock, Registry
    from mlenv.service.repositories import Bytes

K = TypeVar("K")
V = TypeVar("V")

#: Of how many manifests it is remembered what they are made of, and of how many blobs whose they are.
_REMEMBERED: Final = 50_000
#: How many versions are looked through for one that is written otherwise in a tag.
_VERSIONS: Final = 1000


class BuiltStore(Protocol):
    """Rows of what was built in one namespace."""

    def is_environment(self, name: str) -> bool:
        """Whether an environment has exactly this name."""

    def count_environments(self) -> int:
        """How many there are."""

    def environment_names(self) -> list[EnvironmentName]:
        """All of them, sorted."""

    def built(self, name: EnvironmentName, version: VersionName) -> list[Built]:
        """The images of a version."""

    def all_built(self, name: EnvironmentName) -> list[Built]:
        """The images of an environment's versions."""


class Remembered(Struct):
    """
    What one process remembers of what does not change: images of environments stay, and so do their parts.

    Attributes:
        parts: What an image is made of, with sizes in bytes, by its manifest.
        owned: The size of a blob that is known to be a part of an environment's image, by namespace, repository, digest.
        names: By namespace: how many environments there were, and these by how images call them. None ever goes.
    """

    parts: dict[Digest, Mapping[Digest, int]] = field(default_factory=dict)
    owned: dict[tuple[str, str, Digest], int] = field(default_factory=dict)
    names: dict[str, tuple[int, Mapping[str, EnvironmentName]]] = field(default_factory=dict)


class EnvironmentImages:
    """
    The environments of one namespace as repositories.

    Args:
        scope: The namespace's key.
        remembered: Shared by all namespaces of a process.
    """

    def __init__(
        self,
        scope: str,
        registry: "Registry",
        store: BuiltStore,
        blobs: "Bytes",
        remembered: Remembered,
        clock: "Clock",
    ) -> None:
        self._scope, self._registry, self._store, self._blobs = scope, registry, store, blobs
        self._remembered, self._clock = remembered, clock

    def named(self, repository: RepositoryName) -> EnvironmentName | None:
        """The environment that a repository belongs to, or None if it is free."""
        if self._store.is_environment(repository):
            return EnvironmentName(repository)
        return self._folded().get(repository)

    def names(self) -> Iterable[RepositoryName]:
        """How images call the environments that have been built, or may be."""
        return map(RepositoryName, self._folded())

    def tags(self, name: EnvironmentName, *, after: str | None, limit: int) -> list[str]:
        """The versions that were built, and the labels that point at one, in the order of tags."""
        built = {each.version for each in self._store.all_built(name)}
        environment = self._registry.environment(name)
        found = {tag_of(each) for each in built}
        found |= {tag_of(label) for label, version in self._labels(environment).items() if version in built}
        ordered = sorted(found, key=order_of_tag)
        return [each for each in ordered if after is None or order_of_tag(each) > order_of_tag(after)][:limit]

    def tagged(self, repository: RepositoryName, name: EnvironmentName, tag: str) -> StoredManifest:
        """
        The image of a version or label: its manifest, or an index over those for several platforms.

        Raises:
            ManifestNotFound: There is no such version, or it was not built; the message says how to build it.
        """
        version = self._version(name, tag)
        if version is None:
            why = "the environment has no such version or label"
            raise ManifestNotFound(repository, tag, why)
        found = _preferred(self._store.built(name, version))
        if not found:
            raise ManifestNotFound(
                repository,
                tag,
                f"{name}:{version} was not built yet; `mlenv environment build {name}:{version}` builds it",
            )
        if len(found) == 1:
            return self._stored(found[0].manifest)
        entries = [each.manifest.to_dict() | {"platform": _platform(each.platform)} for each in found]
        data = encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
        digest = Digest.of(data)
        self._blobs.put([data], digest=digest, size=len(data), what=f"index of {name}:{version}")
        return StoredManifest(digest, INDEX_TYPE, len(data), self._clock())

    def is_composed(self, manifest: StoredManifest) -> bool:
        """Whether a manifest was composed here, and not built."""
        return manifest.media_type == INDEX_TYPE

    def image(self, repository: RepositoryName, digest: Digest) -> StoredManifest | None:
        """An image of an environment by its manifest's digest, or None."""
        if (name := self.named(repository)) is None:
            return None
        for each in self._store.all_built(name):
            if each.manifest.digest == digest:
                return self._stored(each.manifest)
        return None

    def part(self, repository: RepositoryName, digest: Digest) -> int | None:
        """The size of a blob that some image of an environment is made of, in bytes; None if none is."""
        key = (self._scope, repository, digest)
        if (size := self._remembered.owned.get(key)) is not None:
            return size
        if (name := self.named(repository)) is None:
            return None
        for manifest in {each.manifest.digest for each in self._store.all_built(name)}:
            if (size := self._parts(manifest).get(digest)) is not None:
                _remember(self._remembered.owned, key, size)
                return size
        return None

    def _version(self, name: EnvironmentName, tag: str) -> VersionName | None:
        """The version that a tag means: by its name, by a label, or by how images write it."""
        environment = self._registry.environment(name)
        try:
            return self._registry.version(name, VersionName(tag)).version
        except VersionNotFound:
            pass
        labels = self._labels(environment)
        if (version := labels.get(LabelName(tag))) is not None:
            return version
        for label, version in labels.items():
            if tag_of(label) == tag:
                return version
        versions = self._registry.versions(name, View.ALL, limit=_VERSIONS)
        return next((each.version for each in versions if tag_of(each.version) == tag), None)

    @staticmethod
    def _labels(environment: Environment) -> dict[LabelName, VersionName]:
        found = dict(environment.labels)
        if environment.latest_version is not None:
            found[LATEST] = environment.latest_version
        return found

    def _folded(self) -> Mapping[str, EnvironmentName]:
        count, known = self._remembered.names.get(self._scope, (0, {}))
        if count != self._store.count_environments():
            names = self._store.environment_names()
            # Of two that images call the same, the first counts, and before it the one that is called exactly so.
            known = {repository_of(each): each for each in reversed(names)}
            self._remembered.names[self._scope] = len(names), known
        return known

    def _parts(self, manifest: Digest) -> Mapping[Digest, int]:
        known = self._remembered.parts.get(manifest)
        if known is None:
            try:
                image = load_image(manifest, self._blobs)
                known = {manifest: image.manifest.size, image.config_digest: self._size(image.config_digest)}
            except NotFound:
                return {}
            known |= {layer.digest: layer.size for layer, _ in image.layers}
            _remember(self._remembered.parts, manifest, known)
        return known

    def _size(self, digest: Digest) -> int:
        return self._blobs.place(digest).stat().st_size

    def _stored(self, manifest: Descriptor) -> StoredManifest:
        return StoredManifest(manifest.digest, manifest.media_type, manifest.size, self._clock())


def _preferred(built: Sequence[Built]) -> list[Built]:
    """One image for each platform: with gzip, which every tool reads, rather than with zstd."""
    found: dict[Platform, Built] = {}
    for each in built:
        if each.platform not in found or each.compression is Compression.GZIP:
            found[each.platform] = each
    return [found[each] for each in sorted(found, key=str)]


def _platform(platform: Platform) -> dict[str, str]:
    """As an index has it (image-spec, image-index.md)."""
    return {"os": platform.os, "architecture": platform.architecture}


def _remember(known: dict[K, V], key: K, value: V) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value
