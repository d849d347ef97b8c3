"""Large bodies that are received into buffers: none of what stands behind them, and never more than there are buffers for."""

import asyncio
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import uvicorn
from support.asgi_server import serve

from mlenv.server import large_bodies
from mlenv.server.http_protocol import PatientHttp
from mlenv.server.large_bodies import EXTENSION, WORTH_IT, Buffers
from mlenv.server.middleware import Receive, Scope, Send
from mlenv.server.tls import ensure

_PATIENCE = 30.0
#: More than all buffers of one request.
SIZE = 8 * WORTH_IT + 12_345
CONTENT = os.urandom(SIZE)


@dataclass
class Receiver:
    """
    A server that answers with the digest of a body, and how much of it came in buffers.

    Attributes:
        going_on: `PUT /hold` waits for it after each message, and holds on to what it was given until then. `PUT /hoard`
            gives nothing back.
        came: Of each request, how many bytes it was given.
        gone: Set when one was told that its client is gone.
    """

    tls: ssl.SSLContext | None
    port: int = 0
    going_on: threading.Event = field(default_factory=threading.Event)
    came: list[int] = field(default_factory=list)
    news: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="localhost")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        digest, inside, more, held = hashlib.sha256(), 0, scope["path"] != "/refuse", []
        self.came.append(0)
        buffers: Buffers = scope["extensions"][EXTENSION]
        while more:
            buffers.begin()
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            data, more = message["body"], message["more_body"]
            digest.update(data)
            self.came[-1] += len(data)
            inside += len(data) if isinstance(data, memoryview) else 0
            self.news.set()
            held.append(data)
            while scope["path"] == "/hold" and not self.going_on.is_set():
                await asyncio.sleep(0.01)
            if scope["path"] != "/hoard":
                buffers.release(held.pop())
        if scope["path"] == "/refuse":
            # It has begun to read, and then answers without the rest.
            buffers.begin()
            await asyncio.sleep(0)
        body = f"{digest.hexdigest()} {inside}".encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(params=["http", "https"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    tls, certificate, key = None, None, None
    if request.param == "https":
        made = ensure(tmp_path_factory.mktemp("keys"), ["localhost", "127.0.0.1"], now=datetime.now(UTC))
        tls = ssl.create_default_context(cafile=str(made.authority))
        certificate, key = str(made.certificate), str(made.key)
    receiver = Receiver(tls)
    config = uvicorn.Config(
        receiver.app,
        interface="asgi3",
        http=PatientHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    with serve(config) as receiver.port:
        yield receiver
        receiver.going_on.set()


def head(size: int, path: str = "/", more: str = "") -> bytes:
    return f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n{more}\r\n".encode()


def answers(connection: socket.socket, count: int) -> list[tuple[str, int]]:
    """The digests of so many answers, and how many bytes of each body came in buffers."""
    data, found = b"", list[tuple[str, int]]()
    while len(found) < count:
        piece = connection.recv(1 << 16)
        assert piece, f"the connection ended after {data!r}"
        data += piece
        while (at := data.find(b"\r\n\r\n")) >= 0:
            length = int(data.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(data) < at + 4 + length:
                break
            digest, _, inside = data[at + 4 : at + 4 + length].decode().partition(" ")
            found.append((digest, int(inside)))
            data = data[at + 4 + length :]
    assert not data
    return found


def sha256(size: int) -> str:
    return hashlib.sha256(CONTENT[:size]).hexdigest()


@pytest.mark.parametrize("size", [0, 1, WORTH_IT - 1, WORTH_IT, WORTH_IT + 1, SIZE])
def test_bodies_arrive_and_what_stands_behind_them_does_too(receiver: Receiver, size: int) -> None:
    request = head(size) + CONTENT[:size]
    with receiver.connect() as connection:
        connection.sendall(request * 3)
        found = answers(connection, 3)
    assert [digest for digest, _ in found] == [sha256(size)] * 3


def test_a_large_body_passes_the_parser_by(receiver: Receiver) -> None:
    with receiver.connect() as connection:
        for _ in range(2):
            connection.sendall(head(SIZE))
            connection.sendall(CONTENT)
            [(digest, inside)] = answers(connection, 1)
            assert digest == sha256(SIZE)
            assert inside > SIZE // 2


def test_a_body_that_waits_for_leave_gets_it(receiver: Receiver) -> None:
    with receiver.connect() as connection:
        connection.sendall(head(SIZE, more="Expect: 100-continue\r\n"))
        assert connection.recv(1 << 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(CONTENT)
        assert answers(connection, 1) == [(sha256(SIZE), SIZE)]


def test_a_body_of_unknown_length_is_left_to_the_parser(receiver: Receiver) -> None:
    with receiver.connect() as connection:
        connection.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, CONTENT))
        assert answers(connection, 1) == [(sha256(SIZE), 0)]


def test_an_answer_that_does_not_wait_for_the_body(receiver: Receiver) -> None:
    with receiver.connect() as connection:
        connection.sendall(head(SIZE, "/refuse"))
        assert answers(connection, 1) == [(sha256(0), 0)]
        connection.sendall(CONTENT + head(3) + CONTENT[:3])
        assert answers(connection, 1) == [(sha256(3), 0)]


def test_who_gives_nothing_back_gets_all_the_same(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "_PATIENCE", 0.001)
    with receiver.connect() as connection:
        connection.sendall(head(SIZE, "/hoard"))
        connection.sendall(CONTENT)
        [(digest, _)] = answers(connection, 1)
    assert digest == sha256(SIZE)


def test_a_body_is_not_read_faster_than_its_buffers_are_given_back(receiver: Receiver) -> None:
    with receiver.connect() as connection:
        size = 64 << 20
        connection.sendall(head(size, "/hold"))
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(size))
    # It is seen all the same that the client is gone.
    receiver.going_on.set()
    assert receiver.gone.wait(_PATIENCE)


def test_what_came_of_a_client_that_is_gone_is_given_out(receiver: Receiver) -> None:
    sent = 3 * WORTH_IT + 17
    with receiver.connect() as connection:
        connection.sendall(head(SIZE))
        connection.sendall(CONTENT[:sent])
        connection.shutdown(socket.SHUT_WR)
        assert receiver.gone.wait(_PATIENCE)
    # Over TLS, asyncio may lose what it had not decrypted yet.
    assert sent - (0 if receiver.tls is None else WORTH_IT) <= receiver.came[-1] <= sent


def test_what_a_slow_client_sends_is_seen_before_a_buffer_is_full(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_bodies, "_PATIENCE", 0.01)
    with receiver.connect() as connection:
        connection.sendall(head(SIZE))
        for number in range(3):
            receiver.news.clear()
            connection.sendall(CONTENT[number : number + 1])
            assert receiver.news.wait(_PATIENCE)
        connection.sendall(CONTENT[3:])
        [(digest, _)] = answers(connection, 1)
    assert digest == sha256(SIZE)
