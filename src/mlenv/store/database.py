"""Transactions over named statements, whatever the database is, and what can go wrong with it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from mlenv.core.disk_faults import DiskFailed, DiskFull, disk_fault
from mlenv.errors import Conflict, InvalidInput, Unavailable

Row: TypeAlias = dict[str, Any]
#: Statements that fail where what they change is no longer as it was read: they insert what others can't have inserted as well,
#: or say what they change (`update_environment`); and those that depend on nothing that was read.
GUARDED: Final = frozenset(
    {
        "insert_environment",
        "insert_spec",
        "insert_version",
        "update_environment",
        "insert_audit",
        "update_audit_head",
    }
)
T = TypeVar("T")


class Run(Protocol):
    """Runs one statement by its name, inside a transaction: of `statements.py`, for a server also of `statements_….py`."""

    def __call__(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """All rows of the answer, by column; none for a statement that only changes something."""


class Database(Protocol):
    """Where rows are."""

    @property
    def in_loop(self) -> Callable[..., Awaitable[Any]] | None:
        """
        `await in_loop(work, *arguments, **named)` calls work that only reads, in the event loop, which goes on with something
        else while the database answers. None where only a thread can wait for it.
        """

    def read(self, work: Callable[[Run], T]) -> T:
        """Run `work` over one unchanging state of the database."""

    def ask(self, statement: str, /, **parameters: str | int | None) -> list[Row]:
        """One statement that reads, by itself: quicker than `read`."""

    def write(self, work: Callable[[Run], T]) -> T:
        """
        Run `work` as one transaction: all of it or nothing. It may be run again if another process was quicker.

        Raises:
            StoreBusy: Others held the database for longer than the timeout.
            StoreFull: There is no room.
            StoreReadOnly: It lets nothing be written.
            StoreUnreachable, StoreCrowded: A database server does not let us in.
            StoreUnusable: It can't be read or written.
            UnstorableValue: A parameter is nothing that a database keeps.
        """

    def write_together(self, work: Callable[[Run], T], *, key: str) -> T:
        """
        The same, but others that come at the same time may become part of the transaction, and wait for the disk once.

        Args:
            work: Reads before it writes. To be read at once, and written a little later, it has to write by `GUARDED`.
            key: What it changes. Of those with one key, only one is part of a transaction.

        Raises:
            What `write` raises.
        """

    def check(self) -> list[str]:
        """What the database says is wrong with itself, one sentence each."""

    def close(self) -> None:
        """Let go of everything."""


class StoreBusy(Unavailable):
    """Others held the database for longer than the timeout."""

    hint = "try again; if it stays so, see which process holds it (`fuser` on the file named above)"

    def __init__(self, where: str, *, hint: str | None = None) -> None:
        super().__init__(f"the store is busy: {where}")
        self.where = where
        self.hint = hint or type(self).hint


class StoreFull(DiskFull):
    """The disk has no room for what was to be written. Nothing of it was kept."""

    hint = "make room on that disk, or move the store to another and set MLENV_HOME"

    def __init__(self, where: str, *, hint: str | None = None) -> None:
        super().__init__(f"no room to write to the store: {where}")
        self.where = where
        self.hint = hint or type(self).hint


class StoreUnusable(Unavailable):
    """The database can't be opened, read or written."""

    hint = "check that the directory exists, is on a local disk and is yours to write, or set MLENV_HOME to another"

    def __init__(self, where: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"the store can't be used: {where}: {why}")
        self.where, self.why = where, why
        self.hint = hint or type(self).hint


class StoreUnreachable(Unavailable):
    """The database server does not answer, or lets nobody in."""

    hint = "check that it runs, that address, user and password are right, and that it lets this machine connect"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the database can't be reached: {where}: {why}")
        self.where, self.why = where, why


class StoreCrowded(Unavailable):
    """The database server takes no more connections."""

    hint = "try again; if it stays so, run fewer processes, or raise `max_connections` of the database"

    def __init__(self, where: str) -> None:
        super().__init__(f"the database takes no more connections: {where}")
        self.where = where


class StoreReadOnly(DiskFailed):
    """The database lets nothing be written."""

    hint = "give the address of the primary, or end the read-only mode of the database or its disk"

    def __init__(self, where: str) -> None:
        super().__init__(f"the store is read-only: {where}")
        self.where = where


class UnstorableValue(InvalidInput):
    """A value that no database would take: text with a NUL or half a surrogate pair, a number that is too large."""

    hint = "leave out control characters and shorten what is very long"
    #: It says something about the request, and nothing about the store.
    status = 400

    def __init__(self, why: str) -> None:
        super().__init__(f"a value can't be stored: {why}")
        self.why = why


class StoreDamaged(InvalidInput):
    """The file is no database, or a damaged one."""

    hint = "restore it from a copy, or move it away to begin anew"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the store is damaged, or is not one: {where}: {why}")
        self.where, self.why = where, why


def unusable(where: str, error: OSError) -> StoreFull | StoreReadOnly | StoreUnusable:
    """What an error of the operating system means for a store, to be raised from it."""
    fault = disk_fault(error)
    if isinstance(fault, DiskFull):
        return StoreFull(where)
    if isinstance(fault, DiskFailed):
        return StoreReadOnly(where)
    return StoreUnusable(where, error.strerror or str(error))


class StoreNewer(Conflict):
    """The store was last used by a newer program, whose tables this one does not know."""

    hint = "use the newer mlenv, or set MLENV_HOME to another directory"

    def __init__(self, where: str, *, found: str, known: str) -> None:
        super().__init__(f"the store is of a newer mlenv: {where} has schema {found}, this program knows {known}")
        self.where, self.found, self.known = where, found, known
