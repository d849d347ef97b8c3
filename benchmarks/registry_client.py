"""
Clients of a registry that cost next to nothing: one process and one connection each, bytes discarded in the kernel.

What they send comes from a file in the page cache (`sendfile`), and what they receive is dropped with `MSG_TRUNC`. Over
TLS neither is possible; there the client pays for its half of the cipher, the same whichever server it speaks to.
"""

import hashlib
import itertools
import multiprocessing
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from urllib.parse import quote, urlsplit

#: Bytes at the start of each blob that no other has.
_UNIQUE = 32
_CHUNK = 1 << 20
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Target:
    """
    A server.

    Attributes:
        token: Shown with every request; empty for none.
        authority: The certificate to trust; None for plain HTTP.
        pid: Its process, or the parent of its processes.
    """

    name: str
    host: str
    port: int
    token: str
    authority: Path | None
    pid: int


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are pushed: a few that are unique, and the beginning of a file."""

    head: bytes
    payload: Path
    size: int
    digest: str


def make_blobs(payload: Path, size: int, count: int) -> list[Blob]:
    """Blobs that no registry has seen, of `size` bytes each."""
    common = payload.read_bytes()[: size - _UNIQUE]
    made = []
    for _ in range(count):
        head = f"{os.getpid():>16}{next(_numbers):>16}".encode()
        digest = hashlib.sha256(head)
        digest.update(common)
        made.append(Blob(head, payload, size, f"sha256:{digest.hexdigest()}"))
    return made


class Client:
    """One kept-alive connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lines = f"Host: {target.host}:{target.port}\r\n"
        if target.token:
            self._lines += f"Authorization: Bearer {target.token}\r\n"
        raw = socket.create_connection((target.host, target.port), timeout=120)
        # A time limit would make the socket one that does not block, which `sendfile` can't wait for.
        raw.settimeout(None)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = raw
        self._plain = target.authority is None
        if target.authority is not None:
            context = ssl.create_default_context(cafile=target.authority)
            self._socket = context.wrap_socket(raw, server_hostname=target.host)
        self._buffer = bytearray(_CHUNK)

    @property
    def cipher(self) -> str:
        """What was agreed on; empty without TLS."""
        agreed = self._socket.cipher() if isinstance(self._socket, ssl.SSLSocket) else None
        return agreed[0] if agreed else ""

    def pull(self, repository: str, blobs: Sequence[Blob]) -> None:
        """Fetch blobs, one after another, and throw them away."""
        for blob in blobs:
            self._send("GET", f"/v2/{repository}/blobs/{blob.digest}")
            _, length = self._answer(200)
            if length != blob.size:
                raise RuntimeError(f"{self._target.name} gave {length} bytes instead of {blob.size}")

    def push(self, repository: str, blobs: Sequence[Blob]) -> None:
        """Send blobs, one after another: POST, then PUT."""
        for blob in blobs:
            self._send("POST", f"/v2/{repository}/blobs/uploads/", "Content-Length: 0\r\n")
            head, _ = self._answer(202)
            location = urlsplit(head.partition("\r\nlocation:")[2].partition("\r\n")[0].strip())
            path = f"{location.path}?{location.query}&" if location.query else f"{location.path}?"
            lines = f"Content-Type: application/octet-stream\r\nContent-Length: {blob.size}\r\n"
            self._send("PUT", f"{path}digest={quote(blob.digest)}", lines, blob.head)
            with blob.payload.open("rb") as file:
                self._body(file.fileno(), blob.size - len(blob.head))
            self._answer(201)

    def _send(self, method: str, path: str, lines: str = "", body: bytes = b"") -> None:
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{self._lines}{lines}\r\n".encode() + body)

    def _body(self, file: int, rest: int) -> None:
        sent = 0
        while sent < rest:
            if self._plain:
                sent += os.sendfile(self._socket.fileno(), file, sent, min(rest - sent, 1 << 30))
            else:
                part = os.pread(file, min(rest - sent, _CHUNK), sent)
                self._socket.sendall(part)
                sent += len(part)

    def _answer(self, expected: int) -> tuple[str, int]:
        """Read one answer. Gives its head, as it is but for names of headers in lower case, and its length."""
        data = b""
        while (at := data.find(b"\r\n\r\n")) < 0:
            part = self._socket.recv(1 << 16)
            if not part:
                raise RuntimeError(f"{self._target.name} closed the connection: {data!r}")
            data += part
        lines = data[:at].decode("latin-1").split("\r\n")
        head = (
            "\r\n".join(
                [
                    lines[0],
                    *(f"{name.lower()}:{value}" for name, _, value in (line.partition(":") for line in lines[1:])),
                ]
            )
            + "\r\n"
        )
        length = int(head.partition("\r\ncontent-length:")[2].partition("\r\n")[0] or 0)
        rest = at + 4 + length - len(data)
        while rest > 0:
            rest -= self._discard(min(rest, len(self._buffer)))
        if int(lines[0].split(" ", 2)[1]) != expected:
            raise RuntimeError(f"{self._target.name} answered with {lines[0]}, not {expected}: {data[:2000]!r}")
        return head, length

    def _discard(self, size: int) -> int:
        # TCP takes MSG_TRUNC for "do not copy it" (tcp(7)).
        got = (
            self._socket.recv_into(self._buffer, size, socket.MSG_TRUNC)
            if self._plain
            else self._socket.recv_into(self._buffer, size)
        )
        if not got:
            raise RuntimeError(f"{self._target.name} closed the connection")
        return got


def together(target: Target, clients: int, work: Callable[[Client, int], None]) -> float:
    """
    Seconds from when all clients begin until the last one is done.

    Args:
        work: What one of them does; it gets its number. It runs in a process of its own.
    """
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(clients)
    results: Queue[tuple[float, float, str]] = context.Queue()
    processes = [
        context.Process(target=_one, args=(target, work, number, barrier, results)) for number in range(clients)
    ]
    for each in processes:
        each.start()
    found = [results.get(timeout=600) for _ in processes]
    for each in processes:
        each.join()
    if faults := [fault for *_, fault in found if fault]:
        raise RuntimeError(faults[0])
    return max(end for _, end, _ in found) - min(start for start, _, _ in found)


def _one(
    target: Target,
    work: Callable[[Client, int], None],
    number: int,
    barrier: Barrier,
    results: "Queue[tuple[float, float, str]]",
) -> None:
    try:
        client = Client(target)
        barrier.wait(120)
        started = time.monotonic()
        work(client, number)
        results.put((started, time.monotonic(), ""))
    except (RuntimeError, OSError, ValueError, BrokenBarrierError) as error:
        barrier.abort()
        results.put((0.0, 0.0, f"{type(error).__name__}: {error}"))
