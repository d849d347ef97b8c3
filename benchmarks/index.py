"""
A package index on the loopback interface, made of a directory of wheels (PEP 503, 658, 691).

    python -m benchmarks.index DIRECTORY

Prints its URL, then serves until its stdin is closed. Both sides of a benchmark take their packages from here, so the
network does not count.
"""

import hashlib
import json
import sys
import threading
import zipfile
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename


@dataclass(frozen=True)
class _Wheel:
    path: Path

    @property
    def project(self) -> str:
        return str(parse_wheel_filename(self.path.name)[0])

    @cached_property
    def digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def metadata(self) -> bytes:
        with zipfile.ZipFile(self.path) as wheel:
            name = next(each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
            return wheel.read(name)

    def to_dict(self) -> dict[str, Any]:
        metadata = {"sha256": hashlib.sha256(self.metadata).hexdigest()}
        return {
            "filename": self.path.name,
            "url": f"/files/{self.path.name}",
            "hashes": {"sha256": self.digest},
            "size": self.path.stat().st_size,
            "core-metadata": metadata,
            "upload-time": "2020-01-01T00:00:00Z",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wheels: dict[str, _Wheel]
    pages: dict[str, bytes]

    def do_GET(self) -> None:
        _, kind, name, *_ = [*self.path.split("/"), "", ""]
        if kind == "simple" and name in self.pages:
            self._send("application/vnd.pypi.simple.v1+json", self.pages[name])
        elif kind == "files" and name.endswith(".metadata") and name[:-9] in self.wheels:
            self._send("application/octet-stream", self.wheels[name[:-9]].metadata)
        elif kind == "files" and name in self.wheels:
            self._send_file(self.wheels[name].path)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are many."""

    def _send(self, content_type: str, content: bytes) -> None:
        self._head(content_type, len(content))
        self.wfile.write(content)

    def _send_file(self, path: Path) -> None:
        self._head("application/octet-stream", path.stat().st_size)
        self.wfile.flush()
        with path.open("rb") as file:
            self.connection.sendfile(file)

    def _head(self, content_type: str, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(size))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()


def main() -> None:
    """Serve the directory until stdin ends."""
    wheels = [_Wheel(path) for path in sorted(Path(sys.argv[1]).glob("*.whl"))]
    projects: dict[str, list[_Wheel]] = {}
    for wheel in wheels:
        projects.setdefault(wheel.project, []).append(wheel)
    _Handler.wheels = {wheel.path.name: wheel for wheel in wheels}
    _Handler.pages = {
        name: json.dumps(
            {"meta": {"api-version": "1.1"}, "name": name, "files": [each.to_dict() for each in found]}
        ).encode()
        for name, found in projects.items()
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_address[1]}/simple/", flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
