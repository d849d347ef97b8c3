"""
Connections that lead to the public Internet only, for where the names of registries come from others.

The address that a connection really has is looked at, before anything is sent: what a name meant a moment before does
not count, and a redirect is a connection like any other.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress

import httpcore

from mlenv.core.public_address import is_public
from mlenv.errors import Forbidden


class HostNotListed(Forbidden):
    """A registry off the public Internet that nobody has listed."""

    def __init__(self, host: str) -> None:
        super().__init__(f"this server does not speak to {host}: it is not on the public Internet, and not listed")
        self.host = host
        self.hint = "whoever runs the server lists the registries of its own network in MLENV_REGISTRIES"


class GuardedBackend(httpcore.SyncBackend):
    """Connects as usual, and lets go again of what is not on the public Internet."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises `HostNotListed`, and what httpcore raises."""
        # What is not public is not even tried: whether something listens there is nobody's concern.
        with suppress(OSError, UnicodeError):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            if not all(is_public(str(address[0])) for *_, address in found):
                raise HostNotListed(host)
        stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        made: socket.socket = stream.get_extra_info("socket")
        if not is_public(made.getpeername()[0]):
            stream.close()
            raise HostNotListed(host)
        return stream
