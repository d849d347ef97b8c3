"""The statements over assets, by name, as `mlenv.store.statements` has the others. Only servers make them."""

from typing import Final

from sqlalchemy import Executable, and_, bindparam, exists, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from mlenv.core.assets import AssetKind
from mlenv.core.jobs import JobStatus
from mlenv.store.tables import assets

_AT_WORK: Final = [status.value for status in JobStatus if not status.ended]
_KEY: Final = ("workspace", "kind", "name", "version")
_CHANGING: Final = ("lookup", "environment", "status", "archived", "document", "modified_at")


def _is(*columns: str) -> ColumnElement[bool]:
    return and_(*(assets.c[column] == bindparam(column) for column in columns))


def _lists() -> dict[str, Executable]:
    """Pages, the newest first."""
    later = assets.alias("later")
    superseded = exists().where(
        later.c.workspace == assets.c.workspace,
        later.c.kind == assets.c.kind,
        later.c.name == assets.c.name,
        later.c.sequence > assets.c.sequence,
        later.c.archived.between(bindparam("lowest"), bindparam("highest")),
    )
    page = (
        select(assets)
        .where(
            _is("workspace", "kind"),
            assets.c.sequence < bindparam("before"),
            assets.c.archived.between(bindparam("lowest"), bindparam("highest")),
        )
        .order_by(assets.c.sequence.desc())
        .limit(bindparam("limit"))
    )
    return {
        "assets": page,
        "assets_by_name": page.where(_is("name")),
        "assets_by_lookup": page.where(_is("lookup")),
        "assets_by_environment": select(assets)
        .where(_is("workspace", "environment"), assets.c.sequence < bindparam("before"))
        .order_by(assets.c.sequence.desc())
        .limit(bindparam("limit")),
        "newest_assets": page.where(~superseded),
    }


STATEMENTS: Final[dict[str, Executable]] = {
    "asset": select(assets).where(_is(*_KEY)),
    "asset_to_change": select(assets).where(_is(*_KEY)).with_for_update(),
    "last_asset": select(func.coalesce(func.max(assets.c.sequence), 0).label("sequence")).where(
        _is("workspace", "kind")
    ),
    "insert_asset": insert(assets).values({column.name: bindparam(column.name) for column in assets.columns}),
    "update_asset": update(assets)
    .where(and_(*(assets.c[column] == bindparam(f"the_{column}") for column in _KEY)))
    .values({name: bindparam(name) for name in _CHANGING}),
    # Of all namespaces, the oldest first.
    "jobs_at_work": select(assets.c.workspace, assets.c.name, assets.c.document)
    .where(
        assets.c.kind == AssetKind.JOB.value, assets.c.status.in_(_AT_WORK), assets.c.created_at < bindparam("before")
    )
    .order_by(assets.c.created_at)
    .limit(bindparam("limit")),
    "delete_asset": assets.delete().where(_is(*_KEY)),
    **_lists(),
}
