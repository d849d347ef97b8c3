"""
SQLite, through Python's own driver and statements whose text was made ahead: nothing heavy to import.

WAL, so that readers and the writer do not stop each other. `synchronous=FULL`: a commit is on the disk when it
returns. With NORMAL, WAL may forget the last commits when the power fails, and a version whose number was already
told to somebody could then become another one.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from mlenv.errors import MlenvError
from mlenv.store.database import Row, Run, StoreBusy, StoreDamaged, StoreFull, StoreUnusable, T
from mlenv.store.sqlite_statements import SQL

#: How long one process waits for another's transaction, in seconds.
BUSY_TIMEOUT: Final = 30.0
#: Run on every new connection.
PRAGMAS: Final = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")

#: Connections of a parent process: to be neither used nor closed in a child (sqlite.org, "How To Corrupt", 2.6).
_inherited: list[sqlite3.Connection] = []


class SqliteDatabase:
    """A database file whose tables are there. Safe for several threads and processes; idle connections are kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._process = os.getpid()

    def read(self, work: Callable[[Run], T]) -> T:
        """Run `work` over one unchanging state of the database."""
        return self._transact("BEGIN", work)

    def ask(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """One statement that reads, by itself."""
        return self.read(lambda run: run(statement, **parameters))

    def write(self, work: Callable[[Run], T]) -> T:
        """Run `work` as one transaction. It takes the only writer's place before it reads, so it need never retry."""
        return self._transact("BEGIN IMMEDIATE", work)

    def check(self) -> list[str]:
        """Every page and index, and every row that another must have (sqlite.org/pragma.html)."""
        try:
            with self._connection() as connection:
                pages = [row[0] for row in connection.execute("PRAGMA integrity_check")]
                broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        except StoreDamaged as error:
            return [str(error)]
        found = [f"{self._path}: {text}" for text in pages if text != "ok"]
        return found + [
            f"{self._path}: a row of {table} points at nothing in {parent}" for table, _, parent, _ in broken
        ]

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._guard:
            idle, self._idle = self._idle, []
        if self._process == os.getpid():
            for connection in idle:
                connection.close()

    def _transact(self, begin: str, work: Callable[[Run], T]) -> T:
        with self._connection() as connection:

            def run(statement: str, /, **parameters: str | int | None) -> list[Row]:
                cursor = connection.execute(SQL[statement], parameters)
                if cursor.description is None:
                    return []
                names = [column[0] for column in cursor.description]
                return [dict(zip(names, values, strict=True)) for values in cursor]

            connection.execute(begin)
            try:
                result = work(run)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._guard:
                self._idle.append(connection)
        except sqlite3.Error as error:
            refuse(error, self._path)

    def _take(self) -> sqlite3.Connection:
        with self._guard:
            if self._process != os.getpid():
                _inherited.extend(self._idle)
                self._idle, self._process = [], os.getpid()
            if self._idle:
                return self._idle.pop()
        return connect(self._path)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to an existing file, set up; transactions are begun and ended by hand. Raises `sqlite3.Error`."""
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def refuse(error: sqlite3.Error, path: Path) -> NoReturn:
    """Raise what SQLite's error means to the user."""
    raise meaning(error, path) from error


def meaning(error: BaseException, path: Path) -> MlenvError:
    """What an error of SQLite means to the user (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreBusy(str(path))
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(str(path))
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return StoreDamaged(str(path), str(error))
    return StoreUnusable(str(path), str(error))
