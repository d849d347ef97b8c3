"""
The queue of builds and jobs: DBOS, a library for durable workflows, over PostgreSQL or a SQLite file of its own.

One workflow is one attempt at one task: `build:WORKSPACE:ID:ATTEMPT`. DBOS stores a workflow once, however often it is
put in, and gives it to one process at a time. Here is the side that puts in and takes out; `engine.py` has the other.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from mlenv.core.redact import redact
from mlenv.core.scope import ScopeKey
from mlenv.errors import Unavailable
from mlenv.service.builds import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from dbos import DBOSClient, EnqueueOptions
    from sqlalchemy import Engine

#: The program that the workflows belong to, and what they are written for: a change of `engine.py` that can't go on
#: with workflows that were begun before gets another number.
APPLICATION: Final = "mlenv"
VERSION: Final = "1"
#: Where the queue's tables are in PostgreSQL: beside ours, out of their way.
SCHEMA: Final = "mlenv_queue"
#: Seconds between two looks into the queue.
POLLING: Final = 0.15
#: What is not ended, in DBOS's words.
ACTIVE: Final = ("ENQUEUED", "DELAYED", "PENDING")
#: Attempts at a task that is canceled which are looked for. Whoever begins a later one finds that it was canceled.
_REMOVED: Final = 32
#: How often an attempt that ended without a word is put in again.
_AGAIN: Final = 5
#: Seconds between two warnings of one kind that are passed on from DBOS.
_SELDOM: Final = 60.0
#: Seconds that the database may take to let somebody in who only asks whether it is there.
_PATIENCE: Final = 10
_MIGRATE = threading.Lock()


class QueueUnavailable(Unavailable):
    """The queue's database can't be reached or written."""

    hint = "what was asked for is kept, and a worker will find it once the database answers"

    def __init__(self, why: str) -> None:
        super().__init__(f"the queue can't be reached: {why}")


class TaskKind(StrEnum):
    """What waits in the queue."""

    BUILD = "build"
    JOB = "job"

    @property
    def queue(self) -> str:
        """The name of DBOS's queue."""
        return f"{self.value}s"


class Task(Struct, frozen=True):
    """One thing to do, in a namespace: a build by its id, or a job by its name."""

    kind: TaskKind
    scope: ScopeKey
    id: str

    @property
    def prefix(self) -> str:
        """How the ids of its workflows begin."""
        return f"{self.kind}:{self.scope}:{self.id}:"

    @classmethod
    def of_workflow(cls, workflow: str) -> Self:
        """The task that a workflow is an attempt at. A namespace's key may have a colon; ids and attempts have none."""
        kind, _, rest = workflow.partition(":")
        scope, id, _ = rest.rsplit(":", 2)
        return cls(TaskKind(kind), ScopeKey(scope), id)


class DurableQueue:
    """The queue of a site. Meets `service.builds.Queue` and `service.jobs.JobQueue`. Safe for several threads."""

    def __init__(self, home: Path, database: str | None) -> None:
        """
        Args:
            home: Where the file `queue.db` is, if there is no database server.
            database: `postgresql+psycopg://…`, or None. Of any other database, the queue stays in the file.
        """
        if database is not None and database.startswith("postgresql"):
            self.url = "postgresql://" + database.partition("://")[2]
        else:
            self.url = f"sqlite:///{home.absolute() / 'queue.db'}"
        self._home = home

    # What is to be done.

    def enqueue(self, scope: ScopeKey, id: str, *, priority: int = DEFAULT_PRIORITY) -> None:
        """Have a worker make a build. Raises `QueueUnavailable`."""
        self.put(Task(TaskKind.BUILD, scope, id), priority=priority)

    def cancel(self, scope: ScopeKey, id: str) -> None:
        """Take a build out of the queue; whoever makes it looks for itself. Raises `QueueUnavailable`."""
        self.remove(Task(TaskKind.BUILD, scope, id))

    def enqueue_job(self, scope: ScopeKey, name: str) -> None:
        """Have a worker run a job. Raises `QueueUnavailable`."""
        self.put(Task(TaskKind.JOB, scope, name))

    def cancel_job(self, scope: ScopeKey, name: str) -> None:
        """Take a job out of the queue; whoever runs it looks for itself. Raises `QueueUnavailable`."""
        self.remove(Task(TaskKind.JOB, scope, name))

    def put(
        self, task: Task, attempt: str = "0", *, priority: int = DEFAULT_PRIORITY, delay: float | None = None
    ) -> None:
        """
        Put one attempt at a task into the queue, unless it is or was there.

        Args:
            priority: 1 is taken first.
            delay: Seconds before it may be taken; None for at once.
        """
        options: EnqueueOptions = {
            "workflow_name": "mlenv.task",
            "queue_name": task.kind.queue,
            "workflow_id": task.prefix + attempt,
            "app_version": VERSION,
            "priority": priority,
            "queue_partition_key": task.scope,
        }
        if delay is not None:
            options["delay_seconds"] = delay
        with _translated():
            self._client.enqueue(options, task.kind.value, task.scope, task.id)

    def remove(self, task: Task) -> None:
        """Let nobody begin an attempt at a task any more."""
        with _translated():
            self._client.cancel_workflows([f"{task.prefix}{number}" for number in range(_REMOVED)])

    # What workers look after.

    def ensure(self, tasks: Sequence[tuple[Task, int, int]]) -> int:
        """
        Put tasks into the queue that should be there and are not: who asked for them died before, or the queue was lost.

        Args:
            tasks: Each with how often it was begun, and its priority.

        Returns:
            How many they were.
        """
        names = {
            task: [*map(str, range(begun + 1)), *(f"{begun}{'r' * again}" for again in range(1, _AGAIN))]
            for task, begun, _ in tasks
        }
        ids = [task.prefix + name for task, each in names.items() for name in each]
        with _translated():
            found = self._client.list_workflows(workflow_ids=ids, load_input=False, load_output=False) if ids else []
        states = {each.workflow_id: each.status in ACTIVE for each in found}
        count = 0
        for task, begun, priority in tasks:
            if any(states.get(task.prefix + name) for name in names[task]):
                continue
            free = (name for name in names[task][begun:] if task.prefix + name not in states)
            if (name := next(free, None)) is not None:
                self.put(task, name, priority=priority)
                count += 1
        return count

    def tasks(self, kind: TaskKind, limit: int = 10_000) -> list[Task]:
        """What is in the queue, or is being done."""
        with _translated():
            found = self._client.list_workflows(
                queue_name=kind.queue, status=list(ACTIVE), limit=limit, load_input=False, load_output=False
            )
        return [Task.of_workflow(each.workflow_id) for each in found]

    def executors(self) -> set[str]:
        """Which processes have work."""
        with _translated():
            found = self._client.list_workflows(status="PENDING", queues_only=True, load_input=False, load_output=False)
        return {each.executor_id for each in found if each.executor_id}

    def hasten(self, longest: float, limit: int = 500) -> int:
        """
        Let those wait no longer that are to wait for longer than anybody ever says: a clock was set back since.

        Args:
            longest: Seconds.

        Returns:
            How many they were.
        """
        latest = (time.time() + longest) * 1000
        with _translated():
            found = self._client.list_workflows(status="DELAYED", limit=limit, load_input=False, load_output=False)
            late = [each.workflow_id for each in found if (each.delay_until_epoch_ms or 0) > latest]
            for each in late:
                self._client.set_workflow_delay(each, delay_seconds=0)
        return len(late)

    def purge(self, *, before: datetime, limit: int = 500) -> int:
        """Forget attempts that ended before a time; how many they were."""
        with _translated():
            found = self._client.list_workflows(
                status=["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"],
                completed_before=before.isoformat(),
                limit=limit,
                load_input=False,
                load_output=False,
            )
            if ids := [each.workflow_id for each in found]:
                self._client.delete_workflows(ids)
        return len(ids)

    def configure(self, kind: TaskKind, *, concurrency: int, per_scope: int) -> None:
        """
        Say how many tasks of a kind may be done at once. It is kept with the queue: who says it last, says it for all.

        Args:
            concurrency: In each process.
            per_scope: Of each namespace, in all processes together; 0 for no such limit. With one, priorities count
                within a namespace, and namespaces take turns.
        """
        with _translated():
            self._client.register_queue(
                kind.queue,
                worker_concurrency=concurrency,
                partition_concurrency=per_scope or None,
                polling_interval_sec=POLLING,
            )

    def check(self) -> None:
        """
        Ask the queue's database whether it answers. Raises `QueueUnavailable`.

        NOTE: past DBOS, whose import takes a second or two, which a server that was only just started does not have.
        """
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        if self.url.startswith("sqlite") and not (self._home / "queue.db").exists():
            # It is made for the first that is to be done.
            return
        question = "SELECT count(*) FROM sqlite_master" if self.url.startswith("sqlite") else "SELECT 1"
        try:
            with self._plain.connect() as connection:
                connection.execute(text(question))
        except SQLAlchemyError as error:
            raise _unavailable(error) from error

    def migrate(self) -> None:
        """Make or bring up to date the queue's tables."""
        from dbos import DBOS

        quiet()
        if self.url.startswith("sqlite"):
            import sqlite3

            # Readers and the writer do not stop each other; it is a property of the file.
            connection = sqlite3.connect(self._home / "queue.db", timeout=30)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()
            (self._home / "queue.db").chmod(0o600)
        DBOS.migrate(self.url, schema=SCHEMA)

    def close(self) -> None:
        """Let go of connections."""
        if "_client" in self.__dict__:
            self.__dict__.pop("_client").destroy()
        if "_plain" in self.__dict__:
            self.__dict__.pop("_plain").dispose()

    @cached_property
    def _plain(self) -> "Engine":
        """One connection, that only asks."""
        from sqlalchemy import create_engine

        if self.url.startswith("sqlite"):
            return create_engine(f"{self.url.replace(':///', ':///file:', 1)}?mode=ro&uri=true", pool_size=1)
        url = self.url.replace("postgresql:", "postgresql+psycopg:", 1)
        return create_engine(url, pool_size=1, pool_pre_ping=True, connect_args={"connect_timeout": _PATIENCE})

    @cached_property
    def _client(self) -> "DBOSClient":
        from dbos import DBOSClient

        with _MIGRATE:
            if (made := self.__dict__.get("_client")) is not None:
                client: DBOSClient = made
                return client
            self.migrate()
            client = self.__dict__["_client"] = DBOSClient(
                system_database_url=self.url,
                dbos_system_schema=SCHEMA,
                application_name=APPLICATION,
                retry_connection_errors=False,
            )
            return client


def quiet() -> None:
    """DBOS tells of itself at every start, to a console handler of its own: let it tell of trouble, by our handlers."""
    logger = logging.getLogger("dbos")
    logger.setLevel(logging.WARNING)
    if not logger.handlers:
        # It adds its handler where there is none.
        logger.addHandler(logging.NullHandler())
    logger.propagate = True
    if not any(isinstance(each, _Seldom) for each in logger.filters):
        logger.addFilter(_Seldom())


#: What DBOS says when a task was taken away from this process.
_TAKEN: Final = "no longer owned by this execution"


class _Seldom(logging.Filter):
    """
    Lets each kind of warning pass once a minute, in one line: while a database is away, DBOS warns at every look into it.

    A task that was canceled, or that another process has taken, is no trouble: its own row says what became of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it passes."""
        from dbos import error as dbos_error

        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, dbos_error.DBOSAwaitedWorkflowCancelledError) or _TAKEN in record.getMessage():
            return False
        key, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._passed.get(key, float("-inf")) < _SELDOM:
            return False
        self._passed[key] = now
        record.msg, record.args = redact(record.getMessage().partition("\n")[0]), ()
        if error is not None and type(error).__module__.startswith("sqlalchemy."):
            # What is wrong with a database is no fault of the program: where it was met says nothing.
            record.msg, record.exc_info = f"{record.msg} {_unavailable(error)}", None
        return True


@contextmanager
def _translated() -> Iterator[None]:
    from dbos import error as dbos_error
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (dbos_error.DBOSException, SQLAlchemyError) as error:
        raise _unavailable(error) from error


def _unavailable(error: BaseException) -> QueueUnavailable:
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return QueueUnavailable(redact(reason))
