"""The registry in memory: the same answers as `mlenv.store.sql`, without a file. For tests and trials."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar, cast

from msgspec import Struct, field
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange, View
from mlenv.core.facts import BaseFacts
from mlenv.core.image import Descriptor
from mlenv.core.layer import Layer
from mlenv.core.platform import Platform
from mlenv.core.records import BuildRecord, ImageKey, UseRecord
from mlenv.core.reference import LATEST, EnvironmentName, LabelName, VersionName, parse_version
from mlenv.core.refusals import (
    ComputedLabel,
    EnvironmentArchived,
    EnvironmentNotFound,
    VersionChanged,
    VersionConflict,
    VersionNotFound,
)
from mlenv.core.spec import WrittenSpec
from mlenv.core.versions import FIRST_VERSION, next_after

_Method = TypeVar("_Method", bound=Any)


class _Entry(Struct):
    """An environment. `versions` are in the order of their making; `archived` of each is its own alone."""

    created_at: datetime
    modified_at: datetime
    archived: bool = False
    next_version: VersionName = FIRST_VERSION
    versions: dict[VersionName, EnvironmentVersion] = field(default_factory=dict)
    labels: dict[LabelName, list[LabelChange]] = field(default_factory=dict)


def _locked(method: _Method) -> _Method:
    """One transaction at a time."""

    @wraps(method)
    def inner(self: "MemoryRegistry", *arguments: Any, **keywords: Any) -> Any:
        with self._guard:
            return method(self, *arguments, **keywords)

    return cast(_Method, inner)


class MemoryRegistry:
    """A `service.interface.Registry` that forgets. Safe for several threads."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._entries: dict[EnvironmentName, _Entry] = {}
        self._locks: dict[tuple[EnvironmentName, VersionName, Platform], Digest] = {}
        self._layers: dict[Digest, Layer] = {}
        self._images: dict[ImageKey, Descriptor] = {}
        self._bases: dict[str, Digest] = {}
        self._facts: dict[Digest, BaseFacts] = {}
        self._builds: dict[str, BuildRecord] = {}
        self._uses: dict[str, UseRecord] = {}

    # Environments and versions.

    @_locked
    def add_version(self, definition: Definition, *, now: datetime) -> tuple[EnvironmentVersion, bool]:
        """Register a definition; see `service.interface.Registry`."""
        now = now.astimezone(UTC)
        entry = self._entries.get(definition.name) or _Entry(now, now)
        wanted = definition.version or next(reversed(entry.versions), None)
        stored = entry.versions.get(wanted) if wanted else None
        if stored and stored.written.digest == definition.spec.digest:
            return self._again(entry, stored, definition, now), False
        if stored and definition.version is not None:
            raise VersionConflict(stored.name, stored.version, stored=stored.spec, given=definition.spec)
        version = definition.version or self._free_version(entry)
        self._revive(entry)
        made = EnvironmentVersion(
            name=definition.name,
            version=version,
            written=WrittenSpec.of(definition.spec),
            description=definition.description,
            tags=dict(definition.tags),
            archived=False,
            created_at=now,
            modified_at=now,
            details=dict(definition.details),
        )
        self._entries[definition.name] = entry
        entry.versions[version] = made
        entry.next_version = next_after(entry.next_version, version)
        entry.modified_at = _later(now, entry.modified_at) if len(entry.versions) > 1 else now
        return made, True

    @_locked
    def version(self, name: EnvironmentName, version: VersionName) -> EnvironmentVersion:
        """One version. Raises `EnvironmentNotFound`, `VersionNotFound`."""
        return _shown(self._entry(name), self._version(name, version))

    @_locked
    def environment(self, name: EnvironmentName) -> Environment:
        """One environment. Raises `EnvironmentNotFound`."""
        return _environment(name, self._entry(name))

    @_locked
    def environments(self, view: View, *, limit: int, after: str | None = None) -> list[Environment]:
        """Environments by name."""
        names = sorted(name for name in self._entries if name > (after or ""))
        page = [_environment(name, self._entries[name]) for name in names if _in(view, self._entries[name].archived)]
        return page[:limit]

    @_locked
    def versions(
        self, name: EnvironmentName, view: View, *, limit: int, after: str | None = None
    ) -> list[EnvironmentVersion]:
        """Versions of one environment, the newest first. Raises `EnvironmentNotFound`, `VersionNotFound`."""
        entry = self._entry(name)
        newest = list(reversed(entry.versions.values()))
        if after is not None:
            newest = newest[newest.index(self._version(name, VersionName(after))) + 1 :]
        return [each for each in (_shown(entry, one) for one in newest) if _in(view, each.archived)][:limit]

    @_locked
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
        """Set what may change; see `service.interface.Registry`."""
        entry, stored = self._entry(name), self._version(name, version)
        if unless_modified_after is not None and stored.modified_at > unless_modified_after:
            raise VersionChanged(name, version)
        if archived is False and entry.archived:
            raise EnvironmentArchived(name, version)
        flag = stored.archived if archived is None else archived
        changed = replace(stored, description=description, tags=dict(tags), archived=flag)
        return _shown(entry, self._change(entry, stored, changed, now))

    @_locked
    def set_archived(
        self,
        name: EnvironmentName,
        archived: bool,
        *,
        now: datetime,
        check: Callable[[Environment], None] | None = None,
    ) -> Environment:
        """Archive or restore an environment with all its versions. Raises `EnvironmentNotFound`."""
        entry = self._entry(name)
        if check is not None:
            check(_environment(name, entry))
        if entry.archived != archived:
            entry.archived, entry.modified_at = archived, _later(now, entry.modified_at)
        return _environment(name, entry)

    @_locked
    def set_label(self, name: EnvironmentName, label: LabelName, version: VersionName, *, now: datetime) -> None:
        """Point a label at a version, keeping its history. Raises `VersionNotFound`, `ComputedLabel`."""
        if label == LATEST:
            raise ComputedLabel
        self._version(name, version)
        history = self._entry(name).labels.setdefault(label, [])
        if not history or history[0].version != version:
            history.insert(0, LabelChange(label, version, now.astimezone(UTC)))

    @_locked
    def label_history(self, name: EnvironmentName, label: LabelName) -> list[LabelChange]:
        """Where a label pointed, the newest first; empty if it was never set. Raises `EnvironmentNotFound`."""
        return list(self._entry(name).labels.get(label, ()))

    # Locks, layers, images and bases.

    @_locked
    def lock_of(self, name: EnvironmentName, version: VersionName, platform: Platform) -> Digest | None:
        """The lock's blob, or None."""
        return self._locks.get((name, version, platform))

    @_locked
    def add_lock(
        self, name: EnvironmentName, version: VersionName, platform: Platform, lock: Digest, *, now: datetime
    ) -> Digest:
        """Name a lock whose blob is stored. The first one stays, and is what is returned. Raises `VersionNotFound`."""
        self._version(name, version)
        return self._locks.setdefault((name, version, platform), lock)

    @_locked
    def layer(self, key: Digest) -> Layer | None:
        """A finished layer by its key."""
        return self._layers.get(key)

    @_locked
    def add_layer(self, key: Digest, layer: Layer) -> None:
        """Remember a finished layer. The first one stays."""
        self._layers.setdefault(key, layer)

    @_locked
    def remove_layer(self, key: Digest) -> None:
        """Forget a layer; no error if it is unknown."""
        self._layers.pop(key, None)

    @_locked
    def image_of(self, key: ImageKey) -> Descriptor | None:
        """The image's manifest, or None."""
        return self._images.get(key)

    @_locked
    def add_image(self, key: ImageKey, manifest: Descriptor, *, now: datetime) -> None:
        """Name an image whose manifest and blobs are stored. The first one stays."""
        self._images.setdefault(key, manifest)

    @_locked
    def base(self, name: str) -> Digest | None:
        """The manifest that a base image's name points at here, or None."""
        return self._bases.get(name)

    @_locked
    def bases(self) -> Mapping[str, Digest]:
        """All base names, sorted."""
        return dict(sorted(self._bases.items()))

    @_locked
    def set_base(self, name: str, manifest: Digest, *, now: datetime) -> None:
        """Point a base image's name at a manifest that is stored."""
        self._bases[name] = manifest

    @_locked
    def facts(self, manifest: Digest) -> BaseFacts | None:
        """What was read from a base, or None."""
        return self._facts.get(manifest)

    @_locked
    def add_facts(self, facts: BaseFacts) -> None:
        """Remember what was read from a base."""
        self._facts.setdefault(facts.digest, facts)

    # Builds and uses.

    @_locked
    def save_build(self, build: BuildRecord) -> None:
        """Insert or replace a build by its id. Raises `VersionNotFound`."""
        self._version(build.name, build.version)
        self._builds[build.id] = build

    @_locked
    def builds(self, name: EnvironmentName, version: VersionName) -> list[BuildRecord]:
        """Builds of a version, the newest first."""
        found = [each for each in self._builds.values() if (each.name, each.version) == (name, version)]
        return sorted(found, key=lambda each: (each.started_at, each.id), reverse=True)

    @_locked
    def save_use(self, use: UseRecord) -> None:
        """Insert or replace a use by its id. Raises `VersionNotFound`."""
        self._version(use.name, use.version)
        self._uses[use.id] = use

    @_locked
    def uses(self, name: EnvironmentName, version: VersionName | None = None, *, limit: int) -> list[UseRecord]:
        """Uses, the newest first."""
        found = [each for each in self._uses.values() if each.name == name and version in {None, each.version}]
        return sorted(found, key=lambda each: (each.started_at, each.id), reverse=True)[:limit]

    # Everything.

    def all_locks(self) -> Iterator[tuple[EnvironmentName, VersionName, Platform, Digest]]:
        """Every lock that is named."""
        yield from ((*key, digest) for key, digest in list(self._locks.items()))

    def all_images(self) -> Iterator[tuple[ImageKey, Descriptor]]:
        """Every image that is named."""
        yield from list(self._images.items())

    def all_layers(self) -> Iterator[tuple[Digest, Layer]]:
        """Every layer that is remembered, with its key."""
        yield from list(self._layers.items())

    def check(self) -> list[str]:
        """Nothing: there are no rows to go wrong."""
        return []

    # Steps of the above.

    def _entry(self, name: EnvironmentName) -> _Entry:
        if name not in self._entries:
            raise EnvironmentNotFound(name, self._entries)
        return self._entries[name]

    def _version(self, name: EnvironmentName, version: VersionName) -> EnvironmentVersion:
        versions = self._entry(name).versions
        if version not in versions:
            raise VersionNotFound(name, version, list(reversed(versions)))
        return versions[version]

    def _free_version(self, entry: _Entry) -> VersionName:
        version = entry.next_version
        while version in entry.versions:
            version = parse_version(str(int(version) + 1))
        return version

    def _again(
        self, entry: _Entry, stored: EnvironmentVersion, definition: Definition, now: datetime
    ) -> EnvironmentVersion:
        if entry.archived:
            self._revive(entry)
            entry.modified_at = _later(now, entry.modified_at)
            stored = entry.versions[stored.version]
        description = stored.description if definition.description is None else definition.description
        tags, details = dict(definition.tags or stored.tags), {**stored.details, **definition.details}
        changed = replace(stored, description=description, tags=tags, details=details, archived=False)
        return self._change(entry, stored, changed, now)

    def _revive(self, entry: _Entry) -> None:
        if entry.archived:
            entry.archived = False
            _replace_all(entry, (replace(each, archived=True) for each in entry.versions.values()))

    def _change(
        self, entry: _Entry, stored: EnvironmentVersion, changed: EnvironmentVersion, now: datetime
    ) -> EnvironmentVersion:
        if changed != stored:
            changed = replace(changed, modified_at=_later(now, stored.modified_at))
            entry.versions[stored.version] = changed
        return changed


def _replace_all(entry: _Entry, versions: Iterable[EnvironmentVersion]) -> None:
    entry.versions = {each.version: each for each in versions}


def _shown(entry: _Entry, version: EnvironmentVersion) -> EnvironmentVersion:
    return replace(version, archived=version.archived or entry.archived)


def _environment(name: EnvironmentName, entry: _Entry) -> Environment:
    return Environment(
        name=name,
        latest_version=next(reversed(entry.versions), None),
        next_version=entry.next_version,
        archived=entry.archived,
        labels={label: history[0].version for label, history in sorted(entry.labels.items())},
        created_at=entry.created_at,
        modified_at=entry.modified_at,
    )


def _in(view: View, archived: bool) -> bool:
    return view is View.ALL or archived is (view is View.ARCHIVED)


def _later(now: datetime, before: datetime) -> datetime:
    return max(now.astimezone(UTC), before + timedelta(microseconds=1))
