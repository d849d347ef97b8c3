"""The chain of audit records: whatever is altered, removed or inserted is found."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from msgspec.structs import replace

from mlenv.core.audit import GENESIS, AuditRecord, Author, Change, Unchained, find_breaks, find_faults
from mlenv.core.spec import canonical_json

NOW = datetime(2026, 11, 22, 12, 0, 0, 5, tzinfo=UTC)
AUTHOR = Author("p1", "ann", "t1", "192.0.2.1", "r1")


def _chained(sequence: int, at: datetime, change: Change, previous: str) -> AuditRecord:
    unhashed = AuditRecord(sequence, at, AUTHOR, "team", change, previous, "")
    return replace(unhashed, hash=unhashed.expected_hash())


def _chain(length: int = 5) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for number in range(1, length + 1):
        previous = records[-1].hash if records else GENESIS
        change = Change("label.set", f"iris:{number}", None, {"number": number, "é": [1, None, True]})
        records.append(_chained(number, NOW + timedelta(seconds=number), change, previous))
    return records


def test_a_whole_chain_has_no_fault() -> None:
    assert list(find_breaks(_chain())) == []
    assert list(find_breaks([])) == []
    assert list(find_faults(_chain(), [_chain()[2].hash, GENESIS])) == []


@pytest.mark.parametrize(
    "odd", ['","hash":"","previous":"', {"hash": "", "previous": "x", "sequence": 1}, "é\u2028\\", None, []]
)
def test_pieces_of_a_record_are_its_canonical_text(odd: Any) -> None:
    change = Change("label.set", "iris", odd, (1, odd))
    record = _chained(7, NOW, change, "f" * 64)
    pieces = Unchained.of(NOW, AUTHOR, "team", change)
    rest = f"{pieces.joint}{record.previous}{pieces.middle}7{pieces.end}"
    assert pieces.start + record.hash + rest == canonical_json(record.to_dict())
    assert sha256((pieces.start + rest).encode()).hexdigest() == record.hash


def test_records_survive_their_way_over_json() -> None:
    read = [AuditRecord.from_dict(json.loads(json.dumps(each.to_dict()))) for each in _chain()]
    assert read == _chain()
    assert list(find_breaks(read)) == []


ALTERATIONS: list[Callable[[AuditRecord], AuditRecord]] = [
    lambda record: replace(record, at=record.at + timedelta(microseconds=1)),
    lambda record: replace(record, author=replace(record.author, name="eve")),
    lambda record: replace(record, author=replace(record.author, token=None)),
    lambda record: replace(record, author=replace(record.author, address="")),
    lambda record: replace(record, author=replace(record.author, request="r2")),
    lambda record: replace(record, scope="other"),
    lambda record: replace(record, change=replace(record.change, action="label.get")),
    lambda record: replace(record, change=replace(record.change, subject="iris:9")),
    lambda record: replace(record, change=replace(record.change, before={})),
    lambda record: replace(record, change=replace(record.change, after=None)),
    lambda record: replace(record, previous=GENESIS),
    lambda record: replace(record, hash=GENESIS),
    lambda record: replace(record, sequence=7),
]


@pytest.mark.parametrize("alter", ALTERATIONS)
@pytest.mark.parametrize("at", [1, 4])
def test_an_altered_record_is_found(alter: Callable[[AuditRecord], AuditRecord], at: int) -> None:
    records = _chain()
    records[at] = alter(records[at])
    assert list(find_breaks(records))


def test_an_altered_record_with_a_new_hash_is_found_by_the_next() -> None:
    records = _chain()
    changed = replace(records[2], scope="other")
    records[2] = replace(changed, hash=changed.expected_hash())
    assert list(find_breaks(records)) == ["record 4 does not follow record 3: one was removed, inserted or altered"]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_removed_record_is_found(at: int) -> None:
    records = _chain()
    del records[at]
    assert next(find_breaks(records)) == f"record {at + 1} is missing: {at + 2} follows {at}"


def test_a_removed_record_is_found_though_the_rest_was_numbered_anew() -> None:
    records = _chain()
    left = [replace(each, sequence=number) for number, each in enumerate(records[:1] + records[2:], 1)]
    assert list(find_breaks(left))


def test_an_inserted_record_is_found() -> None:
    records = _chain()
    new = _chained(3, NOW, Change("x", "y"), records[1].hash)
    assert list(find_breaks([*records[:2], new, *records[2:]]))


def test_a_removed_end_is_found_by_a_hash_that_was_noted() -> None:
    records = _chain()
    assert list(find_breaks(records[:3])) == []
    (fault,) = find_faults(records[:3], [records[4].hash, records[1].hash])
    assert records[4].hash in fault


@pytest.mark.parametrize(
    "document", [{}, {"sequence": "1"}, {"at": 7}, {"at": "yesterday"}, {"sequence": None, "hash": []}, {"token": 5}]
)
def test_documents_that_are_no_records_are_found_and_raise_nothing(document: dict[str, Any]) -> None:
    assert list(find_breaks([AuditRecord.from_dict(document)]))
