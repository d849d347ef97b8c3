"""Base images that environments stand on."""

from typing import Annotated, Any

from fastapi import Query, Request, Response

from mlenv.api.wire_records import BaseAnswer, BasePage, facts_document
from mlenv.core.access import Operation
from mlenv.core.digest import Digest
from mlenv.core.image_name import full_name
from mlenv.server.door import opened
from mlenv.server.routes.bodies import answer, answers
from mlenv.server.routes.paging import DEFAULT, CursorQuery, LimitQuery, page_by_number
from mlenv.server.routes.scoped import scoped, under_both
from mlenv.service.bases import BaseNotHere
from mlenv.service.services import Services

_inner = scoped()
Reading = Annotated[Services, opened(Operation.ENVIRONMENT_READ)]


@_inner.get("/bases", responses=answers(BasePage, "One page"))
def list_bases(
    request: Request, services: Reading, limit: LimitQuery = DEFAULT, cursor: CursorQuery = None
) -> Response:
    """Base images by their full names."""
    names = list(services.bases.names().items())
    return page_by_number(
        request, limit, cursor, lambda size: names[:size], lambda each: _document(services, each[0], each[1])
    )


@_inner.get("/base", responses=answers(BaseAnswer, "The base image"))
def show_base(
    services: Reading,
    name: Annotated[str, Query(min_length=1, max_length=512, description="As a spec's `image` says it.")],
) -> Response:
    """What one base image offers. Its name has slashes, so it stands in the query."""
    full = full_name(name)
    manifest = services.registry.base(full)
    if manifest is None:
        raise BaseNotHere(name)
    return answer(_document(services, full, manifest))


def _document(services: Services, name: str, manifest: Digest) -> dict[str, Any]:
    facts = services.registry.facts(manifest)
    return {"name": name, "manifest": str(manifest), "facts": None if facts is None else facts_document(facts)}


router = under_both(_inner, "bases")
