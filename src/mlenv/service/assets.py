"""
Use cases of what references environments, or is kept beside them: code, components, endpoints, deployments.

Jobs are kept here as well; what else can be done with them is in `mlenv.service.jobs`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.assets import Asset, AssetConflict, AssetKind, AssetNotFound, check_asset_name
from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion, View
from mlenv.core.reference import Reference, parse_version
from mlenv.core.spec import canonical_json, is_deeper
from mlenv.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from mlenv.service.environments import Environments
    from mlenv.service.interface import Clock
    from mlenv.service.services import Services

#: Most bytes of a document as JSON.
DOCUMENT_LIMIT: Final = 1 << 20
#: Most levels of objects and lists in it, one in another: what is kept must be written again, in answers.
DEPTH_LIMIT: Final = 100
#: Most assets of one page.
PAGE_LIMIT: Final = 500

#: `Assets.list` hides the name.
_AssetList = list[Asset]
#: Opens the namespace that a reference names, or gives None if it is the asset's own.
Elsewhere = Callable[[Reference], "Services | None"]


class AssetStore(Protocol):
    """Rows of assets of one namespace. Every change is one transaction with its audit record."""

    def put(self, asset: Asset, *, revise: Callable[[Asset, Asset], Asset]) -> tuple[Asset, bool]:
        """
        Insert an asset, or replace the one of that kind, name and version by `revise(stored, given)`.

        Returns:
            What is kept, and whether it is new. `asset.sequence` is chosen here.
        """

    def update(
        self, kind: AssetKind, name: str, version: str, edit: Callable[[Asset], Asset], *, now: datetime
    ) -> Asset:
        """Replace an asset by what `edit` makes of it; nobody else changes it meanwhile. Raises `AssetNotFound`."""

    def remove(self, kind: AssetKind, name: str, version: str, *, now: datetime) -> bool:
        """Forget an asset. False if it is not there."""

    def asset(self, kind: AssetKind, name: str, version: str) -> Asset | None:
        """One asset, or None."""

    def page(
        self,
        kind: AssetKind,
        view: View,
        *,
        limit: int,
        before: int | None = None,
        name: str | None = None,
        lookup: str | None = None,
        newest_of_each: bool = False,
    ) -> list[Asset]:
        """
        Assets of a kind, the newest first.

        Args:
            before: The sequence number that ended the page before.
            name, lookup: Only those with this name, or with this `lookup`; not both.
            newest_of_each: Of several versions only the newest.
        """

    def users_of(self, environment: str, *, limit: int) -> list[Asset]:
        """Assets that use an environment version, the newest first of each kind."""


class InvalidAsset(InvalidInput):
    """Something in an asset that can't be kept."""

    def __init__(self, kind: AssetKind, name: str, why: str) -> None:
        super().__init__(f"{kind} {name[:100]!r} {why}")
        self.kind, self.name = kind, name


class MissingEnvironment(InvalidInput):
    """An asset refers to an environment version that is not there."""

    hint = "create the environment first, or refer to a version that is there"

    def __init__(self, reference: str, why: str) -> None:
        super().__init__(f"the environment {reference!r} is not there: {why}")
        self.reference = reference


class Saved(Struct, frozen=True):
    """What is kept now, and whether it is new."""

    asset: Asset
    new: bool


class Assets:
    """The assets of one namespace."""

    def __init__(self, store: AssetStore, environments: "Environments", clock: "Clock") -> None:
        self._store = store
        self._environments = environments
        self._clock = clock

    def put(
        self,
        kind: AssetKind,
        name: str,
        version: str,
        document: Mapping[str, Any],
        *,
        lookup: str | None = None,
        environment: Reference | None = None,
        elsewhere: Elsewhere | None = None,
        status: str | None = None,
        archived: bool = False,
    ) -> Saved:
        """
        Register an asset, or replace it. A kind with versions is replaced only where `lookup` is the same.

        Args:
            version: Empty for kinds without versions.
            document: What is kept, as JSON data.
            lookup: What it is found by. Of kinds with versions also their identity: the hash of what must not
                change; by default that of the document.
            environment: The environment version that it uses.
            elsewhere: Where references into other namespaces are looked up.
            status: A job's, when it is new.

        Raises:
            InvalidName, InvalidAsset: The name, version or document can't be kept.
            MissingEnvironment: There is no such version of an environment.
            AssetConflict: That version exists with another content.
        """
        check_asset_name(kind, name)
        if kind.versioned:
            parse_version(version)
            lookup = lookup or Digest.of(_json(kind, name, document)).hex
        if len(_json(kind, name, document)) > DOCUMENT_LIMIT:
            raise InvalidAsset(kind, name, f"is too large: more than {DOCUMENT_LIMIT} bytes as JSON")
        used = None if environment is None else self.environment(environment, elsewhere)[0]
        now = self._clock()
        given = Asset(kind, name, version, 0, dict(document), lookup, used, status, archived, now, now)
        return Saved(*self._store.put(given, revise=_revised))

    def environment(self, reference: Reference, elsewhere: Elsewhere | None = None) -> tuple[str, EnvironmentVersion]:
        """
        The version that a reference means, and how it is written in `Asset.environment`.

        Raises:
            MissingEnvironment: There is none.
        """
        try:
            other = elsewhere(reference) if elsewhere is not None else None
            here = replace(reference, registry=None)
            version = self._environments.version(reference) if other is None else other.environments.version(here)
        except NotFound as error:
            raise MissingEnvironment(str(reference), str(error)) from error
        if other is None:
            return str(version), version
        return str(reference.at(version.version)), version

    def get(self, kind: AssetKind, name: str, version: str = "") -> Asset:
        """One asset. Raises `AssetNotFound`."""
        if (found := self._store.asset(kind, name, version)) is None:
            raise AssetNotFound(kind, name, version)
        return found

    def list(
        self,
        kind: AssetKind,
        view: View = View.ACTIVE,
        *,
        limit: int = PAGE_LIMIT,
        after: int | None = None,
        name: str | None = None,
        newest_of_each: bool = False,
    ) -> _AssetList:
        """
        One page of assets, the newest first.

        Args:
            after: The `sequence` of the last asset of the page before.
            name: Only the versions of this one.
            newest_of_each: Of each name only the newest version.
        """
        size = max(1, min(limit, PAGE_LIMIT))
        return self._store.page(kind, view, limit=size, before=after, name=name, newest_of_each=newest_of_each)

    def each(self, kind: AssetKind, view: View = View.ACTIVE, *, name: str | None = None) -> Iterator[Asset]:
        """All assets of a kind, or all versions of one, the newest first, page by page."""
        page = self.list(kind, view, name=name)
        while page:
            yield from page
            page = self.list(kind, view, after=page[-1].sequence, name=name) if len(page) == PAGE_LIMIT else []

    def find(self, kind: AssetKind, lookup: str, *, limit: int = PAGE_LIMIT, after: int | None = None) -> _AssetList:
        """Assets with that `lookup`, the newest first, archived ones too."""
        return self._store.page(kind, View.ALL, limit=max(1, min(limit, PAGE_LIMIT)), before=after, lookup=lookup)

    def users_of(self, version: EnvironmentVersion, *, limit: int = PAGE_LIMIT) -> _AssetList:
        """What uses an environment version of this namespace."""
        return self._store.users_of(str(version), limit=max(1, min(limit, PAGE_LIMIT)))

    def latest(self, kind: AssetKind, name: str) -> Asset:
        """The version created last, archived or not. Raises `AssetNotFound`."""
        if not (found := self.list(kind, View.ALL, limit=1, name=name)):
            raise AssetNotFound(kind, name)
        return found[0]

    def next_version(self, kind: AssetKind, name: str) -> str:
        """What an automatic version would be: one more than the highest of the newest ones that are numbers."""
        numbers = [int(each.version) for each in self.list(kind, View.ALL, name=name) if _is_number(each.version)]
        return str(max(numbers, default=0) + 1)

    def set_archived(self, kind: AssetKind, name: str, version: str, archived: bool) -> Asset:
        """Archive or restore an asset. Raises `AssetNotFound`."""
        return self.update(kind, name, version, lambda asset: replace(asset, archived=archived))

    def update(self, kind: AssetKind, name: str, version: str, edit: Callable[[Asset], Asset]) -> Asset:
        """Change an asset by a function without effects of its own: it may be called twice. Raises `AssetNotFound`."""
        return self._store.update(kind, name, version, edit, now=self._clock())

    def remove(self, kind: AssetKind, name: str, version: str = "") -> bool:
        """Forget an asset. False if it is not there."""
        return self._store.remove(kind, name, version, now=self._clock())


def _revised(stored: Asset, given: Asset) -> Asset:
    """What becomes of an asset that is put once more. A job goes its own way, whatever is put."""
    if stored.kind is AssetKind.JOB:
        return stored
    moved = stored.kind is AssetKind.CODE and stored.document.get("codeUri") != given.document.get("codeUri")
    if stored.kind.versioned and (moved or stored.lookup != given.lookup):
        raise AssetConflict(given.kind, given.name, given.version)
    return replace(given, sequence=stored.sequence, created_at=stored.created_at)


def _json(kind: AssetKind, name: str, document: Mapping[str, Any]) -> bytes:
    if is_deeper(dict(document), DEPTH_LIMIT):
        raise InvalidAsset(kind, name, f"is nested too deeply: more than {DEPTH_LIMIT} levels")
    try:
        # NOTE: Python reads NaN and infinite numbers, which are no JSON, and which no client could read back.
        json.dumps(document, allow_nan=False)
        return canonical_json(dict(document)).encode()
    except (UnicodeEncodeError, ValueError, TypeError, RecursionError) as error:
        raise InvalidAsset(kind, name, f"can't be written as JSON: {type(error).__name__}") from error


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit() and len(version) <= 18
