"""
Sends the head of an answer together with its body.

uvicorn writes them one after the other, and each write wakes the client up, which can do nothing with a head alone.
"""

import asyncio
from typing import Any, Final

from mlenv.server.http_protocol import PatientHttp

_HEAD: Final = b"HTTP/1.1 "


class JoiningHttp(PatientHttp):
    """The protocol, whose answers go out in one piece where they can."""

    _joined: "_Joined"

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._joined = _Joined(transport, self.loop)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle is not None:
            # What an answer writes passes through here; files, and the protocol's own refusals, do not.
            self.cycle.transport = self._joined  # type: ignore[assignment]

    async def _send_file(self, *arguments: Any) -> None:
        self._joined.flush()
        await super()._send_file(*arguments)


class _Joined:
    """What an answer needs of a transport. A head is kept for the next write, at most to the end of the loop's turn."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that still waits."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
