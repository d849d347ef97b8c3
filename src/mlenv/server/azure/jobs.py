"""Command jobs: submitted, followed, canceled and archived as Azure's client does it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import StreamingResponse

from mlenv.core.access import Caller, Operation
from mlenv.core.assets import AssetKind, check_asset_name
from mlenv.core.environment import View
from mlenv.core.jobs import Job
from mlenv.core.scope import Scope, ScopeKind
from mlenv.errors import InvalidInput
from mlenv.server.azure.addresses import WORKSPACE, azure_router, base_of
from mlenv.server.azure.asset_documents import properties_of
from mlenv.server.azure.asset_pages import page_of
from mlenv.server.azure.door import azure_opened, elsewhere, known_caller
from mlenv.server.azure.job_documents import to_details, to_document, to_request, to_run
from mlenv.server.azure.signatures import InvalidSignature, check, sign, signing_key
from mlenv.server.door import public, site_of
from mlenv.service.jobs import Jobs
from mlenv.service.services import Services

router: APIRouter = azure_router()

_JOB: Final = f"{WORKSPACE}/jobs/{{name}}"
#: Runs are what the run history calls jobs.
_HISTORY: Final = f"/history/v1.0{WORKSPACE}"
_LOG: Final = "/history/v1.0/logs/{workspace_id}/{name}/std_log.txt"
_Reading = Annotated[Services, azure_opened(Operation.JOB_READ)]
_Writing = Annotated[Services, azure_opened(Operation.JOB_WRITE)]
_View = Annotated[View, Query(alias="listViewType")]
_Top = Annotated[int | None, Query(alias="$top", ge=1)]
_Token = Annotated[str | None, Query(alias="$skipToken", max_length=2048)]
#: How long the address of a log is good.
_LOG_LIFETIME: Final = timedelta(hours=12)
_CHUNK: Final = 1 << 18


@router.put(_JOB)
def put_job(
    request: Request, response: Response, name: str, body: Annotated[Any, Body()], services: _Writing
) -> dict[str, Any]:
    """Submit a job; for one that is there, change what people read of it."""
    wanted, environment, archived = to_request(
        check_asset_name(AssetKind.JOB, name), properties_of(body), requested_by=known_caller(request).principal.name
    )
    submitted = services.jobs.create(
        wanted, environment, elsewhere=elsewhere(request, services.scope), archived=archived
    )
    response.status_code = 201 if submitted.new else 200
    return _document(request, services.scope, submitted.job)


@router.get(_JOB)
def get_job(request: Request, name: str, services: _Reading) -> dict[str, Any]:
    """One job."""
    return _document(request, services.scope, services.jobs.get(name))


@router.get(f"{WORKSPACE}/jobs")
def list_jobs(
    request: Request, services: _Reading, view: _View = View.ACTIVE, top: _Top = None, token: _Token = None
) -> dict[str, Any]:
    """Jobs, the newest first."""
    return page_of(
        request,
        lambda size, after: services.jobs.list(view, limit=size, after=after),
        lambda job: _document(request, services.scope, job),
        top=top,
        token=token,
    )


@router.post(f"{_JOB}/cancel")
def cancel_job(name: str, services: _Writing) -> Response:
    """Cancel a job. One that has ended stays as it is."""
    services.jobs.cancel(name)
    return Response(status_code=200)


@router.get(f"{_HISTORY}/runs/{{name}}")
def get_run(name: str, services: _Reading) -> dict[str, Any]:
    """A job as the run history has it."""
    return to_run(services.jobs.get(name))


@router.get(f"{_HISTORY}/runs/{{name}}/details")
def get_details(request: Request, name: str, services: _Reading) -> dict[str, Any]:
    """What a client that follows a job looks at again and again."""
    job = services.jobs.get(name)
    return to_details(job, log=_log_address(request, services.scope, job))


@router.patch(f"{_HISTORY}/experiments/{{experiment}}/runs/{{name}}")
@router.patch(f"{_HISTORY}/runs/{{name}}")
def patch_run(name: str, body: Annotated[Any, Body()], services: _Writing) -> dict[str, Any]:
    """Archive or restore a job (`hidden`), or change what people read of it."""
    if not isinstance(body, dict):
        raise InvalidRun("the body is no object")
    jobs, hidden = services.jobs, body.get("hidden")
    job = jobs.get(name)
    if hidden is not None:
        if not isinstance(hidden, bool):
            raise InvalidRun("hidden: it is neither true nor false")
        job = jobs.set_archived(name, hidden)
    texts = {key: _text(body, key) for key in ("displayName", "description")}
    tags, properties = _texts(body, "tags"), _texts(body, "properties")
    if any(each is not None for each in (*texts.values(), tags, properties)):
        job = jobs.describe(
            name,
            display_name=texts["displayName"],
            description=texts["description"],
            tags=tags,
            properties=properties,
        )
    return to_run(job)


@router.get(_LOG)
@public
def read_log(request: Request, workspace_id: str, name: str) -> Response:
    """A job's log so far, for whoever has its signed address; whose it is must still be allowed to read it."""
    site = site_of(request)
    key = signing_key(request.app.state.settings.home)
    signed = check(key, _signed_text(workspace_id, name), request.query_params, now=site.clock())
    principal, scope = site.store.principal(signed.principal), site.store.scope_by_id(workspace_id)
    if principal is None or scope is None:
        raise InvalidSignature("who it was made for is not known any more")
    caller = Caller(principal, request.client.host if request.client else "", getattr(request.state, "request_id", ""))
    jobs = site.open(caller, Operation.JOB_READ, ScopeKind.WORKSPACE, scope.name).jobs
    size = jobs.log_size(name)
    headers = {"Content-Length": str(size), "Cache-Control": "no-store"}
    return StreamingResponse(_chunks(jobs, name, size), media_type="text/plain; charset=utf-8", headers=headers)


class InvalidRun(InvalidInput):
    """A change of a run that makes no sense."""


def _chunks(jobs: Jobs, name: str, size: int) -> Iterator[bytes]:
    """So much of a log as there was when its length was told."""
    start = 0
    while start < size and (chunk := jobs.log(name, start=start, limit=min(_CHUNK, size - start))):
        yield chunk
        start += len(chunk)


def _document(request: Request, scope: Scope, job: Job) -> dict[str, Any]:
    studio = f"{base_of(request)}/workspaces/{scope.name}/jobs/{job.name}"
    return to_document(job, id=f"{scope.address}/jobs/{job.name}", studio=studio)


def _log_address(request: Request, scope: Scope, job: Job) -> str:
    """Where the log can be read without a token, for a while."""
    query = sign(
        signing_key(request.app.state.settings.home),
        _signed_text(scope.id, job.name),
        known_caller(request).principal.id,
        now=site_of(request).clock(),
        lifetime=_LOG_LIFETIME,
        permissions="r",
    )
    return f"{base_of(request)}{_LOG.format(workspace_id=scope.id, name=quote(job.name))}?{query}"


def _signed_text(workspace_id: str, name: str) -> str:
    """What is signed. No container is called so."""
    return f"log:{workspace_id}/{name}"


def _text(body: dict[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidRun(f"{key}: it is not text")
    return value


def _texts(body: dict[str, Any], key: str) -> dict[str, str] | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, dict) or any(isinstance(each, dict | list) for each in value.values()):
        raise InvalidRun(f"{key}: it is not an object of texts")
    return {name: "" if each is None else str(each) for name, each in value.items()}
