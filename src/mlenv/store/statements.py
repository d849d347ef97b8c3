"""
Every statement of an embedded store, by name, in SQLAlchemy Core: the same for SQLite and PostgreSQL. Those that only
servers make are in `statements_….py`, and all of them in `server_statements.py`.

Importing SQLAlchemy takes longer than most of what the command line does with a store. So the statements' text for
SQLite is made ahead, and kept in `sqlite_statements.py`; a test holds both together, and
`python -m mlenv.store.statements` makes the text anew.
"""

import re
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Case,
    Executable,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from mlenv.store import tables
from mlenv.store.sql_functions import json_object_agg

#: What is shown of an environment.
_SHOWN: Final = ("name", "archived", "latest_version", "next_version", "created_at", "modified_at")
_HEADER = '''"""
The text of every statement for SQLite, by name.

Made from `mlenv.store.statements` by `python -m mlenv.store.statements`: change it there.
"""

from typing import Final

SQL: Final = {
'''


def is_parameter(table: Table, *columns: str) -> ColumnElement[bool]:
    """Each column is the parameter of its name."""
    return and_(*(table.c[column] == bindparam(column) for column in columns))


def _insert(table: Table) -> Executable:
    return insert(table).values({column.name: bindparam(column.name) for column in table.columns})


def _insert_if_missing(table: Table) -> Executable:
    """Insert, unless there is a row with that key."""
    key = is_parameter(table, *(column.name for column in table.primary_key.columns))
    row = select(*(bindparam(column.name, type_=column.type) for column in table.columns)).where(~exists().where(key))
    return insert(table).from_select([column.name for column in table.columns], row)


def _set(table: Table, keys: tuple[str, ...], values: tuple[str, ...]) -> Update:
    """Which row is said by parameters `the_…`: SQLAlchemy keeps a column's own name for its new value."""
    row = and_(*(table.c[column] == bindparam(f"the_{column}") for column in keys))
    return update(table).where(row).values({name: bindparam(name) for name in values})


def _all(table: Table, *keys: str, rows: Select[Any] | None = None) -> Executable:
    """A page of all rows, in the order of `keys`, after those of the page before."""
    columns = [table.c[key] for key in keys]
    later = tuple_(*columns) > tuple_(*(bindparam(f"after_{column.name}", type_=column.type) for column in columns))
    page = (select(table) if rows is None else rows).where(later).order_by(*columns).limit(bindparam("limit"))
    return page.where(is_parameter(table, "workspace")) if "workspace" in table.c else page


def _environments() -> dict[str, Executable]:
    table = tables.environments
    its = is_parameter(table, "workspace", "name")
    one = select(table).where(its)
    shown = select(*(table.c[name] for name in _SHOWN), _labels_of(table).label("labels"))
    page = shown.where(is_parameter(table, "workspace"), table.c.name > bindparam("after"))
    page = page.order_by(table.c.name).limit(bindparam("limit"))
    names = (
        select(table.c.name).where(is_parameter(table, "workspace")).order_by(table.c.name).limit(bindparam("limit"))
    )
    changing = ("archived", "latest_version", "next_version", "modified_at")
    names_from = names.where(table.c.name >= bindparam("first"))
    # No number, which can't be written, if others have changed it since it was read.
    unchanged = table.c.modified_at == bindparam("the_modified_at")
    counted = case((unchanged, bindparam("last_sequence", type_=table.c.last_sequence.type)))
    return {
        "environment": one,
        "environment_to_change": one.with_for_update(),
        "environment_labeled": shown.where(its),
        "environments": page,
        "environments_archived": page.where(is_parameter(table, "archived")),
        "environment_names": names,
        "environment_names_from": names_from,
        "insert_environment": _insert(table),
        "update_environment": _set(table, ("workspace", "name"), changing).values(last_sequence=counted),
    }


def _labels_of(environments: Table) -> Case[str]:
    """
    Where an environment's labels point, as JSON, or NULL if it has none.

    NOTE: asked for by itself for each environment of a page. Joined, they would be put together with all that may be there:
    a database does not know how many a page has when it makes its plan.
    """
    labels, later = tables.labels, tables.labels.alias("later")
    superseded = exists().where(
        later.c.workspace == labels.c.workspace,
        later.c.name == labels.c.name,
        later.c.label == labels.c.label,
        later.c.sequence > labels.c.sequence,
    )
    its = and_(labels.c.workspace == environments.c.workspace, labels.c.name == environments.c.name)
    pairs = select(json_object_agg(labels.c.label, labels.c.version)).where(its, ~superseded).scalar_subquery()
    # Most have none, which is found out in half the time that it takes to put nothing together.
    return case((exists().where(its), pairs))


def _versions() -> dict[str, Executable]:
    table, specs, environments = tables.versions, tables.specs, tables.environments
    same = and_(specs.c.workspace == table.c.workspace, specs.c.document_digest == table.c.document_digest)
    whole = select(table, specs.c.document).join(specs, same).where(is_parameter(table, "workspace", "name"))
    its = and_(environments.c.workspace == table.c.workspace, environments.c.name == table.c.name)
    shown = whole.add_columns(environments.c.archived.label("environment_archived")).join(environments, its)
    newest = table.c.sequence.desc()
    page = shown.where(table.c.sequence < bindparam("before")).order_by(newest).limit(bindparam("limit"))
    changing = ("description", "tags", "archived", "modified_at", "details")
    return {
        "version": whole.where(is_parameter(table, "version")),
        "stored_and_next": whole.where(table.c.version.in_([bindparam("stored"), bindparam("next")])),
        "shown_version": shown.where(is_parameter(table, "version")),
        "versions": page,
        "versions_archived": page.where(is_parameter(table, "archived")),
        "newest_versions": select(table.c.version)
        .where(is_parameter(table, "workspace", "name"))
        .order_by(newest)
        .limit(bindparam("limit")),
        "version_sequence": select(table.c.sequence).where(is_parameter(table, "workspace", "name", "version")),
        "insert_version": _insert(table),
        "update_version": _set(table, ("workspace", "name", "version"), changing),
        "archive_versions": _set(table, ("workspace", "name"), ("archived",)),
        "insert_spec": _insert_if_missing(specs),
    }


def _labels() -> dict[str, Executable]:
    table = tables.labels
    history = select(table).where(is_parameter(table, "workspace", "name", "label")).order_by(table.c.sequence.desc())
    return {
        "label_history": history,
        "insert_label": _insert(table),
    }


def _content() -> dict[str, Executable]:
    locks, images, bases = tables.locks, tables.images, tables.bases
    image_key = ("workspace", "lock", "base", "spec", "compression")
    return {
        "lock": select(locks.c.digest).where(is_parameter(locks, "workspace", "name", "version", "platform")),
        "insert_lock": _insert(locks),
        "layer": select(tables.layers).where(is_parameter(tables.layers, "key")),
        "insert_layer": _insert(tables.layers),
        "delete_layer": delete(tables.layers).where(is_parameter(tables.layers, "key")),
        "image": select(images.c.descriptor).where(is_parameter(images, *image_key)),
        "insert_image": _insert(images),
        "base": select(bases.c.digest).where(is_parameter(bases, "workspace", "name")),
        "bases": select(bases.c.name, bases.c.digest).where(is_parameter(bases, "workspace")).order_by(bases.c.name),
        "insert_base": _insert(bases),
        "update_base": _set(bases, ("workspace", "name"), ("digest", "modified_at")),
        "facts": select(tables.facts.c.document).where(is_parameter(tables.facts, "digest")),
        "insert_facts": _insert(tables.facts),
    }


def _work() -> dict[str, Executable]:
    builds, uses = tables.builds, tables.uses
    newest = select(uses).where(is_parameter(uses, "workspace", "name"))
    order = (uses.c.started_at.desc(), uses.c.id.desc())
    return {
        "builds": select(builds)
        .where(is_parameter(builds, "workspace", "name", "version"))
        .order_by(builds.c.started_at.desc(), builds.c.id.desc()),
        "delete_build": delete(builds).where(is_parameter(builds, "workspace", "id")),
        "insert_build": _insert(builds),
        "uses": newest.order_by(*order).limit(bindparam("limit")),
        "uses_of_version": newest.where(is_parameter(uses, "version")).order_by(*order).limit(bindparam("limit")),
        "delete_use": delete(uses).where(is_parameter(uses, "workspace", "id")),
        "insert_use": _insert(uses),
    }


def _everything() -> dict[str, Executable]:
    versions, specs = tables.versions, tables.specs
    same = and_(specs.c.workspace == versions.c.workspace, specs.c.document_digest == versions.c.document_digest)
    whole = select(versions, specs.c.document).join(specs, same)
    return {
        "all_environments": _all(tables.environments, "name"),
        "all_versions": _all(versions, "name", "version", rows=whole),
        "all_locks": _all(tables.locks, "name", "version", "platform"),
        "all_images": _all(tables.images, "lock", "base", "spec", "compression"),
        "all_layers": _all(tables.layers, "key"),
    }


STATEMENTS: Final[dict[str, Executable]] = {
    **_environments(),
    **_versions(),
    **_labels(),
    **_content(),
    **_work(),
    **_everything(),
}


def sqlite_text(statement: Any) -> str:
    """A statement's text for SQLite, with named parameters, on one line."""
    from sqlalchemy.dialects import sqlite

    return _text(statement.compile(dialect=sqlite.dialect(paramstyle="named")), r":{}\b")


def postgresql_text(statement: Any) -> str:
    """A statement's text for PostgreSQL's driver, with named parameters, on one line."""
    from sqlalchemy.dialects.postgresql import psycopg

    return _text(statement.compile(dialect=psycopg.dialect()), r"%\({}\)s")  # type: ignore[no-untyped-call]


def _text(compiled: Any, parameter: str) -> str:
    """
    The text of a compiled statement.

    Args:
        parameter: A pattern of how the text has a parameter, with its name at `{}`.
    """
    text = " ".join(str(compiled).split())
    for name, value in compiled.params.items():
        # NOTE: constants, those that SQLAlchemy adds as well, such as `OFFSET 0`, are parameters that have a value.
        if value is not None:
            literal = ", ".join(map(_literal, value)) if isinstance(value, list) else _literal(value)
            text = text.replace(f"__[POSTCOMPILE_{name}]", literal)
            text = re.sub(parameter.format(name), lambda _, literal=literal: literal, text)  # type: ignore[misc]
    return text


def _literal(value: int | str) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def sqlite_module() -> str:
    """What `sqlite_statements.py` must hold."""
    lines = [f'    "{name}": """{sqlite_text(statement)}""",' for name, statement in STATEMENTS.items()]
    return "\n".join([_HEADER.rstrip("\n"), *lines, "}", ""])


if __name__ == "__main__":
    Path(__file__).with_name("sqlite_statements.py").write_text(sqlite_module(), encoding="utf-8")
