"""What the use cases need of a store. `mlenv.store.sql.SqlRegistry` is the one there is; tests use `mlenv.store.memory`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange, View
from mlenv.core.facts import BaseFacts
from mlenv.core.image import Descriptor
from mlenv.core.layer import Layer
from mlenv.core.platform import Platform
from mlenv.core.records import BuildRecord, ImageKey, UseRecord
from mlenv.core.reference import EnvironmentName, LabelName, VersionName

#: The time now, UTC.
Clock = Callable[[], datetime]

#: Holds a named lock against other processes and threads while its context lasts: `exclusive("lock-iris-1")`.
Exclusive = Callable[[str], AbstractContextManager[None]]


class Registry(Protocol):
    """
    Rows. Every method is one transaction, safe under several processes at once.

    Lists are paged: `after` is the last key of the page before, `limit` the most rows in one.
    """

    # Environments and versions.
    def add_version(self, definition: Definition, *, now: datetime) -> tuple[EnvironmentVersion, bool]:
        """
        Register a definition; an automatic version is chosen in the same transaction.

        An automatic version of content equal to the latest version's is that version, as Azure's client has it.
        Content that is there already, under a named or an automatic version, is not stored again: a description or
        tags that are given replace the stored ones, and the version is restored if it was archived. A version
        registered under an archived environment restores that, too, for itself alone: the other versions stay archived.

        Returns:
            The version, and whether it is new.

        Raises:
            VersionConflict: That version exists with other content; it carries both specs.
        """

    def version(self, name: EnvironmentName, version: VersionName) -> EnvironmentVersion:
        """One version. Raises `EnvironmentNotFound`, with near names, or `VersionNotFound`, with the newest versions."""

    def environment(self, name: EnvironmentName) -> Environment:
        """One environment. Raises `EnvironmentNotFound`, with near names."""

    def environments(self, view: View, *, limit: int, after: str | None = None) -> list[Environment]:
        """Environments by name."""

    def versions(
        self, name: EnvironmentName, view: View, *, limit: int, after: str | None = None
    ) -> list[EnvironmentVersion]:
        """
        Versions of one environment, the newest first; `after` is a version.

        Raises:
            EnvironmentNotFound: There is none of that name.
            VersionNotFound: There is no version `after`.
        """

    def update_version(
        self,
        name: EnvironmentName,
        version: VersionName,
        *,
        now: datetime,
        description: str | None,
        tags: Mapping[str, str],
        archived: bool | None = None,
        unless_modified_after: datetime | None = None,
    ) -> EnvironmentVersion:
        """
        Set what may change.

        Args:
            archived: Whether this version by itself is archived; None leaves it as it is.
            unless_modified_after: The `modified_at` that was seen, if a later change must not be overwritten.

        Raises:
            EnvironmentNotFound, VersionNotFound: It is not there.
            EnvironmentArchived: It was to be restored, while its environment is archived.
            VersionChanged: It was changed after `unless_modified_after`.
        """

    def set_archived(
        self,
        name: EnvironmentName,
        archived: bool,
        *,
        now: datetime,
        check: Callable[[Environment], None] | None = None,
    ) -> Environment:
        """
        Archive or restore an environment with all its versions. Raises `EnvironmentNotFound`.

        Versions that were archived by themselves stay so when their environment is restored.

        Args:
            check: Called with the environment as it is changed; what it raises stops the change.
        """

    def set_label(self, name: EnvironmentName, label: LabelName, version: VersionName, *, now: datetime) -> None:
        """Point a label at a version, keeping its history. Raises `VersionNotFound`; `latest` (`ComputedLabel`) can't be set."""

    def label_history(self, name: EnvironmentName, label: LabelName) -> list[LabelChange]:
        """Where a label pointed, the newest first; empty if it was never set. Raises `EnvironmentNotFound`."""

    # Locks: one per version and platform, never replaced.
    def lock_of(self, name: EnvironmentName, version: VersionName, platform: Platform) -> Digest | None:
        """The lock's blob, or None."""

    def add_lock(
        self, name: EnvironmentName, version: VersionName, platform: Platform, lock: Digest, *, now: datetime
    ) -> Digest:
        """Name a lock whose blob is stored. The first one stays, and is what is returned. Raises `VersionNotFound`."""

    # Images, layers and bases.
    def layer(self, key: Digest) -> Layer | None:
        """A finished layer by its key."""

    def add_layer(self, key: Digest, layer: Layer) -> None:
        """Remember a finished layer. The first one stays."""

    def remove_layer(self, key: Digest) -> None:
        """Forget a layer; no error if it is unknown."""

    def image_of(self, key: ImageKey) -> Descriptor | None:
        """The image's manifest, or None."""

    def add_image(self, key: ImageKey, manifest: Descriptor, *, now: datetime) -> None:
        """Name an image whose manifest and blobs are stored. The first one stays."""

    def base(self, name: str) -> Digest | None:
        """The manifest that a base image's name points at here, or None."""

    def bases(self) -> Mapping[str, Digest]:
        """All base names, sorted."""

    def set_base(self, name: str, manifest: Digest, *, now: datetime) -> None:
        """Point a base image's name at a manifest that is stored."""

    def facts(self, manifest: Digest) -> BaseFacts | None:
        """What was read from a base, or None."""

    def add_facts(self, facts: BaseFacts) -> None:
        """Remember what was read from a base."""

    # Builds and uses.
    def save_build(self, build: BuildRecord) -> None:
        """Insert or replace a build by its id."""

    def builds(self, name: EnvironmentName, version: VersionName) -> list[BuildRecord]:
        """Builds of a version, the newest first."""

    def save_use(self, use: UseRecord) -> None:
        """Insert or replace a use by its id."""

    def uses(self, name: EnvironmentName, version: VersionName | None = None, *, limit: int) -> list[UseRecord]:
        """Uses, the newest first."""

    # What names bytes, for verification and collection; each streams its rows.
    def all_locks(self) -> Iterator[tuple[EnvironmentName, VersionName, Platform, Digest]]:
        """Every lock that is named."""

    def all_images(self) -> Iterator[tuple[ImageKey, Descriptor]]:
        """Every image that is named."""

    def all_layers(self) -> Iterator[tuple[Digest, Layer]]:
        """Every layer that is remembered, with its key."""

    def check(self) -> list[str]:
        """
        What is wrong with the rows themselves: a damaged database file, a spec that does not have its recorded digest,
        a label or version that points at nothing. One sentence each; empty when all is well.
        """
