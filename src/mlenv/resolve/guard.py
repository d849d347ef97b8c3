"""
Where a site's machines download from: listed hosts, and whatever is on the public Internet, over https.

An address that a client chose must not lead to what only the machine itself can reach (server-side request forgery).
So the address that a connection really has is looked at, when it is there and before anything is sent: what a name
meant a moment before does not count, and a redirect is a connection like any other.
"""

import socket
from collections.abc import Callable, Iterable
from functools import cached_property
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, Request

from mlenv.core.public_address import is_public
from mlenv.core.site_policy import AddressNotListed, SitePolicy
from mlenv.resolve.certificates import LazyHTTPSHandler

_PORTS: Final = {"http": 80, "https": 443}


class Guard:
    """
    Says which connections may be made.

    Args:
        policy: What is listed. Files of an index are where its pages are, or on another host.
        own: The address of the machine's own index, or None.
        places: Where else the machine's own settings lead: to conda channels and their mirrors. Called once, when
            something is fetched.
    """

    def __init__(self, policy: SitePolicy, own: str | None, places: Callable[[], Iterable[str]] = lambda: ()) -> None:
        self._policy, self._own, self._find_places = policy, own, places

    @cached_property
    def _places(self) -> tuple[str, ...]:
        return (*filter(None, [self._own]), *self._find_places())

    @cached_property
    def _origins(self) -> set[tuple[str, str | None, int | None]]:
        return {_origin(each) for each in (*self._policy.indexes, *self._places)}

    def check(self, url: str) -> bool:
        """
        See whether something may be fetched from an address.

        Returns:
            Whether it is listed; otherwise it is to be on the public Internet, as `connecting` sees.

        Raises:
            AddressNotListed: It is not listed, and not https.
        """
        scheme = urlsplit(url).scheme
        if scheme in _PORTS and _origin(url) in self._origins:
            return True
        if scheme == "https":
            return False
        if self._policy.lists(url, *self._places):
            return True
        raise AddressNotListed(url, "what is not listed must be reached by https")

    def connecting(self, request: Request, kind: Callable[..., HTTPConnection]) -> Callable[..., HTTPConnection]:
        """What makes the connection of a request, of a kind. Raises as `check`."""
        url = request.full_url
        # A proxy looks after itself: whose address a name has there can't be told here.
        if self.check(url) or request.has_proxy():
            return kind

        def create(*arguments: Any, **more: Any) -> socket.socket:
            made = socket.create_connection(*arguments, **more)
            peer = made.getpeername()[0]
            if not is_public(peer):
                made.close()
                raise AddressNotListed(url, "it is not on the public Internet, and not listed")
            return made

        def connection(host: str, **arguments: Any) -> HTTPConnection:
            found = kind(host, **arguments)
            # NOTE: by this `http.client` connects, before TLS begins. There is no public way to say it.
            found._create_connection = create  # type: ignore[attr-defined]
            return found

        return connection


class GuardedHTTPHandler(HTTPHandler):
    """An HTTP handler that asks a guard, at each hop."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, req: Request) -> Any:
        """Called by `urllib` for an `http:` request."""
        return self.do_open(self._guard.connecting(req, HTTPConnection), req)


class GuardedHTTPSHandler(LazyHTTPSHandler):
    """The same for HTTPS."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def https_open(self, req: Request) -> Any:
        """Called by `urllib` for an `https:` request."""
        return self.do_open(self._guard.connecting(req, HTTPSConnection), req, context=self._trusting)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address; of one that can't be read, what no other has."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return url, None, None
