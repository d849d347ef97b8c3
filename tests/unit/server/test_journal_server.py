"""Log lines for programs."""

import json
import logging

import pytest

from mlenv.server import journal


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
