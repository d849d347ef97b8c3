"""
Limits on what clients send: how much, how fast, and how often.

A body is read by the event loop, so that a slow or vanished client holds a connection and nothing else. One that is too
large, or too slow, is answered at once (413, 408), and its connection closed.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from mlenv.server.middleware import App, Message, Receive, Scope, Send
from mlenv.server.problems import Problem, Problems

#: Paths whose bodies are bytes to keep: the blob dialect, blobs of the native API, and those that are pushed.
_UPLOAD: Final = re.compile(r"/blobs?/|/api/v1/(?:workspaces|registries)/[^/]+/(?:blobs|bases)(?:/|$)|/v2/.+/blobs/")
#: Where uploads are not counted: an image has many blobs, and clients push all of them as fast as they can.
_UNCOUNTED: Final = "/v2/"
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_CLOSE: Final = {"Connection": "close"}
#: How many tokens' rates are remembered at once.
_REMEMBERED: Final = 10_000


class _Refused(Exception):
    """The body is not read any further."""


class Bodies:
    """
    Refuses bodies that are too large or come too slowly, and uploads that come too often.

    Args:
        max_body, max_upload: Bytes, for ordinary requests and for uploads.
        timeout: Seconds that a body may take, whatever its size.
        rate: Bytes per second by which that time grows with what has come.
        upload_rate: Uploads per second and token; 0 for no limit. Twice as many may come at once.
    """

    def __init__(
        self,
        app: App,
        *,
        problems: Problems,
        max_body: int,
        max_upload: int,
        timeout: float,
        rate: int,
        upload_rate: float,
    ) -> None:
        self._app, self._problems = app, problems
        self._max_body, self._max_upload = max_body, max_upload
        self._timeout, self._rate = timeout, rate
        self._buckets = Buckets(upload_rate) if upload_rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            return await self._app(scope, receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        upload = _UPLOAD.match(scope["path"]) is not None
        limit = self._max_upload if upload else self._max_body
        problem = self._too_large(headers, limit)
        if problem is None and upload and self._buckets is not None and not scope["path"].startswith(_UNCOUNTED):
            problem = self._too_often(headers, scope, self._buckets)
        if problem is not None:
            return await self._problems.respond(scope, problem)(scope, receive, send)
        await _Reading(self._problems, limit, self._timeout, self._rate).run(self._app, scope, receive, send)

    @staticmethod
    def _too_large(headers: Mapping[bytes, bytes], limit: int) -> Problem | None:
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            return too_large(limit)
        return None

    @staticmethod
    def _too_often(headers: Mapping[bytes, bytes], scope: Scope, buckets: "Buckets") -> Problem | None:
        client = scope.get("client")
        who = headers.get(b"authorization") or (client[0] if client else "").encode()
        wait = buckets.take(sha256(who).digest(), time.monotonic())
        if wait <= 0:
            return None
        retry = {"Retry-After": str(int(wait) + 1), **_CLOSE}
        return Problem(429, "TooManyUploads", "too many uploads in too short a time", headers=retry)


def too_large(limit: int) -> Problem:
    """What is answered to a body that is too large."""
    return Problem(413, "BodyTooLarge", f"the body is larger than {limit} bytes", headers=_CLOSE)


class _Reading:
    """One request whose body is watched while it is read."""

    def __init__(self, problems: Problems, limit: int, timeout: float, rate: int) -> None:
        self._problems, self._limit, self._timeout, self._rate = problems, limit, timeout, rate
        self._problem: Problem | None = None
        self._started = False

    async def run(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        total, waited, whole = 0, 0.0, False
        clock = asyncio.get_running_loop().time

        async def watched() -> Message:
            nonlocal total, waited, whole
            if whole:
                return await receive()
            # Only waiting for the client counts, not what the application does with what has come.
            begun = clock()
            try:
                async with asyncio.timeout(max(self._timeout + total / self._rate - waited, 0)):
                    message = await receive()
            except TimeoutError:
                self._problem = Problem(408, "BodyTooSlow", "the body came too slowly", headers=_CLOSE)
                raise _Refused from None
            waited += clock() - begun
            if message["type"] != "http.request":
                whole = True
                return message
            total += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if total > self._limit:
                self._problem = too_large(self._limit)
                raise _Refused
            return message

        async def answer(message: Message) -> None:
            # What the application says of a body that it was not given whole is not what is wrong.
            if self._problem is None or self._started:
                self._started = True
                await send(message)

        try:
            await app(scope, watched, answer)
        except Exception:
            if self._problem is None or self._started:
                raise
        if self._problem is not None and not self._started:
            await self._problems.respond(scope, self._problem)(scope, receive, send)


class Buckets:
    """
    Token buckets: each fills at a rate, holds what comes in two seconds, and gives one for each request.

    Args:
        rate: Per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._full = max(1.0, 2 * rate)
        self._levels: dict[bytes, tuple[float, float]] = {}

    def take(self, who: bytes, now: float) -> float:
        """Take one. Returns 0, or how many seconds it takes until there is one."""
        level, seen = self._levels.get(who, (self._full, now))
        level = min(self._full, level + (now - seen) * self._rate)
        if len(self._levels) > _REMEMBERED:
            self._levels.clear()
        if level < 1:
            self._levels[who] = level, now
            return (1 - level) / self._rate
        self._levels[who] = level - 1, now
        return 0.0
