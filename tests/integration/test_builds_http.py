"""Builds over HTTP: asking, looking, canceling; logs by range, and followed by many, against a real server process."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from support.builds import Gate, services_of, until
from support.server import Server, run_server
from support.world import BASE, World, make_world

from mlenv.api.definition import load_definition
from mlenv.api.wire import definition_document, encode
from mlenv.core.progress import Silent
from mlenv.wiring.hosted import Hosted

SPACE = "/api/v1/workspaces/default"
EVENTS = {"Accept": "text/event-stream"}
JSON = {"Content-Type": "application/json"}


@dataclass
class Site:
    """A server with workers, an index whose downloads can be held up, and an administrator's client."""

    server: Server
    world: World
    gate: Gate
    client: httpx.Client

    def define(self, name: str, *requirements: str) -> str:
        """Register a version; gives where its builds are."""
        body = encode(definition_document(load_definition(self.world.define(name, *requirements))))
        answer = self.client.post(f"{SPACE}/environments", content=body, headers=JSON)
        assert answer.status_code == 201, answer.text
        return f"{answer.headers['Location']}/builds"

    def request(self, place: str, **body: Any) -> httpx.Response:
        return self.client.post(place, json=body)

    def show(self, id: str) -> dict[str, Any]:
        answer = self.client.get(f"{SPACE}/builds/{id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, id: str) -> dict[str, Any]:
        until(lambda: self.show(id)["ended_at"] and self.show(id)["log"], f"{id} has not ended", 60)
        return self.show(id)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, World]]:
    directory = tmp_path_factory.mktemp("builds-http")
    with make_world(directory) as world, run_server(directory, home=world.home, workers=2, processes=1) as server:
        with Hosted(world.home) as hosted:
            services_of(hosted).bases.import_(f"oci:{world.directory / 'base'}", BASE, progress=Silent())
        yield server, world


@pytest.fixture
def site(running: tuple[Server, World]) -> Iterator[Site]:
    server, world = running
    gate = Gate()
    with server.client() as client:
        yield Site(server, world, gate, client)
    world.index.before = None
    gate.opened.set()


def _events(text: str) -> list[dict[str, list[str]]]:
    """Events of a stream, each as its fields (WHATWG HTML, section 9.2.6); comments are left out."""
    events = []
    for block in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name:
                fields.setdefault(name, []).append(value)
        if fields:
            events.append(fields)
    return events


def _lines(events: list[dict[str, list[str]]]) -> list[str]:
    return [line for each in events if "event" not in each for line in each["data"]]


def test_a_build_is_asked_for_followed_and_kept(site: Site) -> None:
    place = site.define("asked", "alpha")
    answer = site.request(place, compression="gzip", priority=3)
    assert answer.status_code == 202
    build = answer.json()
    assert answer.headers["Location"] == f"{SPACE}/builds/{build['id']}"
    assert (build["status"], build["priority"], build["compression"]) == ("queued", 3, "gzip")
    assert build["platform"] == {"os": "linux", "architecture": "amd64"}
    ended = site.wait(build["id"])
    assert (ended["status"], ended["requested_by"]) == ("succeeded", "administrator")
    assert ended["image"].startswith("sha256:")

    log = site.client.get(f"{SPACE}/builds/{build['id']}/logs")
    assert log.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert log.text.endswith("succeeded\n")
    assert int(log.headers["Content-Length"]) == len(log.content)
    again = site.request(place, compression="gzip")
    assert (again.status_code, again.json()["id"]) == (200, build["id"])
    assert site.request(place).status_code == 200, "gzip is what a server takes"
    assert site.request(place, compression="zstd").status_code == 202, "another compression is another image"


def test_a_log_is_followed_by_fifty_while_it_is_written(site: Site) -> None:
    site.world.index.before = site.gate
    site.world.index.wheel("delta", "1.0", files={"delta/__init__.py": ""})
    id = site.request(site.define("followed", "delta")).json()["id"]
    until(site.gate.reached.is_set, "the build did not come to its downloads", 60)
    live = threading.Barrier(51)

    with ThreadPoolExecutor(50) as pool:
        streams = [pool.submit(_follow, site, id, live) for _ in range(50)]
        # All have seen what is written so far, and nobody has seen the end.
        live.wait(60)
        assert site.show(id)["status"] == "running"
        site.gate.opened.set()
        texts = [each.result(60) for each in streams]
    log = site.client.get(f"{SPACE}/builds/{id}/logs").text
    for text in texts:
        events = _events(text)
        assert events[-1] == {"event": ["end"], "data": ['{"status": "succeeded"}']}
        assert "\n".join(_lines(events)) + "\n" == log
        assert events[-2]["id"] == [str(len(log.encode()))]


def _follow(site: Site, id: str, live: threading.Barrier) -> str:
    text, waited = "", False
    with site.server.client() as client, client.stream("GET", f"{SPACE}/builds/{id}/logs", headers=EVENTS) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        for piece in answer.iter_text():
            text += piece
            if not waited and "Fetching" in text:
                waited = True
                live.wait(60)
    return text


def test_a_stream_goes_on_after_the_last_event(site: Site) -> None:
    id = site.request(site.define("resumed", "alpha")).json()["id"]
    site.wait(id)
    path = f"{SPACE}/builds/{id}/logs"
    log = site.client.get(path).content
    middle = log.index(b"\n", len(log) // 2) + 1
    rest = site.client.get(path, headers=EVENTS | {"Last-Event-ID": str(middle)})
    assert "\n".join(_lines(_events(rest.text))) + "\n" == log[middle:].decode()
    over = site.client.get(path, headers=EVENTS | {"Last-Event-ID": "99999999"})
    assert [each["event"] for each in _events(over.text)] == [["end"]]
    odd = site.client.get(path, headers=EVENTS | {"Last-Event-ID": "-1; DROP"})
    assert "\n".join(_lines(_events(odd.text))) + "\n" == log.decode()


@pytest.mark.parametrize(
    ("range", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-999999", slice(5, None)),
    ],
)
def test_parts_of_a_log(site: Site, range: str, part: slice) -> None:
    path = _ended_log(site)
    log = site.client.get(path).content
    answer = site.client.get(path, headers={"Range": range})
    assert answer.status_code == 206
    assert answer.content == log[part]
    start = log.index(answer.content)
    assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(answer.content) - 1}/{len(log)}"


def test_parts_that_a_log_does_not_have(site: Site) -> None:
    path = _ended_log(site)
    log = site.client.get(path).content
    beyond = site.client.get(path, headers={"Range": f"bytes={len(log)}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(log)}")
    for passed_over in ("bytes=9-3", "bytes=0-1,4-5", "lines=1-2", "bytes=-"):
        assert site.client.get(path, headers={"Range": passed_over}).content == log


def test_a_build_is_canceled_while_it_runs(site: Site) -> None:
    site.world.index.before = site.gate
    site.world.index.wheel("gamma", "1.0", files={"gamma/__init__.py": ""})
    id = site.request(site.define("canceled", "gamma")).json()["id"]
    until(site.gate.reached.is_set, "the build did not come to its downloads", 60)
    answer = site.client.post(f"{SPACE}/builds/{id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    stream = site.client.get(f"{SPACE}/builds/{id}/logs", headers=EVENTS)
    assert _events(stream.text)[-1]["data"] == ['{"status": "canceled"}']
    assert "canceled" in _lines(_events(stream.text))[-1]
    assert site.client.post(f"{SPACE}/builds/{id}/cancel").json()["status"] == "canceled"


def test_lists_are_paged_by_cursor(site: Site) -> None:
    places = [site.define(f"listed{number}", "alpha") for number in range(3)]
    ids = [site.request(place).json()["id"] for place in places]
    for id in ids:
        site.wait(id)
    found, cursor = [], None
    while True:
        query: dict[str, str | int] = {"limit": 2, "status": "succeeded", **({"cursor": cursor} if cursor else {})}
        page = site.client.get(f"{SPACE}/builds", params=query).json()
        found += [each["id"] for each in page["value"]]
        if (cursor := page["next"]) is None:
            break
    assert set(ids) <= set(found)
    assert len(found) == len(set(found))
    assert [each["id"] for each in site.client.get(places[1]).json()["value"]] == [ids[1]]
    other = site.client.get(f"{SPACE}/builds", params={"cursor": "AAAA"})
    assert other.status_code == 400


def test_a_key_asks_once(site: Site) -> None:
    place = site.define("once", "alpha")
    headers = {"Idempotency-Key": "one-build"}
    first = site.client.post(place, json={}, headers=headers)
    site.wait(first.json()["id"])
    again = site.client.post(place, json={}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"{SPACE}/builds/{'0' * 32}", None, 404),
        ("GET", f"{SPACE}/builds/{'0' * 32}/logs", None, 404),
        ("POST", f"{SPACE}/builds/{'0' * 32}/cancel", None, 404),
        ("GET", f"{SPACE}/builds/..%2F..%2Fetc", None, 404),
        ("GET", f"{SPACE}/builds?status=done", None, 400),
        ("POST", f"{SPACE}/environments/asked/versions/99/builds", {}, 404),
        ("POST", f"{SPACE}/environments/nothere/versions/1/builds", {}, 404),
        ("POST", f"{SPACE}/environments/asked/versions/1/builds", {"priority": 0}, 400),
        ("POST", f"{SPACE}/environments/asked/versions/1/builds", {"platform": "linux/amd64"}, 400),
        ("POST", f"{SPACE}/environments/asked/versions/1/builds", {"compression": "lzma"}, 400),
    ],
)
def test_what_can_not_be(site: Site, method: str, path: str, body: Any, status: int) -> None:
    answer = site.client.request(method, path, json=body)
    assert answer.status_code in {status, 422 if status == 400 else status}, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")


def _ended_log(site: Site) -> str:
    """Where the log of a build is that has ended."""
    page = site.client.get(f"{SPACE}/builds", params={"status": "succeeded", "limit": 1}).json()
    if not page["value"]:
        id = site.request(site.define("logged", "alpha")).json()["id"]
        site.wait(id)
        return f"{SPACE}/builds/{id}/logs"
    return f"{SPACE}/builds/{page['value'][0]['id']}/logs"
