"""Heads of requests as hostile clients send them: too slow, too large, or meant one way by a proxy and another way here."""

import socket
from collections.abc import Iterator

import pytest
import uvicorn
from support.asgi_server import serve

from mlenv.server import http_protocol
from mlenv.server.http_protocol import PatientHttp
from mlenv.server.middleware import Message, Receive, Scope, Send

_PATIENCE = 20.0
_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the request's path and body."""
    body, more = scope["path"].encode() + b" ", True
    while more:
        message: Message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 1.0)
    with serve(uvicorn.Config(_echo, http=PatientHttp, ws="none", lifespan="off", log_config=None)) as port:
        yield port


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)


def _rest(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    found = b""
    try:
        while piece := connection.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        # What the server had not read when it closed was thrown away.
        pass
    return found


@pytest.mark.parametrize("begun", [b"", b"G", _HEAD, _HEAD + b"X: y\r"])
def test_a_head_that_does_not_end_is_given_up(port: int, begun: bytes) -> None:
    with _connect(port) as connection:
        connection.sendall(begun)
        assert _rest(connection) == b""


def test_a_later_head_that_does_not_end_is_given_up(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(_HEAD + b"\r\n" + _HEAD)
        answer = _rest(connection)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\n/ ")


def test_a_head_without_end_is_refused_before_it_fills_the_memory(port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(_HEAD + b"X: ")
        sent = 0
        try:
            while sent < 64 << 20:
                sent += connection.send(b"x" * (1 << 16))
        except (ConnectionResetError, BrokenPipeError):
            pass
    # The limit, and what systems buffer on both sides.
    assert sent < 32 << 20


_AMBIGUOUS = {
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "two hosts": b"Host: y\r\nContent-Length: 0\r\n\r\n",
    "a length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is no number": b"Content-Length: +1\r\n\r\na",
    "an encoding that is not known": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a name with a space": b"Content-Length : 1\r\n\r\na",
    "a chunk of no size": b"Transfer-Encoding: chunked\r\n\r\nz\r\n\r\n",
    "a folded line": b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "lines that end in CR alone": b"X: a\rContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("kind", _AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused(port: int, kind: str) -> None:
    with _connect(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + _AMBIGUOUS[kind])
        assert _rest(connection).startswith(b"HTTP/1.1 400 ")


def test_requests_in_pieces_and_at_once_are_answered_in_order(port: int) -> None:
    with _connect(port) as connection:
        whole = b"POST /a%20b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + b"GET /c HTTP/1.0\r\n\r\n"
        for byte in whole:
            connection.sendall(bytes([byte]))
        bodies = [each.partition(b"\r\n\r\n")[2] for each in _rest(connection).split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"/a b abc", b"/c "]
