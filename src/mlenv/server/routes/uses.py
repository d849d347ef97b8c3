"""Uses of environments: the lineage."""

from typing import Annotated

from fastapi import Query, Request, Response

from mlenv.api.wire import NAME_LIMIT
from mlenv.api.wire_records import UseAnswer, UseBody, UsePage, use_document
from mlenv.core.access import Operation
from mlenv.core.reference import parse_name, parse_version
from mlenv.server.door import opened
from mlenv.server.routes.bodies import Received, answer, answers, body_of, documented
from mlenv.server.routes.paging import DEFAULT, CursorQuery, LimitQuery, page_by_number
from mlenv.server.routes.scoped import EnvironmentPath, scoped, under_both
from mlenv.service.services import Services

_inner = scoped()


@_inner.get("/environments/{name}/uses", responses=answers(UsePage, "One page"))
def list_uses(
    request: Request,
    name: EnvironmentPath,
    services: Annotated[Services, opened(Operation.ENVIRONMENT_READ)],
    version: Annotated[
        str | None, Query(min_length=1, max_length=NAME_LIMIT, description="Of this version only.")
    ] = None,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """Uses of an environment, the newest first."""
    environment = services.registry.environment(parse_name(name)).name
    wanted = None if version is None else services.registry.version(environment, parse_version(version)).version
    return page_by_number(
        request,
        limit,
        cursor,
        lambda size: services.registry.uses(environment, wanted, limit=size),
        use_document,
        order=version or "",
    )


@_inner.post(
    "/environments/{name}/uses",
    responses=answers(UseAnswer, "The use as it is kept"),
    openapi_extra=documented(UseBody),
)
def record_use(
    name: EnvironmentPath,
    services: Annotated[Services, opened(Operation.USE_WRITE)],
    use: Annotated[Received[UseBody], body_of(UseBody)],
) -> Response:
    """Record a use, or its end under the same id."""
    kept = use.value.to_core(name)
    services.registry.save_use(kept)
    return answer(use_document(kept))


router = under_both(_inner, "uses")
