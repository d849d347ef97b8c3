"""Writes audit records, each in the transaction of the change that it tells of."""

import json
from datetime import UTC, datetime

from mlenv.core.audit import AuditRecord, Author, Change
from mlenv.core.spec import canonical_json
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


def append(run: Run, author: Author, scope: str, change: Change, now: datetime) -> AuditRecord:
    """
    Write a record of a change, in the change's own transaction.

    It is to be the last that the transaction does: from here to its end, no other can write a record.

    Args:
        scope: The namespace's key, or `*` for the site.
        change: Without secrets.
    """
    head = run("audit_head")[0]
    # As the record is read again: times are kept in UTC, and JSON has no tuples.
    at = to_time(from_time(now))
    plain = Change(change.action, change.subject, _plain(change.before), _plain(change.after))
    record = AuditRecord.chained(head["sequence"] + 1, at, author, scope, plain, head["hash"])
    run(
        "insert_audit",
        sequence=record.sequence,
        at=from_time(at),
        scope=scope,
        document=canonical_json(record.to_dict()),
        hash=record.hash,
    )
    run("update_audit_head", the_sequence=record.sequence, the_hash=record.hash)
    return record


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


def _plain(data: object) -> object:
    return json.loads(canonical_json(data))
