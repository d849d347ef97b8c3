"""
Logs as they are written, to any number of readers at once: server-sent events (WHATWG HTML, section 9.2).

However many follow one log, it is looked at by one task, and a part of it is read and written as events once, for all
who come to it at about the same time. What a reader costs is in proportion to what they read, and a reader who does not
read costs a connection.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.responses import StreamingResponse

from mlenv.service.builds import LogState

#: Seconds between two looks at a log.
_LOOK: Final = 0.25
#: Seconds after which a connection on which nothing happens is shown to be alive.
_ALIVE: Final = 15.0
#: The most that becomes one event, in bytes, unless a line is longer; and the most of a line.
_EVENT: Final = 1 << 16
_LINE: Final = 1 << 20
#: How many events of one log are kept for those who come to them later.
_KEPT: Final = 32
#: Threads of a process that read logs; requests of other kinds have their own.
_THREADS: Final = CapacityLimiter(4)

State = Callable[[], LogState]
Read = Callable[[int, int], bytes]


class _Tail:
    """The end of one log, for all who follow it. Used in the event loop only."""

    def __init__(self, state: State, read: Read) -> None:
        self._state, self._read = state, read
        self.now: LogState | None = None
        self.followers = 0
        self.changed = asyncio.Condition()
        self.error: Exception | None = None
        #: The newest events, by the byte at which they begin; what is being read is here, too.
        self._events: dict[int, asyncio.Task[tuple[bytes, int]]] = {}

    async def watch(self) -> None:
        """Look again and again, until it is whole, or can't be looked at."""
        try:
            while self.now is None or not self.now.whole:
                found = await to_thread.run_sync(self._state, limiter=_THREADS)
                if self.now != found:
                    async with self.changed:
                        self.now = found
                        self.changed.notify_all()
                if not found.whole:
                    await asyncio.sleep(_LOOK)
        except Exception as error:  # noqa: BLE001
            # It is raised again where somebody follows.
            async with self.changed:
                self.error = error
                self.changed.notify_all()

    async def at(self, start: int, state: LogState) -> tuple[bytes, int]:
        """As `events`, made once for all who come there at about the same time."""
        task = self._events.get(start)
        if task is None:
            task = self._events[start] = asyncio.create_task(self.events(start, state))
            if len(self._events) > _KEPT:
                self._events.pop(next(iter(self._events)))
        try:
            # Who leaves must not stop it for the others.
            text, end = await asyncio.shield(task)
        except Exception:
            self._forget(start, task)
            raise
        if end == start:
            # There may be a whole line the next time.
            self._forget(start, task)
        return text, end

    def _forget(self, start: int, task: "asyncio.Task[tuple[bytes, int]]") -> None:
        if self._events.get(start) is task:
            del self._events[start]

    async def events(self, start: int, state: LogState) -> tuple[bytes, int]:
        """The lines that begin at `start` as one event, and where the next one begins; no event without a whole line."""
        data = await to_thread.run_sync(self._read, start, _EVENT, limiter=_THREADS)
        if b"\n" not in data and len(data) == _EVENT:
            data = await to_thread.run_sync(self._read, start, _LINE, limiter=_THREADS)
        cut = data.rfind(b"\n") + 1
        if not cut and (len(data) == _LINE or (state.whole and start + len(data) >= state.size)):
            cut = len(data)
        return (_event(data[:cut], start + cut), start + cut) if cut else (b"", start)


class Followers:
    """Who follows logs in this process."""

    def __init__(self) -> None:
        self._tails: dict[str, tuple[_Tail, asyncio.Task[None]]] = {}

    async def follow(
        self, key: str, state: State, read: Read, *, start: int, stopping: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """
        Server-sent events of a log from a byte on; their ids are the bytes at which the next one begins.

        Args:
            key: Which log it is.
            state, read: How it is looked at, from threads.
            stopping: Whether the server stops: then the stream breaks off, and the client asks again.
        """
        loop = asyncio.get_running_loop()
        async with self._tail(key, state, read) as tail:
            sent = loop.time()
            while True:
                now = tail.now
                if tail.error is not None:
                    raise tail.error
                if now is not None and start < now.size:
                    text, start = await tail.at(start, now)
                    if text:
                        yield text
                        sent = loop.time()
                        continue
                if now is not None and now.whole:
                    yield b"event: end\ndata: " + json.dumps({"status": now.status.value}).encode() + b"\n\n"
                    return
                if stopping():
                    return
                await _changed(tail, now)
                if loop.time() - sent > _ALIVE:
                    sent = loop.time()
                    yield b": alive\n\n"

    @asynccontextmanager
    async def _tail(self, key: str, state: State, read: Read) -> AsyncIterator[_Tail]:
        if key not in self._tails:
            made = _Tail(state, read)
            self._tails[key] = made, asyncio.get_running_loop().create_task(made.watch())
        tail, task = self._tails[key]
        tail.followers += 1
        try:
            yield tail
        finally:
            tail.followers -= 1
            if not tail.followers:
                task.cancel()
                self._tails.pop(key, None)


async def _changed(tail: _Tail, seen: LogState | None) -> None:
    """Wait until the log has changed, or a second has passed."""
    async with tail.changed:
        if tail.now == seen and tail.error is None:
            try:
                async with asyncio.timeout(1.0):
                    await tail.changed.wait()
            except TimeoutError:
                return


def _event(data: bytes, id: int) -> bytes:
    """Whole lines as one event. A carriage return ends a line there, as a newline does."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"id: {id}\n{lines}\n".encode()


def stream(request: Request, key: str, state: State, read: Read, *, start: int) -> StreamingResponse:
    """A log as server-sent events, until it is whole."""
    app = request.app.state
    followers: Followers | None = getattr(app, "followers", None)
    if followers is None:
        followers = app.followers = Followers()
    events = followers.follow(key, state, read, start=start, stopping=lambda: app.readiness.stopping)
    # A proxy must not hold back what is to be seen at once.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
