"""Answers in one piece, and those that can't be."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from support.asgi_server import serve

from mlenv.server.joining import JoiningHttp, _Joined
from mlenv.server.middleware import App, Receive, Scope, Send
from mlenv.server.sendfile import EXTENSION

_PATIENCE = 20.0


class _Transport:
    """Remembers what was written, each piece by itself."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def _written(*data: bytes | None, close: bool = False) -> list[bytes]:
    """The pieces that come of these writes; None is a turn of the event loop."""
    transport = _Transport()

    async def write() -> None:
        joined = _Joined(transport, asyncio.get_running_loop())  # type: ignore[arg-type]
        for each in data:
            if each is None:
                await asyncio.sleep(0)
            else:
                joined.write(each)
        if close:
            joined.close()
            assert transport.closed
        await asyncio.sleep(0)

    asyncio.run(write())
    return transport.pieces


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"


def test_a_head_goes_out_with_its_body() -> None:
    assert _written(_HEAD, b"x", _HEAD, b"y") == [_HEAD + b"x", _HEAD + b"y"]


def test_a_head_does_not_wait_for_a_body_that_comes_later() -> None:
    assert _written(_HEAD, None, None, b"x", b"y") == [_HEAD, b"x", b"y"]


@pytest.mark.parametrize("close", [False, True])
def test_a_head_alone_goes_out(close: bool) -> None:
    assert _written(_HEAD, close=close) == [_HEAD]


def _answering(path: Path) -> App:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        size = 1 if scope["path"] == "/empty" else path.stat().st_size
        status = 204 if scope["path"] == "/empty" else 200
        headers = [] if status == 204 else [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if scope["path"] == "/file":
            file = os.open(path, os.O_RDONLY)
            try:
                await send({"type": EXTENSION, "file": file, "offset": 0, "count": size})
            finally:
                os.close(file)
        else:
            await send({"type": "http.response.body", "body": b"" if status == 204 else path.read_bytes()})

    return answer


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(b"content")
    config = uvicorn.Config(
        _answering(tmp_path / "file"), http=JoiningHttp, loop="asyncio", ws="none", lifespan="off", log_config=None
    )
    with serve(config) as port:
        yield port


def test_bodies_files_and_nothing_come_in_order_over_one_connection(port: int) -> None:
    asked: Any = [f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() for path in ("/body", "/file", "/empty", "/body")]
    request = b"\r\n".join(asked) + b"Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        connection.sendall(request)
        found = b""
        while piece := connection.recv(1 << 16):
            found += piece
    answers = found.split(b"HTTP/1.1 ")[1:]
    assert [each.partition(b"\r\n\r\n")[2] for each in answers] == [b"content", b"content", b"", b"content"]
    assert [each[:3] for each in answers] == [b"200", b"200", b"204", b"200"]
