"""A build's log as it is written: server-sent events (WHATWG HTML, section 9.2), read line by line."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from mlenv.client.http import Http
from mlenv.errors import InvalidInput, Unavailable

#: The longest line of a stream that is taken, in characters.
_LONGEST: Final = 4 << 20
#: How often in a row a connection may break, and how long is waited after the first time, in seconds.
_FAILURES: Final = 6
_PAUSE: Final = 0.25


class Event(NamedTuple):
    """One event of a stream: its kind, its text, and the id from which a stream can go on."""

    kind: str
    data: str
    id: str | None


def events(lines: Iterable[str]) -> Iterator[Event]:
    """Events of a stream's lines. Comments, which keep a connection alive, are left out. Raises `InvalidInput`."""
    kind, data, id = "message", list[str](), None
    for line in lines:
        if len(line) > _LONGEST:
            raise InvalidInput("the server sends a line of its log that is too long")
        if not line:
            if data or kind != "message":
                yield Event(kind, "\n".join(data), id)
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            id = value


def log_lines(http: Http, path: str, *, pause: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """
    The lines of a log, from the first on, as they are written; it ends with the build.

    A connection that ends before is made again, and the log goes on where it was.

    Raises:
        MlenvError: As `Http.stream`; a broken connection only if it can't be made again a few times in a row.
    """
    headers = {"accept": "text/event-stream"}
    failures = 0
    while True:
        try:
            with http.stream("GET", path, headers=headers) as answer:
                for event in events(answer.iter_lines()):
                    failures = 0
                    if event.id:
                        headers["last-event-id"] = event.id
                    if event.kind == "end":
                        return
                    if event.kind == "message":
                        yield from event.data.split("\n")
        except Unavailable:
            failures += 1
            if failures > _FAILURES:
                raise
        pause(_PAUSE * 2**failures)
