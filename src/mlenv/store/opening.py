"""Opens a store, and brings its tables up to date first if need be."""

import os
from pathlib import Path
from typing import Final

from mlenv.store.database import StoreNewer, unusable
from mlenv.store.sqlite import SqliteDatabase

#: The newest migration. A store that has it is opened without Alembic, whose import is slow.
HEAD: Final = "0003"


def open_sqlite(path: Path) -> SqliteDatabase:
    """
    The database in a file, which is made, with its directory, if it is missing.

    Raises:
        StoreNewer: A newer program has been here.
        StoreDamaged: It is no SQLite database.
        StoreUnusable: It can't be opened or made.
    """
    database = SqliteDatabase(path)
    found = database.schema() if path.exists() else None
    if found != HEAD:
        database.close()
        _check_known(found, path)
        _migrate(path)
    return database


def schema_of(path: Path) -> str | None:
    """The newest migration that a database has, or None for one without tables, or without a file."""
    if not path.exists():
        return None
    database = SqliteDatabase(path)
    try:
        return database.schema()
    finally:
        database.close()


def _check_known(found: str | None, path: Path) -> None:
    """Migrations are numbered: one above `HEAD` was made by a newer program."""
    if found is not None and found > HEAD:
        raise StoreNewer(str(path), found=found, known=HEAD)


def _migrate(path: Path) -> None:
    """Run the migrations that are due, one process at a time."""
    from mlenv.file_lock import FileLock

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".migrating")):
            found = schema_of(path)
            _check_known(found, path)
            if found != HEAD:
                from mlenv.store.migrate import upgrade

                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
                upgrade(path)
    except OSError as error:
        raise unusable(str(path), error) from error
