"""The native routes of the audit: of one namespace, or of all."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from mlenv.api.wire import page_document
from mlenv.api.wire_site import AuditHeadAnswer, AuditPage, audit_document
from mlenv.core.access import Caller, Operation
from mlenv.core.scope import ScopeKind
from mlenv.server.door import caller_of, known, opened, site_of
from mlenv.server.routes.bodies import answer, answers
from mlenv.server.routes.paging import (
    DEFAULT,
    CursorQuery,
    InvalidCursor,
    LimitQuery,
    check_limit,
    read_cursor,
    write_cursor,
)
from mlenv.server.routes.scoped import scoped, under_both
from mlenv.service.auditing import Auditing
from mlenv.service.services import Services

_site: Final = scoped()
_inner: Final = scoped()

Order = Annotated[Literal["newest", "oldest"], Query(description="Which records come first.")]


@_site.get("/audit", responses=answers(AuditPage, "All audit records"))
def list_audit(
    request: Request,
    caller: Annotated[Caller, known(Operation.AUDIT_READ)],
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
    order: Order = "newest",
) -> Response:
    """List all audit records."""
    return _records(request, caller, None, "", limit, cursor, order)


@_site.get("/audit/head", responses=answers(AuditHeadAnswer, "What the chain ends with"))
def audit_head(request: Request, caller: Annotated[Caller, known(Operation.AUDIT_READ)]) -> Response:
    """Say what the audit chain ends with: to be noted elsewhere, and compared later."""
    sequence, hash = Auditing(site_of(request)).head(caller)
    return answer({"sequence": sequence, "hash": hash})


@_inner.get("/audit", responses=answers(AuditPage, "The audit records of a workspace or registry"))
def list_audit_there(
    request: Request,
    services: Annotated[Services, opened(Operation.AUDIT_READ)],
    caller: Annotated[Caller, Depends(caller_of)],
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
    order: Order = "newest",
) -> Response:
    """List the audit records of a workspace or registry."""
    scope = services.scope
    return _records(request, caller, scope.kind, scope.name, limit, cursor, order)


def _records(
    request: Request,
    caller: Caller,
    kind: ScopeKind | None,
    name: str,
    limit: int,
    cursor: str | None,
    order: str,
) -> Response:
    check_limit(request, limit)
    list_name = f"{request.scope['path']}?{order}"
    at = None if cursor is None else read_cursor(list_name, cursor)
    if isinstance(at, str):
        raise InvalidCursor
    auditing = Auditing(site_of(request))
    if order == "oldest":
        found = auditing.oldest(caller, kind, name, after=at or 0, limit=limit + 1)
    else:
        found = auditing.newest(caller, kind, name, before=at, limit=limit + 1)
    shown = found[:limit]
    following = write_cursor(list_name, shown[-1].sequence) if len(found) > limit else None
    return answer(page_document(shown, audit_document, following))


router: Final = APIRouter()
router.include_router(_site, tags=["audit"])
router.include_router(under_both(_inner, "audit"))
