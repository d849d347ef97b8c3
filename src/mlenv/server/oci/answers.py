"""What a request to `/v2/` asks, and what it is answered: plain values over ASGI, since most requests are small."""

import os
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl

from msgspec import Struct, field
from starlette.requests import ClientDisconnect

from mlenv.core.access import Caller
from mlenv.errors import InvalidInput
from mlenv.server.middleware import Receive, Scope, Send
from mlenv.server.sendfile import send_file

#: Most parameters of an address.
_PARAMETERS: Final = 100

Headers = list[tuple[bytes, bytes]]


class InvalidQuery(InvalidInput):
    """The parameters of an address are none."""


class FilePart(Struct, frozen=True):
    """A part of an open file, which is closed once it was sent."""

    descriptor: int
    first: int
    count: int


class Answer(Struct):
    """What is answered. `part` takes the place of `body`; `length` is told where there is neither, as to HEAD."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    part: FilePart | None = None
    length: int | None = None


class Asked:
    """A request: its head, and how to read its body."""

    __slots__ = ("_query", "caller", "headers", "method", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.caller: Caller | None = None
        self._query: Mapping[str, list[str]] | None = None

    @property
    def query(self) -> Mapping[str, list[str]]:
        """The parameters, each with all its values. Raises `InvalidQuery`."""
        if self._query is None:
            found: dict[str, list[str]] = {}
            try:
                text = self.scope["query_string"].decode("ascii")
                for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=_PARAMETERS):
                    found.setdefault(name, []).append(value)
            except ValueError as error:
                raise InvalidQuery("the parameters of the address can't be read") from error
            self._query = found
        return self._query

    def parameter(self, name: str) -> str | None:
        """The first value of a parameter, or None."""
        found = self.query.get(name) if self.scope["query_string"] else None
        return found[0] if found else None

    def header(self, name: bytes) -> str | None:
        """A header's value, or None. Names are in lowercase."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int, too_large: Callable[[], Exception]) -> bytes:
        """The whole body, which is small. Raises `too_large` of one above the limit, and `ClientDisconnect`."""
        data = bytearray()
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            data += message.get("body", b"")
            if len(data) > limit:
                raise too_large()
            if not message.get("more_body", False):
                return bytes(data)


def header(name: str, value: str | int) -> tuple[bytes, bytes]:
    """A header as ASGI has it."""
    return name.encode("ascii"), str(value).encode("latin-1", "replace")


async def write(answer: Answer, scope: Scope, send: Send) -> None:
    """Send an answer. Its file is closed, whatever happens."""
    part = answer.part
    try:
        length = part.count if part is not None else len(answer.body) if answer.length is None else answer.length
        headers = answer.headers
        if answer.status not in (204, 304):
            headers = [*headers, (b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if part is not None and scope["method"] != "HEAD":
            await send_file(scope, send, part.descriptor, part.first, part.count)
        else:
            await send({"type": "http.response.body", "body": answer.body})
    finally:
        if part is not None:
            os.close(part.descriptor)
