"""Use cases of environments and their versions: create, find, list, update, archive, restore, label."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange, View
from mlenv.core.reference import LATEST, EnvironmentName, LabelName, Reference
from mlenv.core.refusals import LabelNotFound, VersionChanged
from mlenv.core.spec import Spec, canonical_json, is_deeper
from mlenv.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from mlenv.service.interface import Clock, Registry

T = TypeVar("T")

#: Rows asked for at once.
_PAGE: Final = 500
#: How often an update is tried again after somebody else was quicker.
_ATTEMPTS: Final = 20
#: Most tags a version has, and most characters of a tag's name, a tag's value, and a description.
TAG_LIMIT: Final = 100
TAG_NAME_LIMIT: Final = 512
TEXT_LIMIT: Final = 65_536
#: Most levels of objects and lists, one in another, in what goes with a version.
DEPTH_LIMIT: Final = 100


class RegistryNotHere(NotFound):
    """A reference names a registry, and this store has only its own workspace."""

    hint = "leave the registry out, or create the environment here first"

    def __init__(self, registry: str) -> None:
        super().__init__(f"there is no registry {registry!r} here: this store has one workspace and no registries")
        self.registry = registry


class NoVersions(NotFound):
    """The environment has no version yet."""

    def __init__(self, name: EnvironmentName) -> None:
        super().__init__(f"environment {name!r} has no versions yet")
        self.name = name


class InvalidText(InvalidInput):
    """A description or tag that can't be kept."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}")
        self.what = what


class Created(Struct, frozen=True):
    """A registered version, and whether it is new; otherwise the same content was there before."""

    version: EnvironmentVersion
    new: bool


class Change(Struct, frozen=True):
    """
    What an update changes.

    Attributes:
        description: The new one; `""` for none; None leaves it.
        replace_tags: All tags from now on; None leaves them.
        set_tags: Tags that are added, or get another value, after that.
        remove_tags: Names of tags that go, after that. Each must be there.
    """

    description: str | None = None
    replace_tags: Mapping[str, str] | None = None
    set_tags: Mapping[str, str] | None = None
    remove_tags: Sequence[str] = ()


class Environments:
    """The environments of one workspace."""

    def __init__(self, registry: "Registry", clock: "Clock") -> None:
        self._registry = registry
        self._clock = clock

    def create(self, definition: Definition) -> Created:
        """
        Register a definition.

        Raises:
            VersionConflict: That version exists with other content.
            InvalidText: The description, a tag, or text in the spec can't be kept.
        """
        check_spec(definition.spec)
        _check_description(definition.description)
        _check_tags(definition.tags)
        _check_details(definition.details)
        version, new = self._registry.add_version(definition, now=self._clock())
        return Created(version, new)

    def version(self, reference: Reference) -> EnvironmentVersion:
        """
        The version that a reference means: the one it names, the one its label points at, or the newest.

        Raises:
            EnvironmentNotFound, VersionNotFound, LabelNotFound, NoVersions, RegistryNotHere: There is none.
        """
        name = self._name(reference)
        if reference.version is not None:
            return self._registry.version(name, reference.version)
        if reference.label is None or reference.label == LATEST:
            return self.newest(name)
        labels = self._registry.environment(name).labels
        if reference.label not in labels:
            raise LabelNotFound(name, reference.label, labels)
        return self._registry.version(name, labels[reference.label])

    def newest(self, name: EnvironmentName) -> EnvironmentVersion:
        """
        What `latest` means: the version created last, of those that are not archived while there are such.

        Raises:
            EnvironmentNotFound, NoVersions: There is none.
        """
        for view in (View.ACTIVE, View.ALL):
            if found := self._registry.versions(name, view, limit=1):
                return found[0]
        raise NoVersions(name)

    def environment(self, reference: Reference) -> Environment:
        """The environment as a whole. Raises `EnvironmentNotFound`, `RegistryNotHere`."""
        return self._registry.environment(self._name(reference))

    def environments(self, view: View = View.ACTIVE, *, limit: int | None = None) -> Iterator[Environment]:
        """Environments by name, at most `limit`."""
        return _paged(
            lambda size, after: self._registry.environments(view, limit=size, after=after),
            lambda each: each.name,
            limit,
        )

    def versions(
        self, reference: Reference, view: View = View.ACTIVE, *, limit: int | None = None
    ) -> Iterator[EnvironmentVersion]:
        """
        Versions of an environment, the newest first, at most `limit`; only one if the reference says which.

        Raises:
            EnvironmentNotFound, VersionNotFound, LabelNotFound, RegistryNotHere: It is not there.
        """
        if reference.version is not None or reference.label is not None:
            return iter([self.version(reference)][:limit])
        name = self._name(reference)
        return _paged(
            lambda size, after: self._registry.versions(name, view, limit=size, after=after),
            lambda each: each.version,
            limit,
        )

    def update(
        self,
        reference: Reference,
        change: Change,
        *,
        archived: bool | None = None,
        only_if: Callable[[EnvironmentVersion], bool] | None = None,
    ) -> EnvironmentVersion:
        """
        Change description and tags, over whatever others change at the same time.

        Args:
            archived: Whether this version by itself is archived from now on; None leaves that.
            only_if: Says of the version as it stands whether it may be changed.

        Raises:
            EnvironmentNotFound, VersionNotFound, LabelNotFound, NoVersions, RegistryNotHere: It is not there.
            InvalidText: The result can't be kept, or a tag to remove is not there.
            EnvironmentArchived: It is to be restored while its environment is archived.
            VersionChanged: It may not be changed as it stands, or others changed it, again and again.
        """
        return self._save(self.version(reference), change, archived=archived, only_if=only_if)

    def set_archived(
        self, reference: Reference, archived: bool, *, check: Callable[[Environment], None] | None = None
    ) -> Environment | EnvironmentVersion:
        """
        Archive or restore one version, or with a bare name the environment and all its versions.

        Args:
            check: Called with the environment as it is changed; what it raises stops the change.

        Raises:
            EnvironmentNotFound, VersionNotFound, LabelNotFound, RegistryNotHere: It is not there.
            EnvironmentArchived: A version is to be restored while its environment is archived.
        """
        if reference.version is None and reference.label is None:
            return self._registry.set_archived(self._name(reference), archived, now=self._clock(), check=check)
        return self._save(self.version(reference), Change(), archived=archived)

    def set_label(self, reference: Reference, label: LabelName) -> EnvironmentVersion:
        """
        Point a label at the version that a reference means.

        Raises:
            EnvironmentNotFound, VersionNotFound, LabelNotFound, NoVersions, RegistryNotHere: It is not there.
            ComputedLabel: The label is `latest`.
        """
        found = self.version(reference)
        self._registry.set_label(found.name, label, found.version, now=self._clock())
        return found

    def labels(self, reference: Reference) -> dict[LabelName, list[LabelChange]]:
        """Every label with where it points and pointed, the newest first. Raises `EnvironmentNotFound`."""
        environment = self.environment(reference)
        return {label: self._registry.label_history(environment.name, label) for label in environment.labels}

    def _save(
        self,
        seen: EnvironmentVersion,
        change: Change,
        *,
        archived: bool | None = None,
        only_if: Callable[[EnvironmentVersion], bool] | None = None,
    ) -> EnvironmentVersion:
        """Apply a change to what was seen; if somebody else was quicker, to what that has become."""
        for _ in range(_ATTEMPTS):
            if only_if is not None and not only_if(seen):
                break
            description, tags = _applied(change, seen)
            try:
                return self._registry.update_version(
                    seen.name,
                    seen.version,
                    now=self._clock(),
                    description=description,
                    tags=tags,
                    archived=archived,
                    unless_modified_after=seen.modified_at,
                )
            except VersionChanged:
                seen = self._registry.version(seen.name, seen.version)
        raise VersionChanged(seen.name, seen.version)

    def _name(self, reference: Reference) -> EnvironmentName:
        """The name, once it is sure that the reference means this store. There is one workspace, however it is called."""
        if reference.registry is not None:
            raise RegistryNotHere(reference.registry)
        return reference.name


def _paged(read: Callable[[int, str | None], list[T]], key: Callable[[T], str], limit: int | None) -> Iterator[T]:
    """The first page now, so that what is not there is said now; the others as they are asked for."""
    size = _PAGE if limit is None else min(limit, _PAGE)
    first = read(size, None) if size > 0 else []

    def rest() -> Iterator[T]:
        page = first
        while page:
            yield from page
            page = read(size, key(page[-1])) if len(page) == size else []

    return islice(rest(), limit)


def _applied(change: Change, version: EnvironmentVersion) -> tuple[str | None, dict[str, str]]:
    description = version.description if change.description is None else change.description or None
    tags = dict(version.tags if change.replace_tags is None else change.replace_tags) | dict(change.set_tags or {})
    for name in change.remove_tags:
        if name not in tags:
            raise InvalidText(f"tag {name!r}", f"can't be removed: {version} has no such tag")
        del tags[name]
    _check_description(description)
    _check_tags(tags)
    return description, tags


def check_spec(spec: Spec) -> None:
    """Refuse a spec that has no digest, since it has text that is not Unicode. Raises `InvalidText`."""
    try:
        _ = spec.digest
    except UnicodeEncodeError as error:
        raise InvalidText("the definition", f"has text that is not Unicode: {error.reason}") from error


def _check_description(description: str | None) -> None:
    if description is not None:
        _check_text("the description", description, TEXT_LIMIT)


def _check_tags(tags: Mapping[str, str]) -> None:
    if len(tags) > TAG_LIMIT:
        raise InvalidText("the tags", f"are too many: {len(tags)}, at most {TAG_LIMIT}")
    for name, value in tags.items():
        if not name:
            raise InvalidText("a tag's name", "is empty")
        _check_text(f"the name of tag {name[:40]!r}", name, TAG_NAME_LIMIT)
        _check_text(f"the value of tag {name[:40]!r}", value, TEXT_LIMIT)


def _check_details(details: Mapping[str, Any]) -> None:
    if is_deeper(dict(details), DEPTH_LIMIT):
        raise InvalidText("what goes with the version", f"is nested too deeply: more than {DEPTH_LIMIT} levels")
    try:
        size = len(canonical_json(dict(details)).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidText("what goes with the version", f"can't be kept: {type(error).__name__}") from error
    if size > TEXT_LIMIT:
        raise InvalidText("what goes with the version", f"is too long: {size} bytes, at most {TEXT_LIMIT}")


def _check_text(what: str, text: str, limit: int) -> None:
    """What every database can keep: no NUL, no half of a surrogate pair, and not too long."""
    if len(text) > limit:
        raise InvalidText(what, f"is too long: {len(text)} characters, at most {limit}")
    if "\0" in text:
        raise InvalidText(what, "has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidText(what, f"is not Unicode: {error.reason} at character {error.start + 1}") from error
