"""Jobs: the way they may go, who may take them there, and what becomes of their commands."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlenv.core.audit import Author
from mlenv.core.environment import Definition, View
from mlenv.core.jobs import Job, JobEnded, JobRequest, JobRun, JobStatus, UnknownInput, expand
from mlenv.core.reference import InvalidName, Reference, parse_name, parse_version
from mlenv.core.scope import Scope, ScopeKey, ScopeKind
from mlenv.core.spec import Spec
from mlenv.errors import Forbidden
from mlenv.service.assets import InvalidAsset, MissingEnvironment
from mlenv.service.jobs import JobExists, Jobs, MissingCode, log_id
from mlenv.wiring.hosted import Hosted, InScope
from mlenv.work.job_child import NoCode, code_place
from mlenv.work.job_run import UnsafePath, place_code

_NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_TEAM = Scope(ScopeKind.WORKSPACE, "team", "00000000-0000-0000-0000-000000000001", "sub", "rg", "local", _NOW)
_BARE = Reference.parse("bare:1")


class Queue:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def enqueue_job(self, scope: ScopeKey, name: str) -> None:
        self.told.append(f"enqueue {scope}/{name}")

    def cancel_job(self, scope: ScopeKey, name: str) -> None:
        self.told.append(f"cancel {scope}/{name}")


@pytest.fixture(params=["sqlite", "postgresql"])
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InScope]:
    database = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    with Hosted(tmp_path, database) as hosted:
        made = hosted.services(_TEAM, Author("1", "ada"))
        made.environments.create(Definition(parse_name("bare"), Spec(image="debian:12"), parse_version("1")))
        yield made


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def jobs(services: InScope, queue: Queue) -> Jobs:
    return Jobs(
        _TEAM.key,
        services.assets,
        lambda: queue,
        lambda: services.hosted.logs,
        lambda _: None,
        lambda: datetime.now(UTC),
    )


def _request(name: str = "job-1", command: str = "echo hi") -> JobRequest:
    return JobRequest(name, command, "", "", variables={"A": "b"}, timeout=5.0, sent={"jobType": "Command"})


def _job(status: JobStatus) -> Job:
    return Job(_request(), status, JobRun(), False, 1, _NOW, _NOW)


@pytest.mark.parametrize("status", [each for each in JobStatus if each.ended])
@pytest.mark.parametrize("other", list(JobStatus))
def test_what_has_ended_stays_as_it_is(status: JobStatus, other: JobStatus) -> None:
    with pytest.raises(JobEnded, match=f"it is {status}"):
        _job(status).at(other, now=_NOW)


def test_a_job_goes_one_way() -> None:
    order = [each for each in JobStatus if not each.ended]
    for place, status in enumerate(order):
        assert [status.may_become(other) for other in order] == [n > place for n in range(len(order))]
        assert status.may_become(JobStatus.CANCELED)


def test_a_request_survives_being_kept(jobs: Jobs) -> None:
    request = JobRequest(
        "job-1", "echo", "", "", inputs={"x": "1", "y": None}, outputs=("m",), variables={"A": "b"}, tags={"t": "u"},
        timeout=1.5, experiment="e", display_name="d", description="f", properties={"p": "q"}, sent={"z": [1]},
    )  # fmt: skip
    made = jobs.create(request, _BARE).job
    assert jobs.get("job-1") == made
    kept = jobs.get("job-1").request
    assert (kept.environment, kept.namespace) == ("bare:1", "team")
    assert JobRequest.from_dict("job-1", kept.to_dict()) == kept


def test_a_new_job_is_queued_once(jobs: Jobs, queue: Queue) -> None:
    first = jobs.create(_request(), _BARE)
    again = jobs.create(_request(), _BARE)
    assert (first.new, again.new) == (True, False)
    assert first.job.status is JobStatus.QUEUED
    assert queue.told == ["enqueue team/job-1"]
    with pytest.raises(JobExists):
        jobs.create(_request(command="echo else"), _BARE)


def test_many_who_submit_one_job_make_one(jobs: Jobs, queue: Queue) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: jobs.create(_request(), _BARE), range(16)))
    assert sum(each.new for each in made) == 1
    assert queue.told == ["enqueue team/job-1"]


def test_what_is_not_there_or_makes_no_sense_is_refused(jobs: Jobs, queue: Queue) -> None:
    with pytest.raises(MissingEnvironment):
        jobs.create(_request(), Reference.parse("bare:2"))
    with pytest.raises(MissingCode):
        jobs.create(JobRequest("job-1", "echo", "", "", code=("none", "1")), _BARE)
    with pytest.raises(InvalidName):
        jobs.create(_request("a:b"), _BARE)
    with pytest.raises(InvalidAsset, match="no command"):
        jobs.create(_request(command="  "), _BARE)
    with pytest.raises(UnknownInput):
        jobs.create(_request(command="echo ${{inputs.x}}"), _BARE)
    with pytest.raises(InvalidAsset, match="environment variable"):
        jobs.create(JobRequest("job-1", "echo", "", "", variables={"A=B": "c"}), _BARE)
    assert queue.told == []
    assert jobs.list(View.ALL, limit=10) == []


def test_a_canceled_job_never_runs(jobs: Jobs, queue: Queue) -> None:
    job = jobs.create(_request(), _BARE).job
    begun = jobs.begin(job.name)
    assert begun is not None
    assert jobs.cancel(job.name).status is JobStatus.CANCELED
    assert jobs.advance(begun, JobStatus.RUNNING) is None
    assert jobs.advance(begun, JobStatus.COMPLETED, exit_code=0) is None
    assert not jobs.put_back(begun)
    assert jobs.begin(job.name) is None
    after = jobs.get(job.name)
    assert (after.status, after.run.exit_code) == (JobStatus.CANCELED, None)
    assert after.run.ended_at is not None
    assert queue.told[-1] == "cancel team/job-1"


def test_a_job_that_has_ended_is_not_canceled(jobs: Jobs) -> None:
    jobs.create(_request(), _BARE)
    begun = jobs.begin("job-1")
    assert begun is not None
    jobs.advance(begun, JobStatus.COMPLETED, exit_code=0)
    assert jobs.cancel("job-1").status is JobStatus.COMPLETED


def test_of_two_workers_the_later_one_has_the_job(jobs: Jobs) -> None:
    jobs.create(_request(), _BARE)
    first, second = jobs.begin("job-1"), jobs.begin("job-1")
    assert first is not None
    assert second is not None
    assert (first.run.attempts, second.run.attempts) == (1, 2)
    assert jobs.advance(first, JobStatus.RUNNING) is None
    assert jobs.advance(second, JobStatus.RUNNING) is not None


def test_a_command_that_was_begun_is_not_begun_again(jobs: Jobs) -> None:
    jobs.create(_request(), _BARE)
    begun = jobs.begin("job-1")
    assert begun is not None
    jobs.advance(begun, JobStatus.RUNNING)
    assert jobs.begin("job-1") is None
    after = jobs.get("job-1")
    assert after.status is JobStatus.FAILED
    assert "was not run again" in (after.run.error or "")


def test_a_job_whose_worker_leaves_waits_again(jobs: Jobs) -> None:
    jobs.create(_request(), _BARE)
    begun = jobs.begin("job-1")
    assert begun is not None
    assert jobs.put_back(begun)
    assert jobs.get("job-1").status is JobStatus.QUEUED
    assert jobs.begin("job-1") is not None


def test_jobs_that_have_not_ended_can_be_found(services: InScope, jobs: Jobs) -> None:
    for name in ("one", "two"):
        jobs.create(_request(name), _BARE)
    jobs.cancel("one")
    later = datetime(2100, 1, 1, tzinfo=UTC)
    assert services.hosted.jobs_waiting(before=later, limit=10) == [("team", "two", 0)]
    assert services.hosted.jobs_waiting(before=_NOW.replace(year=2000), limit=10) == []


def test_archived_jobs_are_hidden_and_stay(jobs: Jobs) -> None:
    jobs.create(_request("one"), _BARE)
    jobs.create(_request("two"), _BARE)
    jobs.set_archived("one", True)
    assert [each.name for each in jobs.list(View.ACTIVE, limit=10)] == ["two"]
    assert [each.name for each in jobs.list(View.ARCHIVED, limit=10)] == ["one"]
    assert jobs.get("one").archived


def test_a_log_is_read_as_it_grows_and_when_it_is_a_blob(services: InScope, jobs: Jobs) -> None:
    jobs.create(_request(), _BARE)
    assert (jobs.log("job-1", limit=10), jobs.log_size("job-1")) == (b"", 0)
    id = log_id(_TEAM.key, "job-1")
    services.hosted.logs.path(id).write_bytes(b"one two three")
    assert jobs.log("job-1", start=4, limit=3) == b"two"
    assert not jobs.log_state("job-1").whole
    jobs.cancel("job-1")
    digest = services.hosted.logs.keep(id)
    assert digest is not None
    jobs.keep_log("job-1", digest)
    services.hosted.logs.forget(id)
    assert jobs.log("job-1", start=8, limit=100) == b"three"
    assert jobs.log_state("job-1").whole


def test_what_was_opened_for_reading_does_not_cancel(services: InScope, jobs: Jobs) -> None:
    jobs.create(_request(), _BARE)
    with pytest.raises(Forbidden):
        services.hosted.services(_TEAM, None).jobs.cancel("job-1")
    assert jobs.get("job-1").status is JobStatus.QUEUED


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("echo ${{inputs.x}} ${{ inputs.x }}", "echo 1 1"),
        ("train > ${{outputs.m}}/log", "train > /out/log"),
        ("run $[[--rate ${{inputs.none}}]] end", "run  end"),
        ("run $[[--rate ${{inputs.x}}]]", "run --rate 1"),
        ("echo $x ${y} $(z)", "echo $x ${y} $(z)"),
    ],
)
def test_values_are_put_into_commands(command: str, expected: str) -> None:
    assert expand(command, {"x": "1", "none": None}, {"m": "/out"}) == expected


@pytest.mark.parametrize("command", ["${{inputs.y}}", "${{search_space.x}}", "${{outputs.x}}", "${{inputs.none}}"])
def test_what_a_command_asks_for_must_be_there(command: str) -> None:
    with pytest.raises(UnknownInput, match=re.escape(command)):
        expand(command, {"x": "1", "none": None}, {"m": "/out"})


def test_code_is_put_in_place(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_text("print()")
    place_code(tmp_path / "code", [("a.py", source), ("b/c/d.py", source)])
    assert (tmp_path / "code" / "b" / "c" / "d.py").read_text() == "print()"


@pytest.mark.parametrize(
    "names", [["../a"], ["/etc/a"], ["a/../../b"], [""], ["a", "a/b"], ["a\\b"], ["a", "a"], ["a\0b"], ["a/b", "a"]]
)
def test_code_stays_in_its_place(tmp_path: Path, names: list[str]) -> None:
    source = tmp_path / "blob"
    source.write_text("evil")
    with pytest.raises(UnsafePath):
        place_code(tmp_path / "code", [(name, source) for name in names])
    assert sorted(each.name for each in tmp_path.iterdir()) in (["blob"], ["blob", "code"])


def test_code_is_found_by_its_address() -> None:
    assert code_place("https://127.0.0.1:1/blobs/box/a/b%20c/") == ("box", "a/b%20c/")
    assert code_place("https://127.0.0.1:1/blobs/box/a#b/c?d/") == ("box", "a#b/c?d/")
    assert code_place("https://127.0.0.1:1/blobs/box/a/blobs/b/c") == ("box", "a/blobs/b/c/")
    for signature in ("?sig=1", "?sv=2022-11-02&sr=c&sig=a%2Fb%3D"):
        assert code_place(f"https://127.0.0.1:1/base/blobs/box/a{signature}") == ("box", "a/")
    for elsewhere in ("https://example.org/code", "azureml://x", "", "/blobs/"):
        with pytest.raises(NoCode):
            code_place(elsewhere)
