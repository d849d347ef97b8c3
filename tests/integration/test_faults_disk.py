"""A server whose disk is full, fails under it, or is read-only from the start: what it answers, and what is there afterwards."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.builds import make_site
from support.disks import Disk, make_disk
from support.server import Server, run_server, wait_until
from support.wholeness import assert_whole
from support.world import World

from mlenv.api.definition import load_definition
from mlenv.api.wire import definition_document
from mlenv.service.tokens import Tokens

SPACE = "/api/v1/workspaces/default"
_AZURE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)


@dataclass
class Site:
    """A server whose home is on a disk of its own, and an index for what it locks and builds."""

    server: Server
    disk: Disk
    world: World
    url: str | None
    token: str
    client: httpx.Client

    def create(self, name: str, *requirements: str, key: str | None = None) -> httpx.Response:
        definition = load_definition(self.world.define(name, *requirements))
        headers = {"Idempotency-Key": key} if key else {}
        return self.client.post(f"{SPACE}/environments", json=definition_document(definition), headers=headers)

    def lock(self, name: str) -> httpx.Response:
        return self.client.post(f"{SPACE}/environments/{name}/versions/1/locks/linux/amd64", timeout=60)

    def build(self, name: str) -> httpx.Response:
        return self.client.post(f"{SPACE}/environments/{name}/versions/1/builds", json={})

    def built(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"{SPACE}/builds/{id}").raise_for_status().json()
        return found

    def upload(self, path: str, content: bytes) -> httpx.Response:
        return self.client.put(self._file(path), content=content, headers={"x-ms-blob-type": "BlockBlob"})

    def download(self, path: str) -> httpx.Response:
        return self.client.get(self._file(path))

    def is_ready(self) -> bool:
        return self.client.get("/readyz").status_code == 200

    def assert_whole(self, *, broken_off: bool = False) -> None:
        """Everything is as it should be, once the server has ended."""
        assert self.server.stop() == 0, self.server.log[-4000:]
        assert "Traceback" not in self.server.log
        copy = self.world.directory / "copy"
        # SQLite does not take a path that goes through another namespace.
        shutil.copytree(self.disk.here / "home", copy)
        assert_whole(copy, self.url, broken_off=broken_off)

    def _file(self, path: str) -> str:
        store = self.client.get(f"{_AZURE}/datastores/workspaceblobstore").raise_for_status().json()
        return f"/blobs/{store['properties']['containerName']}/{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    url = str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else None
    with make_site(tmp_path, url) as prepared, make_disk(tmp_path) as disk:
        token = Tokens(prepared.hosted.site).recover()
        prepared.hosted.close()
        shutil.copytree(prepared.world.home, disk.here / "home")
        # What is not written to the disk yet is lost when it fails; what the site itself keeps is written at once.
        disk.run("sync", "--file-system", str(disk.inside))
        started = run_server(
            tmp_path,
            "--insecure-http",
            home=disk.inside / "home",
            workers=1,
            database=url,
            prefix=disk.prefix,
        )
        with started as server, server.client(token) as client:
            made = Site(server, disk, prepared.world, url, token, client)
            assert made.create("before", "alpha").status_code == 201
            assert made.upload("before", b"before").status_code == 201
            yield made


def _refused(answer: httpx.Response, status: int, code: str) -> None:
    """One clear answer, that tells nothing of the server's own files, and when to ask again."""
    assert answer.status_code == status, answer.text
    assert code in answer.text or code == answer.headers.get("x-ms-error-code")
    assert "nothing was kept" in answer.text
    assert "/home" not in answer.text
    assert answer.headers["retry-after"]


def _wait(condition: Callable[[], object], what: str, site: Site, timeout: float = 60) -> None:
    wait_until(condition, what, timeout, site.server)


def test_a_full_disk_refuses_what_needs_room_and_nothing_else(site: Site) -> None:
    rows_too = site.url is None
    site.disk.fill()
    _wait(lambda: not site.is_ready(), "it says that it is ready", site)
    assert site.client.get("/readyz").json()["reasons"] == ["blobs: DiskFull"]
    assert site.client.get("/healthz").status_code == 200
    assert [each["name"] for each in site.client.get(f"{SPACE}/environments").json()["value"]] == ["before"]
    assert site.download("before").content == b"before"

    created = site.create("during", "alpha", key="once")
    asked = site.build("before")
    if rows_too:
        _refused(created, 507, "NoRoom")
        _refused(asked, 507, "NoRoom")
        assert site.client.get(f"{SPACE}/environments/during").status_code == 404
        assert site.client.get(f"{SPACE}/builds").json()["value"] == []
    else:
        assert (created.status_code, asked.status_code) == (201, 202)
        id = asked.json()["id"]
        _wait(lambda: site.built(id)["error"], "no worker tried to build it", site)
        assert (site.built(id)["status"], site.built(id)["attempts"]) == ("queued", 1)
        assert "no room left" in site.built(id)["error"]
    _refused(site.upload("during", bytes(1 << 20)), 507, "InternalError")
    assert site.download("during").status_code == 404
    _refused(site.lock("before"), 507, "NoRoom")

    site.disk.free()
    _wait(site.is_ready, "it does not come back", site)
    assert site.create("during", "alpha", key="once").status_code == 201
    assert site.upload("during", b"during").status_code == 201
    assert site.lock("before").status_code == 200
    id = site.build("before").json()["id"]
    _wait(lambda: site.built(id)["ended_at"], "the build does not end", site)
    assert site.built(id)["status"] == "succeeded", site.built(id)
    _wait(lambda: site.built(id)["log"], "its log is not kept", site)
    site.assert_whole()


def test_a_disk_that_fails_can_still_be_read_and_no_server_starts_on_it(site: Site) -> None:
    rows_too = site.url is None
    id = site.build("before").json()["id"]
    _wait(lambda: site.built(id)["log"], "the build does not end", site)
    log = site.client.get(f"{SPACE}/builds/{id}/logs").text
    site.disk.fail()
    _wait(lambda: not site.is_ready(), "it says that it is ready", site)
    assert site.client.get("/readyz").json()["reasons"] == ["blobs: DiskFailed"]

    assert site.client.get(f"{SPACE}/environments/before/versions/1").status_code == 200
    assert site.client.get(f"{SPACE}/environments/before/versions/1/locks/linux/amd64").status_code == 200
    assert site.client.get(f"{SPACE}/builds/{id}/logs").text == log
    assert site.download("before").content == b"before"
    _refused(site.upload("during", b"during"), 503, "ServerBusy")
    assert site.download("during").status_code == 404
    created = site.create("during", "alpha")
    if rows_too:
        _refused(created, 503, "NotWritable")
    else:
        assert created.status_code == 201
        waiting = site.build("during").json()["id"]
        _wait(lambda: site.built(waiting)["error"], "no worker tried to build it", site)
        assert site.built(waiting)["status"] == "queued"

    assert site.server.stop() == 0, site.server.log[-4000:]
    assert "Traceback" not in site.server.log
    site.disk.repair("ro")
    site.server.launch()
    assert site.server.process.wait(60) == 1
    assert site.server.log.count("error:") == 1, site.server.log
    assert "Read-only file system" in site.server.log
    assert "Traceback" not in site.server.log

    site.disk.repair()
    site.server.start()
    with site.server.client(site.token) as site.client:
        assert site.create("during", "alpha").status_code in {200, 201}
        assert site.upload("during", b"during").status_code == 201
        again = site.build("during").json()["id"]
        _wait(lambda: site.built(again)["ended_at"], "the build does not end", site)
        assert site.built(again)["status"] == "succeeded", site.client.get(f"{SPACE}/builds/{again}/logs").text
        _wait(lambda: site.built(again)["log"], "its log is not kept", site)
        assert site.download("before").content == b"before"
    site.assert_whole(broken_off=True)
