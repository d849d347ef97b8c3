"""Log lines for programs."""

import json
import logging
import os
import time
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec
import pytest

from mlenv.server import journal
from mlenv.server.middleware import Answered


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_772_366_400.25, "2026-03-01T12:00:00.250Z"),
        (1_772_366_400.9995, "2026-03-01T12:00:00.999Z"),
        (1_772_366_401.0, "2026-03-01T12:00:01.000Z"),
    ],
)
def test_a_line_has_its_time_in_utc_to_the_millisecond(seconds: float, text: str) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": ("x",), "created": seconds, "extra": "y"})
    line = json.loads(journal._Json().format(record))
    assert (line["time"], line["message"], line["extra"]) == (text, "x", "y")


_ANSWERED: Final = Answered("abcdefgh", "GET", "/api/v1/x", "/api/v1/{name}", 200, 0.25, "127.0.0.1", "somebody")


def test_a_line_for_an_answer_has_the_fields_of_every_line() -> None:
    stream = BytesIO()
    journal.Answers(stream, as_text=False).write(_ANSWERED)
    line = json.loads(stream.getvalue())
    usual = json.loads(journal._Json().format(logging.makeLogRecord({"levelname": "INFO", "name": "mlenv.access"})))
    assert list(usual) == list(line)[: len(usual)]
    assert abs(datetime.fromisoformat(line.pop("time")).timestamp() - time.time()) < 60
    assert line == {
        "level": "info",
        "logger": "mlenv.access",
        "message": "GET /api/v1/x 200",
        "process": os.getpid(),
        "request": "abcdefgh",
        "method": "GET",
        "path": "/api/v1/x",
        "route": "/api/v1/{name}",
        "status": 200,
        "seconds": 0.25,
        "client": "127.0.0.1",
        "principal": "somebody",
    }


@pytest.mark.parametrize("path", ["/é", "/a\nb", '/"', "/\u2028"])
def test_a_line_for_an_answer_is_one_line_of_ascii(path: str) -> None:
    stream = BytesIO()
    answered = msgspec.structs.replace(_ANSWERED, path=path)
    journal.Answers(stream, as_text=False).write(answered)
    assert stream.getvalue().isascii()
    assert len(stream.getvalue().splitlines()) == 1
    assert json.loads(stream.getvalue())["path"] == path
    stream = BytesIO()
    journal.Answers(stream, as_text=True).write(answered)
    assert stream.getvalue().isascii()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_line_for_people_says_all_once() -> None:
    stream = BytesIO()
    journal.Answers(stream, as_text=True).write(_ANSWERED)
    when, _, rest = stream.getvalue().decode().partition(" ")
    assert datetime.fromisoformat(when)
    expected = "info    mlenv.access: GET /api/v1/x 200 request=abcdefgh route=/api/v1/{name} seconds=0.25"
    assert rest == f"{expected} client=127.0.0.1 principal=somebody\n"


@pytest.mark.parametrize("as_text", [False, True])
def test_a_password_in_a_path_is_not_written_down(as_text: bool) -> None:
    stream = BytesIO()
    answered = msgspec.structs.replace(_ANSWERED, path="/x/https://me:hunter2@example.com/y")
    journal.Answers(stream, as_text=as_text).write(answered)
    assert b"example.com" in stream.getvalue()
    assert b"hunter2" not in stream.getvalue()


def test_an_answer_is_not_held_up_by_a_log_that_can_not_be_written() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        with pytest.raises(OSError, match="No space left"):
            full.write(b"x")
        journal.Answers(cast(BinaryIO, full), as_text=False).write(_ANSWERED)
    stream = BytesIO()
    stream.close()
    journal.Answers(stream, as_text=False).write(_ANSWERED)


@pytest.mark.parametrize(("level", "writes"), [("debug", True), ("INFO", True), ("warning", False), ("error", False)])
def test_answers_are_written_down_where_the_level_is_info_or_less(level: str, writes: bool) -> None:
    assert (journal.answers("json", level) is not None) == writes
