"""Log lines: JSON for programs, one object a line; text for people. Both say which request they belong to."""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO, Final, Literal

import msgspec

from mlenv.core.redact import redact
from mlenv.server.middleware import Answered, current_request

#: What every record has; the rest was given by `extra` and is shown as fields of its own.
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
#: Talk of libraries that says nothing to whoever runs a server.
_QUIET: Final = ("alembic", "asyncio", "dbos", "httpx", "uvicorn.access", "uvicorn.asgi")

#: What lines for answered requests belong to, and what of them their message tells.
_ACCESS: Final = "mlenv.access"
_IN_MESSAGE: Final = frozenset({"method", "path", "status"})

_encode: Final = json.JSONEncoder(default=str).encode


def set_up(form: Literal["auto", "text", "json"], level: str) -> None:
    """Let this process log to its standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if _is_text(form) else _Json())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # What no line tells is not looked for (docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logMultiprocessing = False
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def answers(form: Literal["auto", "text", "json"], level: str) -> Callable[[Answered], object] | None:
    """What writes a line for every answered request to this process's standard error; None where the level is above `info`."""
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    return Answers(sys.stderr.buffer, as_text=_is_text(form)).write


class Answers:
    """
    Lines for answered requests.

    They do not pass `logging`, whose way from a record to a line takes a tenth of a short request.
    """

    def __init__(self, stream: BinaryIO, *, as_text: bool) -> None:
        self._stream = stream
        self._line = _answered_text if as_text else _answered_json

    def write(self, answered: Answered) -> None:
        """Write one. Nobody's request fails because it can't be written."""
        with suppress(OSError, ValueError):
            self._stream.write(self._line(answered, time.time()))
            self._stream.flush()


def _answered_json(answered: Answered, now: float) -> bytes:
    fields = _fields(now, "info", _ACCESS, _message(answered), os.getpid())
    fields |= msgspec.structs.asdict(answered)
    fields["path"] = _clean(answered.path)
    written = msgspec.json.encode(fields)
    return (written if written.isascii() else _encode(fields).encode()) + b"\n"


def _answered_text(answered: Answered, now: float) -> bytes:
    return f"{_line(now, 'info', _ACCESS, _message(answered), msgspec.structs.asdict(answered))}\n".encode()


def _message(answered: Answered) -> str:
    return f"{answered.method} {answered.path} {answered.status}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record.created, record.levelname.lower(), record.name, record.getMessage(), record.process)
        if request := current_request.get():
            fields["request"] = request
        fields |= _extra(record)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = _clean("".join(traceback.format_exception(*record.exc_info)))
        return _encode(fields)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = _line(record.created, record.levelname.lower(), record.name, record.getMessage(), _extra(record))
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + _clean("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return line


def _fields(created: float, level: str, logger: str, message: str, process: int | None) -> dict[str, Any]:
    """What every line for programs has."""
    return {
        "time": _time(created),
        "level": level,
        "logger": logger,
        "message": _clean(message),
        "process": process,
    }


def _line(created: float, level: str, logger: str, message: str, extra: Mapping[str, Any]) -> str:
    """A line for people."""
    shown = _clean(message).encode("unicode_escape").decode()
    more = "".join(f" {name}={value}" for name, value in extra.items() if name not in _IN_MESSAGE)
    return f"{_time(created)} {level:7} {logger}: {shown}{more}"


def _is_text(form: Literal["auto", "text", "json"]) -> bool:
    return form == "text" or (form == "auto" and sys.stderr.isatty())


def _time(created: float) -> str:
    seconds = int(created)
    return f"{_second(seconds)}.{int((created - seconds) * 1000):03}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """Many lines are of the same second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


def _clean(text: str) -> str:
    return redact(text) if "://" in text else text
