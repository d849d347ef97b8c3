"""
Several statements in one message to PostgreSQL, and all their answers in the next (libpq's pipeline mode).

The driver's own pipeline sends each statement by itself, as soon as it is given, and makes a cursor for each. This one uses
what the driver is made of (`psycopg.pq`, its generators, its loaders): statements are kept until there is something to wait
for. So locks that the first of them takes are held for as long as the database needs for the rest, and not until this
process has come to send it.
"""

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import errors, pq
from psycopg.adapt import Transformer
from psycopg.generators import fetch_many, send

from mlenv.store.database import Row, UnstorableValue
from mlenv.store.server_statements import PostgresqlTexts

#: A value of a statement, as the database reads it: its text in UTF-8, or None.
Values = Sequence[bytes | None]
#: Waits for what a generator of the driver comes to.
Wait = Callable[[Generator[Any, Any, list[Row]]], list[Row]]

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


class Statement(NamedTuple):
    """
    A statement as the database has it.

    Attributes:
        key: The name under which a connection prepares it.
        names: Its parameters in order.
        reads: Whether it has an answer.
    """

    key: bytes
    text: bytes
    names: tuple[str, ...]
    reads: bool

    def values(self, parameters: dict[str, str | int | None]) -> Values:
        """Its values. Raises `UnstorableValue`."""
        found: list[bytes | None] = []
        for name in self.names:
            value = parameters[name]
            if value is None:
                found.append(None)
                continue
            try:
                data = value.encode() if isinstance(value, str) else b"%d" % value
            except UnicodeEncodeError as error:
                raise UnstorableValue(f"{name} has text that is not Unicode") from error
            if 0 in data:
                raise UnstorableValue(f"{name} has a NUL character")
            found.append(data)
        return found


def statement(key: str, text: str) -> Statement:
    """
    A statement of the text that the driver's cursors take.

    Args:
        key: Of no other statement.
    """
    names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    numbers = {name: f"${number}" for number, name in enumerate(names, 1)}
    numbered = _PARAMETER.sub(lambda match: numbers[match[1]], text).replace("%%", "%")
    reads = text.startswith("SELECT") or " RETURNING " in text
    return Statement(key.encode(), numbered.encode(), names, reads)


class Statements(dict[str, Statement]):
    """Every statement of a server by name, each made when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        self._texts = PostgresqlTexts()

    def __missing__(self, name: str) -> Statement:
        made = self[name] = statement(name, self._texts[name])
        return made


def exchange(
    connection: "psycopg.Connection[Any]",
    prepared: set[bytes],
    calls: "Sequence[tuple[Statement, Values]]",
    *,
    wait: Wait,
    failed: Callable[[int], None],
) -> list[Row]:
    """
    Run statements in order, up to the first that fails. Returns the rows of the last one.

    Args:
        prepared: Keys of what this connection has prepared.
        wait: Waits for the database.
        failed: Is told which of `calls` failed.

    Raises:
        psycopg.Error: The first one failed so. Those after it were not run.
    """
    return wait(_exchange(connection, prepared, calls, failed))


def _exchange(
    connection: "psycopg.Connection[Any]",
    prepared: set[bytes],
    calls: "Sequence[tuple[Statement, Values]]",
    failed: Callable[[int], None],
) -> Generator[Any, Any, list[Row]]:
    wire = connection.pgconn
    sent: list[bytes | None] = []
    wire.enter_pipeline_mode()
    for each, values in calls:
        if each.key not in prepared and each.key not in sent:
            wire.send_prepare(each.key, each.text)
            sent.append(each.key)
        wire.send_query_prepared(each.key, values)
        sent.append(None)
    wire.pipeline_sync()
    yield from send(wire)
    fault: psycopg.Error | None = None
    result: Any = None
    for place, key in enumerate(sent):
        try:
            found = yield from fetch_many(wire)
        except psycopg.Error:
            if fault is not None:
                # It was the end of the connection, too.
                raise fault from None
            raise
        result = found[-1]
        status = result.status
        if status == pq.ExecStatus.FATAL_ERROR:
            if fault is None:
                failed(sent[:place].count(None))
            fault = fault or errors.error_from_result(result)
        elif key is not None and status == pq.ExecStatus.COMMAND_OK:
            prepared.add(key)
    # The end of the pipeline.
    yield from fetch_many(wire)
    wire.exit_pipeline_mode()
    if fault is not None:
        raise fault
    return _rows(connection, result) if calls[-1][0].reads else []


def _rows(connection: "psycopg.Connection[Any]", result: Any) -> list[Row]:
    count = result.ntuples
    if not count:
        return []
    names = [result.fname(number).decode() for number in range(result.nfields)]
    transformer = Transformer(connection)
    transformer.set_pgresult(result)
    return [dict(zip(names, values, strict=True)) for values in transformer.load_rows(0, count, tuple)]
