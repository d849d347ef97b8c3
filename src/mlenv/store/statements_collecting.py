"""The statements that read everything that may name bytes, page by page, in the order of their tables' keys."""

from typing import Final

from sqlalchemy import Executable, Table, bindparam, select, tuple_

from mlenv.store import tables

#: Tables whose text is looked through for digests.
NAMING: Final[tuple[Table, ...]] = (
    tables.specs,
    tables.versions,
    tables.locks,
    tables.images,
    tables.bases,
    tables.builds,
    tables.uses,
    tables.assets,
    tables.files,
    tables.manifests,
)
#: Those that name nothing to keep: caches of what could be made again, people, and records of what was.
NOT_NAMING: Final[tuple[Table, ...]] = (
    tables.environments,
    tables.labels,
    tables.layers,
    tables.facts,
    tables.scopes,
    tables.principals,
    tables.grants,
    tables.tokens,
    tables.audit,
    tables.audit_head,
    tables.replies,
    tables.workers,
    tables.repository_blobs,
    tables.repository_tags,
)


def key_of(table: Table) -> tuple[str, ...]:
    """The columns of a table's key."""
    return tuple(column.name for column in table.primary_key.columns)


def _walk(table: Table) -> Executable:
    keys = list(table.primary_key.columns)
    after = tuple_(*(bindparam(f"after_{each.name}", type_=each.type) for each in keys))
    return select(table).where(tuple_(*keys) > after).order_by(*keys).limit(bindparam("limit"))


STATEMENTS: Final[dict[str, Executable]] = {
    f"walk_{table.name}": _walk(table) for table in (*NAMING, tables.layers, tables.repository_blobs)
}
