"""Logs as answers: whole, a part of their bytes (RFC 9110, section 14), or as events while they are written."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

from fastapi import Header, Request, Response
from starlette.responses import StreamingResponse

from mlenv.server.following import stream
from mlenv.service.builds import LogState

EVENTS: Final = "text/event-stream"
_CHUNK: Final = 1 << 20
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_TEXT: Final[dict[str, Any]] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
_LOG: Final[dict[str, Any]] = {"content": {**_TEXT["content"], EVENTS: {"schema": {"type": "string"}}}}
#: What a route of a log answers.
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The log so far; as events, all of it, as it is written", **_LOG},
    206: {"description": "The part that was asked for", **_TEXT},
    416: {"description": "The log has not come that far", **_TEXT},
}

RangeHeader = Annotated[
    str | None, Header(alias="Range", max_length=1024, description="A part of it (RFC 9110, section 14).")
]
AcceptHeader = Annotated[str | None, Header(max_length=1024, description=f"`{EVENTS}` to follow it.")]
LastEventHeader = Annotated[
    str | None, Header(max_length=64, description="The id of the last event that came: go on after it.")
]


def log_answer(
    request: Request,
    key: str,
    state: LogState,
    look: Callable[[], LogState],
    read: Callable[[int, int], bytes],
    *,
    range: str | None,
    accept: str | None,
    last_event_id: str | None,
) -> Response:
    """
    A log's bytes so far, or a part of them; or events as it is written, until one of the type `end`.

    Args:
        key: Which log it is, among all.
        state: How far it has come; `look` says so again later.
        read: Gives at most so many bytes from a position on.
    """
    if accept is not None and EVENTS in accept:
        start = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else 0
        return stream(request, key, look, read, start=min(start, state.size))
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "no-cache", "Vary": "Accept"}
    first, end = 0, state.size
    status = 200
    if (asked := _range(range, state.size)) is not None:
        first, end = asked
        if first >= end:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{state.size}"})
        status = 206
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{state.size}"
    headers["Content-Length"] = str(end - first)
    return StreamingResponse(_bytes(read, first, end), status, headers, media_type="text/plain; charset=utf-8")


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end of a single range; None if none is asked for, or one that is to be passed over."""
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    first = int(match[1])
    if match[2] and int(match[2]) < first:
        return None
    return first, min(size, int(match[2]) + 1) if match[2] else size


def _bytes(read: Callable[[int, int], bytes], first: int, end: int) -> Iterator[bytes]:
    while first < end and (chunk := read(first, min(_CHUNK, end - first))):
        first += len(chunk)
        yield chunk
