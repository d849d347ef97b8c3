"""A package index on the loopback interface (PEP 503, 592, 658, 691, 700), with real wheels, and a log of what it was asked."""

import hashlib
import html
import io
import json
import re
import socket
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.loopback import Answering, serve_here
from support.wheels import core_metadata, wheel_bytes

#: How many indexes a process serves at once, at ports that are known before.
_PORTS = 24
_held: list[socket.socket] = []
_free: list[int] = []
_JSON = "application/vnd.pypi.simple.v1+json"


@dataclass
class Project:
    """A file that the index offers."""

    filename: str
    data: bytes
    metadata: bytes | None
    requires_python: str | None
    uploaded: str
    yanked: bool


@dataclass
class PackageIndex:
    """
    What the index has, and how it behaves.

    Attributes:
        user, password: What basic authentication wants, if `user` is set.
        html: Serve PEP 503 pages, which know neither sizes nor times.
        etag: Say and honour `ETag`.
        headless: Answer no HEAD.
        faltering: How many of the next requests are answered with 503.
        broken: How many times each file's download is cut off half way.
        log: Method and path of every request, in order.
        ranges: The `Range` header of every request that had one.
        authorized: Paths that were asked for with credentials.
        redirect: Where downloads are sent instead, if anywhere.
        before: Called with a file's name before it is sent; it may wait.
    """

    user: str | None = None
    password: str = ""
    html: bool = False
    etag: bool = False
    headless: bool = False
    faltering: int = 0
    broken: int = 0
    redirect: str | None = None
    before: Callable[[str], None] | None = None
    url: str = ""
    files: dict[str, list[Project]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    authorized: list[str] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)

    @property
    def simple(self) -> str:
        """The address that resolvers are given."""
        return f"{self.url}/simple"

    def address(self, filename: str) -> str:
        """The address of a file."""
        return f"{self.url}/files/{filename}"

    def wheel(
        self,
        name: str,
        version: str,
        *,
        requires: Iterable[str] = (),
        tag: str = "py3-none-any",
        requires_python: str | None = None,
        uploaded: str = "2024-01-01T00:00:00Z",
        yanked: bool = False,
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Add a wheel, and give its file name."""
        module = name.replace("-", "_")
        filename, data = wheel_bytes(
            name,
            version,
            {path: text.encode() for path, text in (files or {f"{module}/__init__.py": ""}).items()},
            requires=requires,
            requires_python=requires_python,
            tag=tag,
        )
        metadata = core_metadata(name, version, requires, requires_python).encode()
        self._add(name, Project(filename, data, metadata, requires_python, uploaded, yanked))
        return filename

    def offer(self, name: str, version: str, filename: str, data: bytes) -> None:
        """Add any bytes under the file name of a wheel, with metadata beside it that make it look sound."""
        metadata = core_metadata(name, version).encode()
        self._add(name, Project(filename, data, metadata, None, "2024-01-01T00:00:00Z", False))

    def source(
        self,
        name: str,
        version: str,
        *,
        files: Mapping[str, str],
        requires: Iterable[str] = (),
        requires_python: str | None = None,
        uploaded: str = "2024-01-01T00:00:00Z",
    ) -> str:
        """Add a source distribution, and give its file name. `PKG-INFO` declares what it needs, as of metadata 2.1."""
        stem = f"{name.replace('-', '_')}-{version}"
        content = {"PKG-INFO": core_metadata(name, version, requires, requires_python), **files}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path, text in content.items():
                member = tarfile.TarInfo(f"{stem}/{path}")
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
        self._add(name, Project(f"{stem}.tar.gz", buffer.getvalue(), None, requires_python, uploaded, False))
        return f"{stem}.tar.gz"

    def data(self, filename: str) -> bytes:
        """The bytes of a file."""
        return next(each.data for files in self.files.values() for each in files if each.filename == filename)

    def write_to(self, directory: Path) -> str:
        """The same index as files (PEP 503), and the `file:` URL of its pages."""
        (directory / "files").mkdir(parents=True)
        for name, files in self.files.items():
            page = directory / "simple" / name / "index.html"
            page.parent.mkdir(parents=True)
            anchors = []
            for each in files:
                (directory / "files" / each.filename).write_bytes(each.data)
                anchors.append(_anchor(each, f"../../files/{each.filename}"))
            page.write_text("\n".join(anchors))
        return (directory / "simple").as_uri()

    def _add(self, name: str, file: Project) -> None:
        self.files.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append(file)


@contextmanager
def serve(index: PackageIndex | None = None) -> Iterator[PackageIndex]:
    """Serve an index on a free port of the loopback interface."""
    served = index or PackageIndex()

    class Handler(_Handler):
        offered = served

    addresses()
    port = _free.pop() if _free else 0
    try:
        with serve_here(Handler, port) as served.url:
            yield served
    finally:
        if port:
            _free.insert(0, port)


def addresses() -> tuple[str, ...]:
    """Where indexes of this process are served, now and later: what servers of tests are told that they may use."""
    while len(_held) < _PORTS:
        # Bound, and not listening: nobody else gets the port, and an index may listen there.
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        _held.append(held)
        _free.append(held.getsockname()[1])
    return tuple(f"http://127.0.0.1:{each.getsockname()[1]}" for each in _held)


class _Handler(Answering):
    offered: PackageIndex

    def answer(self) -> None:
        index = self.offered
        index.log.append(f"{self.command} {self.path}")
        if wanted := self.headers.get("Range"):
            index.ranges.append(wanted)
        if "Authorization" in self.headers:
            index.authorized.append(self.path)
        if index.headless and self.command == "HEAD":
            self.send(405, b"", {})
        elif index.faltering > 0:
            index.faltering -= 1
            self.send(503, b"", {})
        elif index.user is not None and not self.shows(index.user, index.password):
            self.send(401, b"", {"WWW-Authenticate": 'Basic realm="index"'})
        elif match := re.fullmatch(r"/simple/([^/]+)/", self.path):
            self._page(match[1])
        elif match := re.fullmatch(r"/files/([^/]+?)(\.metadata)?", self.path):
            self._file(match[1], metadata=match[2] is not None)
        else:
            self.send(404, b"", {})

    def _page(self, name: str) -> None:
        files = self.offered.files.get(name)
        if files is None:
            self.send(404, b"", {})
        elif self.offered.html:
            page = "\n".join(_anchor(each, f"/files/{each.filename}") for each in files)
            self._offer(f"<!doctype html>{page}".encode(), "text/html")
        else:
            document = {
                "meta": {"api-version": "1.1"},
                "name": name,
                "versions": sorted({each.filename.split("-")[1].removesuffix(".tar.gz") for each in files}),
                "files": [_entry(each) for each in files],
            }
            self._offer(json.dumps(document).encode(), _JSON)

    def _file(self, filename: str, *, metadata: bool) -> None:
        index = self.offered
        found = next((each for files in index.files.values() for each in files if each.filename == filename), None)
        if found is None or (metadata and found.metadata is None):
            self.send(404, b"", {})
        elif metadata:
            self._offer(found.metadata or b"", "application/octet-stream")
        elif index.redirect is not None:
            self.send(302, b"", {"Location": f"{index.redirect}/files/{filename}"})
        else:
            if index.before is not None and self.command == "GET":
                index.before(filename)
            self._offer(found.data, "application/octet-stream", cut=self._is_cut(filename))

    def _is_cut(self, filename: str) -> bool:
        done = self.offered.cuts.get(filename, 0)
        self.offered.cuts[filename] = done + 1
        return done < self.offered.broken

    def _offer(self, data: bytes, kind: str, *, cut: bool = False) -> None:
        status, part, headers = self.file(data, etag=self.offered.etag, ranges=True)
        self.send(status, part, {"Content-Type": kind, **headers}, cut=cut)


def _entry(file: Project) -> dict[str, object]:
    entry: dict[str, object] = {
        "filename": file.filename,
        "url": f"/files/{file.filename}",
        "hashes": {"sha256": hashlib.sha256(file.data).hexdigest()},
        "size": len(file.data),
        "upload-time": file.uploaded,
        "requires-python": file.requires_python,
        "yanked": file.yanked,
    }
    if file.metadata is not None:
        entry["core-metadata"] = {"sha256": hashlib.sha256(file.metadata).hexdigest()}
    return entry


def _anchor(file: Project, address: str) -> str:
    python = f' data-requires-python="{html.escape(file.requires_python)}"' if file.requires_python else ""
    yanked = ' data-yanked=""' if file.yanked else ""
    digest = hashlib.sha256(file.data).hexdigest()
    return f'<a href="{address}#sha256={digest}"{python}{yanked}>{file.filename}</a>'
