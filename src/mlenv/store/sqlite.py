"""
SQLite, through Python's own driver and statements whose text was made ahead: nothing heavy to import.

WAL, so that readers and the writer do not stop each other. `synchronous=FULL`: a commit is on the disk when it
returns. With NORMAL, WAL may forget the last commits when the power fails, and a version whose number was already
told to somebody could then become another one.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from mlenv.errors import MlenvError
from mlenv.store.database import (
    Row,
    Run,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
    StoreUnusable,
    T,
    UnstorableValue,
)
from mlenv.store.group_commit import GroupCommit, Part
from mlenv.store.sqlite_statements import SQL

#: How long one process waits for another's transaction, in seconds.
BUSY_TIMEOUT: Final = 30.0
#: Seconds after which the only place of a writer is asked for again, at least and at most.
_ASK_AGAIN: Final = (0.0005, 0.002)
#: Run on every new connection.
PRAGMAS: Final = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")
#: What a disk that becomes read-only under an open file makes of writing.
_UNWRITABLE: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
)

#: Connections of a parent process: to be neither used nor closed in a child (sqlite.org, "How To Corrupt", 2.6).
_inherited: list[sqlite3.Connection] = []


#: What is written over a connection to SQLite.
SqliteWork = Callable[[sqlite3.Connection], Any]


class SqliteDatabase:
    """
    A database file whose tables are there. Safe for several threads and processes; idle connections are kept.

    Args:
        texts: The text of every statement, by name.
    """

    in_loop: Final = None

    def __init__(self, path: Path, texts: Mapping[str, str] = SQL) -> None:
        self._path, self._texts = path, texts
        self._idle: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._process = os.getpid()
        self._group: GroupCommit[SqliteWork] = GroupCommit(partial(in_savepoints, self._writing))

    def read(self, work: Callable[[Run], T]) -> T:
        """Run `work` over one unchanging state of the database."""
        with self._connection() as connection, _transaction(connection):
            connection.execute("BEGIN")
            return work(self._runner(connection))

    def ask(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """One statement that reads, by itself."""
        with self._connection() as connection:
            return self._runner(connection)(statement, **parameters)

    def write(self, work: Callable[[Run], T]) -> T:
        """Run `work` as one transaction. It takes the only writer's place before it reads, so it need never retry."""
        try:
            result: T = self._group.run(lambda connection: work(self._runner(connection)))
        except sqlite3.Error as error:
            refuse(error, self._path)
        return result

    def write_together(self, work: Callable[[Run], T], *, key: str) -> T:
        """The same: whatever is written at one time is committed together."""
        return self.write(work)

    def ping(self) -> None:
        """Nothing, if the database answers. Raises what `read` raises if not."""
        with self._connection() as connection:
            connection.execute("SELECT 1 FROM alembic_version")

    def schema(self) -> str | None:
        """The newest migration that it has, or None if it has no tables."""
        with self._connection() as connection:
            try:
                rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return None
        return str(rows[0][0]) if rows else None

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

    @property
    def where(self) -> str:
        """The file."""
        return str(self._path)

    def _runner(self, connection: sqlite3.Connection) -> Run:
        def run(statement: str, /, **parameters: str | int | None) -> list[Row]:
            for name, value in parameters.items():
                if isinstance(value, str) and "\0" in value:
                    raise UnstorableValue(f"{name} has a NUL character")
            try:
                cursor = connection.execute(self._texts[statement], parameters)
            except (UnicodeEncodeError, OverflowError) as error:
                raise UnstorableValue("text that is not Unicode, or a number that is too large") from error
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, values, strict=True)) for values in cursor]

        return run

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection, _transaction(connection):
            _begin_writing(connection)
            yield connection

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


def in_savepoints(
    writing: Callable[[], AbstractContextManager[sqlite3.Connection]], parts: list[Part[SqliteWork]]
) -> None:
    """
    Write parts over one connection to SQLite, which has one writer at a time.

    Each is in a savepoint of its own (sqlite.org/lang_savepoint.html), so that one that fails takes nothing of the others with it.

    Args:
        writing: Gives a connection in a new transaction, which is committed when the context ends well.
    """
    with writing() as connection:
        if len(parts) == 1:
            parts[0].result = parts[0].work(connection)
        else:
            _write_each(parts, connection)


def _write_each(parts: list[Part[SqliteWork]], connection: sqlite3.Connection) -> None:
    for part in parts:
        connection.execute("SAVEPOINT part")
        try:
            part.result = part.work(connection)
        except Exception as error:
            # A full disk, and a few other faults, end the transaction as a whole (sqlite.org/lang_transaction.html).
            if not connection.in_transaction:
                raise
            part.error = error
            connection.execute("ROLLBACK TO part")
        connection.execute("RELEASE part")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is begun in it, or take it back."""
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _begin_writing(connection: sqlite3.Connection) -> None:
    """
    Wait for the only writer's place, asking for it often.

    SQLite's own waiting asks ever more rarely, up to ten times a second: where several processes write without a pause,
    some of their requests waited for seconds. One thread of a process asks at a time, for all (`GroupCommit`).
    """
    least, most = _ASK_AGAIN
    end = time.monotonic() + BUSY_TIMEOUT
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            # Who asks at the same time as another is not to do so for ever; a clock's last digits are chance enough.
            time.sleep(least + (most - least) * (time.monotonic_ns() % 1000) / 1000)
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT * 1000)}")


def connect(path: Path) -> sqlite3.Connection:
    """A connection to an existing file, set up; transactions are begun and ended by hand. Raises `sqlite3.Error`."""
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
        connection.create_function("sha256_hex", 1, _sha256_hex, deterministic=True)
    except BaseException:
        connection.close()
        raise
    return connection


def _sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
    if code == sqlite3.SQLITE_READONLY or getattr(error, "sqlite_errorcode", 0) in _UNWRITABLE:
        return StoreReadOnly(str(path))
    # Text that is none is told by the driver itself.
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT} or str(error).startswith("Could not decode to UTF-8"):
        return StoreDamaged(str(path), str(error))
    return StoreUnusable(str(path), str(error))
