"""Opens the database of a server or worker: a PostgreSQL database, or a SQLite file; migrated first if need be."""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from mlenv.store import postgresql
from mlenv.store.database import StoreNewer, StoreUnusable
from mlenv.store.opening import HEAD, open_sqlite
from mlenv.store.postgresql import InvalidDatabase, parse_url, postgresql_engine
from mlenv.store.postgresql_database import PostgresqlDatabase
from mlenv.store.server_statements import SqliteTexts
from mlenv.store.sqlite import SqliteDatabase

#: The advisory lock of those that migrate: a number that nobody else is likely to use.
_MIGRATING: Final = 7_019_224_618_033_251
#: Seconds that other processes may take to migrate.
_MIGRATION_TIMEOUT: Final = 300


def open_database(url: str | None, home: Path) -> PostgresqlDatabase | SqliteDatabase:
    """
    A server's database, migrated.

    Args:
        url: `postgresql://…`, `sqlite:///PATH`, or None for the file `mlenv.db` in `home`.
        home: The server's directory.

    Raises:
        InvalidDatabase: The address is none.
        StoreNewer: A newer program has been here.
        StoreUnreachable, StoreCrowded, StoreReadOnly: A database server does not let us in, or not write.
        StoreDamaged, StoreUnusable: As `mlenv.store.opening.open_sqlite` raises them.
    """
    if url is None:
        return _open_file(home / "mlenv.db")
    if url.startswith("sqlite:"):
        return _open_file(_file_of(url))
    return open_postgresql(url)


def open_postgresql(url: str) -> PostgresqlDatabase:
    """A PostgreSQL database, migrated. Raises as `open_database`."""
    address = parse_url(url)
    engine = postgresql_engine(address)
    try:
        _prepare(engine)
    except DBAPIError as error:
        raise postgresql.meaning(error.orig, address) from error
    finally:
        engine.dispose()
    return PostgresqlDatabase(address)


def _open_file(path: Path) -> SqliteDatabase:
    open_sqlite(path).close()
    return SqliteDatabase(path, SqliteTexts())


def _file_of(url: str) -> Path:
    try:
        found = make_url(url).database
    except (ArgumentError, ValueError):
        found = None
    if not found or found == ":memory:":
        raise InvalidDatabase("expected sqlite:///PATH of a file")
    return Path(found)


def _prepare(engine: Engine) -> None:
    """See whether the tables are those of this program, and make them so."""
    place = postgresql.where(engine.url)
    with engine.connect() as connection:
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            hint = "make it with `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`"
            raise StoreUnusable(place, f"its encoding is {encoding}, expected UTF8", hint=hint)
        found = _schema_of(connection)
    _check_known(found, place)
    if found != HEAD:
        _migrate(engine, place)


def _schema_of(connection: Connection) -> str | None:
    """The newest migration that a database has, or None for one without tables."""
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


def _check_known(found: str | None, place: str) -> None:
    """Migrations are numbered: one above `HEAD` was made by a newer program."""
    if found is not None and found > HEAD:
        raise StoreNewer(place, found=found, known=HEAD)


def _migrate(engine: Engine, place: str) -> None:
    """Run the migrations that are due, one process at a time: the lock is let go of when the transaction ends."""
    from mlenv.store.migrate import upgrade_over

    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = '{_MIGRATION_TIMEOUT}s'"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{_MIGRATION_TIMEOUT}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATING})
        # Tables in use are waited for as long as any statement would wait: what waits for a table stops all behind it.
        connection.execute(text(f"SET LOCAL lock_timeout = '{postgresql.LOCK_TIMEOUT}s'"))
        found = _schema_of(connection)
        _check_known(found, place)
        if found != HEAD:
            upgrade_over(connection)
