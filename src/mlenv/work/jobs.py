"""
The worker's side of a job: a process is started for it, watched, and ended when the job is canceled or takes too long.

What the process writes is the job's log, byte for byte.
"""

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from mlenv.core.assets import AssetNotFound
from mlenv.core.jobs import Job, JobStatus
from mlenv.core.redact import redact
from mlenv.errors import MlenvError, Unavailable
from mlenv.run.process import Ended
from mlenv.service.jobs import Jobs, log_id
from mlenv.work.child import DATABASE
from mlenv.work.hosting import Hosting
from mlenv.work.job_child import JobOrder, author_of
from mlenv.work.leaving import Left, persist
from mlenv.work.logs import Room
from mlenv.work.process import Process
from mlenv.work.queue import Task

_log = logging.getLogger("mlenv.work")

#: Seconds between two looks at whether a job was canceled.
_LOOK: Final = 0.25
#: How long a job's environment may take to be there, in seconds.
PREPARATION_TIMEOUT: Final = 3600.0
#: How long a job may take if it doesn't say, in seconds: two days.
DEFAULT_TIMEOUT: Final = 48 * 3600.0
#: Seconds that a job's processes have between SIGTERM and SIGKILL.
_GRACE: Final = 5.0
#: The longest report that is believed, in bytes.
_REPORT: Final = 1 << 16


class _Outcome(Struct, frozen=True):
    """What came of an attempt. `status` is None where it is to wait again, or where it was canceled."""

    status: JobStatus | None
    error: str | None = None
    exit_code: int | None = None
    again: bool = False


class _Reports:
    """What a job's process says of itself: one JSON object a line. The last word on each thing counts."""

    def __init__(self) -> None:
        self._rest = b""
        self.said: dict[str, Any] = {}

    def __call__(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[-_REPORT:]
        for line in lines:
            with suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    self.said = self.said | said


class _Output:
    """The log of a job, as it grows."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self._file = path.open("ab", buffering=0)
        self._guard = threading.Lock()
        self._room = Room(self._file.tell(), limit)

    def write(self, chunk: bytes) -> None:
        with self._guard:
            data, notice = self._room.take(chunk)
            self._write(data)
            if notice is not None:
                self._write(f"\n{notice}\n".encode())

    def say(self, text: str) -> None:
        with self._guard:
            self._write(f"mlenv: {text}\n".encode("utf-8", "replace"))

    def _write(self, content: bytes) -> None:
        data = memoryview(content)
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        self._file.close()


class JobWork:
    """Runs jobs that were taken from the queue, in as many threads as call."""

    def __init__(self, hosted: Hosting, leaving: threading.Event, log: int | None = None) -> None:
        """
        Args:
            log: Most bytes of a job's log; None for no limit.
            leaving: Whether this worker is to end. Jobs whose command was not begun wait for another one.
        """
        self._hosted, self._leaving, self._log_limit = hosted, leaving, log
        self._directory = hosted.home / "jobs"

    def __call__(self, task: Task) -> None:
        """
        Run a job to its end. What goes wrong with it is written down with it, and in its log.

        Raises:
            Left: The store does not answer, and this process leaves.
        """
        scope = persist(lambda: self._hosted.site.store.scope(task.scope), self._leaving)
        if scope is None:
            return
        jobs, id = self._hosted.services(scope, author_of(task.id)).jobs, log_id(task.scope, task.id)
        try:
            job = persist(lambda: jobs.begin(task.id), self._leaving)
        except AssetNotFound:
            return
        # What an attempt left behind whose worker died: nobody else has the job now.
        for each in self._directory.glob(f"{id}-*"):
            shutil.rmtree(each, ignore_errors=True)
        if job is None:
            self._end_log(jobs, task.id, id)
            return
        outcome = self._run(jobs, task, job, id)
        if outcome.again:
            if self._hand_over(task, job, jobs):
                return
            # The command was begun between our last look at it and the end of its process.
            outcome = _Outcome(JobStatus.FAILED, "the worker that ran the command left; the command was not run again")
        status = outcome.status
        if status is not None:
            persist(lambda: jobs.advance(job, status, error=outcome.error, exit_code=outcome.exit_code), self._leaving)
        self._end_log(jobs, task.id, id)

    def _run(self, jobs: Jobs, task: Task, job: Job, id: str) -> _Outcome:
        place = self._directory / f"{id}-{job.run.attempts}"
        try:
            with closing(_Output(self._hosted.logs.path(id), self._log_limit)) as output:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                outcome = self._watch(jobs, task, job, place, output)
                if outcome.error is not None:
                    # Where the log takes no more, the record says it.
                    with suppress(OSError):
                        output.say(f"error: {outcome.error}")
        except OSError as error:
            _log.exception("job %s could not be run", job.name)
            outcome = _Outcome(JobStatus.FAILED, f"the worker could not run the job: {error.strerror}")
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return outcome

    def _watch(self, jobs: Jobs, task: Task, job: Job, place: Path, output: _Output) -> _Outcome:
        reports = _Reports()
        environment = {name: value for name, value in os.environ.items() if name != DATABASE}
        if self._hosted.url is not None:
            environment[DATABASE] = self._hosted.url
        order = JobOrder(str(self._hosted.home), task.scope, task.id, str(place), asdict(self._hosted.policy))
        process = Process(
            [sys.executable, "-m", "mlenv.child", "job"],
            environment=environment,
            stdin=order.to_json(),
            output=output.write,
            reports=reports,
            grace=_GRACE,
        )
        phase, limit = JobStatus.PREPARING, PREPARATION_TIMEOUT
        begun, stopped = time.monotonic(), None
        while (ended := process.wait(_LOOK)) is None:
            said = JobStatus(reports.said.get("status", phase))
            if said is not phase:
                phase, begun = said, time.monotonic()
                limit = job.request.timeout or DEFAULT_TIMEOUT if said is JobStatus.RUNNING else PREPARATION_TIMEOUT
                if said is JobStatus.FINALIZING:
                    with suppress(Unavailable):
                        jobs.advance(job, said)
            if stopped is None:
                stopped = self._reason_to_stop(jobs, job, phase, limit if time.monotonic() - begun > limit else None)
                if stopped is not None:
                    process.stop()
        if stopped is None or (stopped.again and "exit_code" in reports.said):
            return _outcome(reports.said, ended)
        return stopped

    def _reason_to_stop(self, jobs: Jobs, job: Job, phase: JobStatus, passed: float | None) -> _Outcome | None:
        """Why a job is not to go on. `passed` is a limit that was passed, in seconds."""
        if passed is not None:
            what = {JobStatus.RUNNING: "the command", JobStatus.FINALIZING: "keeping the outputs"}.get(phase)
            what = what or "the preparation of the environment"
            return _Outcome(JobStatus.FAILED, f"{what} took longer than its limit of {passed:g} s, and was ended")
        if phase is JobStatus.PREPARING and self._leaving.is_set():
            return _Outcome(None, again=True)
        with suppress(Unavailable, AssetNotFound):
            stored = jobs.get(job.name)
            if stored.status.ended or stored.run.attempts != job.run.attempts:
                return _Outcome(None, "canceled" if stored.status is JobStatus.CANCELED else None)
        return None

    def _hand_over(self, task: Task, job: Job, jobs: Jobs) -> bool:
        """
        Give a job back to the queue; False if its command was begun.

        Raises:
            Left: The database does not answer; those who find us gone take the job.
        """
        try:
            if not jobs.put_back(job):
                return jobs.get(job.name).status.ended
            self._hosted.queue.put(task, str(job.run.attempts))
            return True
        except Unavailable:
            raise Left from None

    def _end_log(self, jobs: Jobs, name: str, id: str) -> None:
        """Make a blob of the log. What fails here fails nothing: the file stays, and is read."""
        try:
            if (log := self._hosted.logs.keep(id)) is not None:
                jobs.keep_log(name, log)
                self._hosted.logs.forget(id)
        except (MlenvError, OSError) as error:
            _log.warning("the log of job %s stays a file: %s", name, redact(str(error)))


def _outcome(said: Mapping[str, Any], ended: Ended) -> _Outcome:
    """What the process said of its end; or, if it could not, what its end tells."""
    error, exit_code, number = said.get("error"), said.get("exit_code"), said.get("signal")
    if error is not None:
        return _Outcome(JobStatus.FAILED, str(error))
    if exit_code == 0:
        return _Outcome(JobStatus.COMPLETED, exit_code=0)
    if isinstance(exit_code, int):
        how = f"was ended by signal {number}" if number is not None else f"exited with {exit_code}"
        return _Outcome(JobStatus.FAILED, f"the command {how}; see its log", exit_code)
    how = f"signal {ended.signal}" if ended.signal is not None else f"status {ended.status}"
    return _Outcome(JobStatus.FAILED, f"the job's process ended before it could say how: {how}")
