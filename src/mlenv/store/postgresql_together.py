"""
Transactions of several threads as one, so that they wait for the disk once.

PostgreSQL commits transactions together by itself, but not those that lock the same row; and whoever writes an audit record
locks the end of its chain until the commit is on the disk. So a thread reads without a lock and says what it would write. What
several threads would write then goes to the database in one message. Those that wrote in the meantime are noticed by the
statements themselves (`GUARDED`): nothing of the message is kept then, whoever was overtaken writes by itself, with locks, and the
others go out once more.
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


class Overtaken(Exception):
    """One of several statements failed, since what it changes was changed by others. `number` is its place among them."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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
        send: Runs statements in one transaction. Raises `Overtaken`, or `NotTogether` for a failure that is everybody's.
    """
    chosen: dict[str, Part[Draft]] = {}
    for part in parts:
        if chosen.setdefault(part.work.key, part) is not part:
            part.error = NotTogether()
    while chosen:
        calls = [(part, call) for _, part in sorted(chosen.items()) for call in part.work.calls]
        rows = [each for each in calls if each[1][0].key not in _AUDIT]
        records = [each for each in calls if each[1][0].key in _AUDIT]
        try:
            send([call for _, call in rows + records])
            return
        except Overtaken as error:
            part, _ = (rows + records)[error.number]
            part.error = NotTogether()
            del chosen[part.work.key]
