"""The workers of one process: what they take from the queue, and how they tell that they live and see who does not."""

import logging
import socket
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from mlenv.core.redact import redact
from mlenv.core.scope import ScopeKey
from mlenv.errors import MlenvError
from mlenv.service.builds import DEFAULT_PRIORITY
from mlenv.work.engine import Engine, Handler
from mlenv.work.hosting import Hosting, Limits
from mlenv.work.jobs import JobWork
from mlenv.work.queue import Task, TaskKind
from mlenv.work.worker import BuildWork

_log = logging.getLogger("mlenv.work")

#: Seconds between two signs of life.
BEAT: Final = 2.0
#: Seconds without one, after which a worker is dead. Each watcher measures them by itself, by a clock that never jumps.
DEAD: Final = 10.0
#: Seconds between two searches for builds that are nowhere in the queue, and how long these have been waiting.
SWEEP: Final = 30.0
LOST: Final = 60.0
#: How long the queue remembers what has ended.
REMEMBERED: Final = timedelta(days=1)
#: Rows that are looked at in one search.
_PAGE: Final = 200


class Workers:
    """Takes builds and jobs from the queue, from `start` to `stop`. One per process."""

    def __init__(self, hosted: Hosting, limits: Limits) -> None:
        self.leaving = threading.Event()
        self._hosted, self._limits = hosted, limits
        handlers: dict[TaskKind, Handler] = {
            TaskKind.BUILD: BuildWork(hosted, limits, self.leaving),
            TaskKind.JOB: JobWork(hosted, self.leaving, limits.log),
        }
        self._engine = Engine(hosted.queue, handlers)
        self._attendance = _Attendance(hosted, self._engine, limits.longest_back_off + LOST)

    @property
    def id(self) -> str:
        """The name of this process among the workers."""
        return self._engine.executor

    def start(self) -> None:
        """Begin to work, in threads of our own. Raises `QueueUnavailable`, and what the database raises."""
        self._attendance.start()
        self._engine.start(concurrency=self._limits.concurrency, per_scope=self._limits.per_scope)

    def leave(self) -> None:
        """Take nothing more, and hand over what runs. Returns at once."""
        self._engine.stop_taking()
        self.leaving.set()

    def stop(self, grace: float) -> None:
        """
        Leave, and wait until what runs is handed over.

        Args:
            grace: Seconds to wait. What is not handed over by then, another worker takes as from a dead one.
        """
        self.leave()
        self._engine.stop(grace)
        self._attendance.stop()


class Watch:
    """Listens for the signs of life of all workers, and knows who has been silent for too long."""

    def __init__(self) -> None:
        #: What was last heard of each, and when.
        self._heard: dict[str, tuple[int, float]] = {}
        self._listened = float("-inf")

    def silent(self, beats: Mapping[str, int], now: float) -> set[str]:
        """
        Who is dead.

        Who has not listened for a while, because the database was away or this process was stopped, has heard nothing
        from those that live either, and begins anew.

        Args:
            beats: Every worker's number.
            now: Seconds, of a clock that never jumps.
        """
        if now - self._listened > DEAD / 2:
            self._heard.clear()
        self._listened = now
        self._heard = {
            id: self._heard[id] if id in self._heard and self._heard[id][0] == beat else (beat, now)
            for id, beat in beats.items()
        }
        return {id for id, (_, at) in self._heard.items() if now - at > DEAD}


class _Attendance:
    """Says that this process lives, and looks after what others left."""

    def __init__(self, hosted: Hosting, engine: Engine, longest: float) -> None:
        """
        Args:
            longest: Seconds, longer than which nothing is told to wait.
        """
        self._hosted, self._engine, self._longest = hosted, engine, longest
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attendance", daemon=True)
        self._beat = 0
        self._watch = Watch()

    def start(self) -> None:
        """Be there, from now on: before anything is taken from the queue."""
        self._hosted.workers.join(self._engine.executor, socket.gethostname(), now=datetime.now(UTC))
        self._thread.start()

    def stop(self) -> None:
        """Be gone. Others take at once what is left behind."""
        self._stop.set()
        self._thread.join(timeout=BEAT + 5)
        try:
            self._hosted.workers.leave(self._engine.executor)
        except MlenvError as error:
            _log.warning("could not sign off: %s", redact(str(error)))

    def _run(self) -> None:
        swept = time.monotonic() - SWEEP + 5
        while not self._stop.wait(BEAT):
            try:
                self._sign()
                self._recover()
                if time.monotonic() - swept > SWEEP:
                    swept = time.monotonic()
                    self._sweep()
            except MlenvError as error:
                _log.warning("could not tell the other workers: %s", redact(str(error)))
            except Exception:  # noqa: BLE001
                # One failure must not end the signs of life.
                _log.exception("the workers' attendance failed")

    def _sign(self) -> None:
        self._beat += 1
        if not self._hosted.workers.beat(self._engine.executor, self._beat):
            _log.warning("this worker was taken for dead; what it did is done by others")
            self._hosted.workers.join(self._engine.executor, socket.gethostname(), now=datetime.now(UTC))

    def _recover(self) -> None:
        """Have done by the living what the dead had begun: of those without a sign of life, and those who signed off."""
        beats = self._hosted.workers.beats()
        dead = self._watch.silent(beats, time.monotonic()) - {self._engine.executor}
        gone = self._hosted.queue.executors() - beats.keys() - {self._engine.executor}
        if dead or gone:
            _log.warning("taking over from %s", ", ".join(sorted(dead | gone)))
            self._engine.recover(sorted(dead | gone))
            for each in dead:
                self._hosted.workers.leave(each)

    def _sweep(self) -> None:
        """Put in what should be in the queue, let go what waits for too long; forget what has long ended."""
        before = datetime.now(UTC) - timedelta(seconds=LOST)
        waiting = self._hosted.workers.waiting(before=before, limit=_PAGE)
        found = [
            (Task(TaskKind.BUILD, ScopeKey(scope), id), attempts, priority) for scope, id, attempts, priority in waiting
        ]
        jobs = self._hosted.jobs_waiting(before=before, limit=_PAGE)
        found += [
            (Task(TaskKind.JOB, ScopeKey(scope), name), attempts, DEFAULT_PRIORITY) for scope, name, attempts in jobs
        ]
        if count := self._hosted.queue.ensure(found):
            _log.warning("%d builds and jobs were not in the queue, and are now", count)
        if count := self._hosted.queue.hasten(self._longest):
            _log.warning("%d builds and jobs waited for a time that is too far off: was the clock set back?", count)
        self._hosted.queue.purge(before=datetime.now(UTC) - REMEMBERED)
