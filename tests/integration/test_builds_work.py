"""What workers do with builds: make each once, try again what is worth it, stop what is not wanted, keep to limits."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.builds import AMD64, BuildSite, address, alive, children_of, make_site, services_of, until

from mlenv.core.digest import Digest
from mlenv.core.locking import LockOptions
from mlenv.core.progress import Silent
from mlenv.core.records import BuildStatus
from mlenv.core.reference import Reference, parse_name, parse_version
from mlenv.errors import MlenvError
from mlenv.service.builds import BuildNotFound, InvalidBuildOptions
from mlenv.service.locking import LockDiffers
from mlenv.store.audit import NoAuthor
from mlenv.wiring.hosted import Hosted
from mlenv.work.hosting import Limits
from mlenv.work.queue import Task, TaskKind
from mlenv.work.runner import Workers

pytest_plugins = ("support.postgres",)

LIMITS = Limits(attempts=3, back_off=0.1, longest_back_off=0.2, kill=1.0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BuildSite]:
    with make_site(tmp_path, None) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def either_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BuildSite]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    with make_site(tmp_path, url) as made:
        yield made


@contextmanager
def working(site: BuildSite, limits: Limits = LIMITS) -> Iterator[Workers]:
    """Workers in this process."""
    workers = Workers(site.hosted, limits)
    workers.start()
    try:
        yield workers
    finally:
        site.gate.opened.set()
        workers.stop(20)


def test_a_build_is_queued_made_and_kept_with_its_log(either_site: BuildSite) -> None:
    site = either_site
    version = site.version("train", "alpha")
    build = site.builds.request(version, AMD64, priority=7)
    assert (build.status, build.priority, build.requested_by) == (BuildStatus.QUEUED, 7, "tester")
    with working(site):
        ended = site.ended(build)
    assert ended.status is BuildStatus.SUCCEEDED, site.log(ended)
    assert ended.queued_at is not None
    assert ended.ended_at is not None
    assert ended.queued_at <= ended.started_at <= ended.ended_at
    assert [each.title.split()[0] for each in ended.steps] == ["Resolving", "Fetching", "Building"]
    log = site.log(ended)
    assert f"building {version} for linux/amd64" in log
    assert f"image {ended.image}" in log
    assert ended.log == Digest.of(log.encode())
    assert not list((site.hosted.home / "logs").iterdir())
    again = site.builds.request(version, AMD64)
    assert again == ended, "the image was there, and another build was made"
    actions = [each.change.action for each in site.hosted.site.store.audit(None, limit=1000)]
    assert actions.count("build.request") == 1


def test_eight_who_ask_at_once_get_one_build(either_site: BuildSite) -> None:
    site = either_site
    version = site.version("train", "alpha")
    start = threading.Barrier(8)

    def ask(_: int) -> str:
        with Hosted(site.hosted.home, address(site.url), site.hosted.policy) as hosted:
            builds = services_of(hosted).builds
            start.wait()
            return builds.request(version, AMD64).id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(ask, range(8)))
    assert len(ids) == 1
    assert len(site.builds.list(limit=100)) == 1
    assert len(site.hosted.queue.tasks(TaskKind.BUILD)) == 1


def test_what_can_not_be_reached_is_tried_again_until_it_can(site: BuildSite) -> None:
    gate = site.gated()
    gate.broken = True
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    with working(site):
        until(lambda: site.builds.get(build.id).error, "no attempt failed", 60)
        gate.broken = False
        gate.opened.set()
        ended = site.ended(build)
    assert (ended.status, ended.error) == (BuildStatus.SUCCEEDED, None)
    assert ended.attempts in {2, 3}
    assert "attempt 1 of 3 failed; the next one begins in 0.1 s" in site.log(ended)


def test_what_can_never_be_reached_fails_after_the_last_attempt(site: BuildSite) -> None:
    gate = site.gated()
    gate.broken = True
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    with working(site, replace(LIMITS, attempts=2)):
        ended = site.ended(build)
    assert (ended.status, ended.attempts) == (BuildStatus.FAILED, 2)
    assert ended.error is not None
    assert "127.0.0.1" in ended.error


@pytest.mark.parametrize(
    ("requirement", "message"), [("nothere", "nothere"), ("alpha>5", "alpha")], ids=["missing", "conflict"]
)
def test_what_has_no_answer_is_not_tried_again(site: BuildSite, requirement: str, message: str) -> None:
    build = site.builds.request(site.version("train", requirement), AMD64)
    with working(site):
        ended = site.ended(build)
    assert (ended.status, ended.attempts) == (BuildStatus.FAILED, 1)
    assert ended.error is not None
    assert message in ended.error
    assert ended.error.splitlines()[0] in site.log(ended)


def test_cancel_ends_the_whole_process_tree(site: BuildSite, caplog: pytest.LogCaptureFixture) -> None:
    gate = site.gated()
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    before = children_of(os.getpid())
    with working(site):
        until(gate.reached.is_set, "the build did not come to its downloads", 60)
        below = children_of(os.getpid()) - before
        assert len(below) >= 2
        canceled = site.builds.cancel(build.id)
        assert canceled.status is BuildStatus.CANCELED
        until(lambda: not alive(below), "the processes live on", 10)
        ended = site.ended(build)
    assert (ended.status, ended.image) == (BuildStatus.CANCELED, None)
    assert "canceled" in site.log(ended)
    assert [each.getMessage() for each in caplog.records if each.name == "dbos"] == []
    assert site.builds.cancel(build.id) == ended
    actions = [each.change.action for each in site.hosted.site.store.audit(None, limit=1000)]
    assert actions.count("build.cancel") == 1


def test_what_was_canceled_in_the_queue_is_never_begun(site: BuildSite) -> None:
    first = site.builds.request(site.version("train", "alpha"), AMD64)
    second = site.builds.request(site.version("score", "beta"), AMD64)
    site.builds.cancel(first.id)
    assert [each.id for each in site.hosted.queue.tasks(TaskKind.BUILD)] == [second.id]
    with working(site):
        site.ended(second)
    ended = site.builds.get(first.id)
    assert (ended.status, ended.attempts) == (BuildStatus.CANCELED, 0)
    assert site.builds.request(site.services.environments.version(_reference("train")), AMD64).id != first.id


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (replace(LIMITS, build=1.0), "it took longer than 1 seconds, the limit of a build"),
        (replace(LIMITS, step=0.5), "'Fetching 3 wheels' took longer than 0.5 seconds, the limit of a step"),
    ],
    ids=["build", "step"],
)
def test_a_build_that_takes_too_long_is_ended(site: BuildSite, limits: Limits, text: str) -> None:
    gate = site.gated()
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    if "wheels" in text:
        # So that no other step takes long.
        site.services.locking.lock(site.services.environments.version(_reference("train")), AMD64, progress=Silent())
    with working(site, limits):
        ended = site.ended(build)
        assert not gate.opened.is_set()
    assert (ended.status, ended.error, ended.attempts) == (BuildStatus.FAILED, text, 1)
    assert text in site.log(ended)


def test_smaller_numbers_come_first(site: BuildSite) -> None:
    asked = [
        site.builds.request(site.version(f"train{priority}", "alpha"), AMD64, priority=priority)
        for priority in (90, 10, 50)
    ]
    with working(site, replace(LIMITS, concurrency=1)):
        ended = [site.ended(each) for each in asked]
    begun = sorted(ended, key=lambda each: each.started_at)
    assert [each.priority for each in begun] == [10, 50, 90]


def test_a_namespace_has_no_more_builds_at_once_than_its_limit(site: BuildSite) -> None:
    gate = site.gated()
    asked = [site.builds.request(site.version(f"train{number}", "alpha"), AMD64) for number in range(3)]
    with working(site, replace(LIMITS, concurrency=3, per_scope=1)):
        until(gate.reached.is_set, "no build came to its downloads", 60)
        until(lambda: site.hosted.build_states() == {"queued": 2, "running": 1}, "more than one runs", 5)
        gate.opened.set()
        ended = sorted((site.ended(each) for each in asked), key=lambda each: each.started_at)
    for before, after in pairwise(ended):
        assert before.ended_at is not None
        assert before.ended_at <= after.started_at


def test_a_process_that_is_killed_fails_its_build_and_says_so(site: BuildSite) -> None:
    gate = site.gated()
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    before = children_of(os.getpid())
    with working(site):
        until(gate.reached.is_set, "the build did not come to its downloads", 60)
        for pid in children_of(os.getpid()) - before:
            if "mlenv.child" in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                os.kill(pid, 9)
        ended = site.ended(build)
    assert ended.status is BuildStatus.FAILED
    assert ended.error == "its process died by signal 9: out of memory, perhaps"


def test_a_build_whose_worker_dies_each_time_fails_in_the_end(site: BuildSite) -> None:
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    for attempt in (1, 2):
        begun = site.builds.begin(build.id, most=2)
        assert begun is not None
        assert begun.attempts == attempt
    assert site.builds.begin(build.id, most=2) is None
    ended = site.builds.get(build.id)
    assert (ended.status, ended.attempts) == (BuildStatus.FAILED, 2)
    assert ended.error == "its worker died each time it was begun, 2 times"


def test_a_worker_that_was_taken_for_dead_can_not_end_the_build(site: BuildSite) -> None:
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    old = site.builds.begin(build.id, most=5)
    new = site.builds.begin(build.id, most=5)
    assert old is not None
    assert new is not None
    assert not site.builds.end(old, BuildStatus.FAILED, error="no")
    assert not site.builds.put_back(old)
    assert not site.builds.note_steps(old, ())
    assert site.builds.get(build.id) == new
    assert site.builds.end(new, BuildStatus.CANCELED)
    assert not site.builds.end(new, BuildStatus.SUCCEEDED)
    assert site.builds.get(build.id).status is BuildStatus.CANCELED


def test_a_build_that_is_not_in_the_queue_is_put_there(site: BuildSite) -> None:
    build = site.builds.request(site.version("train", "alpha"), AMD64)
    queue, task = site.hosted.queue, Task(TaskKind.BUILD, site.services.scope.key, build.id)
    assert queue.ensure([(task, 0, 50)]) == 0
    queue.close()
    for path in site.hosted.home.glob("queue.db*"):
        path.unlink()
    assert queue.ensure([(task, 0, 50)]) == 1
    assert queue.ensure([(task, 0, 50)]) == 0
    queue.remove(task)
    assert queue.ensure([(task, 0, 50)]) == 1, "an attempt that ended without a word was not repeated"
    with working(site):
        assert site.ended(build).status is BuildStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda site, version: site.builds.request(version, AMD64, priority=0), InvalidBuildOptions),
        (lambda site, version: site.builds.request(version, AMD64, priority=101), InvalidBuildOptions),
        (lambda site, version: site.builds.get("0" * 32), BuildNotFound),
        (lambda site, version: site.builds.cancel("0" * 32), BuildNotFound),
        (
            lambda site, version: site.hosted.services(site.services.scope, None).builds.request(version, AMD64),
            NoAuthor,
        ),
    ],
)
def test_what_is_refused(site: BuildSite, ask: Callable[[BuildSite, object], object], error: type[MlenvError]) -> None:
    version = site.version("train", "alpha")
    with pytest.raises(error):
        ask(site, version)
    assert site.builds.list(limit=10) == []


def test_options_other_than_the_locks_are_a_conflict_at_once(site: BuildSite) -> None:
    version = site.version("train", "alpha")
    site.services.locking.lock(version, AMD64, progress=Silent())
    with pytest.raises(LockDiffers):
        site.builds.request(version, AMD64, options=LockOptions(bytecode=False))
    assert site.builds.list(limit=10) == []


def test_lists_are_paged_and_filtered(site: BuildSite) -> None:
    asked = [site.builds.request(site.version(f"train{number}", "alpha"), AMD64) for number in range(5)]
    site.builds.cancel(asked[2].id)
    found, after = [], None
    while page := site.builds.list(limit=2, after=after):
        found += page
        after = page[-1].started_at, page[-1].id
    assert [each.id for each in found] == [each.id for each in reversed(asked)]
    assert [each.id for each in site.builds.list(limit=9, status=BuildStatus.CANCELED)] == [asked[2].id]
    of = asked[1].name, asked[1].version
    assert [each.id for each in site.builds.list(limit=9, of=of)] == [asked[1].id]
    assert site.builds.list(limit=9, of=of, status=BuildStatus.RUNNING) == []


def _reference(name: str) -> Reference:
    return Reference(parse_name(name), parse_version("1"))
