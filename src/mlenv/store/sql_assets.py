"""Assets in SQL: code, components, endpoints, deployments and jobs of one namespace. Each method is one transaction."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from mlenv.core.assets import Asset, AssetKind, AssetNotFound
from mlenv.core.audit import Author, Change
from mlenv.core.digest import Digest
from mlenv.core.environment import View
from mlenv.core.spec import canonical_json
from mlenv.store import rows
from mlenv.store.audit import append, require_author
from mlenv.store.database import Database, Row, Run

#: Above every sequence number: SQLite's and PostgreSQL's largest integer.
_TOP: Final = 2**63 - 1
#: Lowest and highest value of the archived column.
_BETWEEN: Final = {View.ACTIVE: (0, 0), View.ARCHIVED: (1, 1), View.ALL: (0, 1)}


class SqlAssets:
    """
    A `service.assets.AssetStore` over a database.

    Args:
        workspace: Whose assets they are; those of others are not seen.
        author: Who changes them, for the audit. Without one nothing can be changed.
    """

    def __init__(self, database: Database, workspace: str, *, author: Author | None = None) -> None:
        self._database = database
        self._workspace = workspace
        self._author = author

    def put(self, asset: Asset, *, revise: Callable[[Asset, Asset], Asset]) -> tuple[Asset, bool]:
        """See `service.assets.AssetStore`."""
        require_author(self._author)

        def work(run: Run) -> tuple[Asset, bool]:
            found = run("asset_to_change", **self._key(asset.kind, asset.name, asset.version))
            if found:
                stored = _asset(found[0])
                return self._save(run, stored, revise(stored, asset), asset.modified_at), False
            # NOTE: the audit's end is held from here on, so that sequence numbers are given out one after the other.
            self._audit(run, None, asset, asset.created_at)
            last = run("last_asset", workspace=self._workspace, kind=asset.kind.value)[0]["sequence"]
            new = replace(asset, sequence=last + 1)
            run("insert_asset", **self._row(new))
            return new, True

        return self._database.write(work)

    def update(
        self, kind: AssetKind, name: str, version: str, edit: Callable[[Asset], Asset], *, now: datetime
    ) -> Asset:
        """See `service.assets.AssetStore`. Raises `AssetNotFound`."""
        require_author(self._author)

        def work(run: Run) -> Asset:
            found = run("asset_to_change", **self._key(kind, name, version))
            if not found:
                raise AssetNotFound(kind, name, version)
            stored = _asset(found[0])
            return self._save(run, stored, edit(stored), now)

        return self._database.write(work)

    def remove(self, kind: AssetKind, name: str, version: str, *, now: datetime) -> bool:
        """See `service.assets.AssetStore`."""
        require_author(self._author)

        def work(run: Run) -> bool:
            key = self._key(kind, name, version)
            if not (found := run("asset_to_change", **key)):
                return False
            self._audit(run, _asset(found[0]), None, now)
            run("delete_asset", **key)
            return True

        return self._database.write(work)

    def asset(self, kind: AssetKind, name: str, version: str) -> Asset | None:
        """One asset, or None."""
        found = self._database.read(lambda run: run("asset", **self._key(kind, name, version)))
        return _asset(found[0]) if found else None

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
        """See `service.assets.AssetStore`."""
        lowest, highest = _BETWEEN[view]
        parameters: dict[str, str | int | None] = {
            "workspace": self._workspace,
            "kind": kind.value,
            "before": _TOP if before is None else before,
            "lowest": lowest,
            "highest": highest,
            "limit": limit,
        }
        statement = "newest_assets" if newest_of_each else "assets"
        if name is not None:
            statement, parameters["name"] = "assets_by_name", name
        elif lookup is not None:
            statement, parameters["lookup"] = "assets_by_lookup", lookup
        found = self._database.read(lambda run: run(statement, **parameters))
        return [_asset(row) for row in found]

    def users_of(self, environment: str, *, limit: int) -> list[Asset]:
        """Assets that use an environment version, the newest first of each kind."""
        key = {"workspace": self._workspace, "environment": environment}
        found = self._database.read(lambda run: run("assets_by_environment", **key, limit=limit, before=_TOP))
        return [_asset(row) for row in found]

    # Steps of the transactions above.

    def _save(self, run: Run, stored: Asset, new: Asset, now: datetime) -> Asset:
        new = replace(new, modified_at=stored.modified_at)
        if new == stored:
            return stored
        new = replace(new, modified_at=max(now, stored.modified_at))
        self._audit(run, stored, new, now)
        row = self._row(new)
        key = {f"the_{column}": row[column] for column in ("workspace", "kind", "name", "version")}
        changing = ("lookup", "environment", "status", "archived", "document", "modified_at")
        run("update_asset", **key, **{column: row[column] for column in changing})
        return new

    def _audit(self, run: Run, before: Asset | None, after: Asset | None, now: datetime) -> None:
        asset = after or before
        assert asset is not None
        action = "create" if before is None else "delete" if after is None else "update"
        subject = f"{asset.name}:{asset.version}" if asset.version else asset.name
        change = Change(f"{asset.kind}.{action}", subject, _state(before), _state(after))
        append(run, require_author(self._author), self._workspace, change, now)

    def _key(self, kind: AssetKind, name: str, version: str) -> dict[str, str]:
        return {"workspace": self._workspace, "kind": kind.value, "name": name, "version": version}

    def _row(self, asset: Asset) -> Row:
        return {
            **self._key(asset.kind, asset.name, asset.version),
            "sequence": asset.sequence,
            "lookup": asset.lookup,
            "environment": asset.environment,
            "status": asset.status,
            "archived": int(asset.archived),
            "document": canonical_json(dict(asset.document)),
            "created_at": rows.from_time(asset.created_at),
            "modified_at": rows.from_time(asset.modified_at),
        }


def jobs_waiting(database: Database, *, before: datetime, limit: int) -> list[tuple[str, str, int]]:
    """Scope, name and attempts of jobs of all namespaces that were submitted before a time and have not ended."""
    found = database.read(lambda run: run("jobs_at_work", before=rows.from_time(before), limit=limit))
    return [(row["workspace"], row["name"], json.loads(row["document"])["run"]["attempts"]) for row in found]


def _asset(row: Row) -> Asset:
    return Asset(
        kind=AssetKind(row["kind"]),
        name=row["name"],
        version=row["version"],
        sequence=row["sequence"],
        document=json.loads(row["document"]),
        lookup=row["lookup"],
        environment=row["environment"],
        status=row["status"],
        archived=bool(row["archived"]),
        created_at=rows.to_time(row["created_at"]),
        modified_at=rows.to_time(row["modified_at"]),
    )


def _state(asset: Asset | None) -> dict[str, Any] | None:
    """What the audit keeps. The document itself may hold variables that are nobody else's business: its digest only."""
    if asset is None:
        return None
    return {
        "environment": asset.environment,
        "status": asset.status,
        "archived": asset.archived,
        "document": str(Digest.of(canonical_json(dict(asset.document)).encode())),
    }
