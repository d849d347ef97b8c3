"""Queued builds outlive those who work on them: workers are killed, leave, and come back, over both databases."""

import signal
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from support.builds import AMD64, BuildSite, alive, children_of, kill, make_site, until
from support.postgres import new_cluster, remove_cluster

from mlenv.core.digest import Digest
from mlenv.core.layer import Compression
from mlenv.core.progress import Silent
from mlenv.core.records import BuildStatus

pytest_plugins = ("support.postgres",)

_FUNCTION = """CREATE FUNCTION note_ending() RETURNS trigger AS
'BEGIN INSERT INTO endings (id) VALUES (NEW.id); RETURN NEW; END' LANGUAGE plpgsql"""
#: Seconds in which another worker must have gone on.
RESUMED = 30.0
#: How many builds wait at once, over PostgreSQL; over SQLite, where no other process makes it harder, a quarter of them.
MANY = 1000


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BuildSite]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    with make_site(tmp_path, url) as made:
        yield made


def test_a_killed_workers_build_is_resumed_by_another(site: BuildSite) -> None:
    gate = site.gated()
    first = site.worker()
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    until(gate.reached.is_set, "the build did not come to its downloads", 60, site)
    assert site.builds.get(build.id).status is BuildStatus.RUNNING
    until(lambda: site.builds.get(build.id).steps, "no step was kept", 20, site)
    resolved = site.builds.get(build.id).steps[0]
    second = site.worker()
    until(lambda: len(site.hosted.workers.beats()) == 2, "the second worker did not come", 60, site)
    below = children_of(first.pid)
    assert len(below) >= 2

    kill(first)
    gate.opened.set()
    taken = until(lambda: site.builds.get(build.id).attempts == 2, "nobody took it over", RESUMED, site)
    assert taken < RESUMED
    assert not alive(below), "what the dead worker had started lives on"
    ended = site.ended(build)
    assert (ended.status, ended.attempts) == (BuildStatus.SUCCEEDED, 2)
    assert ended.steps[0] == resolved, "a finished step was forgotten"
    assert [each.title for each in ended.steps if each.title.startswith("Resolving")] == [resolved.title]
    log = site.log(ended)
    assert log.count("attempt 1 begins") == log.count("attempt 2 begins") == 1
    assert ended.log == Digest.of(log.encode())
    until(lambda: len(site.hosted.workers.beats()) == 1, "the dead worker was not forgotten", RESUMED, site)
    assert second.poll() is None


def test_a_build_begun_before_every_process_died_goes_on_with_the_next_one(site: BuildSite) -> None:
    killed = site.worker(fault="build.spawned")
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    assert killed.wait(60) == -signal.SIGKILL
    assert site.builds.get(build.id).status is BuildStatus.RUNNING
    site.worker()
    until(lambda: site.builds.get(build.id).attempts == 2, "nobody took it over", RESUMED, site)
    assert site.ended(build).status is BuildStatus.SUCCEEDED


def test_a_worker_that_leaves_hands_its_build_over_at_once(site: BuildSite) -> None:
    gate = site.gated()
    leaving = site.worker()
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    until(gate.reached.is_set, "the build did not come to its downloads", 60, site)
    below = children_of(leaving.pid)
    leaving.terminate()
    assert leaving.wait(30) == 0, site.worker_logs()
    assert not alive(below)
    assert site.builds.get(build.id).status is BuildStatus.QUEUED
    assert site.hosted.workers.beats() == {}

    gate.opened.set()
    site.worker()
    ended = site.ended(build)
    assert (ended.status, ended.attempts) == (BuildStatus.SUCCEEDED, 2)
    assert "the worker leaves; another one goes on" in site.log(ended)


def test_a_thousand_queued_builds_survive_every_process_and_each_ends_once(site: BuildSite) -> None:
    services, now = site.services, datetime.now(UTC)
    many = MANY if site.url is not None else MANY // 4
    first = site.version("train0", "alpha")
    lock = services.locking.lock(first, AMD64, progress=Silent())
    versions = [first, *(site.version(f"train{number}", "alpha") for number in range(1, many))]
    for each in versions[1:]:
        services.registry.add_lock(each.name, each.version, AMD64, lock.digest, now=now)
    builds = [services.builds.request(each, AMD64) for each in versions]
    assert {each.status for each in builds} == {BuildStatus.QUEUED}
    # From here on the image is there, so that each build takes little time.
    built = services.building.build(first, AMD64, compression=Compression.GZIP, recorded=False, progress=Silent())
    _count_endings(site)

    for enough in (many // 5, many // 2):
        workers = [site.worker(workers=16), site.worker(workers=16)]
        until(partial(_has_ended, site, many, enough), f"not {enough} ended", 120, site)
        for worker in workers:
            kill(worker)
    assert not _has_ended(site, many, many), "all was done before the last worker died"
    site.worker(workers=16)
    until(partial(_has_ended, site, many, many), "not all ended", 180, site)

    for build in builds:
        ended = site.builds.get(build.id)
        assert (ended.status, ended.image) == (BuildStatus.SUCCEEDED, built.image.manifest.digest)
    endings = _endings(site)
    assert len(endings) == many
    assert set(Counter(endings).values()) == {1}, "a build ended more than once"


def _has_ended(site: BuildSite, many: int, count: int) -> bool:
    return many - sum(site.hosted.build_states().values()) >= count


def _count_endings(site: BuildSite) -> None:
    """Have the database itself write down every ending."""
    ended = "NEW.status IN ('succeeded', 'failed', 'canceled') AND NEW.status <> OLD.status"
    statements = ["CREATE TABLE endings (id TEXT NOT NULL)"]
    if site.url is None:
        statements.append(
            f"CREATE TRIGGER ending AFTER UPDATE ON builds WHEN {ended} "
            "BEGIN INSERT INTO endings (id) VALUES (NEW.id); END"
        )
    else:
        statements += [
            _FUNCTION,
            f"CREATE TRIGGER ending AFTER UPDATE ON builds FOR EACH ROW WHEN ({ended}) EXECUTE FUNCTION note_ending()",
        ]
    for each in statements:
        _sql(site, each)


def _endings(site: BuildSite) -> list[str]:
    return [row[0] for row in _sql(site, "SELECT id FROM endings")]


def _sql(site: BuildSite, statement: str) -> list[tuple[str, ...]]:
    if site.url is not None:
        import psycopg

        with psycopg.connect(site.url, autocommit=True) as server:
            cursor = server.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(site.hosted.home / "mlenv.db", timeout=30)) as file, file:
        return file.execute(statement).fetchall()


def test_a_build_outlives_the_death_of_its_database(tmp_path: Path) -> None:
    cluster = new_cluster()
    try:
        with make_site(tmp_path, cluster.empty_database()) as site:
            gate = site.gated()
            worker = site.worker()
            build = site.builds.request(site.version("train", "alpha"), AMD64)
            until(gate.reached.is_set, "the build did not come to its downloads", 60, site)
            cluster.stop("immediate")
            gate.opened.set()
            log = site.hosted.home / "logs" / f"{build.id}.log"
            until(lambda: "the next one begins" in log.read_text(), "the build did not see it", 60, site)
            cluster.start()
            ended = site.ended(build)
            assert ended.status is BuildStatus.SUCCEEDED
            assert ended.attempts >= 2
            assert worker.poll() is None
            assert site.hosted.build_states() == {}
    finally:
        remove_cluster(cluster)
