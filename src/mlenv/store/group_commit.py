"""
Group commit: what several threads write at about the same time becomes one transaction, and one wait for the disk.

SQLite has one writer at a time, and each commit waits until its bytes are on the disk. Who finds the writer's place taken
leaves what it has to write; whoever takes the place next writes all that was left, each part in a savepoint of its own
(sqlite.org/lang_savepoint.html), so that one that fails takes nothing of the others with it.
"""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class _Part:
    """What one thread wants written, and what came of it."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False


class GroupCommit:
    """
    Writes for the threads of a process.

    Args:
        writing: Gives a connection in a new transaction, which is committed when the context ends well.
    """

    def __init__(self, writing: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._writing = writing
        self._left: list[_Part] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def run(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """
        Do `work` in a transaction, which is on the disk when this returns; gives what it gave.

        Raises:
            What it raised, and then nothing of it was written; or what the commit raised, of this and all other parts.
        """
        part = _Part(work)
        with self._guard:
            self._left.append(part)
        with self._turn:
            if not part.done:
                with self._guard:
                    parts, self._left = self._left, []
                self._write(parts)
        if part.error is not None:
            raise part.error
        return part.result

    def _write(self, parts: list[_Part]) -> None:
        try:
            with self._writing() as connection:
                if len(parts) == 1:
                    parts[0].result = parts[0].work(connection)
                else:
                    _write_each(parts, connection)
        except BaseException as error:  # noqa: BLE001 - each thread is told what became of its part
            for part in parts:
                part.error = part.error or error
        finally:
            for part in parts:
                part.done = True


def _write_each(parts: list[_Part], connection: sqlite3.Connection) -> None:
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
