"""Command jobs: what is asked for, where it stands, and which way it may go from there."""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from msgspec import Struct, field
from msgspec.structs import replace

from mlenv.errors import Conflict, InvalidInput

#: `${{inputs.name}}`, as Azure's job files have it.
_EXPRESSION: Final = re.compile(r"\$\{\{\s*(?P<text>[^{}]*?)\s*\}\}")
#: `$[[ … ]]`: left out where an optional input in it has no value.
_OPTIONAL: Final = re.compile(r"\$\[\[(?P<text>.*?)\]\]", re.DOTALL)


class JobStatus(StrEnum):
    """Where a job stands, in Azure's words, in the order of a job's life."""

    NOT_STARTED = "NotStarted"
    QUEUED = "Queued"
    PREPARING = "Preparing"
    RUNNING = "Running"
    FINALIZING = "Finalizing"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self in _ENDED

    def may_become(self, other: "JobStatus") -> bool:
        """Whether this status may be followed by the other. What has ended stays as it is."""
        return not self.ended and (other.ended or list(JobStatus).index(other) > list(JobStatus).index(self))


_ENDED: Final = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED})


class UnknownInput(InvalidInput):
    """A command uses an input or output that the job does not have."""

    def __init__(self, expression: str, known: list[str]) -> None:
        super().__init__(f"the command uses ${{{{{expression}}}}}, which the job does not define")
        self.expression = expression
        self.hint = f"it defines {', '.join(known)}" if known else "define it under `inputs` or `outputs`"


class JobEnded(Conflict):
    """A job that has ended can't be canceled any more, or go on."""

    def __init__(self, name: str, status: JobStatus) -> None:
        super().__init__(f"job {name} has ended already: it is {status}")
        self.name, self.status = name, status


class JobRequest(Struct, frozen=True):
    """
    What a command job is to do.

    Attributes:
        name: Chosen by the client, unique in the namespace.
        command: For the shell, with `${{inputs.x}}` and `${{outputs.x}}` in it.
        environment: The environment version, as `Asset.environment` has it.
        namespace: The key of the workspace or registry that the environment is in.
        code: Name and version of the code that the command runs beside, or None.
        inputs: Values of literal inputs; None for an optional one without a value.
        outputs: Names of directories for results.
        variables: Environment variables.
        timeout: Seconds that the command may take; None for as long as the server lets jobs run.
        experiment, display_name, description, tags, properties: For people.
        sent: What the client sent, to answer it with.
        requested_by: Who asked.
    """

    name: str
    command: str
    environment: str
    namespace: str
    code: tuple[str, str] | None = None
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    experiment: str = "Default"
    display_name: str | None = None
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict)
    requested_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "command": self.command,
            "environment": self.environment,
            "namespace": self.namespace,
            "code": list(self.code) if self.code else None,
            "inputs": dict(self.inputs),
            "outputs": list(self.outputs),
            "variables": dict(self.variables),
            "timeout": self.timeout,
            "experiment": self.experiment,
            "display_name": self.display_name,
            "description": self.description,
            "tags": dict(self.tags),
            "properties": dict(self.properties),
            "sent": dict(self.sent),
            "requested_by": self.requested_by,
        }

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        code = data["code"]
        rest = {key: value for key, value in data.items() if key not in {"code", "outputs"}}
        return cls(name=name, code=(code[0], code[1]) if code else None, outputs=tuple(data["outputs"]), **rest)


class JobRun(Struct, frozen=True):
    """
    What became of a job so far.

    Attributes:
        started_at: When a worker took it.
        ended_at: Both UTC.
        exit_code: Of the command; None if it was not run to its end.
        error: One line, if it failed.
        log: The whole log as a blob, once it has ended.
        attempts: How often it was begun.
    """

    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    error: str | None = None
    log: str | None = None
    attempts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "started_at": self.started_at.isoformat() if self.started_at else None,
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "exit_code": self.exit_code,
            "error": self.error,
            "log": self.log,
            "attempts": self.attempts,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        started, ended = data["started_at"], data["ended_at"]
        return cls(
            datetime.fromisoformat(started) if started else None,
            datetime.fromisoformat(ended) if ended else None,
            data["exit_code"],
            data["error"],
            data["log"],
            data["attempts"],
        )


class Job(Struct, frozen=True):
    """A command job as it stands. `created_at` and `modified_at` are UTC; `sequence` orders a namespace's jobs."""

    request: JobRequest
    status: JobStatus
    run: JobRun
    archived: bool
    sequence: int
    created_at: datetime
    modified_at: datetime

    @property
    def name(self) -> str:
        """The job's name."""
        return self.request.name

    def at(self, status: JobStatus, *, now: datetime, **facts: Any) -> "Job":
        """
        This job with another status, and facts of `JobRun`.

        Raises:
            JobEnded: It can't become that.
        """
        if not self.status.may_become(status):
            raise JobEnded(self.name, self.status)
        if status.ended:
            facts.setdefault("ended_at", now)
        if status is JobStatus.PREPARING:
            facts.setdefault("started_at", now)
        return replace(self, status=status, run=replace(self.run, **facts))


def expand(command: str, inputs: Mapping[str, str | None], outputs: Mapping[str, str]) -> str:
    """
    A command with values in place of its expressions. Values are put in as they are, as Azure does it: quote them in the
    command where the shell must not take them apart.

    Args:
        inputs: None for an optional one without a value.
        outputs: Paths by name.

    Raises:
        UnknownInput: It uses what is not there.
    """
    known = {f"inputs.{name}": value for name, value in inputs.items()}
    known |= {f"outputs.{name}": path for name, path in outputs.items()}

    def value(match: re.Match[str]) -> str:
        found = known.get(match["text"])
        if found is None:
            raise UnknownInput(match["text"], sorted(known))
        return found

    def segment(match: re.Match[str]) -> str:
        used = [each["text"] for each in _EXPRESSION.finditer(match["text"])]
        return "" if any(name in known and known[name] is None for name in used) else match["text"]

    return _EXPRESSION.sub(value, _OPTIONAL.sub(segment, command))
