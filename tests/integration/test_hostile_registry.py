"""A registry that lies, leads astray and never ends: what it says is checked, and costs little."""

import gzip
import json
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha512
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.image import INDEX_TYPE, MANIFEST_TYPE, Descriptor
from mlenv.distribution.client import Repository
from mlenv.distribution.credentials import Login, OneLogin
from mlenv.distribution.http import Session
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import (
    AccessRefused,
    RegistryUnreachable,
    TooLarge,
    UnexpectedAnswer,
)
from mlenv.distribution.settings import RegistrySettings
from mlenv.errors import InvalidInput, MlenvError, Unavailable
from mlenv.server.tls import ensure

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": {}, "layers": []}).encode()
CONTENT = b"content" * 1000
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))
SECRET = "the-password"
#: One attempt, and little patience: what is tried again is tested elsewhere.
SETTINGS = RegistrySettings(attempts=1, silent=5, connect=5)

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request to a hostile registry, and the means to answer it in any way."""

    protocol_version = "HTTP/1.1"
    server: "Hostile"
    disable_nagle_algorithm = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer."""
        self.head(status, **{"Content_Length": str(len(body)), **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, **headers: str) -> None:
        """The beginning of an answer. `Docker_Content_Digest` is `Docker-Content-Digest`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def endless(self, piece: bytes, *, pause: float = 0.0, **headers: str) -> None:
        """A body without an end, until nobody listens any more."""
        self.head(200, Transfer_Encoding="chunked", **headers)
        try:
            while not self.server.closing.wait(pause):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.server.sent += len(piece)
        except OSError:
            self.close_connection = True

    def _any(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.server.seen.append(Seen(self.command, self.path, dict(self.headers), self.rfile.read(length)))
        if self.path == "/v2/" and "/v2/" not in self.server.routes:
            self.answer(200)
            return
        for path, route in self.server.routes.items():
            if self.path.startswith(path):
                route(self)
                return
        self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Hostile(ThreadingHTTPServer):
    """A server that answers what it is told to, by the beginning of the path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.routes: dict[str, Answer] = {}
        self.seen: list[Seen] = []
        self.sent = 0
        self.closing = threading.Event()
        self.scheme = "http"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients leave in the middle."""

    def shown(self) -> list[str]:
        """What was shown to it as a credential."""
        return [each.headers["Authorization"] for each in self.seen if "Authorization" in each.headers]


@dataclass
class Trap:
    """A hostile registry, another server beside it, and a client."""

    registry: Hostile
    other: Hostile
    settings: RegistrySettings = SETTINGS
    login: Login | None = field(default_factory=lambda: Login("user", SECRET))

    @contextmanager
    def repository(self) -> Iterator[Repository]:
        name = RemoteName.parse(f"{self.registry.host}/team/train")
        session = Session(name, credentials=OneLogin(self.login), settings=self.settings)
        # Which scheme a registry speaks is found out elsewhere, and takes time.
        session._base = self.registry.url
        with Repository(name, session) as repository:
            yield repository

    def manifest(self, reference: str = "1") -> Descriptor:
        with self.repository() as repository:
            return repository.manifest(reference)[0]

    def blob(self, descriptor: Descriptor = BLOB) -> bytes:
        with self.repository() as repository:
            return b"".join(repository.blob(descriptor))

    def push(self) -> None:
        with self.repository() as repository:
            repository.push_blob(BLOB, CONTENT)


@contextmanager
def serving(*, tls: ssl.SSLContext | None = None) -> Iterator[Hostile]:
    server = Hostile()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Hostile, Hostile]]:
    with serving() as registry, serving() as other:
        yield registry, other


@pytest.fixture
def trap(servers: tuple[Hostile, Hostile]) -> Trap:
    for each in servers:
        each.routes, each.seen, each.sent = {}, [], 0
    return Trap(*servers)


@pytest.fixture(scope="module")
def secure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hostile, Path]]:
    made = ensure(tmp_path_factory.mktemp("keys"), ["127.0.0.1"], now=datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    assert made.authority is not None
    with serving(tls=context) as server:
        yield server, made.authority


@pytest.fixture
def secure_trap(trap: Trap, secure_server: tuple[Hostile, Path]) -> Trap:
    """The registry, but not the other server, has TLS with an authority that is trusted: nothing may go without."""
    server, authority = secure_server
    server.routes, server.seen = {}, []
    return Trap(server, trap.other, replace(SETTINGS, authority=authority))


def says(**headers: str) -> Answer:
    return lambda request: request.answer(200, MANIFEST, Content_Type=MANIFEST_TYPE, **headers)


def body(data: bytes, media_type: str = MANIFEST_TYPE) -> Answer:
    return lambda request: request.answer(200, data, Content_Type=media_type)


def moved(place: str, status: int = 307) -> Answer:
    return lambda request: request.answer(status, Location=place)


def wants(realm: str, scheme: str = "Bearer") -> Answer:
    def route(request: Request) -> None:
        if "Authorization" in request.headers:
            request.answer(200, MANIFEST, Content_Type=MANIFEST_TYPE)
        else:
            request.answer(401, WWW_Authenticate=f'{scheme} realm="{realm}",service="s"')

    return route


def message(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert SECRET not in text
    assert SECRET not in repr(error)
    assert len(text) < 1200
    assert text.isprintable()
    return text


# What it says of bytes.


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_that_is_another_is_refused(trap: Trap, algorithm: str) -> None:
    trap.registry.routes["/v2/team/train/manifests/"] = says()
    assert trap.manifest(str(Digest.of(MANIFEST, algorithm))).digest == Digest.of(MANIFEST, algorithm)
    with pytest.raises(DigestMismatch) as caught:
        trap.manifest(str(Digest.of(b"another", algorithm)))
    assert str(Digest.of(b"another", algorithm)) in message(caught.value)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_by_tag_is_the_one_that_the_header_says(trap: Trap, algorithm: str) -> None:
    trap.registry.routes["/"] = says(Docker_Content_Digest=str(Digest.of(b"another", algorithm)))
    with pytest.raises(DigestMismatch):
        trap.manifest()


@pytest.mark.parametrize(
    "wrong", [b"x" * len(CONTENT), CONTENT[:-1], CONTENT + b"x", b"", gzip.compress(CONTENT)], ids=len
)
def test_a_blob_that_is_another_is_refused(trap: Trap, wrong: bytes) -> None:
    trap.registry.routes["/"] = body(wrong, "application/octet-stream")
    with pytest.raises(DigestMismatch) as caught:
        trap.blob()
    assert str(BLOB.digest) in message(caught.value)


def test_a_blob_is_checked_by_the_algorithm_of_its_digest(trap: Trap) -> None:
    trap.registry.routes["/"] = body(CONTENT)
    assert trap.blob(Descriptor("a/b", Digest(sha512(CONTENT).hexdigest(), "sha512"), len(CONTENT))) == CONTENT
    with pytest.raises(DigestMismatch):
        trap.blob(Descriptor("a/b", Digest(sha512(b"another").hexdigest(), "sha512"), len(CONTENT)))


def test_another_part_than_was_asked_for_is_refused(trap: Trap) -> None:
    trap.registry.routes["/"] = lambda request: request.answer(206, CONTENT, Content_Range="bytes 7-9/10")
    with pytest.raises(UnexpectedAnswer, match="another part"):
        trap.blob()


def test_a_part_that_breaks_off_byte_by_byte_ends(trap: Trap) -> None:
    """Some progress is none: a registry that sends one byte and hangs up would keep a client for days."""

    def one_byte(request: Request) -> None:
        start = int((request.headers.get("range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        whole = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        request.head(206, Content_Range=whole, Content_Length=str(len(CONTENT) - start))
        request.wfile.write(CONTENT[start : start + 1])
        request.close_connection = True

    trap.registry.routes["/"] = one_byte
    trap.settings = replace(SETTINGS, attempts=2)
    with pytest.raises(RegistryUnreachable) as caught:
        trap.blob()
    assert "it broke off" in message(caught.value) or "peer closed" in message(caught.value)
    assert len(trap.registry.seen) < 10


# What does not end.


@pytest.mark.parametrize("path", ["manifests/1", "tags/list", "referrers/"])
def test_a_document_without_an_end_is_left(trap: Trap, path: str) -> None:
    trap.registry.routes[f"/v2/team/train/{path}"] = lambda request: request.endless(
        b" " * 65536, Content_Type=MANIFEST_TYPE
    )
    with trap.repository() as repository:
        attempts: dict[str, Callable[[], object]] = {
            "manifests/1": lambda: repository.manifest("1"),
            "tags/list": repository.tags,
            "referrers/": lambda: repository.referrers(BLOB.digest),
        }
        with pytest.raises(TooLarge) as caught:
            attempts[path]()
    assert "more than 4194304 bytes" in message(caught.value)
    assert trap.registry.sent < 32 << 20


def test_a_blob_without_an_end_is_left_at_its_size(trap: Trap) -> None:
    trap.registry.routes["/"] = lambda request: request.endless(b"x" * 65536)
    with pytest.raises(DigestMismatch, match="got more"):
        trap.blob()
    assert trap.registry.sent < 32 << 20


def test_a_document_that_comes_byte_by_byte_is_left(trap: Trap) -> None:
    """Something comes all the time, so that no pause is long; all of it would come next year."""
    trap.registry.routes["/"] = lambda request: request.endless(b" ", pause=0.05, Content_Type=MANIFEST_TYPE)
    trap.settings = replace(SETTINGS, silent=0.4)
    started = time.monotonic()
    with pytest.raises(RegistryUnreachable, match="slow"):
        trap.manifest()
    assert time.monotonic() - started < 10


def test_an_error_without_an_end_is_left(trap: Trap) -> None:
    def route(request: Request) -> None:
        request.head(400, Transfer_Encoding="chunked")
        try:
            while True:
                request.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                request.server.sent += 65536
        except OSError:
            request.close_connection = True

    trap.registry.routes["/v2/team"] = route
    with pytest.raises(UnexpectedAnswer, match="400"):
        trap.manifest()
    assert trap.registry.sent < 32 << 20


def test_headers_without_an_end_are_left(trap: Trap) -> None:
    def route(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                request.wfile.write(b"X-More: " + b"x" * 8000 + b"\r\n")
                request.server.sent += 8010
        except OSError:
            request.close_connection = True

    trap.registry.routes["/v2/team"] = route
    with pytest.raises(Unavailable):
        trap.manifest()
    assert trap.registry.sent < 32 << 20


@pytest.mark.parametrize(
    ("page", "says_why"),
    [({"tags": ["t"]}, "does not end"), ({"tags": [], "more": "x" * (3 << 20)}, "does not end")],
    ids=["many", "large"],
)
def test_a_list_without_an_end_is_left(trap: Trap, page: dict[str, Any], says_why: str) -> None:
    def route(request: Request) -> None:
        following = f"/v2/team/train/tags/list?last={len(request.server.seen)}"
        request.answer(200, json.dumps(page).encode(), Link=f'<{following}>; rel="next"')

    trap.registry.routes["/v2/team"] = route
    with pytest.raises(UnexpectedAnswer, match=says_why), trap.repository() as repository:
        repository.tags()
    assert len(trap.registry.seen) <= 1100
    assert len(trap.registry.seen) <= 50 or "more" not in page


def test_a_list_that_goes_on_elsewhere_is_refused(trap: Trap) -> None:
    trap.registry.routes["/v2/team"] = lambda request: request.answer(
        200, b'{"tags": ["a"]}', Link=f'<{trap.other.url}/v2/team/train/tags/list>; rel="next"'
    )
    with pytest.raises(UnexpectedAnswer, match="elsewhere"), trap.repository() as repository:
        repository.tags()
    assert trap.other.seen == []


# Where it leads.


@pytest.mark.parametrize(
    "place",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "data:,x", "http://[", "http://x y/"],
)
def test_a_place_that_is_none_is_refused(trap: Trap, place: str) -> None:
    trap.registry.routes["/v2/team"] = moved(place)
    for attempt in (trap.manifest, trap.blob):
        with pytest.raises(UnexpectedAnswer) as caught:
            attempt()
        assert "it leads to" in message(caught.value)


def test_redirects_in_a_circle_end(trap: Trap) -> None:
    trap.registry.routes["/v2/team"] = moved("/v2/team/train/manifests/1")
    with pytest.raises(UnexpectedAnswer, match="in a circle"):
        trap.manifest()
    assert len(trap.registry.seen) < 10


def test_credentials_stay_with_the_registry(trap: Trap) -> None:
    def route(request: Request) -> None:
        if "Authorization" in request.headers:
            request.answer(307, Location=f"{trap.other.url}/stored")
        else:
            request.answer(401, WWW_Authenticate='Basic realm="r"')

    trap.registry.routes["/v2/team"] = route
    trap.other.routes["/"] = body(CONTENT)
    assert trap.blob() == CONTENT
    assert len(trap.registry.shown()) == 1
    assert (len(trap.other.seen), trap.other.shown()) == (1, [])
    # Nor does the other get any by asking for them.
    trap.other.routes["/"] = lambda request: request.answer(401, WWW_Authenticate='Basic realm="r"')
    with pytest.raises(UnexpectedAnswer, match="where the registry leads: it says 401") as caught:
        trap.blob()
    message(caught.value)
    assert trap.other.shown() == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_leads_away_from_tls(secure_trap: Trap, status: int) -> None:
    trap = secure_trap
    trap.other.routes["/"] = body(CONTENT)
    trap.registry.routes["/v2/team"] = moved(f"{trap.other.url}/stored", status)
    with pytest.raises(UnexpectedAnswer) as caught:
        trap.blob()
    assert "without TLS" in message(caught.value)
    assert trap.other.seen == []


def test_no_upload_leads_away_from_tls(secure_trap: Trap) -> None:
    """`Location` of an upload is an address like that of a redirect, and what is sent there may be confidential."""
    trap = secure_trap

    def route(request: Request) -> None:
        if request.command == "POST":
            request.answer(202, Location=f"{trap.other.url}/upload")
        else:
            request.answer(404)

    trap.registry.routes["/v2/team"] = route
    with pytest.raises(UnexpectedAnswer) as caught:
        trap.push()
    assert "without TLS" in message(caught.value)
    assert trap.other.seen == []


def test_no_token_is_asked_for_without_tls(secure_trap: Trap) -> None:
    trap = secure_trap
    trap.other.routes["/"] = lambda request: request.answer(200, b'{"token": "t"}')
    trap.registry.routes["/v2/team"] = wants(f"{trap.other.url}/token")
    with pytest.raises(UnexpectedAnswer) as caught:
        trap.manifest()
    assert "without TLS" in message(caught.value)
    assert trap.other.seen == []


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "gopher://127.0.0.1/", "/token", "http://[", "x y", "http:"])
def test_a_realm_that_is_no_address_is_refused(trap: Trap, realm: str) -> None:
    trap.registry.routes["/v2/team"] = wants(realm)
    with pytest.raises(UnexpectedAnswer) as caught:
        trap.manifest()
    message(caught.value)
    assert trap.registry.shown() == []


def test_a_place_on_this_machine_is_refused_to_others(trap: Trap) -> None:
    """A registry elsewhere may not use its clients to ask what only they can reach."""
    with trap.repository() as repository:
        # As if the name were another host's: only what it leads to counts here.
        assert repository._session.base == trap.registry.url
        repository._session.host = "registry.example.org"
        trap.registry.routes["/v2/team"] = moved(f"{trap.other.url}/admin")
        trap.other.routes["/"] = body(MANIFEST)
        with pytest.raises(UnexpectedAnswer) as caught:
            repository.manifest("1")
    assert "to this machine" in message(caught.value)
    assert trap.other.seen == []


@pytest.mark.parametrize(
    "place",
    ["file:///tmp/x", "ftp://127.0.0.1/x", "http://[", "/ok\tno", "http://127.0.0.1:1\\@example.org/", "http://a b/"],
)
def test_an_upload_goes_nowhere_else(trap: Trap, place: str) -> None:
    def route(request: Request) -> None:
        if request.command == "POST":
            request.answer(202, Location=place)
        else:
            request.answer(404)

    trap.registry.routes["/v2/team"] = route
    started = time.monotonic()
    with pytest.raises((UnexpectedAnswer, RegistryUnreachable)) as caught:
        trap.push()
    message(caught.value)
    assert time.monotonic() - started < 5
    assert not any(
        each.body for each in trap.registry.seen if each.method in ("PUT", "PATCH") and "ok" not in each.path
    )


def test_an_upload_elsewhere_shows_no_credentials(trap: Trap) -> None:
    def route(request: Request) -> None:
        if "Authorization" not in request.headers:
            request.answer(401, WWW_Authenticate='Basic realm="r"')
        elif request.command == "POST":
            request.answer(202, Location=f"{trap.other.url}/upload?state=x%0d%0aX-Injected:%20yes")
        else:
            request.answer(404)

    trap.registry.routes["/v2/team"] = route
    trap.other.routes["/"] = lambda request: request.answer(201)
    trap.push()
    (put,) = trap.other.seen
    assert (put.method, put.body, trap.other.shown()) == ("PUT", CONTENT, [])
    assert "X-Injected" not in put.headers
    assert f"digest={BLOB.digest}".replace(":", "%3A") in put.path or f"digest={BLOB.digest}" in put.path


def test_an_address_with_an_account_in_it_is_no_way_in(trap: Trap) -> None:
    """`https://registry@elsewhere` is elsewhere."""
    trap.registry.routes["/v2/team"] = lambda request: (
        request.answer(307, Location=f"http://{trap.registry.host}@{trap.other.host}/stored")
        if "Authorization" in request.headers
        else request.answer(401, WWW_Authenticate='Basic realm="r"')
    )
    trap.other.routes["/"] = body(CONTENT)
    with pytest.raises(MlenvError):
        trap.blob()
    assert not any(SECRET in each or "dXNlcj" in each for each in trap.other.shown())


# Tokens.


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b'{"token": 7}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX-Injected: yes"}',
        b'{"token": "\\u00e9"}',
        b'{"token": "t", "expires_in": "soon"}',
        b'{"token": "t", "expires_in": NaN}',
        b"[" * 100_000,
        b'{"token": "' + b"t" * (2 << 20) + b'"}',
        gzip.compress(b'{"token": "t"}'),
    ],
    ids=range(12),
)
def test_an_answer_without_a_token_is_refused(trap: Trap, answer: bytes) -> None:
    trap.registry.routes["/token"] = lambda request: request.answer(200, answer)
    trap.registry.routes["/v2/team"] = wants(f"{trap.registry.url}/token")
    with pytest.raises((UnexpectedAnswer, TooLarge)) as caught:
        trap.manifest()
    message(caught.value)
    assert not any(each.startswith("Bearer") for each in trap.registry.shown())


def test_who_is_never_content_is_asked_twice(trap: Trap) -> None:
    trap.registry.routes["/token"] = lambda request: request.answer(200, b'{"token": "t", "expires_in": 1e400}')
    trap.registry.routes["/v2/team"] = lambda request: request.answer(
        401, WWW_Authenticate=f'Bearer realm="{trap.registry.url}/token",service="s"'
    )
    with pytest.raises(AccessRefused) as caught:
        trap.manifest()
    message(caught.value)
    assert len([each for each in trap.registry.seen if each.path.startswith("/v2/team")]) == 2


@pytest.mark.parametrize(
    "challenge",
    ["", "Bearer", 'Bearer realm="', "Digest realm=x", "Bearer " + ",=" * 5000, 'Bearer realm="' + "\\" * 9000, "\x80"],
    ids=range(7),
)
def test_a_challenge_that_makes_no_sense_is_a_refusal(trap: Trap, challenge: str) -> None:
    trap.registry.routes["/v2/team"] = lambda request: request.answer(401, WWW_Authenticate=challenge)
    started = time.monotonic()
    with pytest.raises(MlenvError) as caught:
        trap.manifest()
    message(caught.value)
    assert time.monotonic() - started < 2
    assert trap.registry.shown() == []


# Documents that are more than they seem.


@pytest.mark.parametrize(
    ("document", "media_type", "why"),
    [
        (b"", MANIFEST_TYPE, "not JSON"),
        (b"[]", MANIFEST_TYPE, "not a JSON object"),
        (b'{"a":' * 200_000, MANIFEST_TYPE, "not JSON"),
        (b'{"schemaVersion": ' + b"9" * 100_000 + b"}", MANIFEST_TYPE, "not JSON"),
        (gzip.compress(MANIFEST), MANIFEST_TYPE, "not JSON"),
        (MANIFEST, INDEX_TYPE, "it says that it is"),
        (b'{"config": {}, "layers": [], "manifests": []}', MANIFEST_TYPE, "both"),
        (b'{"config": {}, "layers": [], "manifests": []}', INDEX_TYPE, "both"),
    ],
    ids=range(8),
)
def test_a_manifest_that_is_none_is_refused(trap: Trap, document: bytes, media_type: str, why: str) -> None:
    """An image and an index in one would be the one to whom it was checked, and the other to whom it is used."""
    trap.registry.routes["/"] = body(document, media_type)
    with pytest.raises((UnexpectedAnswer, InvalidInput), match=why) as caught:
        trap.manifest()
    message(caught.value)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip, gzip"])
def test_nothing_is_unpacked_on_the_way(trap: Trap, coding: str) -> None:
    """A bomb of 16 MB in 16 kB, which a client that understands `Content-Encoding` would hold in memory."""
    bomb = gzip.compress(bytes(16 << 20)) if "gzip" in coding else zlib.compress(bytes(16 << 20))
    trap.registry.routes["/"] = lambda request: request.answer(
        200, bomb, Content_Type=MANIFEST_TYPE, Content_Encoding=coding
    )
    for attempt in (trap.manifest, trap.blob):
        with pytest.raises((UnexpectedAnswer, DigestMismatch)) as caught:
            attempt()
        message(caught.value)
    assert all(each.headers["Accept-Encoding"] == "identity" for each in trap.registry.seen)


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {},
        {"mediaType": "a/b", "digest": "sha256:../../x", "size": 1},
        {"mediaType": "a/b", "digest": str(BLOB.digest), "size": "many"},
        {"mediaType": "a/b", "digest": str(BLOB.digest), "size": -1},
        {"mediaType": "a/b", "digest": str(BLOB.digest), "size": 1e400},
        {"mediaType": ["a/b"], "digest": str(BLOB.digest), "size": 1},
        {"mediaType": "a/b", "digest": str(BLOB.digest), "size": 1, "annotations": ["x"]},
        {"mediaType": "a/b", "digest": str(BLOB.digest), "size": 1, "platform": "linux"},
        {"mediaType": "a/b", "digest": str(BLOB.digest), "size": 1, "artifactType": {"a": 1}},
    ],
    ids=range(10),
)
def test_a_referrer_that_is_none_is_refused(trap: Trap, entry: Any) -> None:
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    trap.registry.routes["/"] = body(json.dumps(index).encode(), INDEX_TYPE)
    with pytest.raises(UnexpectedAnswer) as caught, trap.repository() as repository:
        repository.referrers(BLOB.digest)
    message(caught.value)


def test_what_it_says_of_an_error_steers_no_terminal(trap: Trap) -> None:
    text = "\x1b[2J\x1b]0;owned\x07line\nline https://user:the-password@example.org/ " + "x" * 10_000
    answer = json.dumps({"errors": [{"code": "DENIED", "message": text}] * 4}).encode()
    trap.registry.routes["/v2/team"] = lambda request: request.answer(403, answer)
    with pytest.raises(AccessRefused) as caught:
        trap.manifest()
    assert "DENIED" in message(caught.value)
