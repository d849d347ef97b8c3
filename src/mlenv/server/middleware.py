"""
What every request passes, outermost first: its id, its record in log and metrics, its headers, and the answer to what went wrong.

Written against ASGI itself (asgi.readthedocs.io): a middleware of a framework would cost more than most requests do.
"""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

from msgspec import Struct
from starlette.requests import ClientDisconnect

from mlenv.server.problems import Problem, Problems

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log: Final = logging.getLogger(__name__)

#: The id of the request that this context serves, for log lines.
current_request: Final[ContextVar[str]] = ContextVar("current_request", default="")
#: What a client's own request id may be, so that it can stand in logs.
_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")
#: Answered to everything: nothing here is for a browser to guess at, frame or keep.
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")
#: What a client that went away is noted with, as nginx has it.
_GONE: Final = 499


class Observer(Protocol):
    """Is told of every request that has been answered."""

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is its template, such as `/api/v1/workspaces/{workspace}`, or `-` for none."""


class Answered(Struct, frozen=True):
    """
    What a log says of a request.

    Attributes:
        request: Its id.
        route: See `Observer`.
        seconds: How long the answer took.
        client: The network address, or nothing.
        principal: The name of who asked, or nothing.
    """

    request: str
    method: str
    path: str
    route: str
    status: int
    seconds: float
    client: str
    principal: str


class Surroundings:
    """
    Gives a request its id, answers what was raised, adds headers, and records what was answered.

    Args:
        max_headers: The largest head that is let pass, in bytes.
        observer: Is told of every answer; None for nobody.
        log: Writes down every answer; None for nobody.
    """

    def __init__(
        self,
        app: App,
        *,
        problems: Problems,
        max_headers: int,
        observer: Observer | None,
        log: Callable[[Answered], object] | None,
    ) -> None:
        self._app, self._problems, self._max_headers = app, problems, max_headers
        self._observer, self._log = observer, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = time.perf_counter()
        request = scope.setdefault("state", {})["request_id"] = _request_id(scope)
        current_request.set(request)
        status = 0
        extra = [*_HEADERS, (b"x-request-id", request.encode())]
        if scope.get("scheme") == "https":
            extra.append(_TRANSPORT)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        try:
            head = sum(len(name) + len(value) + 4 for name, value in scope["headers"]) + len(scope["raw_path"] or b"")
            if head > self._max_headers:
                problem = Problem(
                    431, "HeadersTooLarge", f"the head of the request is {head} bytes, at most {self._max_headers}"
                )
                await self._problems.respond(scope, problem)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except ClientDisconnect:
            # Nobody is there to be answered.
            status = status or _GONE
        except Exception as error:
            if status:
                # The answer has begun; the connection is closed, so that nobody takes it for a whole one.
                _log.error("an answer broke off", exc_info=error)
                status = 500
                raise
            await self._problems.answer(scope, error)(scope, receive, answer)
        finally:
            self._record(scope, status or _GONE, time.perf_counter() - begun)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "-")
        if self._observer is not None:
            self._observer.observe(scope["method"], route, status, seconds)
        if self._log is not None:
            state, client = scope["state"], scope.get("client")
            principal = state.get("principal")
            self._log(
                Answered(
                    state["request_id"],
                    scope["method"],
                    scope["path"],
                    route,
                    status,
                    round(seconds, 6),
                    client[0] if client else "",
                    principal.name if principal is not None else "",
                )
            )


def _request_id(scope: Scope) -> str:
    """The client's own id of the request, if it has one that can stand in a log, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(8)
