"""Connections whose reader finds out soon that it is to stop, although nothing comes."""

import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpcore

#: Seconds after which a reader that waits looks up.
_GLANCE: Final = 0.25


class StoppableBackend(httpcore.NetworkBackend):
    """
    Connects as another does.

    Args:
        often: Called before everything that is read; raises what is to be raised.
        idle: Called now and then while nothing comes. What is said at the end, such as that an upload is cancelled, is
            still said, and answered by whoever answers at once.
    """

    def __init__(self, inner: httpcore.NetworkBackend, often: Callable[[], None], idle: Callable[[], None]) -> None:
        self._inner, self._often, self._idle = inner, often, idle

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises what httpcore and the other raise."""
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._often, self._idle)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, often: Callable[[], None], idle: Callable[[], None]) -> None:
        self._inner, self._often, self._idle = inner, often, idle

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            self._often()
            rest = end - time.monotonic()
            try:
                return self._inner.read(max_bytes, max(0.001, min(rest, _GLANCE)))
            except httpcore.ReadTimeout:
                if rest <= _GLANCE:
                    raise
                self._idle()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._often, self._idle)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
