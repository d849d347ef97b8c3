"""Use cases of command jobs: create, find, list, cancel, archive; and for workers, how a job goes on and ends."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.assets import Asset, AssetKind, AssetNotFound
from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion, View
from mlenv.core.jobs import Job, JobRequest, JobRun, JobStatus, expand
from mlenv.core.reference import Reference
from mlenv.core.scope import ScopeKey
from mlenv.errors import Conflict, InvalidInput, MlenvError, NotFound
from mlenv.service.assets import Assets, Elsewhere, InvalidAsset
from mlenv.service.builds import LOG_GRACE, LogState

if TYPE_CHECKING:
    from mlenv.service.builds import BuildLogs
    from mlenv.service.interface import Clock

T = TypeVar("T")

#: Most bytes of a command.
COMMAND_LIMIT: Final = 128 * 1024
#: Most environment variables, and most bytes of one.
VARIABLE_LIMIT: Final = 1000
VARIABLE_SIZE_LIMIT: Final = 128 * 1024


class JobQueue(Protocol):
    """Where jobs wait for a worker."""

    def enqueue_job(self, scope: ScopeKey, name: str) -> None:
        """Have a worker run a job. A job that is there already is not queued again."""

    def cancel_job(self, scope: ScopeKey, name: str) -> None:
        """Take a job from the queue, or stop its whole process tree wherever it runs. No error if it is not there."""


class JobExists(Conflict):
    """A job of that name is there, and it does something else."""

    hint = "jobs are not changed: choose another name, or leave it out to get one"

    def __init__(self, name: str) -> None:
        super().__init__(f"a job with the name {name!r} exists already and cannot be changed")
        self.name = name


class MissingCode(InvalidInput):
    """A job refers to code that is not there."""

    hint = "upload the code first, or refer to code that is there"

    def __init__(self, missing: AssetNotFound) -> None:
        super().__init__(str(missing))


class Submitted(Struct, frozen=True):
    """A job, and whether it is new."""

    job: Job
    new: bool


class Jobs:
    """The jobs of one workspace."""

    def __init__(
        self,
        scope: ScopeKey,
        assets: Assets,
        queue: "Callable[[], JobQueue]",
        logs: "Callable[[], BuildLogs]",
        first_use: Callable[[EnvironmentVersion], None],
        clock: "Clock",
    ) -> None:
        """
        Args:
            first_use: Called when a job uses an environment version of this namespace: has an image of it built.
        """
        self._scope = scope
        self._assets = assets
        self._queue = queue
        self._logs = logs
        self._first_use = first_use
        self._clock = clock

    def create(
        self, request: JobRequest, environment: Reference, *, elsewhere: Elsewhere | None = None, archived: bool = False
    ) -> Submitted:
        """
        Submit a job, or say that it was submitted before; then only tags, description, display name and whether it is
        archived are taken over.

        Args:
            request: With anything as `environment` and `namespace`: they come from the next argument.
            environment: The version it is to run in.

        Raises:
            MissingEnvironment, MissingCode: There is no such version, or no such code.
            InvalidName, InvalidAsset, UnknownInput: It can't be run as it is.
            JobExists: There is a job of that name that does something else.
        """
        self._check(request)
        if request.code is not None:
            try:
                self._assets.get(AssetKind.CODE, *request.code)
            except AssetNotFound as error:
                raise MissingCode(error) from error
        written, version = self._assets.environment(environment, elsewhere)
        other = elsewhere(environment) if elsewhere is not None else None
        request = replace(request, environment=written, namespace=self._scope if other is None else other.scope.key)
        with suppress(AssetNotFound):
            return Submitted(self._again(self.get(request.name), request, archived), False)
        saved = self._assets.put(
            AssetKind.JOB,
            request.name,
            "",
            _document(request, JobRun()),
            environment=environment,
            elsewhere=elsewhere,
            status=JobStatus.NOT_STARTED,
            archived=archived,
        )
        if not saved.new:
            return Submitted(self._again(to_job(saved.asset), request, archived), False)
        if other is None:
            # An image is not needed to run here; a base image that can't be had must not stop the job.
            with suppress(MlenvError):
                self._first_use(version)
        # NOTE: should this process die here, a worker finds the job in the rows and queues it.
        self._queue().enqueue_job(self._scope, request.name)
        return Submitted(self._change(request.name, _queued), True)

    def get(self, name: str) -> Job:
        """One job. Raises `AssetNotFound`."""
        return to_job(self._assets.get(AssetKind.JOB, name))

    def list(self, view: View = View.ACTIVE, *, limit: int, after: int | None = None) -> list[Job]:
        """One page of jobs, the newest first; `after` is the `sequence` of the last one of the page before."""
        return [to_job(each) for each in self._assets.list(AssetKind.JOB, view, limit=limit, after=after)]

    def cancel(self, name: str) -> Job:
        """
        Cancel a job. One that has ended stays as it is.

        Raises:
            AssetNotFound: There is none.
        """
        job = self._change(name, lambda job: job if job.status.ended else self._at(job, JobStatus.CANCELED))
        if job.status is JobStatus.CANCELED:
            self._queue().cancel_job(self._scope, name)
        return job

    def set_archived(self, name: str, archived: bool) -> Job:
        """Archive or restore a job. Raises `AssetNotFound`."""
        return self._change(name, lambda job: replace(job, archived=archived))

    def describe(
        self,
        name: str,
        *,
        display_name: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Job:
        """Change what people read of a job; None leaves it, tags and properties are added. Raises `AssetNotFound`."""

        def edit(job: Job) -> Job:
            request = job.request
            new = replace(
                request,
                display_name=request.display_name if display_name is None else display_name,
                description=request.description if description is None else description,
                tags={**request.tags, **(tags or {})},
                properties={**request.properties, **(properties or {})},
            )
            return replace(job, request=new)

        return self._change(name, edit)

    # Logs.

    def log_size(self, name: str) -> int:
        """How many bytes of log there are so far; none of a job that was not begun. Raises `AssetNotFound`."""
        return self._in_log(name, lambda logs, id, kept: logs.size(id, kept), 0)

    def log_state(self, name: str) -> LogState:
        """How far its log has come. Raises `AssetNotFound`."""
        job = self.get(name)
        whole = job.status.ended and job.run.log is not None
        size = self.log_size(name)
        if job.status.ended and job.run.ended_at is not None:
            # The worker that should have closed it is gone, or never was.
            whole = whole or self._clock() - job.run.ended_at > LOG_GRACE
        return LogState(size, job.status, whole)

    def log(self, name: str, *, start: int = 0, limit: int) -> bytes:
        """At most `limit` bytes of its log from `start` on; empty where it ends for now. Raises `AssetNotFound`."""
        return self._in_log(name, lambda logs, id, kept: logs.read(id, kept, start=start, limit=limit), b"")

    # For workers. What a worker does is written down only while the job is its own: the attempt it began.

    def begin(self, name: str) -> Job | None:
        """
        A worker takes the job. None if it is not to be run: it has ended, or ends now, because its command was begun by
        a worker that is gone, and may not be safe to repeat.

        Whoever calls has it from the queue, and so knows that no other worker has it.

        Raises:
            AssetNotFound: There is none.
        """
        job = self._change(name, self._begun)
        return None if job.status.ended else job

    def advance(self, job: Job, status: JobStatus, **facts: Any) -> Job | None:
        """
        Take a worker's job on, with facts of `JobRun`; None if it has ended meanwhile, or is not the worker's any more.

        Raises:
            AssetNotFound: There is none.
        """
        done: list[bool] = []

        def edit(stored: Job) -> Job:
            done.clear()
            if stored.run.attempts != job.run.attempts or not stored.status.may_become(status):
                return stored
            done.append(True)
            return self._at(stored, status, **facts)

        changed = self._change(job.name, edit)
        return changed if done else None

    def put_back(self, job: Job) -> bool:
        """Let a job wait again whose command was not begun: its worker leaves. False if it is not the worker's any more."""
        done: list[bool] = []

        def edit(stored: Job) -> Job:
            done.clear()
            if stored.run.attempts != job.run.attempts or stored.status is not JobStatus.PREPARING:
                return stored
            done.append(True)
            return replace(stored, status=JobStatus.QUEUED)

        self._change(job.name, edit)
        return bool(done)

    def keep_log(self, name: str, log: Digest) -> None:
        """Name the blob that holds the log of a job that has ended."""
        self._change(name, lambda job: replace(job, run=replace(job.run, log=str(log))) if job.status.ended else job)

    # Steps of the above.

    def _in_log(self, name: str, look: "Callable[[BuildLogs, str, Digest | None], T]", nothing: T) -> T:
        id = log_id(self._scope, name)
        # The file may have become a blob between the two looks.
        for _ in range(2):
            kept = self.get(name).run.log
            with suppress(NotFound):
                return look(self._logs(), id, None if kept is None else Digest.parse(kept))
        return nothing

    def _begun(self, job: Job) -> Job:
        if job.status.ended:
            return job
        if job.status in {JobStatus.RUNNING, JobStatus.FINALIZING}:
            error = "the worker that ran the command is gone; the command was not run again"
            return self._at(job, JobStatus.FAILED, error=error)
        if job.status is JobStatus.PREPARING:
            return replace(job, run=replace(job.run, attempts=job.run.attempts + 1))
        return self._at(job, JobStatus.PREPARING, attempts=job.run.attempts + 1)

    def _again(self, job: Job, request: JobRequest, archived: bool) -> Job:
        if _doing(job.request) != _doing(request):
            raise JobExists(job.name)
        sent = {**job.request.sent, **request.sent}
        kept = replace(
            job.request,
            tags=request.tags,
            description=request.description,
            display_name=request.display_name or job.request.display_name,
            sent=sent,
        )
        return self._change(job.name, lambda stored: replace(stored, request=kept, archived=archived))

    def _at(self, job: Job, status: JobStatus, **facts: Any) -> Job:
        return job.at(status, now=self._clock(), **facts)

    def _change(self, name: str, edit: Callable[[Job], Job]) -> Job:
        def changed(asset: Asset) -> Asset:
            job = edit(to_job(asset))
            document = _document(job.request, job.run)
            return replace(asset, status=job.status.value, archived=job.archived, document=document)

        return to_job(self._assets.update(AssetKind.JOB, name, "", changed))

    def _check(self, request: JobRequest) -> None:
        def refuse(why: str) -> InvalidAsset:
            return InvalidAsset(AssetKind.JOB, request.name, why)

        if not request.command.strip():
            raise refuse("has no command")
        if "\0" in request.command or len(request.command.encode("utf-8", "replace")) > COMMAND_LIMIT:
            raise refuse(f"has a NUL character in its command, or more than {COMMAND_LIMIT} bytes of it")
        if len(request.variables) > VARIABLE_LIMIT:
            raise refuse(f"has more than {VARIABLE_LIMIT} environment variables")
        for name, value in request.variables.items():
            if not name or "=" in name or "\0" in name + value or len(value) > VARIABLE_SIZE_LIMIT:
                raise refuse(f"has an environment variable that no process can have: {name[:100]!r}")
        expand(request.command, request.inputs, dict.fromkeys(request.outputs, "outputs"))


def log_id(scope: ScopeKey, name: str) -> str:
    """What the log of a job is called where logs are kept."""
    return f"job-{Digest.of(f'{scope}/{name}'.encode()).hex[:40]}"


def to_job(asset: Asset) -> Job:
    """A job, from the asset that it is kept as."""
    document = asset.document
    return Job(
        request=JobRequest.from_dict(asset.name, document["request"]),
        status=JobStatus(asset.status or JobStatus.NOT_STARTED),
        run=JobRun.from_dict(document["run"]),
        archived=asset.archived,
        sequence=asset.sequence,
        created_at=asset.created_at,
        modified_at=asset.modified_at,
    )


def _document(request: JobRequest, run: JobRun) -> dict[str, Any]:
    return {"request": request.to_dict(), "run": run.to_dict()}


def _queued(job: Job) -> Job:
    """Queued, unless a worker was quicker."""
    return replace(job, status=JobStatus.QUEUED) if job.status is JobStatus.NOT_STARTED else job


def _doing(request: JobRequest) -> tuple[Any, ...]:
    """What decides what a job does."""
    return (
        request.command,
        request.environment,
        request.namespace,
        request.code,
        dict(request.inputs),
        request.outputs,
        dict(request.variables),
    )
