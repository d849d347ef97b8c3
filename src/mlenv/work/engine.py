"""
DBOS in this process: takes tasks out of the queue and has them done.

Importing this imports DBOS, which takes its time. DBOS is one per process, and so is what is here.
"""

import os
import socket
import threading
from collections.abc import Callable, Mapping

from dbos import DBOS

from mlenv.core.scope import ScopeKey
from mlenv.work.leaving import Left
from mlenv.work.queue import APPLICATION, SCHEMA, VERSION, DurableQueue, Task, TaskKind, quiet

#: Does a task, in a thread of its own.
Handler = Callable[[Task], None]


_handlers: dict[TaskKind, Handler] = {}


@DBOS.workflow(name="mlenv.task", max_recovery_attempts=None)
def _do(kind: str, scope: str, id: str) -> None:
    """
    One attempt. It has no steps in DBOS's sense: what is finished of a build is found by its content, and every change
    to a task's own row is guarded there.
    """
    task = Task(TaskKind(kind), ScopeKey(scope), id)
    _handlers[task.kind](task)


class Engine:
    """
    Takes tasks, from `start` to `stop`.

    Attributes:
        executor: The name of this process, which no other ever has.
    """

    def __init__(self, queue: DurableQueue, handlers: Mapping[TaskKind, Handler]) -> None:
        self.executor = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(6).hex()}"
        self._queue = queue
        self._handlers = dict(handlers)
        self._at_work: set[Task] = set()
        self._guard = threading.Condition()
        self._leaving = False
        self._dbos: DBOS | None = None

    def start(self, *, concurrency: int, per_scope: int) -> None:
        """
        Begin.

        Args:
            concurrency, per_scope: As for `DurableQueue.configure`.

        Raises:
            QueueUnavailable: The queue's database does not answer.
        """
        _handlers.clear()
        _handlers.update({kind: self._counted(handler) for kind, handler in self._handlers.items()})
        self._queue.migrate()
        self._dbos = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": self._queue.url,
                "dbos_system_schema": SCHEMA,
                "application_version": VERSION,
                "executor_id": self.executor,
                "run_migrations": False,
                "log_level": "WARNING",
                "sys_db_pool_size": 10,
                "scheduler_polling_interval_sec": 3600.0,
            }
        )
        quiet()
        for kind in self._handlers:
            self._queue.configure(kind, concurrency=concurrency, per_scope=per_scope)
        DBOS.listen_queues([kind.queue for kind in self._handlers])
        DBOS.launch()

    def recover(self, executors: list[str]) -> None:
        """
        Let what dead processes had begun be begun again, by whoever is first. Harmless if others do the same.

        NOTE: that DBOS would do by itself only for a process that comes back under its old name, or where its paid
        service watches. This is what that service calls.
        """
        DBOS._recover_pending_workflows(executors)

    def stop(self, grace: float) -> None:
        """
        Take nothing more, wait for what is at work, and let go.

        Args:
            grace: Seconds to wait. What goes on after them is given up; it stays in the queue.
        """
        if self._dbos is None:
            return
        self.stop_taking()
        with self._guard:
            self._guard.wait_for(lambda: not self._at_work, timeout=grace)
        DBOS.destroy()
        self._dbos = None

    def stop_taking(self) -> None:
        """Take nothing more."""
        self._leaving = True
        for event in self._dbos.background_thread_stop_events if self._dbos is not None else ():
            event.set()

    @property
    def at_work(self) -> int:
        """How many tasks are being done here."""
        return len(self._at_work)

    def _counted(self, handler: Handler) -> Handler:
        def do(task: Task) -> None:
            with self._guard:
                if self._leaving:
                    raise Left
                self._at_work.add(task)
            try:
                handler(task)
            finally:
                with self._guard:
                    self._at_work.discard(task)
                    self._guard.notify_all()

        return do
