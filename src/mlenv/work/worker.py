"""Makes builds that were taken from the queue: each in a process of its own, watched until it ends."""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import asdict

from mlenv.core.digest import Digest
from mlenv.core.disk_faults import disk_fault
from mlenv.core.layer import Compression
from mlenv.core.records import BuildRecord, BuildStatus, TimedStep
from mlenv.core.redact import redact
from mlenv.errors import MlenvError, Unavailable
from mlenv.faults import reach
from mlenv.run.process import Ended
from mlenv.service.builds import DEFAULT_PRIORITY, Builds, to_options
from mlenv.work.child import DATABASE, Order, author_of
from mlenv.work.hosting import Hosting, Limits, WorkServices
from mlenv.work.leaving import Left, persist
from mlenv.work.logs import LogWriter
from mlenv.work.process import Process
from mlenv.work.queue import Task

_log = logging.getLogger("mlenv.work")

#: Seconds between two looks at whether a build that runs is still wanted.
_LOOK: Final = 0.5
#: Longest line of an error that is kept with a build; the log has it whole.
_ERROR: Final = 2000
#: The most of a report that is read: what a step is called, and what came of it.
_REPORT: Final = 1 << 20
#: Variables whose values are secrets, by a part of their names.
_SECRET: Final = ("PASSWORD", "TOKEN", "SECRET", "API_KEY", "CREDENTIAL", "PRIVATE_KEY")


class _Course(Struct):
    """What a child has reported so far. Written by the thread that reads, and read by the one that waits."""

    steps: list[TimedStep]
    changed: threading.Event = field(default_factory=threading.Event)
    open: dict[str, float] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    rest: bytes = b""

    def take(self, chunk: bytes) -> None:
        """Reports as they come."""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        del lines[10_000:]
        self.rest = self.rest[-_REPORT:]
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))

    def _take(self, report: dict[str, Any]) -> None:
        if "began" in report:
            self.open[str(report["began"])] = time.monotonic()
        elif "left" in report:
            self.open.pop(str(report["left"]), None)
        elif "step" in report:
            step = TimedStep(str(report["step"]), float(report["seconds"]), redact(str(report["note"])))
            self.steps = [*self.steps, step]
            self.changed.set()
        else:
            self.end = report

    def overdue(self, limit: float) -> str | None:
        """A step that goes on for longer than the limit, in seconds."""
        now = time.monotonic()
        return next((title for title, since in list(self.open.items()) if now - since > limit), None)


class _Stopped(Struct, frozen=True):
    """Why a build was stopped: `limit`, `canceled` (it has ended in the rows) or `leaving`; with one line for people."""

    why: str
    text: str


class BuildWork:
    """Makes builds, in as many threads as call."""

    def __init__(self, hosted: Hosting, limits: Limits, leaving: threading.Event) -> None:
        """
        Args:
            leaving: Set when what runs is to be handed over to other workers.
        """
        self._hosted, self._limits, self._leaving = hosted, limits, leaving

    def __call__(self, task: Task) -> None:
        """Do one attempt at a build. Raises `Left`."""
        scope = persist(lambda: self._hosted.site.store.scope(task.scope), self._leaving)
        if scope is None:
            return
        services = self._hosted.services(scope, author_of(task.id))
        build = persist(lambda: services.builds.begin(task.id, most=self._limits.attempts), self._leaving)
        if build is None:
            # It may have ended just before its worker died.
            self._attach(task.id, services)
            return
        reach("build.begun")
        try:
            self._make(task, build, services)
        except Exception as error:  # noqa: BLE001
            if (fault := disk_fault(error)) is not None and build.attempts < self._limits.attempts:
                _log.error("build %s waits for the disk: %s", build.id, error)
                self._try_later(task, build, services.builds, str(fault))
                return
            _log.exception("build %s failed in its worker", build.id)
            text = str(fault) if fault is not None else f"the worker failed: {type(error).__name__}"
            persist(lambda: services.builds.end(build, BuildStatus.FAILED, error=text), self._leaving)

    def _make(self, task: Task, build: BuildRecord, services: WorkServices) -> None:
        if self._there_already(build, services):
            return
        order = Order(
            home=str(self._hosted.home),
            scope=task.scope,
            build=build.id,
            name=build.name,
            version=build.version,
            platform=str(build.platform),
            compression=(build.compression or Compression.ZSTD).value,
            options=dict(build.options) if build.options is not None else None,
            requested_by=build.requested_by,
            policy=asdict(self._hosted.policy),
        )
        log = self._hosted.logs.writer(build.id, secrets_of(os.environ, self._hosted.url), self._limits.log)
        try:
            course = _Course(list(build.steps))
            log.line(f"attempt {build.attempts} begins, on {socket.gethostname()}")
            ended = self._watched(order, build, services.builds, log, course)
            if isinstance(ended, _Stopped) and ended.why == "leaving":
                log.line("the worker leaves; another one goes on")
                self._hand_over(task, build, services.builds)
                return
            status, image, error, again = _outcome(ended, course)
            if again and build.attempts < self._limits.attempts:
                delay = self._delay(build)
                log.line(
                    f"attempt {build.attempts} of {self._limits.attempts} failed; the next one begins in {delay:g} s"
                )
                self._try_later(task, build, services.builds, str(error))
                return
            log.line(f"{status}: {error}" if error else status.value)
        finally:
            log.close()
        persist(lambda: services.builds.end(build, status, image=image, error=error), self._leaving)
        reach("build.ended")
        self._keep_log(build, services.builds)
        self._attach(build.id, services)
        if image is not None and error is None:
            self._push_evidence(task, build, services)

    def _there_already(self, build: BuildRecord, services: WorkServices) -> bool:
        """Whether the image was made since it was asked for, so that no process is needed to say so."""
        try:
            version = services.registry.version(build.name, build.version)
            compression = build.compression or Compression.ZSTD
            image = services.building.find(version, build.platform, compression, to_options(build.options))
        except MlenvError:
            # What is wrong is for the log to say.
            return False
        if image is None:
            return False
        found = image.manifest.digest
        persist(lambda: services.builds.end(build, BuildStatus.SUCCEEDED, image=found), self._leaving)
        self._attach(build.id, services)
        return True

    def _watched(
        self, order: Order, build: BuildRecord, builds: Builds, log: LogWriter, course: _Course
    ) -> Ended | _Stopped:
        """Run the child, and stop it if need be."""
        environment = {name: value for name, value in os.environ.items() if name != DATABASE}
        if self._hosted.url is not None:
            environment[DATABASE] = self._hosted.url
        child = Process(
            [sys.executable, "-m", "mlenv.child"],
            environment=environment,
            stdin=order.to_json(),
            output=log.output,
            reports=course.take,
            grace=self._limits.kill,
        )
        reach("build.spawned")
        started = time.monotonic()
        stopped: _Stopped | None = None
        while (ended := child.wait(_LOOK)) is None:
            if stopped is not None:
                continue
            stopped = self._unwanted(build, builds, course, time.monotonic() - started)
            if stopped is not None:
                child.stop()
        with suppress(Unavailable):
            self._note_steps(build, builds, course)
        return ended if stopped is None or (course.end or {}).get("image") else stopped

    def _unwanted(self, build: BuildRecord, builds: Builds, course: _Course, seconds: float) -> _Stopped | None:
        """Why a build should not go on, if it should not."""
        if self._leaving.is_set():
            return _Stopped("leaving", "its worker leaves")
        if seconds > self._limits.build:
            return _Stopped("limit", f"it took longer than {self._limits.build:g} seconds, the limit of a build")
        if (title := course.overdue(self._limits.step)) is not None:
            return _Stopped("limit", f"{title!r} took longer than {self._limits.step:g} seconds, the limit of a step")
        with suppress(Unavailable):
            self._note_steps(build, builds, course)
            stored = builds.get(build.id)
            if stored.status is not BuildStatus.RUNNING or stored.attempts != build.attempts:
                return _Stopped("canceled", "it was canceled")
        return None

    def _note_steps(self, build: BuildRecord, builds: Builds, course: _Course) -> None:
        if course.changed.is_set():
            course.changed.clear()
            try:
                builds.note_steps(build, course.steps)
            except BaseException:
                course.changed.set()
                raise

    def _hand_over(self, task: Task, build: BuildRecord, builds: Builds) -> None:
        """Give a build back to the queue. Where the database does not answer, those who find us gone take it."""
        try:
            if builds.put_back(build):
                self._hosted.queue.put(task, str(build.attempts), priority=build.priority or DEFAULT_PRIORITY)
        except Unavailable:
            raise Left from None

    def _try_later(self, task: Task, build: BuildRecord, builds: Builds, error: str) -> None:
        """Let a build wait until what it needs may be there again."""
        if persist(lambda: builds.put_back(build, error), self._leaving):
            priority, delay = build.priority or DEFAULT_PRIORITY, self._delay(build)
            persist(
                lambda: self._hosted.queue.put(task, str(build.attempts), priority=priority, delay=delay), self._leaving
            )

    def _delay(self, build: BuildRecord) -> float:
        """Seconds before the next attempt."""
        return min(self._limits.back_off * 4.0 ** (build.attempts - 1), self._limits.longest_back_off)

    def _keep_log(self, build: BuildRecord, builds: Builds) -> None:
        """Make a blob of the log. What fails here fails nothing: the file stays, and is read."""
        try:
            kept = self._hosted.logs.keep(build.id)
            if kept is not None and builds.keep_log(build.id, kept):
                self._hosted.logs.forget(build.id)
        except (MlenvError, OSError) as error:
            _log.warning("the log of build %s stays a file: %s", build.id, redact(str(error)))

    def _attach(self, id: str, services: WorkServices) -> None:
        """Attach what is known of a build that succeeded to its image. What fails here fails nothing."""
        try:
            services.evidence.attach(services.builds.get(id))
        except (MlenvError, OSError) as error:
            _log.warning("the evidence of build %s is not attached: %s", id, redact(str(error)))

    def _push_evidence(self, task: Task, build: BuildRecord, services: WorkServices) -> None:
        """Attach it as well where the namespace's images are pushed to. What fails here fails nothing."""
        try:
            prefix = self._hosted.site.store.scope_settings(task.scope).push_to
            if prefix is not None:
                version = services.registry.version(build.name, build.version)
                services.pushing.push_evidence_built(version, build.platform, prefix)
        except (MlenvError, OSError) as error:
            _log.warning("the evidence of build %s is not pushed: %s", build.id, redact(str(error)))


def _outcome(ended: Ended | _Stopped, course: _Course) -> tuple[BuildStatus, Digest | None, str | None, bool]:
    """What became of an attempt: status, image, error, and whether it is worth another one."""
    if isinstance(ended, _Stopped):
        status = BuildStatus.CANCELED if ended.why == "canceled" else BuildStatus.FAILED
        return status, None, ended.text, False
    end = course.end or {}
    if "image" in end:
        unpushed = redact(str(end["unpushed"]))[:_ERROR] if "unpushed" in end else None
        error = f"it was built, but not pushed: {unpushed}" if unpushed is not None else None
        return BuildStatus.SUCCEEDED, Digest.parse(end["image"]), error, False
    if "failed" in end:
        return BuildStatus.FAILED, None, redact(str(end["failed"]))[:_ERROR], bool(end.get("again"))
    if ended.signal is not None:
        hint = ": out of memory, perhaps" if ended.signal == 9 else ""
        return BuildStatus.FAILED, None, f"its process died by signal {ended.signal}{hint}", False
    return BuildStatus.FAILED, None, f"its process ended with exit code {ended.status}; see the log", False


def secrets_of(environment: Mapping[str, str], *urls: str | None) -> Iterator[str]:
    """Values that must not come into a log: of variables that are named like secrets, and passwords of addresses."""
    from urllib.parse import unquote, urlsplit

    for name, value in environment.items():
        if any(part in name.upper() for part in _SECRET):
            yield value
    for url in urls:
        with suppress(ValueError):
            if url is not None and (password := urlsplit(url).password):
                yield password
                yield unquote(password)
