"""Answers that are parts of files: over plain connections by the kernel, over TLS by hand, and to other servers as bytes."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from support.asgi_server import serve

from mlenv.server import http_protocol
from mlenv.server.http_protocol import PatientHttp
from mlenv.server.middleware import Message, Receive, Scope, Send
from mlenv.server.sendfile import send_file
from mlenv.server.tls import ensure

#: More than any buffer on the way, and not a multiple of what is sent at once.
SIZE = 20_000_003
_PATIENCE = 30.0


@dataclass
class Sender:
    """A server that sends parts of one file: `GET /FIRST-COUNT`. `broken` counts answers that were not ended."""

    port: int
    content: bytes
    tls: ssl.SSLContext | None
    broken: list[str]

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="localhost")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(scope="module", params=["http", "https"])
def sender(request: pytest.FixtureRequest, large: Path) -> Iterator[Sender]:
    keys = large.parent / f"keys-{request.param}"
    keys.mkdir()
    tls, certificate, key = None, None, None
    if request.param == "https":
        made = ensure(keys, ["localhost", "127.0.0.1"], now=datetime.now(UTC))
        tls = ssl.create_default_context(cafile=str(made.authority))
        certificate, key = str(made.certificate), str(made.key)
    broken: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first, count = (int(each) for each in scope["path"][1:].split("-"))
        headers = [(b"content-length", b"%d" % count)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        descriptor = os.open(large, os.O_RDONLY)
        try:
            await send_file(scope, send, descriptor, first, count)
        except BaseException as error:
            broken.append(type(error).__name__)
            raise
        finally:
            os.close(descriptor)

    config = uvicorn.Config(
        app, http=PatientHttp, ws="none", lifespan="off", log_config=None, ssl_certfile=certificate, ssl_keyfile=key
    )
    with serve(config) as port:
        yield Sender(port, large.read_bytes(), tls, broken)


def ask(connection: socket.socket, first: int, count: int) -> None:
    connection.sendall(f"GET /{first}-{count} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def answer(connection: socket.socket, count: int, rest: bytes = b"") -> tuple[bytes, bytes]:
    """A body of so many bytes, and what came after it."""
    data = bytearray(rest)
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    parts, got = [body], len(body)
    while got < count:
        piece = connection.recv(1 << 20)
        assert piece, f"the answer ended after {got} of {count} bytes"
        parts.append(piece)
        got += len(piece)
    whole = b"".join(parts)
    return whole[:count], whole[count:]


@pytest.mark.parametrize(("first", "count"), [(0, SIZE), (5, 1), (1, SIZE - 1), (SIZE - 70_000, 70_000), (3, 0)])
def test_a_part_arrives_and_the_connection_lives_on(sender: Sender, first: int, count: int) -> None:
    with sender.connect() as connection:
        for _ in range(2):
            ask(connection, first, count)
            assert answer(connection, count) == (sender.content[first : first + count], b"")


def test_requests_that_are_sent_at_once_are_answered_in_order(sender: Sender) -> None:
    wanted = [(7, 3_000_000), (0, 10), (1_000_000, 2_000_000)]
    with sender.connect() as connection:
        for first, count in wanted:
            ask(connection, first, count)
        rest = b""
        for first, count in wanted:
            body, rest = answer(connection, count, rest)
            assert body == sender.content[first : first + count]
        assert rest == b""


def test_many_are_served_while_one_reads_nothing(sender: Sender) -> None:
    with sender.connect() as stalled:
        ask(stalled, 0, SIZE)
        for _ in range(3):
            with sender.connect() as connection:
                ask(connection, 0, SIZE)
                assert answer(connection, SIZE)[0] == sender.content
        assert answer(stalled, SIZE)[0] == sender.content


def test_a_client_that_vanishes_ends_its_answer(sender: Sender) -> None:
    sender.broken.clear()
    with sender.connect() as connection:
        ask(connection, 0, SIZE)
        connection.recv(1000)
        # It is reset, as by a client that was killed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    deadline = time.monotonic() + _PATIENCE
    while sender.broken != ["ClientDisconnect"]:
        assert time.monotonic() < deadline, sender.broken
        time.sleep(0.01)


def test_a_file_that_is_shorter_ends_the_connection(sender: Sender) -> None:
    with sender.connect() as connection:
        ask(connection, SIZE - 10, 20)
        data = b""
        while piece := connection.recv(1 << 16):
            data += piece
    assert data.endswith((sender.content[-10:], b"\r\n\r\n"))
    assert data.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("sender", ["https"], indirect=True)
def test_turns_are_long_and_others_have_theirs_between(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel can't send: many pieces in one turn, and one turn each time round the event loop."""
    rounds, turns = 0, list[int]()
    usual = PatientHttp._turn

    def turn(self: PatientHttp, buffer: Any, file: int, offset: int, end: int) -> tuple[int, bool]:
        def count() -> None:
            nonlocal rounds
            rounds += 1

        # What is called soon is called when the loop comes round again.
        self.loop.call_soon(count)
        turns.append(rounds)
        return usual(self, buffer, file, offset, end)

    monkeypatch.setattr(PatientHttp, "_turn", turn)
    with ThreadPoolExecutor(4) as pool:

        def pull(_: int) -> bytes:
            with sender.connect() as connection:
                ask(connection, 0, SIZE)
                return answer(connection, SIZE)[0]

        assert all(each == sender.content for each in pool.map(pull, range(4)))
    assert len(turns) == len(set(turns))
    assert len(turns) < 4 * SIZE / http_protocol._CHUNK / 2


@pytest.mark.parametrize("sender", ["https"], indirect=True)
def test_little_is_encrypted_for_a_client_that_reads_nothing(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    transports: list[asyncio.Transport] = []
    usual = PatientHttp.connection_made

    def connection_made(self: PatientHttp, transport: asyncio.Transport) -> None:
        transports.append(transport)
        usual(self, transport)

    monkeypatch.setattr(PatientHttp, "connection_made", connection_made)
    with sender.connect() as stalled:
        ask(stalled, 0, SIZE)
        deadline, sizes = time.monotonic() + _PATIENCE, [0]
        # Until nothing moves any more.
        while not (sizes[-1] and sizes[-10:] == sizes[-1:] * 10):
            assert time.monotonic() < deadline
            time.sleep(0.02)
            sizes.append(transports[0].get_write_buffer_size())
        assert sizes[-1] < 3 * http_protocol._CHUNK
        assert answer(stalled, SIZE)[0] == sender.content


@pytest.mark.parametrize(("first", "count"), [(0, SIZE), (2, 300_000), (5, 0)])
def test_other_servers_are_given_bytes(large: Path, first: int, count: int) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    descriptor = os.open(large, os.O_RDONLY)
    try:
        asyncio.run(send_file({}, send, descriptor, first, count))
    finally:
        os.close(descriptor)
    assert b"".join(each["body"] for each in sent) == large.read_bytes()[first : first + count]
    assert [bool(each.get("more_body")) for each in sent] == [True] * (len(sent) - 1) + [False]
