"""Log lines: JSON for programs, one object a line; text for people. Both say which request they belong to."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

from mlenv.core.redact import redact
from mlenv.server.middleware import current_request

#: What every record has; the rest was given by `extra` and is shown as fields of its own.
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
#: Talk of libraries that says nothing to whoever runs a server.
_QUIET: Final = ("alembic", "asyncio", "dbos", "httpx", "uvicorn.access", "uvicorn.asgi")

_encode: Final = json.JSONEncoder(default=str).encode


def set_up(form: Literal["auto", "text", "json"], level: str) -> None:
    """Let this process log to its standard error."""
    handler = logging.StreamHandler(sys.stderr)
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(_Text() if as_text else _Json())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # What no line tells is not looked for (docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logMultiprocessing = False
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(record.getMessage()),
            "process": record.process,
        }
        if request := current_request.get():
            fields["request"] = request
        fields |= _extra(record)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = _clean("".join(traceback.format_exception(*record.exc_info)))
        return _encode(fields)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        extra = _extra(record)
        more = "".join(f" {name}={value}" for name, value in extra.items() if name not in {"method", "path", "status"})
        message = _clean(record.getMessage()).encode("unicode_escape").decode()
        line = f"{_time(record)} {record.levelname.lower():7} {record.name}: {message}{more}"
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + _clean("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return line


def _time(record: logging.LogRecord) -> str:
    seconds = int(record.created)
    return f"{_second(seconds)}.{int((record.created - seconds) * 1000):03}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """Many lines are of the same second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


def _clean(text: str) -> str:
    return redact(text) if "://" in text else text
