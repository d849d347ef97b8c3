"""What stands before a real registry on the loopback interface: it passes requests on, writes them down, and breaks some."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: Headers of one hop (RFC 9110, section 7.6.1), and those that are written anew.
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"})
_PIECE = 1 << 16


@dataclass(frozen=True)
class Seen:
    """A request: its method, path with query, headers in lower case, and how many bytes of body it said that it has."""

    method: str
    path: str
    headers: dict[str, str]
    size: int


@dataclass(frozen=True)
class Answer:
    """An answer in place of the registry's."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class CutRequest:
    """Pass so many bytes of the body on, then hang up to both sides."""

    after: int


@dataclass(frozen=True)
class CutAnswer:
    """Pass so many bytes of the answer's body on, then hang up."""

    after: int


@dataclass(frozen=True)
class Spoil:
    """Pass the answer on with its first byte changed."""


Fault = Answer | CutRequest | CutAnswer | Spoil


@dataclass
class Front:
    """
    The thing itself.

    Attributes:
        host: `127.0.0.1:PORT`.
        seen: All requests, in order.
        bodies: What came in all requests' bodies, in order.
        fault: Says what goes wrong with a request, if something does.
    """

    backend: str
    host: str = ""
    seen: list[Seen] = field(default_factory=list)
    bodies: bytearray = field(default_factory=bytearray)
    fault: Callable[[Seen], Fault | None] = lambda _: None

    def count(self, method: str, part: str = "") -> int:
        """How many requests of a method had that in their paths."""
        return sum(each.method == method and part in each.path for each in self.seen)


def once(method: str, part: str, fault: Fault, *, times: int = 1) -> Callable[[Seen], Fault | None]:
    """A fault of the first requests of a method with that in their paths."""
    left = [times]

    def decide(seen: Seen) -> Fault | None:
        if left[0] and seen.method == method and part in seen.path:
            left[0] -= 1
            return fault
        return None

    return decide


@contextmanager
def run_front(backend: str) -> Iterator[Front]:
    """One before `http://HOST:PORT`."""
    front = Front(backend)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, self.path, headers, int(headers.get("content-length", 0)))
            front.seen.append(seen)
            fault = front.fault(seen)
            if isinstance(fault, Answer):
                self.rfile.read(seen.size)
                self.reply(fault.status, list(fault.headers.items()), len(fault.body))
                self.wfile.write(fault.body)
                return
            connection = http.client.HTTPConnection(urlsplit(front.backend).netloc, timeout=30)
            try:
                self.pass_on(connection, seen, fault)
            except OSError:
                # The other side hung up, as it may.
                self.close_connection = True
            finally:
                connection.close()

        def pass_on(self, connection: http.client.HTTPConnection, seen: Seen, fault: Fault | None) -> None:
            connection.putrequest(seen.method, seen.path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", front.host)
            for name, value in seen.headers.items():
                if name not in _HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(seen.size))
            connection.endheaders()
            left = seen.size if not isinstance(fault, CutRequest) else min(seen.size, fault.after)
            while left and (piece := self.rfile.read(min(left, _PIECE))):
                front.bodies += piece
                connection.send(piece)
                left -= len(piece)
            if isinstance(fault, CutRequest) or left:
                self.close_connection = True
                return
            answer = connection.getresponse()
            size = int(answer.getheader("content-length") or 0)
            more = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            self.reply(answer.status, more, size)
            if seen.method == "HEAD":
                return
            left = size if not isinstance(fault, CutAnswer) else min(size, fault.after)
            first = isinstance(fault, Spoil)
            while left and (piece := answer.read(min(left, _PIECE))):
                self.wfile.write(bytes([piece[0] ^ 1]) + piece[1:] if first else piece)
                left, first = left - len(piece), False
            if isinstance(fault, CutAnswer):
                self.close_connection = True

        def reply(self, status: int, headers: list[tuple[str, str]], size: int) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(size))
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        front.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield front
        finally:
            server.shutdown()
            thread.join()
