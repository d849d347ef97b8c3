"""
An extension of ASGI: a large body received into buffers that are used again, with neither parser nor copies in between.

`scope["extensions"]["http.request.buffers"]` is there if the server offers it. `begin()` makes what `receive` gives from then
on views of such buffers instead of bytes; each is filled again after it was given back with `release`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlenv.server.middleware import Message, Receive

EXTENSION: Final = "http.request.buffers"
#: Bytes of a buffer, and how many one request has: one that is filled, others that are hashed and written meanwhile.
_SIZE: Final = 1 << 19
_COUNT: Final = 4
#: How many buffers are kept for requests to come, by one process.
_KEPT: Final = 16
#: Seconds after which a buffer that is not full is given out, so that it is seen that a slow client sends.
_PATIENCE: Final = 1.0
#: Bytes from which on it is done for a body.
WORTH_IT: Final = _SIZE
_spare: Final[list[bytearray]] = []


class Buffers:
    """
    What the extension offers to one request.

    Args:
        usual: Receives what the parser gives.
        take_over: Begins to receive past the parser; None if it does not.
    """

    def __init__(self, usual: Receive, take_over: "Callable[[], LargeBody | None]") -> None:
        self._usual, self._take_over = usual, take_over
        self._body: LargeBody | None = None

    def begin(self) -> None:
        """Receive what is still to come into buffers, if that is worth it."""
        if self._body is None:
            self._body = self._take_over()

    def release(self, data: bytes | memoryview) -> None:
        """Say of something received that it is not needed any more. It must not be looked at again."""
        if self._body is not None and isinstance(data, memoryview):
            self._body.release(data)

    async def receive(self) -> Message:
        """The next message of ASGI."""
        return await (self._usual() if self._body is None or self._body.ended else self._body.receive())


class LargeBody(asyncio.BufferedProtocol):
    """
    Takes the rest of a body in the HTTP protocol's place.

    Args:
        usual: The HTTP protocol, which is told of everything else.
        came: What came before.
        rest: How many bytes are to come.
        done: Called when all have come: nothing behind them was read.
    """

    def __init__(
        self, usual: HttpToolsProtocol, cycle: RequestResponseCycle, came: bytes, rest: int, done: Callable[[], object]
    ) -> None:
        self._usual, self._cycle, self._came, self._rest, self._done = usual, cycle, came, rest, done
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._buffer: bytearray | None = None
        self._filled = 0
        self._full: deque[memoryview] = deque()
        self._out = 0

    @property
    def ended(self) -> bool:
        """Whether all has been given out."""
        return not (self._came or self._full or self._rest)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:
            self._buffer, self._filled = _empty(), 0
        return memoryview(self._buffer)[self._filled : self._filled + self._rest]

    def buffer_updated(self, nbytes: int) -> None:
        self._rest -= nbytes
        if self._cycle.response_complete:
            # The answer did not wait for the body, which nobody reads. The connection is not idle.
            self._filled = 0
            self._usual._unset_keepalive_if_required()
        else:
            self._filled += nbytes
            if self._filled == _SIZE or not self._rest:
                self._put_out()
        if not self._rest:
            self._done()

    def eof_received(self) -> None:
        self._usual.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._usual.connection_lost(exc)
        self._news.set()

    def pause_writing(self) -> None:
        self._usual.pause_writing()

    def resume_writing(self) -> None:
        self._usual.resume_writing()

    async def receive(self) -> Message:
        """What has come, also when the client is gone: the message after it says so."""
        if self._came:
            came, self._came = self._came, b""
            return {"type": "http.request", "body": came, "more_body": True}
        while not (self._full or self._cycle.disconnected or self._cycle.response_complete):
            # Whoever asks for more gets it, whatever they hold: nothing else would tell them that the client is gone.
            self._usual.flow.resume_reading()
            self._news.clear()
            timer = self._loop.call_later(_PATIENCE, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()
            if self._filled:
                break
        if not self._full and self._filled:
            return {"type": "http.request", "body": self._partial(), "more_body": True}
        if not self._full:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._full.popleft(), "more_body": bool(self._full or self._rest)}

    def release(self, view: memoryview) -> None:
        """Fill a buffer again, of which nothing is needed any more."""
        buffer = view.obj
        view.release()
        assert isinstance(buffer, bytearray)
        if len(_spare) < _KEPT:
            _spare.append(buffer)
        self._out -= 1
        if self._rest:
            self._usual.flow.resume_reading()

    def _partial(self) -> bytes:
        """A copy of what is in the buffer that is filled, so that a slow client takes up no more than that one."""
        assert self._buffer is not None
        data, self._filled = bytes(memoryview(self._buffer)[: self._filled]), 0
        return data

    def _put_out(self) -> None:
        assert self._buffer is not None
        self._full.append(memoryview(self._buffer)[: self._filled])
        self._buffer, self._filled = None, 0
        self._out += 1
        if self._out >= _COUNT and self._rest:
            self._usual.flow.pause_reading()
        self._news.set()


def _empty() -> bytearray:
    try:
        return _spare.pop()
    except IndexError:
        return bytearray(_SIZE)
