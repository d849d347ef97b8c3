"""The same transactions through a SQLAlchemy engine: for servers, for databases other than SQLite, and for migrations."""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mlenv.errors import MlenvError
from mlenv.store import (
    postgresql,
    statements,
    statements_assets,
    statements_builds,
    statements_files,
    statements_site,
)
from mlenv.store.database import Row, Run, StoreBusy, StoreUnusable, T, UnstorableValue
from mlenv.store.group_commit import GroupCommit
from mlenv.store.sqlite import BUSY_TIMEOUT, PRAGMAS, SqliteDatabase, meaning

#: Every statement that a server makes, by name.
STATEMENTS: Final = {
    **statements.STATEMENTS,
    **statements_site.STATEMENTS,
    **statements_builds.STATEMENTS,
    **statements_assets.STATEMENTS,
    **statements_files.STATEMENTS,
}

#: How often a transaction is run again when another one came first.
_ATTEMPTS: Final = 8
#: Seconds after which SQLite's only place of a writer is asked for again.
_ASK_AGAIN: Final = (0.0005, 0.002)
#: One statement needs no transaction around it.
_ASKING: Final = {"isolation_level": "AUTOCOMMIT"}
#: A read sees one state of the database from its first statement to its last, and holds nobody up.
_READING: Final = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class AlchemyDatabase:
    """A database behind an engine, whose tables are there. Safe for several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._reading = engine if self._is_sqlite else engine.execution_options(**_READING)
        self._asking = engine if self._is_sqlite else engine.execution_options(**_ASKING)
        self._group = GroupCommit(lambda: writing(engine)) if self._is_sqlite else None

    def read(self, work: Callable[[Run], T]) -> T:
        """Run `work` over one unchanging state of the database."""
        return self._try_twice(self._reading, work)

    def ask(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """One statement that reads, by itself."""
        return self._try_twice(self._asking, lambda run: run(statement, **parameters))

    def write(self, work: Callable[[Run], T]) -> T:
        """Run `work` as one transaction, again if another came first (it inserted the same row, locked more), or on a lost connection."""
        for attempt in range(1, _ATTEMPTS + 1):
            committing = False
            try:
                if self._group is not None:
                    return cast(T, self._group.run(lambda connection: work(_runner(connection))))
                with writing(self._engine) as connection:
                    result = work(_runner(connection))
                    committing = True
                return result
            except DBAPIError as error:
                # A connection that was lost took with it what was done over it, but for what was being committed.
                lost = error.connection_invalidated and not committing and attempt == 1
                if not lost and not self._overtaken(error):
                    raise self._meaning(error) from error
                if attempt == _ATTEMPTS:
                    raise StoreBusy(self.where) from error
            except PoolTimeout as error:
                raise self._too_few() from error
            time.sleep(postgresql.pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    def ping(self) -> None:
        """Nothing, if the database answers. Raises what `read` raises if not."""
        with self._translated(), self._asking.connect() as connection:
            connection.execute(text("SELECT 1"))

    def check(self) -> list[str]:
        """What SQLite says is wrong with its file; a database server looks after its own."""
        if not self._is_sqlite:
            return []
        database = SqliteDatabase(Path(self.where))
        try:
            return database.check()
        finally:
            database.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def where(self) -> str:
        """The file, or the address without its password."""
        url = self._engine.url
        return (url.database or "") if self._is_sqlite else postgresql.where(url)

    def _try_twice(self, engine: Engine, work: Callable[[Run], T]) -> T:
        """Read; once more if the connection was lost, as all are when a database starts anew."""
        with self._translated():
            try:
                with engine.connect() as connection:
                    return work(_runner(connection))
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            with engine.connect() as connection:
                return work(_runner(connection))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._meaning(error) from error
        except PoolTimeout as error:
            raise self._too_few() from error

    def _overtaken(self, error: DBAPIError) -> bool:
        return isinstance(error, IntegrityError) if self._is_sqlite else postgresql.overtaken(error)

    def _meaning(self, error: DBAPIError) -> MlenvError:
        if not self._is_sqlite:
            return postgresql.meaning(error, self._engine.url)
        return meaning(error.orig or error, Path(self.where))

    def _too_few(self) -> StoreUnusable | StoreBusy:
        return StoreBusy(self.where, hint="try again; this process makes more requests than it has connections")


def _runner(connection: Connection) -> Run:
    def run(statement: str, /, **parameters: str | int | None) -> list[Row]:
        for name, value in parameters.items():
            if isinstance(value, str) and "\0" in value:
                raise UnstorableValue(f"{name} has a NUL character")
        try:
            result = connection.execute(STATEMENTS[statement], parameters)
        except (UnicodeEncodeError, OverflowError) as error:
            raise UnstorableValue("text that is not Unicode, or a number that is too large") from error
        if not result.returns_rows:
            return []
        # NOTE: `result.mappings()` gives the same, at four times the cost.
        names = tuple(result.keys())
        return [dict(zip(names, row, strict=True)) for row in result.all()]

    return run


def sqlite_engine(path: Path) -> Engine:
    """An engine over a SQLite file, which is made if need be, with the same settings as `mlenv.store.sqlite`."""
    engine = create_engine(
        f"sqlite:///{path.absolute()}",
        connect_args={"timeout": BUSY_TIMEOUT},
        pool_size=postgresql.POOL_MOST,
        max_overflow=postgresql.POOL_MOST,
        pool_timeout=postgresql.POOL_TIMEOUT,
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: object) -> None:
        # The driver must not begin transactions by itself, or tables would be made outside of them.
        connection.isolation_level = None
        for pragma in PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes"):
            _begin_writing(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_writing(connection: Connection) -> None:
    """
    Wait for the only writer's place, asking for it often.

    SQLite's own waiting asks ever more rarely, up to ten times a second: where several processes write without a pause,
    some of their requests waited for seconds. Here one thread of a process asks at a time, for all (`GroupCommit`).
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    end = time.monotonic() + BUSY_TIMEOUT
    driver.execute("PRAGMA busy_timeout=0")
    try:
        while time.monotonic() < end:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break
            time.sleep(random.uniform(*_ASK_AGAIN))
        # Whatever is the matter is said in the words that others translate.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        driver.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT * 1000)}")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that will write; under SQLite it waits for the only writer's place before it reads."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection
