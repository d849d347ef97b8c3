"""An HTTP server on the loopback interface, in a thread: what the index and the channels of tests have in common."""

import base64
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answering(BaseHTTPRequestHandler):
    """Answers GET and HEAD, quietly."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def handle(self) -> None:
        # Who asks may be gone: one answer that is missing ends what was asked at the same time.
        with suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with suppress(ConnectionError):
            super().finish()

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Answer `self.command` for `self.path`."""
        raise NotImplementedError

    def shows(self, user: str, password: str) -> bool:
        """Whether basic authentication shows these."""
        expected = base64.b64encode(f"{user}:{password}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def file(self, data: bytes, *, etag: bool, ranges: bool) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a file: whole, the part that is asked for, or unchanged."""
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:16]}"'} if etag else {}
        if etag and self.headers.get("If-None-Match") == headers["ETag"]:
            return 304, b"", headers
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "") if ranges else None
        if part is None:
            return 200, data, headers | ({"Accept-Ranges": "bytes"} if ranges else {})
        start = int(part[1]) if part[1] else max(0, len(data) - int(part[2]))
        end = min(int(part[2]), len(data) - 1) if part[1] and part[2] else len(data) - 1
        return 206, data[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"}

    def send(self, status: int, data: bytes, headers: Mapping[str, str], *, cut: bool = False) -> None:
        """Send an answer; one that is cut off ends half way."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


@contextmanager
def serve_here(handler: type[Answering], port: int = 0) -> Iterator[str]:
    """Serve until the context ends, at a port or at any that is free. Gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
