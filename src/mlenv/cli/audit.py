"""`mlenv audit list|export|verify`: what was changed on a server, by whom; and whether the record of it is whole."""

import argparse
import json
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.printer import Column, Output
from mlenv.cli.site_arguments import add_place, path_of, to_place
from mlenv.core.audit import AuditRecord, find_faults
from mlenv.core.progress import quantity
from mlenv.core.scope import ScopeKey
from mlenv.errors import InvalidInput

_COLUMNS: Final = (
    Column("Sequence", "sequence"),
    Column("At", "at"),
    Column("Who", "who"),
    Column("From", "from"),
    Column("Scope", "scope"),
    Column("Action", "action"),
    Column("Subject", "subject"),
)
#: How many records a page has, and the longest line of an export, in bytes.
_PAGE: Final = 500
_LINE: Final = 16 << 20
#: Most faults that are told.
_MOST: Final = 100


class NotAnExport(InvalidInput):
    """A file that `mlenv audit export` did not write."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file} is not an export of audit records: {why}")
        self.hint = "write one with `mlenv audit export --file FILE`"
        self.file = file


class AuditBroken(InvalidInput):
    """The chain of audit records is not whole."""

    hint = "compare with earlier exports to find out what was changed; keep a copy of the database as it is"

    def __init__(self, faults: int) -> None:
        super().__init__(f"the audit is not whole: {quantity(faults, 'fault')}")
        self.faults = faults


class ListAll(Struct, frozen=True):
    """Which records: of which namespace (None for all), and how many at most."""

    place: ScopeKey | None
    limit: int


class Verify(Struct, frozen=True):
    """What to verify: the server's records, or an export; and a hash that was noted as its end, or None."""

    file: Path | None
    head: str | None


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument(
        "--max-results", "-r", metavar="COUNT", type=int, default=100, help="list at most so many (default: 100)"
    )


def _list_settings(namespace: argparse.Namespace) -> ListAll:
    if namespace.max_results < 1:
        raise UsageError("--max-results must be 1 or more")
    return ListAll(to_place(namespace), namespace.max_results)


def _list(settings: ListAll, context: Context) -> int:
    params = {"limit": min(settings.limit, _PAGE)}
    found = context.http.pages(f"{path_of(settings.place)}/audit", params=params, limit=settings.limit)
    context.printer.data(list(found), _COLUMNS)
    return ExitStatus.DONE


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--file", metavar="FILE", help="where to write (default: the standard output)")


def _export_settings(namespace: argparse.Namespace) -> Path | None:
    return None if namespace.file is None else Path(namespace.file)


def _export(file: Path | None, context: Context) -> int:
    if file is None:
        for line in _lines(context):
            context.printer.text(line)
        return ExitStatus.DONE
    last = ""
    with file.open("w", encoding="utf-8") as stream:
        for last in _lines(context):
            stream.write(last)
    context.printer.say(f"written to {file}; it ends with {json.loads(last)['head']}")
    return ExitStatus.DONE


def _lines(context: Context) -> Iterator[str]:
    """The records as JSON lines, and last what they end with."""
    sequence, hash = 0, "0" * 64
    for each in _oldest(context):
        sequence, hash = each["sequence"], each["hash"]
        yield _line(each)
    yield _line({"head": hash, "sequence": sequence})


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":")) + "\n"


def _oldest(context: Context) -> Iterator[Mapping[str, Any]]:
    return context.http.pages("/audit", params={"order": "oldest", "limit": _PAGE})


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--file", metavar="FILE", help="verify an export, without a server; - is the standard input"
    )
    parser.add_argument(
        "--head", metavar="HASH", help="a hash that the records once ended with, noted elsewhere: it must be among them"
    )


def _verify_settings(namespace: argparse.Namespace) -> Verify:
    if namespace.head is not None and not re.fullmatch("[0-9a-f]{64}", namespace.head):
        raise UsageError(f"--head: not a hash: {namespace.head!r}", "give the 64 hex digits that an export ends with")
    return Verify(None if namespace.file is None else Path(namespace.file), namespace.head)


def _verify(settings: Verify, context: Context) -> int:
    if settings.file is None:
        end = str(context.http.request("GET", "/audit/head")["hash"])
        return _check(_oldest(context), end, settings.head, context)
    with _opened(settings.file) as stream:
        # It is read twice, since what it ends with stands at its end, and it may be larger than memory.
        *_, last = deque(_read(settings.file, stream), maxlen=1) or [{}]
        if not isinstance(last.get("head"), str):
            raise NotAnExport(settings.file, "its last line does not say what it ends with; it may have been cut off")
        records = (each for each in _read(settings.file, stream) if each != last)
        return _check(records, last["head"], settings.head, context)


def _check(heard: Iterable[Mapping[str, Any]], end: str, noted: str | None, context: Context) -> int:
    """Check records, the oldest first, and that they ended with a hash, and once with another that was noted."""
    last: dict[str, Any] = {"sequence": 0, "hash": "0" * 64}

    def counted() -> Iterator[AuditRecord]:
        for each in heard:
            record = AuditRecord.from_dict(each)
            last.update(sequence=record.sequence, hash=record.hash)
            yield record

    faults = 0
    for fault in find_faults(counted(), [noted, end] if noted else [end]):
        faults += 1
        if faults <= _MOST:
            context.printer.warn(fault)
    if faults:
        raise AuditBroken(faults)
    context.printer.data({"records": last["sequence"], "head": last["hash"], "whole": True})
    return ExitStatus.DONE


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """A file that can be read more than once, also if it is a pipe or, as `-`, the standard input."""
    with open(0, "rb", closefd=False) if str(file) == "-" else file.open("rb") as stream:
        if stream.seekable():
            yield stream
            return
        with TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            yield copy


def _read(file: Path, stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """The lines of an export, the last of which says what the records end with. Raises `NotAnExport`."""
    stream.seek(0)
    number = 0
    while line := stream.readline(_LINE + 1):
        number += 1
        try:
            document = json.loads(line) if len(line) <= _LINE else None
        except (ValueError, RecursionError) as error:
            raise NotAnExport(file, f"line {number} is not JSON") from error
        if not isinstance(document, dict):
            raise NotAnExport(file, f"line {number} is not a record")
        yield document


list_all: Final = Verb(_list_arguments, _list_settings, _list, Output.TABLE)
export: Final = Verb(_export_arguments, _export_settings, _export)
verify: Final = Verb(_verify_arguments, _verify_settings, _verify)
