"""Runs Alembic, without its configuration file."""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from mlenv.store.alchemy import sqlite_engine, writing
from mlenv.store.sqlite import meaning


def configuration() -> Config:
    """Alembic's settings: where the migrations are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str | None:
    """The newest migration there is."""
    return ScriptDirectory.from_config(configuration()).get_current_head()


def upgrade_over(connection: Connection, revision: str = "head") -> None:
    """Bring a database to a migration, in the transaction that the connection is in."""
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def upgrade(path: Path, revision: str = "head") -> None:
    """
    Bring a database file to a migration, all steps in one transaction: a crash leaves what was there before.

    Raises:
        StoreBusy, StoreFull, StoreUnusable: As for any write.
    """
    engine = sqlite_engine(path)
    try:
        with writing(engine) as connection:
            upgrade_over(connection, revision)
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        raise meaning(origin or error, path) from error
    finally:
        engine.dispose()
