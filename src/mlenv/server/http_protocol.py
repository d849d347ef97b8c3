"""
uvicorn's HTTP/1.1 over httptools, with limits on how long a client may take to send the head of a request and how large that
may be, with files sent by the kernel (`mlenv.server.sendfile`), and with large bodies received past the parser
(`mlenv.server.large_bodies`).
"""

import asyncio
from asyncio.exceptions import SendfileNotAvailableError
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from httptools import HttpRequestParser
from msgspec import Struct, field
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlenv.server.large_bodies import EXTENSION as BUFFERS
from mlenv.server.large_bodies import WORTH_IT, Buffers, LargeBody
from mlenv.server.middleware import Message, Receive, Scope, Send
from mlenv.server.sendfile import EXTENSION, read_at_once, read_part

#: Seconds from the connection, or from the first byte of a later request, to the end of the request's head.
HEAD_TIMEOUT: Final = 20.0
#: Bytes of a head that has not ended yet, beyond those that came with its first byte.
_HEAD_LIMIT: Final = 1 << 20
#: Bytes that the kernel is given to send at once, and seconds that a client may take for them.
_PIECE: Final = 8 << 20
PIECE_TIMEOUT: Final = 600.0
#: Bytes that are read and encrypted at once where the kernel can't: as much as stays in the processor's cache.
_CHUNK: Final = 1 << 18
#: Bytes that one connection gets before it is another's turn. In short turns clients would wake up for every piece.
_TURN: Final = 4 << 20


class PatientHttp(HttpToolsProtocol):
    """Closes connections whose request does not come to the end of its head in time, and sends files."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head = 0
    #: Bytes of the request's body that the parser has given.
    _came = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.app = self._with_files

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            # The parser keeps what it was given of a head. How large a whole one may be is for the application to say.
            self._head += len(data)
            if self._head > _HEAD_LIMIT:
                self.send_400_response("The head of the request is too large.")
                return
        super().data_received(data)
        if self._in_head and self._timer is None:
            self._timer = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head, self._came = True, 0, 0

    def on_headers_complete(self) -> None:
        # What comes next is watched by whoever reads the body.
        self._in_head = False
        self._forget()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts < 1 and self.parser.get_http_version() == "1.1"):
            # RFC 9112, section 3.2. The parser makes an answer of 400 of it.
            raise ValueError("a request names one host")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._came += len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self.transport.close()

    async def _with_files(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, which may answer with a part of a file."""
        cycle: RequestResponseCycle = send.__self__  # type: ignore[attr-defined]

        async def answer(message: Message) -> None:
            if message["type"] == EXTENSION:
                await self._send_file(cycle, message["file"], message["offset"], message["count"])
            else:
                await send(message)

        buffers = Buffers(receive, lambda: self._take_over(cycle))
        scope.setdefault("extensions", {}).update({EXTENSION: {}, BUFFERS: buffers})
        await cast(Any, self.config.loaded_app)(scope, buffers.receive, answer)

    def _take_over(self, cycle: RequestResponseCycle) -> LargeBody | None:
        """Receive the rest of a body past the parser; None where that can't be, or is not worth it."""
        lengths = [value for name, value in cycle.scope["headers"] if name == b"content-length"]
        if self.cycle is not cycle or not cycle.more_body or not lengths or self.transport.is_closing():
            return None
        rest = int(lengths[0]) - self._came
        if rest < WORTH_IT:
            return None
        if cycle.waiting_for_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        came, cycle.body = bytes(cycle.body), bytearray()

        def done() -> None:
            # The parser did not see the body: the next request needs one that waits for a head.
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            cycle.more_body = False
            self.transport.set_protocol(self)

        body = LargeBody(self, cycle, came, rest, done)
        self.transport.set_protocol(body)
        self.flow.resume_reading()
        return body

    async def _send_file(self, cycle: RequestResponseCycle, file: int, offset: int, count: int) -> None:
        """Send a part of a file as the whole body. Raises `ClientDisconnect`, and `OSError` if the file is shorter."""
        # They count as sent, as if the answer's cycle had written them itself.
        cycle.expected_content_length -= count
        try:
            if self.scheme == "http":
                await self._by_kernel(file, offset, count)
            else:
                await self._by_hand(cycle, file, offset, count)
        except (ConnectionError, SendfileNotAvailableError, TimeoutError) as error:
            cycle.disconnected = True
            self.transport.abort()
            raise ClientDisconnect from error
        await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _by_kernel(self, file: int, offset: int, count: int) -> None:
        end, opened = offset + count, cast(Any, _File(file))
        while offset < end:
            if self.transport.is_closing():
                raise ConnectionAbortedError
            async with asyncio.timeout(PIECE_TIMEOUT):
                piece = min(_PIECE, end - offset)
                sent = await self.loop.sendfile(self.transport, opened, offset, piece, fallback=False)
            if not sent:
                raise OSError("the file has become shorter")
            offset += sent

    async def _by_hand(self, cycle: RequestResponseCycle, file: int, offset: int, count: int) -> None:
        end, turns, waited_for = offset + count, _turns(self.loop), b""
        # What the client does not take is not encrypted in advance.
        self.transport.set_write_buffer_limits(high=_CHUNK)
        while offset < end:
            if self.flow.write_paused:
                async with asyncio.timeout(PIECE_TIMEOUT):
                    await self.flow.drain()
            async with turns.lock:
                # Whatever else waits is done between two turns, and news comes in that the client is gone.
                await asyncio.sleep(0)
                if cycle.disconnected or self.transport.is_closing():
                    raise ConnectionAbortedError
                if waited_for:
                    self.transport.write(waited_for)
                    offset += len(waited_for)
                offset, at_hand = self._turn(turns, file, offset, min(end, offset + _TURN))
            waited_for = b"" if at_hand else await read_part(file, offset, min(_CHUNK, end - offset))

    def _turn(self, turns: "_Turns", file: int, offset: int, end: int) -> tuple[int, bool]:
        """Send what the connection takes and memory has. Returns where the next turn goes on, and whether memory had it."""
        while offset < end and not self.flow.write_paused and not self.transport.is_closing():
            part = memoryview(turns.buffer)[: end - offset]
            count = read_at_once(file, offset, part)
            if not count:
                return offset, False
            self.transport.write(part[:count])
            if self.transport.get_write_buffer_size():
                # It may hold on to what it was given.
                turns.buffer = bytearray(_CHUNK)
            offset += count
        return offset, True


class _Turns(Struct):
    """Of one event loop: who holds the lock sends, from one buffer for all."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    buffer: bytearray = field(default_factory=lambda: bytearray(_CHUNK))


#: Only one turn is taken each time round a loop, so that small requests do not wait for all of the large ones.
_TURNS: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns]()


def _turns(loop: asyncio.AbstractEventLoop) -> _Turns:
    turns = _TURNS.get(loop)
    if turns is None:
        turns = _TURNS[loop] = _Turns()
    return turns


class _File(Struct, frozen=True):
    """An open file, as the event loop asks for it."""

    descriptor: int

    def fileno(self) -> int:
        return self.descriptor
