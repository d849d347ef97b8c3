"""Builds: ask for one, look at it, cancel it, read and follow its log."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

from fastapi import Path, Query, Request, Response

from mlenv.api.wire import encode
from mlenv.api.wire_builds import BuildBody
from mlenv.api.wire_records import BuildAnswer, BuildPage, build_document
from mlenv.core.access import Operation
from mlenv.core.platform import Platform
from mlenv.core.records import BuildRecord, BuildStatus
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.server.door import opened
from mlenv.server.routes.bodies import Received, answer, answers, body_of, documented
from mlenv.server.routes.conditional import UNCHANGED, IdempotencyKey, IfNoneMatch, once, tagged
from mlenv.server.routes.environments import reference_of
from mlenv.server.routes.log_answers import RESPONSES, AcceptHeader, LastEventHeader, RangeHeader, log_answer
from mlenv.server.routes.paging import DEFAULT, CursorQuery, InvalidCursor, LimitQuery, page
from mlenv.server.routes.scoped import EnvironmentPath, VersionPath, scoped, under_both
from mlenv.server.threads import in_thread
from mlenv.service.services import Services

_inner = scoped()

_OF_VERSION: Final = "/environments/{name}/versions/{version}/builds"

IdPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64, description="A build's id.")]
StatusQuery = Annotated[BuildStatus | None, Query(description="Only those that stand so.")]
Reading = Annotated[Services, opened(Operation.BUILD_READ)]
Writing = Annotated[Services, opened(Operation.BUILD_WRITE)]


@_inner.post(
    _OF_VERSION,
    status_code=202,
    responses={
        200: {"model": BuildAnswer, "description": "The image was there already"},
        202: {"model": BuildAnswer, "description": "It is queued, or one like it was before"},
    },
    openapi_extra=documented(BuildBody, required=False),
)
def request_build(
    request: Request,
    name: EnvironmentPath,
    version: VersionPath,
    services: Writing,
    body: Annotated[Received[BuildBody], body_of(BuildBody, optional=True)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask for the image of a version. However many ask, it is built once; where it is there, nothing is built."""
    wanted = body.value

    def create() -> tuple[int, bytes]:
        found = services.environments.version(reference_of(name, version))
        platform = (found.spec.platforms or (Platform("linux", "amd64"),))[0]
        if wanted.platform is not None:
            platform = Platform(wanted.platform.os, wanted.platform.architecture)
        options = wanted.options.to_core() if wanted.options is not None else None
        build = services.builds.request(found, platform, wanted.compression, options, wanted.priority)
        return (200 if build.status.ended else 202), encode(build_document(build))

    status, content = once(request, idempotency_key, body.raw, create)
    place = request.scope["path"].partition("/environments/")[0]
    location = f"{place}/builds/{json.loads(content)['id']}"
    return Response(content, status, {"Location": location}, "application/json")


@_inner.get(_OF_VERSION, responses=answers(BuildPage, "One page"))
def list_builds_of_version(
    request: Request,
    name: EnvironmentPath,
    version: VersionPath,
    services: Reading,
    status: StatusQuery = None,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """Builds of a version, the newest first."""
    found = services.environments.version(reference_of(name, version))
    return _page(request, services, limit, cursor, status, (found.name, found.version))


@_inner.get("/builds", responses=answers(BuildPage, "One page"))
def list_builds(
    request: Request,
    services: Reading,
    status: StatusQuery = None,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """Builds of all versions, the newest first."""
    return _page(request, services, limit, cursor, status, None)


@_inner.get("/builds/{id}", responses=answers(BuildAnswer, "The build") | UNCHANGED)
def show_build(id: IdPath, services: Reading, if_none_match: IfNoneMatch = None) -> Response:
    """One build as it stands."""
    return tagged(encode(build_document(services.builds.get(id))), if_none_match)


@_inner.post("/builds/{id}/cancel", responses=answers(BuildAnswer, "The build as it is then"))
def cancel_build(id: IdPath, services: Writing) -> Response:
    """Cancel a build, with all of its processes. One that has ended stays as it is."""
    return answer(build_document(services.builds.cancel(id)))


@_inner.get("/builds/{id}/logs", response_class=Response, responses=RESPONSES)
async def read_log(
    request: Request,
    id: IdPath,
    services: Reading,
    range: RangeHeader = None,
    accept: AcceptHeader = None,
    last_event_id: LastEventHeader = None,
) -> Response:
    """A build's log: its bytes so far, or a part of them; or events as it is written, until one of the type `end`."""
    builds = services.builds
    state = await in_thread(builds.log_state, id)
    return log_answer(
        request,
        f"build/{services.scope.key}/{id}",
        state,
        lambda: builds.log_state(id),
        lambda start, limit: builds.log(id, start=start, limit=limit),
        range=range,
        accept=accept,
        last_event_id=last_event_id,
    )


def _page(
    request: Request,
    services: Services,
    limit: int,
    cursor: str | None,
    status: BuildStatus | None,
    of: tuple[EnvironmentName, VersionName] | None,
) -> Response:
    def read(size: int, after: str | None) -> Sequence[BuildRecord]:
        return services.builds.list(limit=size, after=None if after is None else _key(after), status=status, of=of)

    return page(
        request,
        limit,
        cursor,
        read,
        lambda each: f"{each.started_at.isoformat()} {each.id}",
        build_document,
        order=status.value if status is not None else "",
    )


def _key(text: str) -> tuple[datetime, str]:
    """When the last build of a page was begun, and its id. Raises `InvalidCursor`."""
    time, _, id = text.partition(" ")
    try:
        return datetime.fromisoformat(time), id
    except ValueError as error:
        raise InvalidCursor from error


router = under_both(_inner, "builds")
