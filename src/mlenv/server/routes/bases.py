"""Base images that environments stand on."""

from typing import Annotated, Any, Final

from anyio import CapacityLimiter, to_thread
from fastapi import Query, Request, Response

from mlenv.api.wire_records import BaseAnswer, BaseBody, BasePage, facts_document
from mlenv.core.access import Operation
from mlenv.core.digest import Digest
from mlenv.core.image_name import full_name
from mlenv.core.platform import Platform
from mlenv.core.progress import Silent
from mlenv.server.door import opened
from mlenv.server.routes.bodies import Received, answer, answers, body_of, documented
from mlenv.server.routes.paging import DEFAULT, CursorQuery, LimitQuery, page_by_number
from mlenv.server.routes.scoped import scoped, under_both
from mlenv.service.bases import BaseNotHere
from mlenv.service.services import Services

_inner = scoped()
#: How many bases a process pulls at once. Further ones wait; they hold up nobody else.
_AT_ONCE: Final = CapacityLimiter(2)
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


@_inner.post("/bases", responses=answers(BaseAnswer, "The base image is at hand"), openapi_extra=documented(BaseBody))
async def pull_base(
    services: Annotated[Services, opened(Operation.BLOB_WRITE)],
    body: Annotated[Received[BaseBody], body_of(BaseBody)],
) -> Response:
    """
    Take a base image from its registry, with the server's own account there. Answers when it is at hand.

    Whoever gives up waiting asks again: what has come by then is not fetched once more.
    """
    wanted = body.value
    platform = Platform(wanted.platform.os, wanted.platform.architecture) if wanted.platform else None

    def pull() -> dict[str, Any]:
        base = services.bases.pull(wanted.image, platform, name=wanted.name, patient=False, progress=Silent())
        return _document(services, full_name(wanted.name or wanted.image), base.facts.digest)

    return answer(await to_thread.run_sync(pull, limiter=_AT_ONCE))


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
