"""Jobs as JSON; see `mlenv.api.wire`."""

from typing import Any

from pydantic import AwareDatetime, Field

from mlenv.api.wire import Answer
from mlenv.core.jobs import Job, JobStatus


class JobAnswer(Answer):
    """A command job."""

    name: str
    status: JobStatus = Field(strict=False)
    command: str
    environment: str
    experiment: str
    display_name: str | None
    description: str | None
    tags: dict[str, str]
    inputs: dict[str, str | None]
    outputs: list[str]
    code: str | None
    requested_by: str
    archived: bool
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    exit_code: int | None
    error: str | None
    log: str | None
    attempts: int


class JobPage(Answer):
    """Jobs, the newest first."""

    value: list[JobAnswer]
    next: str | None


def job_document(job: Job) -> dict[str, Any]:
    """One job. Its environment variables are not shown: they may be secrets."""
    request, run = job.request, job.run
    return {
        "name": job.name,
        "status": job.status.value,
        "command": request.command,
        "environment": request.environment,
        "experiment": request.experiment,
        "display_name": request.display_name,
        "description": request.description,
        "tags": dict(request.tags),
        "inputs": dict(request.inputs),
        "outputs": list(request.outputs),
        "code": ":".join(request.code) if request.code else None,
        "requested_by": request.requested_by,
        "archived": job.archived,
        "created_at": job.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "exit_code": run.exit_code,
        "error": run.error,
        "log": run.log,
        "attempts": run.attempts,
    }
