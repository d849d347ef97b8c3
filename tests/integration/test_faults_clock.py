"""A clock that jumps by a day, forward and back, under a server and under workers: nothing is lost, doubled or out of order."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
import pytest
from support.builds import AMD64, BuildSite, make_site, until
from support.clocks import Clock
from support.server import Server, run_server
from support.wholeness import assert_whole

from mlenv.core.records import BuildStatus
from mlenv.core.scope import ScopeKey
from mlenv.work.queue import Task, TaskKind

SPACE = "/api/v1/workspaces/default"
_AZURE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)
DAY = timedelta(days=1)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else None


@pytest.fixture
def server(clock: Clock, url: str | None, tmp_path: Path) -> Iterator[Server]:
    variables = clock.environment
    with run_server(tmp_path, "--insecure-http", database=url, environment=variables) as made:
        yield made


def _create(client: httpx.Client, number: int, key: str | None = None) -> dict[str, str]:
    """The version of `jumping` that is made or found."""
    headers = {"Idempotency-Key": key} if key else {}
    body = {"name": "jumping", "spec": {"image": f"example.org/base:{number}"}}
    answer = client.post(f"{SPACE}/environments", json=body, headers=headers)
    assert answer.status_code in {200, 201}, answer.text
    found: dict[str, str] = answer.json()
    return found


def _token(client: httpx.Client, hours: int) -> str:
    answer = client.post("/api/v1/tokens", json={"name": "short", "expires_in": hours * 3600})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def _knows(client: httpx.Client, token: str) -> bool:
    answer = client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


def _storage(client: httpx.Client) -> Callable[[str], int]:
    """Uploads with a signature that is good for an hour, from now on; gives the status."""
    store = client.get(f"{_AZURE}/datastores/workspaceblobstore").json()["properties"]["containerName"]
    secrets = f"{_AZURE}/datastores/workspaceblobstore/listSecrets"
    signature = client.post(secrets, json={"expirableSecret": True, "expireAfterHours": 1}).json()["sasToken"]
    params, headers = dict(parse_qsl(signature)), {"x-ms-blob-type": "BlockBlob", "Authorization": ""}

    def put(path: str) -> int:
        return client.put(f"/blobs/{store}/{path}", params=params, headers=headers, content=b"x").status_code

    return put


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_server_whose_clock_jumps(server: Server, clock: Clock, url: str | None) -> None:
    with server.client() as client:
        first, short, put = _create(client, 1, "first"), _token(client, 2), _storage(client)
        assert (_knows(client, short), put("before")) == (True, 201)

        clock.set(days=1)
        # What was to last for hours has ended; what lasts goes on.
        assert (_knows(client, short), put("late")) == (False, 403)
        ahead, put_ahead = _token(client, 2), _storage(client)
        assert (_knows(client, ahead), put_ahead("ahead")) == (True, 201)
        second = _create(client, 2, "second")
        assert _time(second["created_at"]) - _time(first["created_at"]) > DAY * 0.9
        # An answer is kept for a day; asked again after it, what is there is found, and not made again.
        assert _create(client, 1, "first")["version"] in {"1", "3"}

        clock.set(days=-1)
        assert _knows(client, short)
        back, put_back = _token(client, 2), _storage(client)
        assert (_knows(client, back), put_back("back")) == (True, 201)
        assert _create(client, 2, "second")["version"] == "2"
        last = _create(client, 3)
        assert _time(last["created_at"]) < _time(first["created_at"])
        # The order is that of making, whatever the clock said.
        listed = client.get(f"{SPACE}/environments/jumping/versions").json()["value"]
        versions = [int(each["version"]) for each in listed]
        assert versions == sorted(versions, reverse=True)
        assert listed[0]["version"] == last["version"]
        assert client.get(f"{SPACE}/environments/jumping").json()["latest_version"] == last["version"]
        # A change is later than the one before it.
        version = f"{SPACE}/environments/jumping/versions/2"
        tag = client.get(version).headers["ETag"]
        changed = client.patch(version, json={"description": "changed"}, headers={"If-Match": tag})
        assert changed.status_code == 200
        assert _time(changed.json()["modified_at"]) > _time(second["modified_at"])
        assert client.patch(version, json={"description": "no"}, headers={"If-Match": tag}).status_code == 412

        clock.set(days=0)
        assert _knows(client, short)
        assert client.get("/readyz").status_code == 200
        records = client.get("/api/v1/audit", params={"limit": 500}).json()["value"]
        numbers = [each["sequence"] for each in records]
        assert numbers == list(range(len(numbers), 0, -1))
    assert server.stop() == 0
    assert "Traceback" not in server.log
    assert_whole(server.home, url)


def test_a_worker_whose_clock_jumps_goes_on_and_nobody_takes_its_build(
    clock: Clock, postgres_url: str, tmp_path: Path
) -> None:
    with make_site(tmp_path, postgres_url) as site:
        waiting = site.builds.request(site.version("waiting", "beta"), AMD64)
        # As a worker leaves it that tries again later, by a clock that was days ahead.
        task = Task(TaskKind.BUILD, ScopeKey("default"), waiting.id)
        site.hosted.queue.remove(task)
        begun = site.builds.begin(waiting.id, most=5)
        assert begun is not None
        assert site.builds.put_back(begun)
        site.hosted.queue.put(task, "1", delay=3 * DAY.total_seconds())
        gate = site.gated()
        site.worker(variables=clock.environment)
        build = site.builds.request(site.version("train", "alpha"), AMD64)
        until(gate.reached.is_set, "the build did not come to its downloads", 60, site)
        site.worker()
        until(lambda: len(site.hosted.workers.beats()) == 2, "the second worker did not come", 60, site)
        for days in (1, -1):
            clock.set(days=days)
            _beats(site, 2)
            running = site.builds.get(build.id)
            assert (running.status, running.attempts) == (BuildStatus.RUNNING, 1)
        queued = site.builds.request(site.version("more", "pip"), AMD64)
        gate.opened.set()
        for each, attempts in ((build, 1), (queued, 1), (waiting, 2)):
            ended = site.ended(each)
            assert (ended.status, ended.attempts) == (BuildStatus.SUCCEEDED, attempts), ended.error
            assert site.log(ended).count("begins") == 1
        for process in site.processes:
            process.terminate()
            assert process.wait(30) == 0, site.worker_logs()
        site.hosted.close()
        assert_whole(site.world.home, postgres_url)


def _beats(site: BuildSite, count: int) -> None:
    """Wait until every worker has given so many more signs of life, and so has looked at the others as often."""
    before = site.hosted.workers.beats()
    until(
        lambda: all(site.hosted.workers.beats().get(each, 0) >= beat + count for each, beat in before.items()),
        "a worker gives no sign of life",
        30,
        site,
    )
