"""Jobs of a workspace: look at them, cancel them, archive them, read and follow their logs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from mlenv.api.wire import NAME_LIMIT, encode
from mlenv.api.wire_jobs import JobAnswer, JobPage, job_document
from mlenv.core.access import Operation
from mlenv.core.environment import View
from mlenv.server.door import opened
from mlenv.server.routes.bodies import answer, answers
from mlenv.server.routes.conditional import UNCHANGED, IfNoneMatch, tagged
from mlenv.server.routes.log_answers import RESPONSES, AcceptHeader, LastEventHeader, RangeHeader, log_answer
from mlenv.server.routes.paging import DEFAULT, CursorQuery, InvalidCursor, LimitQuery, page
from mlenv.server.routes.scoped import scoped
from mlenv.server.threads import in_thread
from mlenv.service.services import Services

_inner = scoped()

NamePath = Annotated[str, Path(min_length=1, max_length=NAME_LIMIT, description="A job's name.")]
Reading = Annotated[Services, opened(Operation.JOB_READ)]
Writing = Annotated[Services, opened(Operation.JOB_WRITE)]


@_inner.get("/jobs", responses=answers(JobPage, "One page"))
def list_jobs(
    request: Request,
    services: Reading,
    view: Annotated[View, Query(description="Which of them.")] = View.ACTIVE,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """Jobs, the newest first."""
    return page(
        request,
        limit,
        cursor,
        lambda size, after: services.jobs.list(view, limit=size, after=None if after is None else _number(after)),
        lambda each: str(each.sequence),
        job_document,
        order=view.value,
    )


@_inner.get("/jobs/{name}", responses=answers(JobAnswer, "The job") | UNCHANGED)
def show_job(name: NamePath, services: Reading, if_none_match: IfNoneMatch = None) -> Response:
    """One job as it stands."""
    return tagged(encode(job_document(services.jobs.get(name))), if_none_match)


@_inner.post("/jobs/{name}/cancel", responses=answers(JobAnswer, "The job as it is then"))
def cancel_job(name: NamePath, services: Writing) -> Response:
    """Cancel a job, with all of its processes. One that has ended stays as it is."""
    return answer(job_document(services.jobs.cancel(name)))


@_inner.get("/jobs/{name}/logs", response_class=Response, responses=RESPONSES)
async def read_log(
    request: Request,
    name: NamePath,
    services: Reading,
    range: RangeHeader = None,
    accept: AcceptHeader = None,
    last_event_id: LastEventHeader = None,
) -> Response:
    """A job's log: its bytes so far, or a part of them; or events as it is written, until one of the type `end`."""
    jobs = services.jobs
    state = await in_thread(jobs.log_state, name)
    return log_answer(
        request,
        f"job/{services.scope.key}/{name}",
        state,
        lambda: jobs.log_state(name),
        lambda start, limit: jobs.log(name, start=start, limit=limit),
        range=range,
        accept=accept,
        last_event_id=last_event_id,
    )


def _number(text: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise InvalidCursor
    return int(text)


async def _in_workspace(
    workspace: Annotated[str, Path(min_length=1, max_length=NAME_LIMIT, description="A workspace's name.")],
) -> None:
    """Nothing: `opened` reads it. It is named for the OpenAPI document."""


router = APIRouter(tags=["jobs"])
router.include_router(_inner, prefix="/workspaces/{workspace}", dependencies=[Depends(_in_workspace)])
