"""A registry under stress: collections, `kill -9`, broken uploads, clients that are slow or vanish, and flat memory."""

import hashlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from support.builds import children_of
from support.oci_client import Artifact, Content, Repository, content, digest_of, image, manifest
from support.oci_registry import free_port
from support.server import Server, run_server, wait_until

from mlenv.core.progress import Silent
from mlenv.wiring.hosted import Hosted

#: Seconds after which a test gives up waiting.
_PATIENCE = 30.0
_LARGE = 100_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process."""
    with run_server(tmp_path_factory.mktemp("stress"), "--insecure-http") as made:
        yield made


def large_image() -> Artifact:
    """Eight layers of 1 MB."""
    blobs = [Content(content(1_000_000)) for _ in range(8)]
    config = Content(b"{}")
    return Artifact([config, *blobs], [manifest(config.descriptor(), [each.descriptor() for each in blobs])])


def pull(client: httpx.Client, name: str, made: Artifact) -> None:
    """Pull all of an image. What comes whole must be right."""
    repository = Repository(client, name)
    answer = repository.manifest("kept")
    assert (answer.status_code, answer.content) == (200, made.top.data), answer.text
    for each in made.blobs:
        digest = hashlib.sha256()
        with client.stream("GET", f"/v2/{name}/blobs/{each.digest}") as blob:
            assert blob.status_code == 200, blob.read()
            for chunk in blob.iter_raw():
                digest.update(chunk)
        assert f"sha256:{digest.hexdigest()}" == each.digest


def age(server: Server, digests: Iterable[str]) -> None:
    """Let blobs have been used long ago."""
    for each in digests:
        os.utime(server.home / "oci/blobs" / each.replace(":", "/"), (1, 1))


def remove(repository: Repository, made: Artifact) -> list[str]:
    """Delete all of an image. Gives what is left on the disk, and nothing names."""
    found = [*(each.digest for each in made.blobs), made.top.digest]
    assert repository.manifest(made.top.digest, "DELETE").status_code == 202
    for digest in found[:-1]:
        assert repository.blob(digest, "DELETE").status_code == 202
    return found


def collect(hosted: Hosted) -> int:
    """Collect what was not used for an hour. Gives how many blobs that were."""
    return hosted.collecting.collect(timedelta(hours=1), progress=Silent()).blobs


def test_pulls_during_collections(server: Server) -> None:
    made, name = large_image(), "default/collected"
    ended = threading.Event()

    def litter() -> list[str]:
        """Make garbage and collect it, again and again."""
        garbage: list[str] = []
        with server.client() as client, Hosted(server.home) as hosted:
            repository = Repository(client, name)
            while not ended.is_set() or not garbage:
                other = image()
                repository.push(other, "moving")
                more = remove(repository, other)
                age(server, more)
                assert collect(hosted) == len(more)
                garbage += more
        return garbage

    with server.client() as client:
        Repository(client, name).push(made, "kept")
        age(server, [*(each.digest for each in made.blobs), made.top.digest])
        with ThreadPoolExecutor(9) as pool:
            litterer = pool.submit(litter)
            for each in [pool.submit(pull, client, name, made) for _ in range(50)]:
                each.result(_PATIENCE)
            ended.set()
            garbage = litterer.result(_PATIENCE)
        pull(client, name, made)
    left = {path.name for path in (server.home / "oci/blobs/sha256").iterdir()}
    assert not left & {each.removeprefix("sha256:") for each in garbage}


def test_what_is_pushed_again_while_it_is_collected(server: Server) -> None:
    images, start = [image() for _ in range(24)], threading.Barrier(5)
    with server.client() as client:
        repository = Repository(client, "default/again")
        for made in images:
            repository.push(made)
        for made in images:
            age(server, remove(repository, made))

    def push(number: int) -> None:
        with server.client() as client:
            start.wait(_PATIENCE)
            for made in images[number::4]:
                repository = Repository(client, "default/again")
                repository.push(made, "kept" if number == 0 else None)
                for each in made.blobs:
                    assert digest_of(repository.blob(each.digest).content) == each.digest
                assert repository.manifest(made.top.digest).content == made.top.data

    with ThreadPoolExecutor(5) as pool, Hosted(server.home) as hosted:
        pushes = [pool.submit(push, number) for number in range(4)]
        start.wait(_PATIENCE)
        while not all(each.done() for each in pushes):
            collect(hosted)
        for each in pushes:
            each.result()
        assert collect(hosted) == 0
    with server.client() as client:
        repository = Repository(client, "default/again")
        for made in images:
            assert repository.manifest(made.top.digest).content == made.top.data
            assert all(repository.blob(each.digest).content == each.data for each in made.blobs)


def test_pulls_and_uploads_outlive_kills(tmp_path: Path) -> None:
    made, name = large_image(), "default/killed"
    ended = threading.Event()
    done: list[int] = []

    with ExitStack() as stack:
        flags = ("--insecure-http", "--port", str(free_port()))
        server = stack.enter_context(run_server(tmp_path, *flags))
        with server.client() as client:
            Repository(client, name).push(made, "kept")

        def pull_often() -> int:
            broken = 0
            with server.client() as client:
                while not ended.is_set() or len(done) < 50:
                    try:
                        pull(client, name, made)
                        done.append(1)
                    except httpx.TransportError:
                        broken += 1
                        # Nobody listens for a moment.
                        ended.wait(0.05)
            return broken

        with ThreadPoolExecutor(4) as pool:
            stack.callback(ended.set)
            pullers = [pool.submit(pull_often) for _ in range(4)]
            for number in range(2):
                pulled = len(done)
                _kill_in_the_middle(server, f"default/killed-{number}")
                wait_until(lambda pulled=pulled: len(done) > pulled, "nobody pulls any more", _PATIENCE, server)
            ended.set()
            broken = [each.result(_PATIENCE) for each in pullers]
        assert len(done) >= 50
        assert sum(broken) > 0, "no kill met a pull"
        with server.client() as client:
            pull(client, name, made)


def _kill_in_the_middle(server: Server, name: str) -> None:
    """Kill a server that has acknowledged a blob and half of another; both are there afterwards."""
    data = content(200_000)
    with server.client() as client:
        repository = Repository(client, name)
        whole = repository.push_blob(content(50_000))
        answer = repository.patch(repository.follow(repository.start()), data[:100_000], 0)
        assert answer.status_code == 202
        location = repository.follow(answer)
    family = {server.process.pid, *children_of(server.process.pid)}
    for each in family:
        os.kill(each, signal.SIGKILL)
    server.process.wait()
    server.start()
    with server.client() as client:
        repository = Repository(client, name)
        assert repository.blob(whole, "HEAD").status_code == 200
        status = client.get(location)
        assert (status.status_code, status.headers["range"]) == (204, "0-99999")
        answer = repository.close(repository.follow(status), digest_of(data), data[100_000:], 100_000)
        assert answer.status_code == 201, answer.text
        assert repository.blob(digest_of(data)).content == data


def _raw(server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=_PATIENCE)


def _head(server: Server, method: str, path: str, *lines: str) -> bytes:
    text = [f"{method} {path} HTTP/1.1", "Host: here", f"Authorization: Bearer {server.token}", *lines, "", ""]
    return "\r\n".join(text).encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_broken_upload_leaves_what_can_be_resumed_and_nothing_else(server: Server, chunked: bool) -> None:
    data, name = content(4_000_000), f"default/broken-{int(chunked)}"
    with server.client() as client:
        repository = Repository(client, name)
        location = repository.follow(repository.start())
        with _raw(server) as connection:
            if chunked:
                head = _head(server, "PATCH", location.path, "Transfer-Encoding: chunked")
                body = b"%x\r\n" % len(data) + data[:2_500_000]
            else:
                head = _head(server, "PATCH", location.path, f"Content-Length: {len(data)}", "Content-Range: 0-3999999")
                body = data[:2_500_000]
            connection.sendall(head + body)
        known = 0

        def told() -> bool:
            nonlocal known
            status = client.get(location)
            # While the server still waits for more, the upload may be busy.
            assert status.status_code in {204, 409, 416}, status.text
            before, known = known, int(status.headers.get("range", "0-0").removeprefix("0-"))
            return 0 < known == before

        wait_until(told, "the upload does not come to rest", _PATIENCE, server)
        assert known < 2_500_000
        assert repository.blob(digest_of(data), "HEAD").status_code == 404
        answer = repository.close(location, digest_of(data), data[known + 1 :], known + 1)
        assert answer.status_code == 201, answer.text
        assert repository.blob(digest_of(data)).content == data
    for kind in ("uploads", "ingest"):
        left = [path for root in server.home.rglob(kind) for path in root.rglob("*") if path.is_file()]
        assert [path for path in left if path.stat().st_size] == []


def test_a_refused_blob_leaves_nothing(server: Server) -> None:
    before = {path for path in server.home.rglob("*") if path.is_file()}
    with server.client() as client:
        repository = Repository(client, "default/refused")
        for _ in range(3):
            location = repository.follow(repository.start())
            assert repository.close(location, digest_of(b"other"), content(100_000)).status_code == 400
    after = {path for path in server.home.rglob("*") if path.is_file()}
    assert [path for path in after - before if path.stat().st_size >= 100_000] == []


@pytest.fixture(scope="module")
def large(server: Server) -> str:
    """The path of a blob of 100 MB."""
    part, digest = content(1_000_000), hashlib.sha256()
    for _ in range(_LARGE // len(part)):
        digest.update(part)
    with server.client() as client:
        repository = Repository(client, "default/large")
        location = repository.follow(repository.start())
        parts = (part for _ in range(_LARGE // len(part)))
        url = location.copy_merge_params({"digest": f"sha256:{digest.hexdigest()}"})
        answer = client.put(url, content=parts, headers={"Content-Length": str(_LARGE)})
        assert answer.status_code == 201, answer.text
    return f"/v2/default/large/blobs/sha256:{digest.hexdigest()}"


def _memory(server: Server) -> int:
    """Proportional bytes of a server's processes."""
    total = 0
    for pid in (server.process.pid, *children_of(server.process.pid)):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        assert found
        total += int(found[1]) * 1024
    return total


def _drop(connection: socket.socket, size: int) -> None:
    """Receive bytes without copying them."""
    buffer = bytearray(1 << 20)
    while size:
        got = connection.recv_into(buffer, min(size, len(buffer)), socket.MSG_TRUNC)
        assert got, "the server closed the connection"
        size -= got


def _fetch(server: Server, path: str, after_head: Callable[[socket.socket, int], object]) -> None:
    """Ask for a blob, read the head of the answer, and leave the rest to a function."""
    with _raw(server) as connection:
        connection.sendall(_head(server, "GET", path))
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(4096)
        assert data.startswith(b"HTTP/1.1 200"), data
        after_head(connection, _LARGE - len(data.partition(b"\r\n\r\n")[2]))


def test_memory_is_flat_while_many_pull_and_some_stall_or_vanish(server: Server, large: str) -> None:
    _fetch(server, large, _drop)
    before, peak, ended = _memory(server), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            peak = max(peak, _memory(server))

    released = threading.Event()
    with ThreadPoolExecutor(81) as pool:
        watcher = pool.submit(watch)
        # More than a server has threads for: whoever stalls must not keep one.
        stalled = [pool.submit(_fetch, server, large, lambda *_: released.wait(_PATIENCE)) for _ in range(60)]
        try:
            started = time.monotonic()
            pulls = [pool.submit(_fetch, server, large, _drop) for _ in range(20)]
            for each in pulls:
                each.result(_PATIENCE)
            for _ in range(20):
                _fetch(server, large, lambda connection, _: _drop(connection, 1_000_000))
            with server.client() as client:
                assert client.get("/v2/").status_code == 200
            assert time.monotonic() - started < 30
        finally:
            released.set()
        for each in stalled:
            each.result(_PATIENCE)
        ended.set()
        watcher.result(_PATIENCE)
    assert peak - before < 30_000_000, f"{before / 1e6:.0f} MB became {peak / 1e6:.0f}"


def test_memory_is_flat_while_many_push(server: Server) -> None:
    part = content(1_000_000)

    def push(number: int) -> None:
        head, digest = content(32), hashlib.sha256()
        digest.update(head)
        for _ in range(20):
            digest.update(part)
        with server.client() as client:
            repository = Repository(client, f"default/pushed-large-{number}")
            location = repository.follow(repository.start())
            url = location.copy_merge_params({"digest": f"sha256:{digest.hexdigest()}"})
            answer = client.put(url, content=iter([head, *[part] * 20]))
            assert answer.status_code == 201, answer.text

    push(100)
    before, peak = _memory(server), 0
    with ThreadPoolExecutor(10) as pool:
        pushes = [pool.submit(push, number) for number in range(10)]
        while not all(each.done() for each in pushes):
            peak = max(peak, _memory(server))
        for each in pushes:
            each.result()
    assert peak - before < 60_000_000, f"{before / 1e6:.0f} MB became {peak / 1e6:.0f}"
