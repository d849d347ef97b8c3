"""The same transactions through a SQLAlchemy engine: for databases other than SQLite, and for migrations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError

from mlenv.store.database import Row, Run, StoreUnusable, T
from mlenv.store.sqlite import BUSY_TIMEOUT, PRAGMAS, meaning
from mlenv.store.statements import STATEMENTS

#: How often a transaction is run again when another one inserted the same row first.
_ATTEMPTS: Final = 5


class AlchemyDatabase:
    """A database behind an engine, whose tables are there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, work: Callable[[Run], T]) -> T:
        """Run `work` over one unchanging state of the database."""
        with self._translated(), self._engine.connect() as connection:
            return work(_runner(connection))

    def write(self, work: Callable[[Run], T]) -> T:
        """Run `work` as one transaction, again if another one inserted the same row first."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._translated(), writing(self._engine) as connection:
                    return work(_runner(connection))
            except IntegrityError as error:
                if attempt == _ATTEMPTS:
                    raise StoreUnusable(self._where, f"{attempt} attempts were overtaken") from error
        raise AssertionError("the last attempt returns or raises")

    def check(self) -> list[str]:
        """Nothing: a database server looks after its own files."""
        return []

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def _where(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            if self._engine.dialect.name == "sqlite":
                raise meaning(error.orig or error, Path(self._engine.url.database or "")) from error
            raise StoreUnusable(self._where, str(error.orig)) from error


def _runner(connection: Connection) -> Run:
    def run(statement: str, /, **parameters: str | int | None) -> list[Row]:
        result = connection.execute(STATEMENTS[statement], parameters)
        return [dict(row) for row in result.mappings()] if result.returns_rows else []

    return run


def sqlite_engine(path: Path) -> Engine:
    """An engine over a SQLite file, which is made if need be, with the same settings as `mlenv.store.sqlite`."""
    engine = create_engine(f"sqlite:///{path.absolute()}", connect_args={"timeout": BUSY_TIMEOUT})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: object) -> None:
        # The driver must not begin transactions by itself, or tables would be made outside of them.
        connection.isolation_level = None
        for pragma in PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that will write; under SQLite it waits for the only writer's place before it reads."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection
