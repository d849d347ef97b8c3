"""
PostgreSQL, through its driver and the statements' text; SQLAlchemy only keeps the connections.

Connections are in the driver's autocommit mode: transactions are begun and ended by statements of their own.
"""

import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util.concurrency import greenlet_spawn, in_greenlet

from mlenv.store import postgresql
from mlenv.store.database import Row, Run, StoreBusy, T
from mlenv.store.group_commit import GroupCommit
from mlenv.store.postgresql_loop import LoopConnections
from mlenv.store.postgresql_pipeline import Statement, Statements, Values, Wait, exchange, statement
from mlenv.store.postgresql_together import Calls, Draft, NotTogether, Overtaken, write_together

#: How often a transaction is run again when another one came first.
_ATTEMPTS: Final = 8
#: A read sees one state of the database from its first statement to its last, and holds nobody up.
_READING: Final = statement("begin reading", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_WRITING: Final = statement("begin writing", "BEGIN")
_COMMIT: Final = statement("commit", "COMMIT")
_ROLLBACK: Final = statement("roll back", "ROLLBACK")
_STATEMENTS: Final = Statements()


class _Pooled(NamedTuple):
    """A connection of the pool, the keys of what it has prepared, and how it is waited for."""

    driver: "psycopg.Connection[Any]"
    prepared: set[bytes]
    wait: Wait

    def exchange(self, calls: Calls, *, failed: Callable[[int], None] = lambda _number: None) -> list[Row]:
        """Run statements; see `mlenv.store.postgresql_pipeline.exchange`."""
        return exchange(self.driver, self.prepared, calls, wait=self.wait, failed=failed)


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
        self._group: GroupCommit[Draft] = GroupCommit(partial(write_together, self._send_together))
        self._in_loops = LoopConnections(lambda: self._engine.pool.connect())

    def in_loop(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> Coroutine[Any, Any, T]:
        """Call work that only reads in the event loop; see `mlenv.store.postgresql_loop`. It returns and raises what `work` does."""
        return greenlet_spawn(work, *arguments, **named)

    def read(self, work: Callable[[Run], T]) -> T:
        """Run `work` over one unchanging state of the database."""

        def whole(connection: _Pooled) -> T:
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
                    transaction = _Transaction(connection, _WRITING)
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

    def write_together(self, work: Callable[[Run], T], *, key: str) -> T:
        """See `mlenv.store.database.Database`."""
        draft = Draft(self.ask, _STATEMENTS, key)
        try:
            result = work(draft.run)
            if draft.calls:
                self._group.run(draft)
            return result
        except NotTogether:
            return self.write(work)
        except (_ConnectionLost, psycopg.Error) as error:
            self._refuse(error)

    def _send_together(self, calls: Calls) -> None:
        """Run statements in one transaction. Raises `Overtaken`, `NotTogether`, `_ConnectionLost`."""
        whole = [(_WRITING, ()), *calls, (_COMMIT, ())]
        numbers: list[int] = []
        try:
            with self._connection() as connection:
                connection.exchange(whole, failed=numbers.append)
        except psycopg.Error as error:
            # A row that is there already, or one that is not as it was.
            if getattr(error, "sqlstate", None) in {"23505", "23502"} and 0 < numbers[0] <= len(calls):
                raise Overtaken(numbers[0] - 1) from error
            raise NotTogether from error

    def ping(self) -> None:
        """Nothing, if the database answers. Raises what `read` raises if not."""
        try:
            with self._connection() as connection:
                connection.driver.execute("SELECT 1")
        except (_ConnectionLost, psycopg.Error) as error:
            self._refuse(error)

    def check(self) -> list[str]:
        """Nothing: a database server looks after its own files."""
        return []

    def close(self) -> None:
        """Close every connection."""
        self._in_loops.forget()
        self._engine.dispose()

    @property
    def where(self) -> str:
        """The address without its password."""
        return postgresql.where(self.url)

    def _try_twice(self, work: Callable[[_Pooled], T]) -> T:
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
    def _connection(self) -> Iterator[_Pooled]:
        """One of the pool; what it has begun and not committed is taken back. Raises `_ConnectionLost`."""
        try:
            own = self._in_loops.take() if in_greenlet() else None
            pooled = own.pooled if own else self._engine.pool.connect()
        except (PoolTimeout, TimeoutError) as error:
            hint = "try again; this process makes more requests than it has connections"
            raise StoreBusy(self.where, hint=hint) from error
        connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
        given = _Pooled(connection, pooled.info.setdefault("prepared", set()), own.wait if own else connection.wait)
        try:
            yield given
        except psycopg.Error as error:
            if not connection.closed:
                raise
            # The others are likely to be lost as well.
            pooled.invalidate()
            self._in_loops.forget()
            self._engine.dispose()
            raise _ConnectionLost from error
        except BaseException as error:
            if not isinstance(error, Exception):
                # It may be in the middle of an answer.
                pooled.invalidate()
            raise
        finally:
            try:
                if not connection.closed and connection.pgconn.transaction_status != TransactionStatus.IDLE:
                    _take_back(given, pooled)
            finally:
                if own:
                    self._in_loops.give(own)
                else:
                    pooled.close()

    def _refuse(self, error: BaseException) -> NoReturn:
        """Raise what an error means to the user."""
        cause = error.__cause__ if isinstance(error, _ConnectionLost) else error
        raise postgresql.meaning(cause, self.url) from error


def _take_back(connection: _Pooled, pooled: PoolProxiedConnection) -> None:
    """End a transaction that was not committed. A connection where that fails is not used again."""
    try:
        connection.exchange([(_ROLLBACK, ())])
    except BaseException as error:
        pooled.invalidate()
        if not isinstance(error, psycopg.Error):
            raise


class _Transaction:
    """
    Statements over one connection. Those without an answer are sent together with the next that has one, or with the end.

    So a transaction waits for the database as often as it reads, and holds locks for that much shorter. What is wrong with
    a statement is told where it is waited for.

    Args:
        begin: What begins it, if it is to have more than one statement.
    """

    def __init__(self, connection: _Pooled, begin: Statement | None = None) -> None:
        self._connection = connection
        self._later: list[tuple[Statement, Values]] = [(begin, ())] if begin else []

    def run(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """See `mlenv.store.database.Run`."""
        prepared = _STATEMENTS[statement]
        self._later.append((prepared, prepared.values(parameters)))
        return self._send() if prepared.reads else []

    def commit(self) -> None:
        """End it, and wait until what it wrote is on the disk."""
        self._later.append((_COMMIT, ()))
        self._send()

    def _send(self) -> list[Row]:
        """The rows of the last statement."""
        later, self._later = self._later, []
        return self._connection.exchange(later)
