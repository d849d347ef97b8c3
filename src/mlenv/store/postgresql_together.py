"""
Transactions of several threads as one, so that they wait for the disk once.

PostgreSQL commits transactions together by itself, but not those that lock the same row; and whoever writes an audit record
locks the end of its chain until the commit is on the disk. So a thread reads without a lock and says what it would write. What
several threads would write then goes to the database in one message. Those that wrote in the meantime are noticed by the
statements themselves (`GUARDED`): nothing of the message is kept then, and each thread writes by itself, with locks.
"""

from collections.abc import Callable
from typing import Final

from mlenv.store.database import GUARDED, Row, Run
from mlenv.store.group_commit import Part
from mlenv.store.postgresql_pipeline import Statement, Statements, Values

Calls = list[tuple[Statement, Values]]

#: Those that lock the end of the audit's chain.
_AUDIT: Final = frozenset({b"insert_audit", b"update_audit_head"})


class NotTogether(Exception):
    """A transaction has to be made by itself."""


class Draft:
    """
    What a transaction would write.

    Args:
        ask: Reads.
        key: See `mlenv.store.database.Database.write_together`.
    """

    def __init__(self, ask: Run, statements: Statements, key: str) -> None:
        self.key = key
        self.calls: Calls = []
        self._ask, self._statements = ask, statements

    def run(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """Read, or keep what is to be written. Raises `NotTogether` for what can't be written later, or read before."""
        prepared = self._statements[statement]
        if statement in GUARDED:
            self.calls.append((prepared, prepared.values(parameters)))
            return []
        if self.calls or not prepared.reads:
            raise NotTogether
        # Where it says that it locks a row, it says so in its name.
        return self._ask(statement.removesuffix("_to_change"), **parameters)


def write_together(send: Callable[[Calls], None], parts: list[Part[Draft]]) -> None:
    """
    Write drafts. Those that have to be written by themselves get `NotTogether` as their error.

    Rows are locked in the order of the keys, and the end of the audit's chain last, so that two processes do not wait for each other.

    Args:
        send: Runs statements in one transaction. Raises `NotTogether` if one failed.
    """
    chosen: dict[str, Part[Draft]] = {}
    for part in parts:
        if chosen.setdefault(part.work.key, part) is not part:
            part.error = NotTogether()
    calls = [call for key in sorted(chosen) for call in chosen[key].work.calls]
    rows = [call for call in calls if call[0].key not in _AUDIT]
    records = [call for call in calls if call[0].key in _AUDIT]
    send(rows + records)
