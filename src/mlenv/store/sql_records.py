"""
The registry's rows about what was made and done: locks, layers, images, bases, builds and uses.

What these rows become is imported where it is needed: commands that only list environments start faster without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mlenv.core.digest import Digest
from mlenv.core.spec import canonical_json
from mlenv.faults import reach
from mlenv.store import rows
from mlenv.store.database import Database, Row, Run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mlenv.core.audit import Author
    from mlenv.core.facts import BaseFacts
    from mlenv.core.image import Descriptor
    from mlenv.core.layer import Layer
    from mlenv.core.platform import Platform
    from mlenv.core.records import BuildRecord, ImageKey, UseRecord
    from mlenv.core.reference import EnvironmentName, VersionName


class SqlRecords(ABC):
    """The part of `SqlRegistry` that knows of locks, layers, images, bases, builds and uses."""

    def __init__(self, database: Database, workspace: str, *, author: Author | None, audited: bool) -> None:
        self._database = database
        self._workspace = workspace
        self._author = author
        self._audited = audited or author is not None

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _one(self, statement: str, /, **parameters: str | int | None) -> Row | None:
        found = self._database.ask(statement, **parameters)
        return found[0] if found else None

    def _check_author(self) -> None:
        """Refuse what changes something in an audited store, if nobody could be named. Raises `NoAuthor`."""
        if self._audited:
            from mlenv.store.audit import require_author

            require_author(self._author)

    def _audit(self, run: Run, action: str, subject: str, before: object, after: object, now: datetime) -> None:
        """Leave a record of a change, if records are kept: the last thing that a transaction does."""
        if self._audited:
            from mlenv.core.audit import Change
            from mlenv.store.audit import append, require_author

            append(run, require_author(self._author), self._workspace, Change(action, subject, before, after), now)

    # Locks.

    def lock_of(self, name: EnvironmentName, version: VersionName, platform: Platform) -> Digest | None:
        """The lock's blob, or None."""
        key = {"workspace": self._workspace, "name": name, "version": version, "platform": str(platform)}
        row = self._one("lock", **key)
        return Digest.parse(row["digest"]) if row else None

    def add_lock(
        self, name: EnvironmentName, version: VersionName, platform: Platform, lock: Digest, *, now: datetime
    ) -> Digest:
        """Name a lock whose blob is stored. The first one stays, and is what is returned. Raises `VersionNotFound`."""
        self._check_author()
        key = {"workspace": self._workspace, "name": name, "version": version, "platform": str(platform)}

        def work(run: Run) -> Digest:
            if found := run("lock", **key):
                return Digest.parse(found[0]["digest"])
            self._check_version(run, name, version)
            run("insert_lock", **key, digest=str(lock), created_at=rows.from_time(now))
            self._audit(run, "lock.create", f"{name}:{version} {platform}", None, {"digest": str(lock)}, now)
            reach("lock.added")
            return lock

        kept = self._database.write(work)
        reach("lock.committed")
        return kept

    @abstractmethod
    def _check_version(self, run: Run, name: EnvironmentName, version: VersionName) -> None:
        """Raises `EnvironmentNotFound` or `VersionNotFound`."""

    # Layers and images.

    def layer(self, key: Digest) -> Layer | None:
        """A finished layer by its key."""
        from mlenv.store import record_rows

        row = self._one("layer", key=str(key))
        return record_rows.to_layer(row) if row else None

    def add_layer(self, key: Digest, layer: Layer) -> None:
        """Remember a finished layer. The first one stays."""

        def work(run: Run) -> None:
            if not run("layer", key=str(key)):
                content = {"digest": str(layer.digest), "diff_id": str(layer.diff_id), "media_type": layer.media_type}
                run("insert_layer", key=str(key), size=layer.size, **content)

        self._database.write(work)

    def remove_layer(self, key: Digest) -> None:
        """Forget a layer; no error if it is unknown."""
        self._database.write(lambda run: run("delete_layer", key=str(key)))

    def image_of(self, key: ImageKey) -> Descriptor | None:
        """The image's manifest, or None."""
        from mlenv.store import record_rows

        row = self._one("image", **self._image_key(key))
        return record_rows.to_descriptor(row) if row else None

    def add_image(self, key: ImageKey, manifest: Descriptor, *, now: datetime) -> None:
        """Name an image whose manifest and blobs are stored. The first one stays."""

        def work(run: Run) -> None:
            if not run("image", **self._image_key(key)):
                content = {"descriptor": canonical_json(manifest.to_dict()), "created_at": rows.from_time(now)}
                run("insert_image", **self._image_key(key), **content)
                reach("image.added")

        self._database.write(work)
        reach("image.committed")

    def _image_key(self, key: ImageKey) -> dict[str, str]:
        parts = {"lock": str(key.lock), "base": str(key.base), "spec": str(key.spec)}
        return {"workspace": self._workspace, **parts, "compression": key.compression.value}

    # Bases.

    def base(self, name: str) -> Digest | None:
        """The manifest that a base image's name points at here, or None."""
        row = self._one("base", workspace=self._workspace, name=name)
        return Digest.parse(row["digest"]) if row else None

    def bases(self) -> Mapping[str, Digest]:
        """All base names, sorted."""
        found = self._database.read(lambda run: run("bases", workspace=self._workspace))
        return {row["name"]: Digest.parse(row["digest"]) for row in found}

    def set_base(self, name: str, manifest: Digest, *, now: datetime) -> None:
        """Point a base image's name at a manifest that is stored."""
        self._check_author()
        content = {"digest": str(manifest), "modified_at": rows.from_time(now)}

        def work(run: Run) -> None:
            found = run("base", workspace=self._workspace, name=name)
            if found:
                run("update_base", the_workspace=self._workspace, the_name=name, **content)
            else:
                run("insert_base", workspace=self._workspace, name=name, **content)
            before = {"digest": found[0]["digest"]} if found else None
            if before != {"digest": str(manifest)}:
                self._audit(run, "base.set", name, before, {"digest": str(manifest)}, now)

        self._database.write(work)

    def facts(self, manifest: Digest) -> BaseFacts | None:
        """What was read from a base, or None."""
        from mlenv.store import record_rows

        row = self._one("facts", digest=str(manifest))
        return record_rows.to_facts(row["document"]) if row else None

    def add_facts(self, facts: BaseFacts) -> None:
        """Remember what was read from a base. The first stays: the same bytes say the same."""
        from mlenv.store import record_rows

        def work(run: Run) -> None:
            if not run("facts", digest=str(facts.digest)):
                run("insert_facts", digest=str(facts.digest), document=record_rows.from_facts(facts))

        self._database.write(work)

    # Builds and uses.

    def save_build(self, build: BuildRecord) -> None:
        """Insert or replace a build by its id. Raises `VersionNotFound`."""
        from mlenv.store import record_rows

        def work(run: Run) -> None:
            self._check_version(run, build.name, build.version)
            run("delete_build", workspace=self._workspace, id=build.id)
            run("insert_build", workspace=self._workspace, **record_rows.from_build(build))

        self._database.write(work)

    def builds(self, name: EnvironmentName, version: VersionName) -> list[BuildRecord]:
        """Builds of a version, the newest first."""
        from mlenv.store import record_rows

        key = {"workspace": self._workspace, "name": name, "version": version}
        return [record_rows.to_build(row) for row in self._database.read(lambda run: run("builds", **key))]

    def save_use(self, use: UseRecord) -> None:
        """Insert a use, or replace the author's own of the same id. Raises `VersionNotFound`."""
        from mlenv.store import record_rows

        # Ids are chosen by whoever tells of a use: each author has their own.
        id = use.id if self._author is None else f"{self._author.id}/{use.id}"

        def work(run: Run) -> None:
            self._check_version(run, use.name, use.version)
            run("delete_use", workspace=self._workspace, id=id)
            run("insert_use", workspace=self._workspace, **record_rows.from_use(use) | {"id": id})

        self._database.write(work)

    def uses(self, name: EnvironmentName, version: VersionName | None = None, *, limit: int) -> list[UseRecord]:
        """Uses, the newest first."""
        from mlenv.store import record_rows

        key: dict[str, str | int] = {"workspace": self._workspace, "name": name, "limit": limit}

        def work(run: Run) -> list[Row]:
            return run("uses", **key) if version is None else run("uses_of_version", **key, version=version)

        return [record_rows.to_use(row) for row in self._database.read(work)]
