"""Logs as server-sent events: what is a line, and that nothing is lost or told twice when a connection breaks."""

import pytest
from support.scripted import problem, scripted

from mlenv.client.logs import Event, events, log_lines
from mlenv.errors import InvalidInput, NotFound, Unavailable

EVENTS = {"content-type": "text/event-stream"}


def test_events_are_what_stands_between_empty_lines() -> None:
    text = ": alive\n\nid: 5\ndata: one\ndata:two\n\nevent: end\ndata: {}\n\ndata: cut off"
    assert list(events(text.split("\n"))) == [Event("message", "one\ntwo", "5"), Event("end", "{}", "5")]


def test_line_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidInput, match="too long"):
        list(events(["data: " + "x" * (5 << 20)]))


def test_log_goes_on_where_its_connection_broke() -> None:
    first = (200, EVENTS, b"id: 8\ndata: one\ndata: two\n\n")
    rest = (200, EVENTS, b"id: 14\ndata: three\n\nevent: end\ndata: {}\n\n")
    pauses: list[float] = []
    with scripted(first, None, problem(503), rest) as script, script.http() as http:
        assert list(log_lines(http, "/builds/b/logs", pause=pauses.append)) == ["one", "two", "three"]
    asked = [headers.get("last-event-id") for _, _, headers, _ in script.requests]
    assert asked == [None, "8", "8", "8"]
    assert pauses == [0.25, 0.5, 1.0]


def test_log_that_can_not_be_read_is_given_up() -> None:
    with scripted(None) as script, script.http() as http:
        with pytest.raises(Unavailable):
            list(log_lines(http, "/builds/b/logs", pause=lambda _: None))
        assert len(script.requests) == 7
    with scripted(problem(404, detail="there is no build 'b' here")) as script, script.http() as http:
        with pytest.raises(NotFound, match="no build"):
            list(log_lines(http, "/builds/b/logs"))
        assert len(script.requests) == 1
