"""
PostgreSQL, through its driver and the statements' text; SQLAlchemy only keeps the connections.

Connections are in the driver's autocommit mode: transactions are begun and ended by statements of their own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, TypeAlias, cast

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import URL
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mlenv.store import postgresql
from mlenv.store.database import Row, Run, StoreBusy, T, UnstorableValue
from mlenv.store.server_statements import PostgresqlTexts

_Connection: TypeAlias = "psycopg.Connection[Row]"
Parameters: TypeAlias = dict[str, str | int | None]

#: How often a transaction is run again when another one came first.
_ATTEMPTS: Final = 8
#: A read sees one state of the database from its first statement to its last, and holds nobody up.
_READING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_TEXTS: Final = PostgresqlTexts()


class _ConnectionLost(Exception):
    """A connection ended under a statement: its cause says why."""


class PostgresqlDatabase:
    """
    A PostgreSQL database whose tables are there. Safe for several threads and processes.

    Attributes:
        url: Its address, with the password.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self._engine = postgresql.postgresql_engine(url, autocommit=True)

    def read(self, work: Callable[[Run], T]) -> T:
        """Run `work` over one unchanging state of the database."""

        def whole(connection: _Connection) -> T:
            transaction = _Transaction(connection, _READING)
            result = work(transaction.run)
            transaction.commit()
            return result

        return self._try_twice(whole)

    def ask(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """One statement that reads, by itself."""
        return self._try_twice(lambda connection: _Transaction(connection).run(statement, **parameters))

    def write(self, work: Callable[[Run], T]) -> T:
        """Run `work` as one transaction, again if another came first (it inserted the same row, locked more), or on a lost connection."""
        for attempt in range(1, _ATTEMPTS + 1):
            committing = False
            try:
                with self._connection() as connection:
                    transaction = _Transaction(connection, "BEGIN")
                    result = work(transaction.run)
                    committing = True
                    transaction.commit()
                return result
            except _ConnectionLost as error:
                # It took with it what was done over it, but for what was being committed.
                if committing or attempt > 1:
                    self._refuse(error)
            except psycopg.Error as error:
                if not postgresql.overtaken(error):
                    self._refuse(error)
                if attempt == _ATTEMPTS:
                    raise StoreBusy(self.where) from error
            time.sleep(postgresql.pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    def ping(self) -> None:
        """Nothing, if the database answers. Raises what `read` raises if not."""
        try:
            with self._connection() as connection:
                connection.execute("SELECT 1")
        except (_ConnectionLost, psycopg.Error) as error:
            self._refuse(error)

    def check(self) -> list[str]:
        """Nothing: a database server looks after its own files."""
        return []

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def where(self) -> str:
        """The address without its password."""
        return postgresql.where(self.url)

    def _try_twice(self, work: Callable[[_Connection], T]) -> T:
        """Read; once more if the connection was lost, as all are when a database starts anew."""
        try:
            try:
                with self._connection() as connection:
                    return work(connection)
            except _ConnectionLost:
                with self._connection() as connection:
                    return work(connection)
        except (_ConnectionLost, psycopg.Error) as error:
            self._refuse(error)

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        """One of the pool; what it has begun and not committed is taken back. Raises `_ConnectionLost`."""
        try:
            pooled = self._engine.pool.connect()
        except PoolTimeout as error:
            hint = "try again; this process makes more requests than it has connections"
            raise StoreBusy(self.where, hint=hint) from error
        connection = cast("_Connection", pooled.driver_connection)
        try:
            yield connection
        except psycopg.Error as error:
            if not connection.closed:
                raise
            # The others are likely to be lost as well.
            pooled.invalidate()
            self._engine.dispose()
            raise _ConnectionLost from error
        except BaseException as error:
            if not isinstance(error, Exception):
                # It may be in the middle of an answer.
                pooled.invalidate()
            raise
        finally:
            pooled.close()

    def _refuse(self, error: BaseException) -> NoReturn:
        """Raise what an error means to the user."""
        cause = error.__cause__ if isinstance(error, _ConnectionLost) else error
        raise postgresql.meaning(cause, self.url) from error


class _Transaction:
    """
    Statements over one connection. Those without an answer are sent together with the next that has one, or with the end.

    So a transaction waits for the database as often as it reads, and holds locks for that much shorter
    (postgresql.org/docs/current/libpq-pipeline-mode.html). What is wrong with a statement is told where it is waited for.

    Args:
        begin: What begins it, if it is to have more than one statement.
    """

    def __init__(self, connection: _Connection, begin: str | None = None) -> None:
        self._connection = connection
        self._later: list[tuple[str, Parameters]] = [(begin, {})] if begin else []

    def run(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """See `mlenv.store.database.Run`."""
        for name, value in parameters.items():
            if isinstance(value, str) and "\0" in value:
                raise UnstorableValue(f"{name} has a NUL character")
        text = _TEXTS[statement]
        self._later.append((text, parameters))
        return self._send() if text.startswith("SELECT") or " RETURNING " in text else []

    def commit(self) -> None:
        """End it, and wait until what it wrote is on the disk."""
        self._later.append(("COMMIT", {}))
        self._send()

    def _send(self) -> list[Row]:
        """The rows of the last statement."""
        later, self._later = self._later, []
        cursor = self._connection.cursor(row_factory=dict_row)
        try:
            if len(later) == 1:
                cursor.execute(*later[0])
            else:
                with self._connection.pipeline():
                    for each in later[:-1]:
                        self._connection.execute(*each)
                    cursor.execute(*later[-1])
        except (UnicodeEncodeError, OverflowError) as error:
            raise UnstorableValue("text that is not Unicode, or a number that is too large") from error
        answer = cursor.pgresult
        return cursor.fetchall() if answer is not None and answer.nfields else []
