"""Writes audit records, each in the transaction of the change that it tells of."""

import json
from datetime import UTC, datetime

from mlenv.core.audit import AuditRecord, Author, Change, Unchained
from mlenv.errors import Forbidden
from mlenv.store.database import Row, Run
from mlenv.store.rows import from_time, to_time


class NoAuthor(Forbidden):
    """Something was to be changed by what was opened to be read only: nobody could be named as its author."""

    hint = "open the namespace for an operation that writes"

    def __init__(self) -> None:
        super().__init__("nothing can be changed here: it was opened for reading")


def require_author(author: Author | None) -> Author:
    """The author, without whom an audited store changes nothing. Raises `NoAuthor`."""
    if author is None:
        raise NoAuthor
    return author


def append(run: Run, author: Author, scope: str, change: Change, now: datetime) -> None:
    """
    Write a record of a change, in the change's own transaction.

    It is to be the last that the transaction does: from here to its end, no other can write a record. The database chains
    it, so that nobody waits for this process meanwhile.

    Args:
        scope: The namespace's key, or `*` for the site.
        change: Without secrets.
    """
    # As the record is read again: times are kept in UTC.
    at = from_time(now)
    pieces = Unchained.of(to_time(at), author, scope, change)
    run(
        "insert_audit", at=at, scope=scope, start=pieces.start, joint=pieces.joint, middle=pieces.middle, end=pieces.end
    )
    run("update_audit_head")


def to_record(row: Row) -> AuditRecord:
    """
    A record from its row.

    What the row says beside its document is what counts, so that an altered column is found as an altered document is.
    """
    try:
        kept = json.loads(row["document"])
        author = Author(kept["principal"], kept["who"], kept["token"], kept["from"], kept["request"])
        change = Change(kept["action"], kept["subject"], kept["before"], kept["after"])
        previous, at = str(kept["previous"]), to_time(row["at"])
    except (ValueError, KeyError, TypeError):
        # NOTE: whatever stands here does not have the hash of what once did, and is found by that.
        author, change = Author("", ""), Change("unreadable", row["document"])
        previous, at = "", datetime.min.replace(tzinfo=UTC)
    return AuditRecord(row["sequence"], at, author, row["scope"], change, previous, row["hash"])
