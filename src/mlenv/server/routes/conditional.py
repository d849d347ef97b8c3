"""Requests that depend on what is there: entity tags (RFC 9110, section 13), and keys that make a creation happen once."""

import hashlib
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

from fastapi import Header, Request, Response

from mlenv.errors import Conflict, InvalidInput
from mlenv.server.door import site_of

T = TypeVar("T")

_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e]*")')
#: How long an answer to an idempotency key is kept.
KEPT: Final = timedelta(hours=24)
#: How often a process forgets older ones, in seconds.
_PURGE_EVERY: Final = 3600.0
#: How long is waited for an answer that another request is about to keep, in seconds, one after the other.
_PAUSES: Final = (0.01, 0.02, 0.04, 0.08, 0.1)

IfMatch = Annotated[
    str | None, Header(max_length=4096, description="Change it only if its entity tag is one of these; else 412.")
]
IfNoneMatch = Annotated[
    str | None, Header(max_length=4096, description="Answer 304 if its entity tag is still one of these.")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same request within 24 hours gives the same answer, and does nothing again.",
    ),
]


class KeyReused(InvalidInput):
    """An idempotency key came again with another request."""

    hint = "take a new key, such as a UUID, for each thing that is to be created"
    status = 422

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used within 24 hours for another request")


class PreconditionFailed(Conflict):
    """What is there has none of the entity tags in `If-Match`."""

    hint = "look at it again, and repeat the change if it is still right"
    status = 412

    def __init__(self) -> None:
        super().__init__("it was changed by somebody else in the meantime: its entity tag is another")


def tag_of(body: bytes) -> str:
    """The strong entity tag of what an answer represents."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(header: str | None, tag: str) -> bool:
    """Whether an `If-Match` or `If-None-Match` lists the tag, or is `*`."""
    return header is not None and (header.strip() == "*" or tag in _TAG.findall(header))


def require_match(header: str | None, tag: str) -> None:
    """Let pass what has no `If-Match`, or one that lists the tag. Raises `PreconditionFailed`."""
    if header is not None and not matches(header, tag):
        raise PreconditionFailed


#: How the description names the answer of a route that takes `If-None-Match` (RFC 9110, section 15.4.5).
UNCHANGED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "The client has it already; no body."}}


def tagged(body: bytes, if_none_match: str | None = None) -> Response:
    """JSON text with its entity tag; 304 without a body if the client has it already."""
    tag = tag_of(body)
    if matches(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, 200, {"ETag": tag}, "application/json")


def once(request: Request, key: str | None, raw: bytes, create: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
    """
    Do something once for each key of a principal.

    Args:
        raw: The request's body. With method and address it makes out what was asked.
        create: Does it, and gives status and body of the answer. What it raises is not kept.

    Raises:
        KeyReused: The key was used for another request.
    """
    if key is None:
        return create()
    store, principal = site_of(request).store, request.state.principal.id
    asked = hashlib.sha256(b"\0".join([request.method.encode(), request.scope["path"].encode(), raw])).hexdigest()
    known = store.reply(principal, key)
    if known is None:
        _purge(request)
        try:
            status, body = create()
        except Conflict:
            # It may be there already by another request with this key, whose answer is about to be kept.
            if (known := _awaited(lambda: store.reply(principal, key))) is None:
                raise
        else:
            now = datetime.now(UTC)
            store.add_reply(principal, key, asked, status, body.decode(), now=now)
            # Two requests with the same key at once: the answer that was kept first is everybody's.
            known = store.reply(principal, key) or (asked, status, body.decode())
    if known[0] != asked:
        raise KeyReused
    return known[1], known[2].encode()


def _awaited(look: Callable[[], T | None]) -> T | None:
    """What is there now, or within a quarter of a second."""
    for pause in _PAUSES:
        if (found := look()) is not None:
            return found
        time.sleep(pause)
    return look()


def _purge(request: Request) -> None:
    state = request.app.state
    if time.monotonic() - getattr(state, "replies_purged", float("-inf")) > _PURGE_EVERY:
        state.replies_purged = time.monotonic()
        site_of(request).store.purge(before=datetime.now(UTC) - KEPT)
