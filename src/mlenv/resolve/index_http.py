"""
Downloads: artifacts from where a lock says they are, resumed when a server breaks off (RFC 9110, §14).

NOTE: `urllib`, not one of the larger HTTP libraries: those take longer to import (0.2 s of processor time) than the
one small package to fetch that makes a new version of an image.
"""

import base64
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    url2pathname,
)

from mlenv.core.lock import Artifact
from mlenv.core.redact import redact
from mlenv.core.spec import PUBLIC, Sources
from mlenv.errors import Unavailable
from mlenv.resolve.certificates import LazyHTTPSHandler
from mlenv.resolve.credentials import Realm, credentials_for, index_for, realm_of
from mlenv.resolve.failures import CredentialsRefused, IndexUnreachable
from mlenv.resolve.machine_index import MachineIndex

if TYPE_CHECKING:
    from mlenv.resolve.guard import Guard

CHUNK: Final = 1 << 20
_PIECE: Final = 1 << 18
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Response(Protocol):
    """What `urllib` gives for an answer of any status."""

    status: int
    headers: HTTPMessage

    def read(self, size: int, /) -> bytes: ...
    def geturl(self) -> str: ...
    def close(self) -> None: ...


class _Broken(Exception):
    """This try came to nothing; another one may do better."""


class HttpFetcher:
    """
    Brings artifacts over HTTP, or from `file:` URLs. One may serve many threads.

    Args:
        timeout: Seconds without any byte, and for connecting.
        attempts: Tries in a row that bring nothing, after which a download is given up.
        pause: Sleeps between tries, in seconds.
        machine: What takes the public index's place here, with its credentials; None for nothing.
        guard: Says what may be fetched from where; None for anything.
    """

    def __init__(
        self,
        *,
        timeout: float = 30.0,
        attempts: int = 3,
        pause: Callable[[float], None] = time.sleep,
        machine: MachineIndex | None = None,
        guard: "Guard | None" = None,
    ) -> None:
        self._machine = machine
        self._guard = guard
        self._timeout = timeout
        self._attempts = attempts
        self._pause = pause
        self._opener: OpenerDirector | None = None
        self._lock = threading.Lock()
        self._known: dict[Realm, str] = {}

    def fetch(self, artifact: Artifact, sources: Sources) -> Iterator[bytes]:
        """
        The artifact's bytes as they come, unchecked: the caller checks size and digest.

        Raises:
            IndexUnreachable: It is not there, or nothing came within the timeout.
            CredentialsRefused: Credentials are wanted, or were refused.
            AddressNotListed: The guard lets nothing be fetched from there.
        """
        if artifact.url is None:
            raise IndexUnreachable(artifact.filename, "it was built here and has no address")
        return self.stream(artifact.url, sources)

    def stream(self, url: str, sources: Sources = PUBLIC, *, accept: str = "*/*") -> Iterator[bytes]:
        """The bytes at a URL, in chunks of at most `CHUNK`. Raises as `fetch` does."""
        if self._is_file(url):
            yield from _read_file(url)
            return
        done, idle, mark = 0, 0, ""
        while True:
            before = done
            try:
                with self._open(url, sources, accept, done, mark) as response:
                    mark = mark or response.headers.get("etag") or response.headers.get("last-modified") or ""
                    skip = 0 if response.status == 206 else done
                    for chunk in _raw_chunks(response):
                        fresh = chunk[skip:]
                        skip -= len(chunk) - len(fresh)
                        if fresh:
                            done += len(fresh)
                            yield fresh
                    return
            except _Broken as error:
                idle = 1 if done > before else idle + 1
                if idle >= self._attempts:
                    raise IndexUnreachable(redact(url), str(error)) from error.__cause__
                self._pause(0.5 * 2**idle)

    def size_of(self, url: str, sources: Sources = PUBLIC) -> int:
        """How many bytes are at a URL: as the server says, or else counted. Raises as `fetch` does."""
        if self._is_file(url):
            return sum(len(chunk) for chunk in _read_file(url))
        # NOTE: some servers refuse HEAD, and some addresses are signed for GET alone: what counts is what GET says.
        with suppress(_Broken, Unavailable), self._open(url, sources, "*/*", 0, "", method="HEAD") as response:
            length = response.headers.get("content-length") or ""
            if length.isdigit():
                return int(length)
        return sum(len(chunk) for chunk in self.stream(url, sources))

    def read(self, url: str, sources: Sources = PUBLIC, *, accept: str = "*/*", limit: int = 1 << 28) -> bytes:
        """A small document. Raises as `fetch` does, and `IndexUnreachable` if it has more than `limit` bytes."""
        data = bytearray()
        for chunk in self.stream(url, sources, accept=accept):
            data += chunk
            if len(data) > limit:
                raise IndexUnreachable(redact(url), f"it has more than {limit} bytes")
        return bytes(data)

    def _is_file(self, url: str) -> bool:
        """Whether a URL is that of a file here. Raises `AddressNotListed`."""
        if self._guard is not None:
            self._guard.check(url)
        return urlsplit(url).scheme == "file"

    @contextmanager
    def _open(
        self, url: str, sources: Sources, accept: str, start: int, mark: str, *, method: str = "GET"
    ) -> Iterator[_Response]:
        sources = self._machine.fill(sources) if self._machine else sources
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": mark} if mark and mark[:2] != "W/" else {})
        try:
            response = self._send(method, url, headers, sources)
            try:
                _check(response, url, sources, start)
                yield response
            finally:
                response.close()
        except (InvalidURL, ValueError) as error:
            raise IndexUnreachable(redact(url), f"not an address that can be fetched: {error}") from error
        except (OSError, HTTPException) as error:
            raise _Broken(_describe(error)) from error

    def _send(self, method: str, url: str, headers: dict[str, str], sources: Sources) -> _Response:
        """Send a request; credentials are looked for once the server wants them, and kept for its realm."""
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("it is neither http nor https")
        realm = realm_of(url)
        known = self._known.get(realm)
        response = self._request(method, url, headers, known)
        unknown = known is None and response.status in (401, 403) and realm_of(response.geturl()) == realm
        if unknown and (found := credentials_for(url, sources, self._variables())):
            response.close()
            known = "Basic " + base64.b64encode(":".join(found).encode()).decode()
            response = self._request(method, url, headers, known)
            if response.status < 400:
                self._known[realm] = known
        return response

    def _variables(self) -> Mapping[str, str]:
        return {**os.environ, **(self._machine.credentials if self._machine else {})}

    def _request(self, method: str, url: str, headers: dict[str, str], authorization: str | None) -> _Response:
        request = Request(url, headers=headers, method=method)
        if authorization:
            # An unredirected header is not sent to where a redirect leads, which may be another host.
            request.add_unredirected_header("Authorization", authorization)
        try:
            response: _Response = self._get_opener().open(request, timeout=self._timeout)
        except HTTPError as answer:
            return answer  # type: ignore[return-value]
        return response

    def _get_opener(self) -> OpenerDirector:
        """Only HTTP: whatever a server says, no redirect leads to a file of this machine."""
        with self._lock:
            if self._opener is None:
                opener = OpenerDirector()
                for handler in (
                    ProxyHandler(),
                    *self._handlers(),
                    HTTPDefaultErrorHandler(),
                    HTTPRedirectHandler(),
                    HTTPErrorProcessor(),
                ):
                    opener.add_handler(handler)
                self._opener = opener
            return self._opener

    def _handlers(self) -> tuple[HTTPHandler, LazyHTTPSHandler]:
        if self._guard is None:
            return HTTPHandler(), LazyHTTPSHandler()
        from mlenv.resolve.guard import GuardedHTTPHandler, GuardedHTTPSHandler

        return GuardedHTTPHandler(self._guard), GuardedHTTPSHandler(self._guard)


def _check(response: _Response, url: str, sources: Sources, start: int) -> None:
    status = response.status
    if status in (401, 403):
        index = index_for(url, sources)
        raise CredentialsRefused(redact(response.geturl()), status, index=index.name if index else None)
    if status in _RETRIED:
        raise _Broken(f"the server says {status}")
    if status == 404 or status == 410:
        raise IndexUnreachable(redact(url), f"it is not there ({status})", hint=_GONE)
    if 300 <= status < 400:
        raise IndexUnreachable(redact(url), "it redirects in a circle, or to what is not HTTP")
    if status == 206 and not (response.headers.get("content-range") or "").startswith(f"bytes {start}-"):
        raise _Broken("the server sent another part than was asked for")
    if status not in (200, 206):
        raise IndexUnreachable(redact(url), f"the server says {status}")


_GONE: Final = "the index has forgotten it, or the address is wrong: look at it there, or lock a new version"


def _raw_chunks(response: _Response) -> Iterator[bytes]:
    """The body; one that ends before its announced length counts as broken off."""
    length = response.headers.get("content-length") or ""
    got = 0
    while chunk := response.read(_PIECE):
        got += len(chunk)
        yield chunk
    if length.isdigit() and got < int(length):
        raise _Broken(f"the server broke off after {got} of {length} bytes")


def _read_file(url: str) -> Iterator[bytes]:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise IndexUnreachable(redact(url), "a file URL of another machine")
    try:
        with Path(url2pathname(parts.path)).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise IndexUnreachable(redact(url), error.strerror or "it can't be read", hint=_GONE) from error


def _describe(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return "nothing came within the timeout"
    return str(reason) or type(reason).__name__
