"""uvicorn's HTTP/1.1, with a limit on how long a client may take to send the head of a request."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds from the connection, or from the first byte of a later request, to the end of the request's head.
HEAD_TIMEOUT: Final = 20.0


class PatientH11(H11Protocol):
    """Closes connections whose request does not come to the end of its head in time."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            # The head is whole. What comes next is watched by whoever reads the body.
            self._forget()
        elif self._head is None and (before is None or before.response_complete):
            self._head = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        self.transport.close()
