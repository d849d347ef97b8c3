"""
Group commit: what several threads write at about the same time becomes one transaction, and one wait for the disk.

Each commit waits until its bytes are on the disk. Who finds somebody at it leaves what it has to write; whoever comes next
writes all that was left.
"""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

W = TypeVar("W")


class Part(Generic[W]):
    """
    What one thread wants written, and what came of it.

    Attributes:
        work: What is to be written.
        result: What that gave.
        error: Why it was not written.
    """

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: W) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False


class GroupCommit(Generic[W]):
    """
    Writes for the threads of a process.

    Args:
        write: Writes parts in one transaction, and says in each what came of it. What it raises came of all of them.
    """

    def __init__(self, write: Callable[[list[Part[W]]], None]) -> None:
        self._write = write
        self._left: list[Part[W]] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def run(self, work: W) -> Any:
        """
        Have `work` written: it is on the disk when this returns. Gives its part's result.

        Raises:
            Its part's error.
        """
        part = Part(work)
        with self._guard:
            self._left.append(part)
        with self._turn:
            if not part.done:
                with self._guard:
                    parts, self._left = self._left, []
                try:
                    self._write(parts)
                except BaseException as error:  # noqa: BLE001 - each thread is told what became of its part
                    for each in parts:
                        each.error = each.error or error
                finally:
                    for each in parts:
                        each.done = True
        if part.error is not None:
            raise part.error
        return part.result


#: What is written over a connection to SQLite.
SqliteWork = Callable[[sqlite3.Connection], Any]


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
