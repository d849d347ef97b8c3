"""Functions of SQL that SQLite and PostgreSQL spell in two ways."""

from typing import Any

from sqlalchemy import Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction


class sha256_hex(GenericFunction[str]):
    """The sha256 of a text in UTF-8, in hex. `mlenv.store.sqlite` gives SQLite one of this name."""

    type = Text()
    inherit_cache = True


@compiles(sha256_hex, "postgresql")
def _sha256_of_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"encode(sha256(convert_to({compiler.process(element.clauses, **options)}, 'UTF8')), 'hex')"


class json_object_agg(GenericFunction[str]):
    """A JSON object of names and values, of which there is at least one, as text (PostgreSQL's documentation, 9.21)."""

    type = Text()
    inherit_cache = True


@compiles(json_object_agg, "postgresql")
def _objects_of_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"CAST(json_object_agg({compiler.process(element.clauses, **options)}) AS TEXT)"


@compiles(json_object_agg, "sqlite")
def _objects_of_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    # sqlite.org/json1.html#jgroupobject
    return f"json_group_object({compiler.process(element.clauses, **options)})"
