"""Transactions through a SQLAlchemy engine: for PostgreSQL, and for migrations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mlenv.errors import MlenvError
from mlenv.store import postgresql
from mlenv.store.database import Row, Run, StoreBusy, T, UnstorableValue
from mlenv.store.server_statements import STATEMENTS
from mlenv.store.sqlite import BUSY_TIMEOUT, PRAGMAS

#: How often a transaction is run again when another one came first.
_ATTEMPTS: Final = 8
#: One statement needs no transaction around it.
_ASKING: Final = {"isolation_level": "AUTOCOMMIT"}
#: A read sees one state of the database from its first statement to its last, and holds nobody up.
_READING: Final = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class AlchemyDatabase:
    """A PostgreSQL database behind an engine, whose tables are there. Safe for several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(**_READING)
        self._asking = engine.execution_options(**_ASKING)

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
                with writing(self._engine) as connection:
                    result = work(_runner(connection))
                    committing = True
                return result
            except DBAPIError as error:
                # A connection that was lost took with it what was done over it, but for what was being committed.
                lost = error.connection_invalidated and not committing and attempt == 1
                if not lost and not postgresql.overtaken(error):
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
        """Nothing: a database server looks after its own files."""
        return []

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def where(self) -> str:
        """The address without its password."""
        return postgresql.where(self._engine.url)

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

    def _meaning(self, error: DBAPIError) -> MlenvError:
        return postgresql.meaning(error, self._engine.url)

    def _too_few(self) -> StoreBusy:
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
    """An engine over a SQLite file, for migrations: made if need be, with the same settings as `mlenv.store.sqlite`."""
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
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that will write; under SQLite it waits for the only writer's place before it reads."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection
