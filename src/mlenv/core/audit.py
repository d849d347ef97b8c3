"""
Audit records: what was changed, by whom, chained by hash.

Each record's hash covers its content and the hash of the record before, so that none can be altered, removed or put in
between without all later hashes changing. Removing records from the end shows only against a hash that was noted
elsewhere, such as that of an export.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from msgspec import Struct

from mlenv.core.spec import canonical_json

#: What the first record is chained to.
GENESIS: Final = "0" * 64


class Author(Struct, frozen=True):
    """
    Who makes a change.

    Attributes:
        id, name: Of the principal.
        token: The token's id, or None.
        address: The network address that the change was asked from.
        request: The id of the request.
    """

    id: str
    name: str
    token: str | None = None
    address: str = ""
    request: str = ""


class Change(Struct, frozen=True):
    """
    What was changed.

    Attributes:
        action: `environment.create`, `label.set` and the like.
        subject: What it was done to: `iris:3`.
        before, after: The state that changed, as JSON data without secrets; None if there was or is none.
    """

    action: str
    subject: str
    before: Any = None
    after: Any = None


class AuditRecord(Struct, frozen=True):
    """
    One change, in the chain.

    Attributes:
        sequence: 1 for the first record, without gaps.
        at: UTC.
        scope: The namespace's key, or `*` for the site.
        previous: The hash of the record before, 64 hex digits.
        hash: Of this record.
    """

    sequence: int
    at: datetime
    author: Author
    scope: str
    change: Change
    previous: str
    hash: str

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "AuditRecord":
        """
        Read what `to_dict` wrote.

        Records may have been tampered with. What is missing or of a wrong type is taken for empty, so that the hash
        no longer fits; nothing is raised.
        """

        def text(key: str) -> str:
            value = document.get(key)
            return value if isinstance(value, str) else ""

        token, sequence = document.get("token"), document.get("sequence")
        author = Author(
            text("principal"), text("who"), None if token is None else text("token"), text("from"), text("request")
        )
        change = Change(text("action"), text("subject"), document.get("before"), document.get("after"))
        number = sequence if isinstance(sequence, int) else 0
        return cls(number, _time(text("at")), author, text("scope"), change, text("previous"), text("hash"))

    def expected_hash(self) -> str:
        """The sha256 over the canonical JSON of everything but the hash itself, in hex."""
        return sha256(canonical_json(self.to_dict() | {"hash": ""}).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data, as `audit export` writes it."""
        return {
            "sequence": self.sequence,
            "at": self.at.isoformat(),
            "who": self.author.name,
            "principal": self.author.id,
            "token": self.author.token,
            "from": self.author.address,
            "request": self.author.request,
            "scope": self.scope,
            "action": self.change.action,
            "subject": self.change.subject,
            "before": self.change.before,
            "after": self.change.after,
            "previous": self.previous,
            "hash": self.hash,
        }


class Unchained(Struct, frozen=True):
    """
    A record that has no place in the chain yet: the canonical JSON of what it will be, in pieces.

    Whoever keeps the chain's end can put them together, and needs nothing else to know of JSON:

        start + HASH + joint + PREVIOUS + middle + SEQUENCE + end

    with the hash being that of the same text without it.
    """

    start: str
    joint: str
    middle: str
    end: str

    @classmethod
    def of(cls, at: datetime, author: Author, scope: str, change: Change) -> "Unchained":
        """A change's record. Raises `TypeError` and `ValueError` as JSON does."""
        record = AuditRecord(0, at, author, scope, change, "", "").to_dict()
        # Keys are sorted: each piece has those before `hash`, `previous` and `sequence`, and after.
        pieces: list[dict[str, Any]] = [{}, {}, {}]
        for key, value in record.items():
            if key not in {"hash", "previous", "sequence"}:
                pieces[(key > "hash") + (key > "sequence")][key] = value
        first, second, third = (canonical_json(piece)[1:-1] for piece in pieces)
        return cls(f'{{{first},"hash":"', '","previous":"', f'",{second},"sequence":', f",{third}}}")


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def find_faults(records: Iterable[AuditRecord], heads: Iterable[str]) -> Iterator[str]:
    """
    What is wrong with a whole chain, as `find_breaks` says, and which of the hashes it once ended with it lacks.

    Args:
        heads: Hashes that were noted as the chain's end at some time; "" for an end that was removed.
    """
    missing = dict.fromkeys(heads)
    missing.pop(GENESIS, None)

    def noting() -> Iterator[AuditRecord]:
        for record in records:
            missing.pop(record.hash, None)
            yield record

    yield from find_breaks(noting())
    for head in missing:
        if head:
            yield f"no record has the hash {head}, with which the chain once ended: records were removed or altered"
        else:
            yield "what the chain ended with was removed"


def find_breaks(records: Iterable[AuditRecord]) -> Iterator[str]:
    """What is wrong with a chain that is given from its first record on, one sentence each; nothing if it is whole."""
    expected, previous = 1, GENESIS
    for record in records:
        if record.sequence != expected:
            yield f"record {expected} is missing: {record.sequence} follows {expected - 1}"
        elif record.previous != previous:
            yield f"record {record.sequence} does not follow record {expected - 1}: one was removed, inserted or altered"
        if record.hash != record.expected_hash():
            yield f"record {record.sequence} was altered: its hash is not that of its content"
        expected, previous = record.sequence + 1, record.hash
