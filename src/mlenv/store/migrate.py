"""Runs Alembic, without its configuration file."""

import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from mlenv.store.sqlite import BUSY_TIMEOUT, PRAGMAS, meaning


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
        with engine.begin() as connection:
            upgrade_over(connection, revision)
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        raise meaning(origin or error, path) from error
    finally:
        engine.dispose()


def sqlite_engine(path: Path) -> Engine:
    """An engine over a SQLite file, which is made if need be, with the same settings as `mlenv.store.sqlite`; each of its transactions may write."""
    engine = create_engine(f"sqlite:///{path.absolute()}", connect_args={"timeout": BUSY_TIMEOUT})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: object) -> None:
        # The driver must not begin transactions by itself, or tables would be made outside of them.
        connection.isolation_level = None
        for pragma in PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # The only writer's place is waited for before anything is read.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
