"""
Requests to a server's native API, and what comes of them: data, or the error that the server met.

What may be sent again is sent again, with growing pauses, when nothing answers or the server is too busy. A request that
creates something carries an idempotency key, so that it does so once.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx
from msgspec import Struct

from mlenv.client.address import parse_server, parse_token, trusting
from mlenv.client.answers import NotAServer, failure, is_json, parse_json, read_answer
from mlenv.core.redact import said
from mlenv.errors import MlenvError, Unavailable

#: Below this are the paths of the native API.
PREFIX: Final = "/api/v1"
#: How often a request is sent, at most.
_ATTEMPTS: Final = 4
#: The pause before the second attempt, in seconds; each further one is twice as long.
_FIRST_PAUSE: Final = 0.2
#: The longest pause that a server may ask for with `Retry-After`, in seconds.
_LONGEST_PAUSE: Final = 20.0
#: How long a connection may take, and how long an answer may be silent, in seconds.
_CONNECT: Final = 10.0
#: Bytes of a file that are sent at once.
_CHUNK: Final = 1 << 20
_SILENT: Final = 60.0
#: What may be sent again though it may have arrived. A POST may because of its idempotency key.
_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "POST"})
_BUSY: Final = frozenset({429, 503})


class ServerUnreachable(Unavailable):
    """Nothing answers at the server's address."""

    hint = (
        "see that it runs (`mlenv server start`) and that the address is right: --server, MLENV_SERVER or `mlenv login`"
    )

    def __init__(self, server: str, why: str) -> None:
        super().__init__(f"the server {server} does not answer: {why}")
        self.server = server


class UntrustedServer(Unavailable):
    """The server shows a certificate that is not trusted here."""

    hint = "if it has its own authority, copy that file from the server (`mlenv server ca`) and give it with --ca or MLENV_CA"

    def __init__(self, server: str, why: str) -> None:
        super().__init__(f"the certificate of {server} is not trusted: {why}")
        self.server = server


class Answer(Struct, frozen=True):
    """
    A good answer.

    Attributes:
        status: 200 to 299.
        headers: Their names in lower case.
        body: The whole of it.
        data: What it says, if it is JSON; else None.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    data: Any


class Http:
    """A server, as one user sees it. Safe for several threads."""

    def __init__(
        self,
        server: str,
        token: str | None = None,
        ca: Path | str | None = None,
        *,
        silent: float = _SILENT,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            server: Its address: `https://mlenv.example.org:8443`.
            token: Shown with every request. It is in no message.
            ca: A PEM file with the authority that its certificate must be of; None for those that the machine trusts.
            silent: How long the server may send nothing before it counts as gone, in seconds.
            pause: Waits for so many seconds.

        Raises:
            InvalidServer, InvalidToken, UnreadableAuthority: One of these is not what it should be.
        """
        from mlenv import __version__

        self.server = parse_server(server)
        headers = {"user-agent": f"mlenv/{__version__}", "accept": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {parse_token(token)}"
        self._pause = pause
        self._silent = silent
        verify = trusting(Path(ca) if ca else None) if self.server.startswith("https:") else True
        self._client = httpx.Client(
            headers=headers,
            verify=verify,
            timeout=httpx.Timeout(silent, connect=_CONNECT),
            follow_redirects=False,
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silent: float | None = None,
        patient: bool = True,
    ) -> Any:
        """
        Ask for something; gives what the answer says: the data of its JSON, or None if it has no body.

        Args:
            path: Below `/api/v1`: `/workspaces/default/environments`. Names in it must be quoted (`quoted`).
            json: What is sent.
            params: The query; those that are None are left out.
            silent: How long the server may think, in seconds; None for what the constructor says.
            patient: Ask again if the server says that it is too busy, or that something it needs does not answer.

        Raises:
            MlenvError: What the server met, as the class that the server raised where that is known.
            ServerUnreachable, UntrustedServer, NotAServer: It could not be asked.
        """
        answer = self.send(method, path, json=json, params=params, headers=headers, silent=silent, patient=patient)
        if answer.body and answer.data is None and answer.headers.get("content-type", "").startswith("text/html"):
            raise NotAServer(self.server, "it sends a web page")
        return answer.data

    def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silent: float | None = None,
        patient: bool = True,
    ) -> Answer:
        """As `request`, with a body of bytes if that is what there is to send; gives the whole answer."""
        extra = dict(headers or {})
        if method == "POST":
            extra.setdefault("idempotency-key", str(uuid.uuid4()))
        for pause in [*self._pauses(), None]:
            error: Exception
            wish: float | None = None
            try:
                with self._open(method, path, json, content, params, extra, silent) as response:
                    body = read_answer(self.server, response)
                    if response.is_success:
                        data = parse_json(self.server, response, body) if body and is_json(response) else None
                        lower = {name.lower(): value for name, value in response.headers.items()}
                        return Answer(response.status_code, lower, body, data)
                    error = failure(self.server, response, body)
                    if response.status_code not in _BUSY or not patient:
                        raise error
                    wish = _retry_after(response)
            except httpx.ConnectTimeout as cause:
                error = self._unreachable(cause)
            except httpx.ConnectError as cause:
                error = self._unreachable(cause)
                if isinstance(error, UntrustedServer):
                    raise error from cause
            except httpx.TransportError as cause:
                error = self._unreachable(cause)
                # NOTE: a server that was silent for so long would be asked to do the same work again.
                if method not in _REPEATABLE or isinstance(cause, httpx.ReadTimeout):
                    raise error from cause
            if pause is None:
                raise error
            self._pause(pause if wish is None else wish)
        raise AssertionError("the last attempt returns or raises")

    def put_file(self, path: str, content: Path) -> None:
        """
        Send a file to a path of the server, outside its API.

        Raises:
            MlenvError: As `request`.
        """

        def chunks() -> Iterator[bytes]:
            with content.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk

        headers = {"content-length": str(content.stat().st_size), "content-type": "application/octet-stream"}
        try:
            with self._client.stream(
                "PUT",
                f"{self.server}{path}",
                content=chunks(),
                headers=headers,
                timeout=httpx.Timeout(self._silent, connect=_CONNECT),
            ) as response:
                body = read_answer(self.server, response)
                if not response.is_success:
                    raise failure(self.server, response, body)
        except httpx.TransportError as cause:
            raise self._unreachable(cause) from cause

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        silent: float | None = None,
    ) -> Iterator[httpx.Response]:
        """
        An answer while it is being received. It is not asked for again: the caller knows how much came already.

        Raises:
            MlenvError: As `request`; while the body is read, too.
        """
        try:
            with self._open(method, path, None, None, params, dict(headers or {}), silent) as response:
                if not response.is_success:
                    raise failure(self.server, response, read_answer(self.server, response))
                yield response
        except httpx.TransportError as cause:
            raise self._unreachable(cause) from cause

    def pages(
        self, path: str, *, params: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """
        The items of a list, `{"value": […], "next": …}` by page, each page when it is needed.

        The first page is asked for at once, so that what is not there is said at once.
        """
        asked = dict(params or {})
        first = self.page(path, asked)

        def rest() -> Iterator[Mapping[str, Any]]:
            page, left = first, limit
            while True:
                for each in page["value"]:
                    if left is not None:
                        if left == 0:
                            return
                        left -= 1
                    yield each
                if not (cursor := page.get("next")) or left == 0:
                    return
                page = self.page(path, asked | {"cursor": cursor})

        return rest()

    def page(self, path: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """One page of a list: its items in `value`, and in `next` the cursor of the page that follows, or None."""
        page = self.request("GET", path, params=params)
        if not isinstance(page, dict) or not isinstance(page.get("value"), list):
            raise NotAServer(self.server, "its answer is not a list")
        return page

    def _open(
        self,
        method: str,
        path: str,
        json: Any,
        content: bytes | None,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        silent: float | None,
    ) -> Any:
        return self._client.stream(
            method,
            self.server + PREFIX + path.removeprefix(PREFIX),
            json=json,
            content=content,
            params={key: value for key, value in (params or {}).items() if value is not None},
            headers=headers,
            timeout=httpx.Timeout(self._silent if silent is None else silent, connect=_CONNECT),
        )

    def _pauses(self) -> Iterator[float]:
        for attempt in range(_ATTEMPTS - 1):
            yield _FIRST_PAUSE * 2**attempt * random.uniform(0.8, 1.2)

    def _unreachable(self, error: httpx.TransportError) -> MlenvError:
        """What a failed connection is, in the words of whoever reads it."""
        cause: BaseException | None = error
        while cause is not None:
            name = type(cause).__name__
            if name == "SSLCertVerificationError":
                return UntrustedServer(self.server, getattr(cause, "verify_message", "") or str(cause))
            if name in {"SSLError", "SSLZeroReturnError"}:
                return ServerUnreachable(self.server, "it speaks no TLS that this machine understands; is it http://?")
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.ConnectTimeout):
            return ServerUnreachable(self.server, f"no connection within {_CONNECT:.0f} s")
        if isinstance(error, httpx.TimeoutException):
            return ServerUnreachable(self.server, "it was silent for too long")
        if isinstance(error, httpx.RemoteProtocolError):
            return ServerUnreachable(self.server, "the connection ended before the answer did")
        return ServerUnreachable(self.server, said(error))

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _retry_after(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3), within bounds; dates are not looked at."""
    text = response.headers.get("retry-after", "")
    return min(float(text), _LONGEST_PAUSE) if text.isascii() and text.isdigit() and len(text) < 10 else None
