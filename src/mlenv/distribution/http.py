"""
Requests to one registry: with the right credentials, over the right kind of connection, and again if that may help.

Nothing that authenticates goes to another host than it is for: a blob that a registry redirects to a storage service is
fetched there without (distribution-spec, "Pulling blobs").
"""

import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx

from mlenv.core.redact import redact, said
from mlenv.distribution.auth import Authenticator
from mlenv.distribution.credentials import Credentials
from mlenv.distribution.guard import GuardedBackend
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import (
    ERROR_LIMIT,
    AccessRefused,
    NotInRegistry,
    RegistryFails,
    RegistryUnreachable,
    Stopped,
    TooLarge,
    UnexpectedAnswer,
    UntrustedRegistry,
    describe,
)
from mlenv.distribution.settings import RegistrySettings, is_loopback
from mlenv.distribution.stopping import StoppableBackend
from mlenv.distribution.tls import trusting

#: What passes as a rule.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 5
_NETLOC: Final = re.compile(r"[A-Za-z0-9._-]+(?::\d{0,5})?|\[[0-9A-Fa-f:.]+\](?::\d{0,5})?")
_TOKEN_LIMIT: Final = 1 << 20
#: Pauses between attempts, in seconds: the first, the longest of our own, and the longest that a registry may ask for.
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 8.0
_LONGEST_ASKED: Final = 60.0

_T = TypeVar("_T")

#: The body of a request, anew for every time it is sent.
Body = Callable[[], bytes | Iterator[bytes]]


class Passing(Exception):
    """
    Something failed for a reason that may pass.

    Attributes:
        after: How long to wait, in seconds, if the registry says so.
        answered: Whether it is the registry that said so.
    """

    def __init__(self, why: str, after: float | None = None, *, answered: bool = False) -> None:
        super().__init__(why)
        self.why, self.after, self.answered = why, after, answered

    def for_good(self, host: str) -> RegistryUnreachable:
        """The error that it is once it was tried often enough."""
        return (RegistryFails if self.answered else RegistryUnreachable)(host, self.why)


class Session:
    """One registry, as this user sees it. Safe for several threads."""

    def __init__(
        self, name: RemoteName, *, credentials: Credentials, settings: RegistrySettings, seconds: float | None = None
    ) -> None:
        """
        Args:
            name: A repository of it.
            seconds: How long everything together may take; None for as long as something comes.
        """
        self._seconds, self._begun = seconds, time.monotonic()
        self.host = name.registry
        self.settings = settings
        self.stopping = threading.Event()
        self._insecure = settings.is_insecure(self.host)
        self._base = None if self._insecure else f"https://{self.host}"
        self._clients: dict[str, httpx.Client] = {}
        self._lock = threading.Lock()
        self._auth = Authenticator(name.host, lambda: credentials.find(name.host, name.repository), self._ask)

    def close(self) -> None:
        """Let go of connections."""
        for client in self._clients.values():
            client.close()

    def stop(self) -> None:
        """Let what is under way in other threads end soon, with `Stopped`."""
        self.stopping.set()

    @contextmanager
    def send(
        self,
        method: str,
        url: str,
        *,
        what: str,
        scopes: frozenset[str],
        good: frozenset[int] = frozenset({200}),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        once: bool = False,
    ) -> Iterator[httpx.Response]:
        """
        Send a request; the answer's body is not read yet.

        Args:
            url: A path, or what a registry gave as a location, which is resolved by the caller.
            what: What it is about, for messages.
            scopes: What it needs: `repository:NAME:pull` each.
            good: The statuses that are answers; others are errors.
            once: Raise `Passing` instead of trying again.

        Raises:
            AccessRefused, NotInRegistry, RegistryUnreachable, UnexpectedAnswer: There is no good answer.
            Stopped: `stop` was called.
        """

        def attempt() -> httpx.Response:
            response = self._authorized(method, self.absolute(url), dict(headers or {}), body, scopes)
            if response.status_code in good:
                return response
            raise self._failure(response, what)

        response = attempt() if once else self._patiently(attempt)
        try:
            yield response
        finally:
            response.close()

    def fetch(
        self,
        url: str,
        *,
        limit: int,
        what: str,
        scopes: frozenset[str],
        headers: Mapping[str, str] | None = None,
    ) -> tuple[httpx.Response, bytes]:
        """A small document, whole. Raises as `send`, and `TooLarge`."""

        def attempt() -> tuple[httpx.Response, bytes]:
            with self.send("GET", url, what=what, scopes=scopes, headers=headers, once=True) as response:
                return response, read(response, limit, what, seconds=self._patience)

        return self._patiently(attempt)

    def absolute(self, url: str) -> str:
        """An address from a path. Raises `RegistryUnreachable` if the registry does not answer over any scheme."""
        return urljoin(self.base, url)

    def resolve(self, url: str, place: str) -> str:
        """The address that an answer from `url` points at. Raises `UnexpectedAnswer` for what is none."""
        try:
            return urljoin(url, place)
        except ValueError as error:
            raise UnexpectedAnswer(f"the registry {self.host}", "it leads to an address that is none") from error

    def is_own(self, url: str) -> bool:
        """Whether an address is one of the registry itself."""
        return _origin(url) == _origin(self.base)

    @property
    def _patience(self) -> float:
        """Seconds that a small document may take, however evenly it comes."""
        return 2 * self.settings.silent

    @property
    def base(self) -> str:
        """`https://host`, or `http://host`: an insecure one is tried with TLS first, as docker does."""
        if self._base is None:
            self._base = self._patiently(self._probe)
        return self._base

    def pause(self, seconds: float) -> None:
        """Wait. Raises as `check`."""
        self.stopping.wait(seconds)
        self.check()

    def check(self) -> None:
        """See whether to go on. Raises `Stopped`, and `RegistryUnreachable` when the time is over."""
        if self.stopping.is_set():
            raise Stopped(self.host)
        self.check_time()

    def check_time(self) -> None:
        """See whether there is time left. Raises `RegistryUnreachable`."""
        if self._seconds is not None and time.monotonic() - self._begun > self._seconds:
            raise RegistryUnreachable(self.host, f"not all came in {self._seconds:g} s")

    def _probe(self) -> str:
        for scheme in ("https", "http"):
            base = f"{scheme}://{self.host}"
            try:
                request = self._client(base).build_request("GET", f"{base}/v2/", headers=_headers())
                response = self._client(base).send(request, stream=True)
                response.close()
                return base
            except httpx.TransportError as error:
                last = error
        raise Passing(_reason(last)) from last

    def _patiently(self, attempt: Callable[[], _T]) -> _T:
        """Try until it works, at most as often as the settings say, with growing pauses."""
        for count in range(self.settings.attempts):
            self.check()
            try:
                return attempt()
            except Passing as error:
                if count + 1 == self.settings.attempts:
                    raise error.for_good(self.host) from error.__cause__
                self.pause(pause_before(count, error.after))
        raise AssertionError("attempts is 1 or more")

    def _authorized(
        self, method: str, url: str, headers: dict[str, str], body: Body | None, scopes: frozenset[str]
    ) -> httpx.Response:
        """Send a request with what the registry wants to see; it says so once it was asked without."""
        for last in (False, True):
            shown = self._auth.header(scopes) if _origin(url) == _origin(self.base) else None
            response = self._follow(method, url, headers, body, shown)
            if response.status_code != 401 or last or _origin(url) != _origin(self.base):
                return response
            if not self._auth.challenged(response.headers.get("www-authenticate", ""), shown):
                return response
            response.close()
        raise AssertionError("the second answer is returned")

    def _follow(
        self, method: str, url: str, headers: dict[str, str], body: Body | None, shown: str | None
    ) -> httpx.Response:
        """Send a request, and follow redirects of those that read."""
        for _ in range(_MOST_REDIRECTS + 1):
            same = _origin(url) == _origin(self.base)
            more = {"Authorization": shown} if shown is not None and same else {}
            response = self._once(method, url, _headers(headers, more), body)
            place = response.headers.get("location")
            if response.status_code not in _REDIRECTS or place is None or method not in ("GET", "HEAD"):
                return response
            response.close()
            url = self.resolve(url, place)
        raise UnexpectedAnswer(f"the registry {self.host}", "it redirects in a circle")

    def _check(self, url: str) -> None:
        """
        See that an address is one that a registry may lead to: of a web server, and not away from TLS.

        Raises:
            UnexpectedAnswer: It is not; nothing was sent.
        """
        who, shown = f"the registry {self.host}", _shown(url)
        try:
            parts = urlsplit(url)
            # An account in an address (`https://registry@elsewhere`) is no part of one that anybody needs.
            fit = parts.scheme in ("http", "https") and bool(parts.hostname and _NETLOC.fullmatch(parts.netloc))
            fit = fit and (parts.port or 1) > 0
        except ValueError:
            fit = False
        if not fit:
            raise UnexpectedAnswer(who, f"it leads to {shown}, which is no address of a server")
        insecure = self.settings.is_insecure(parts.netloc)
        if parts.scheme == "http" and not insecure and not self.base.startswith("http:"):
            raise UnexpectedAnswer(who, f"it leads to {shown}, without TLS")
        # What only this machine can reach is not for registries elsewhere to ask (server-side request forgery).
        if is_loopback(parts.netloc) and not is_loopback(self.host) and parts.netloc not in self.settings.insecure:
            raise UnexpectedAnswer(who, f"it leads to {shown}, to this machine")

    def _once(self, method: str, url: str, headers: dict[str, str], body: Body | None) -> httpx.Response:
        self._check(url)
        try:
            client = self._client(url)
            request = client.build_request(method, url, headers=headers, content=None if body is None else body())
            return client.send(request, stream=True)
        except httpx.TransportError as error:
            if (untrusted := _untrusted(error)) is not None:
                raise UntrustedRegistry(urlsplit(url).netloc, untrusted) from error
            raise Passing(_reason(error)) from error
        except (httpx.InvalidURL, ValueError) as error:
            raise UnexpectedAnswer(f"the registry {self.host}", "it leads to an address that is none") from error

    def _client(self, url: str) -> httpx.Client:
        """Connections to the host of an address, with the trust that is due to it."""
        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            if key not in self._clients:
                insecure = self.settings.is_insecure(parts.netloc)
                verify = trusting(parts.netloc, self.settings, insecure=insecure) if parts.scheme == "https" else False
                client = httpx.Client(
                    verify=verify,
                    timeout=httpx.Timeout(self.settings.silent, connect=self.settings.connect, pool=None),
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
                    follow_redirects=False,
                )
                guarded = self.settings.is_guarded(parts.netloc)
                # NOTE: there is no public way to say how connections are made. A proxy looks after itself.
                client._transport._pool._network_backend = StoppableBackend(  # type: ignore[attr-defined]
                    GuardedBackend() if guarded else httpcore.SyncBackend(), self.check_time, self.check
                )
                self._clients[key] = client
            return self._clients[key]

    def _ask(
        self, method: str, url: str, pairs: list[tuple[str, str]], headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Ask a token server."""
        self._check(url)
        host = urlsplit(url).netloc

        def attempt() -> tuple[int, bytes]:
            try:
                client = self._client(url)
                if method == "POST":
                    request = client.build_request(method, url, data=dict(pairs), headers=_headers(headers))
                else:
                    # The realm may have a query of its own.
                    query = httpx.URL(url).params.merge(httpx.QueryParams(tuple(pairs)))
                    request = client.build_request(method, url, params=query, headers=_headers(headers))
                response = client.send(request, stream=True)
            except httpx.TransportError as error:
                if (untrusted := _untrusted(error)) is not None:
                    raise UntrustedRegistry(host, untrusted) from error
                raise Passing(_reason(error)) from error
            except (httpx.InvalidURL, ValueError) as error:
                raise UnexpectedAnswer(f"the registry {self.host}", "its token server has no address") from error
            try:
                data = read(response, _TOKEN_LIMIT, f"the token server {host}", seconds=self._patience)
            finally:
                response.close()
            if response.status_code in _PASSING:
                raise Passing(describe(response.status_code, data), _retry_after(response), answered=True)
            return response.status_code, data

        return self._patiently(attempt)

    def _failure(self, response: httpx.Response, what: str) -> Exception:
        """The error that an answer means."""
        try:
            data = (
                b"" if response.request.method == "HEAD" else read(response, ERROR_LIMIT, what, seconds=self._patience)
            )
        except (TooLarge, Passing):
            data = b""
        finally:
            response.close()
        status = response.status_code
        why = describe(status, data)
        if status in _PASSING:
            return Passing(why, _retry_after(response), answered=True)
        if not self.is_own(str(response.url)):
            why = f"{response.url.netloc.decode()}, where the registry leads: {why}"
        elif status in (401, 403):
            return AccessRefused(self.host, what, why)
        if status in (404, 410):
            return NotInRegistry(what, why)
        return UnexpectedAnswer(what, why)


def read(response: httpx.Response, limit: int, what: str, *, seconds: float) -> bytes:
    """A small body. Raises `TooLarge`, or `Passing` where it breaks off, or takes longer than so many seconds."""
    data, end = bytearray(), time.monotonic() + seconds
    try:
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > limit:
                raise TooLarge(what, limit)
            if time.monotonic() > end:
                raise Passing(f"it is too slow: {len(data)} bytes of {what} in {seconds:g} s")
    except httpx.TransportError as error:
        raise Passing(_reason(error)) from error
    return bytes(data)


def pause_before(count: int, asked: float | None = None) -> float:
    """How long to wait after so many failures, in seconds: what the registry asked for, or ever longer by chance."""
    own = random.uniform(0.5, 1.0) * min(_FIRST_PAUSE * 2.0**count, _LONGEST_PAUSE)
    return own if asked is None else min(max(asked, own), _LONGEST_ASKED)


def _headers(*more: Mapping[str, str]) -> dict[str, str]:
    from mlenv import __version__

    # Blobs are checked as they are stored: nothing may compress them on the way.
    headers = {"User-Agent": f"mlenv/{__version__}", "Accept-Encoding": "identity"}
    for each in more:
        headers |= each
    return headers


def _shown(url: str) -> str:
    """An address for a message: in one line, without its secrets, and not long."""
    return redact("".join(each if each.isprintable() else "?" for each in url[:200]))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _retry_after(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text[:6])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _untrusted(error: BaseException | None) -> str | None:
    """Why a certificate is not trusted, if that is what happened."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message or "it can't be verified"
        error = error.__cause__ or error.__context__
    return None


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection within the timeout"
    if isinstance(error, httpx.TimeoutException):
        return "nothing came within the timeout"
    return said(error)
