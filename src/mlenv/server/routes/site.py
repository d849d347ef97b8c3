"""The native routes of the site as a whole: namespaces, who asks, tokens, principals, roles."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from msgspec.structs import asdict

from mlenv.api.wire import encode
from mlenv.api.wire_site import (
    GrantAnswer,
    GrantPage,
    NewTokenAnswer,
    PrincipalAnswer,
    PrincipalBody,
    PrincipalPage,
    RoleBody,
    ScopeAnswer,
    ScopeBody,
    ScopePage,
    SettingsAnswer,
    SettingsBody,
    TokenBody,
    TokenPage,
    WhoAnswer,
    grant_document,
    principal_document,
    scope_document,
    token_document,
    who_document,
)
from mlenv.core.access import Caller, Operation
from mlenv.core.scope import ScopeKind
from mlenv.core.tokens import Token
from mlenv.server.door import caller_of, known, opened, site_of
from mlenv.server.routes.bodies import Received, answer, answers, body_of, documented
from mlenv.server.routes.conditional import IdempotencyKey, once
from mlenv.server.routes.paging import DEFAULT, CursorQuery, LimitQuery, page
from mlenv.server.routes.scoped import scoped, under_both
from mlenv.service.administration import Administration, Grant, NewScope
from mlenv.service.services import Services
from mlenv.service.tokens import NewToken, Tokens

T = TypeVar("T")

_site: Final = scoped()
_inner: Final = scoped()

WordPath = Annotated[str, Path(min_length=1, max_length=100)]
#: What a caller must be let do for a route to be reached at all.
MayList = Annotated[Caller, known(Operation.SCOPE_LIST)]
MayCreate = Annotated[Caller, known(Operation.SCOPE_CREATE)]
MayHaveTokens = Annotated[Caller, known(Operation.TOKEN_OWN)]
MaySeeTokens = Annotated[Caller, known(Operation.TOKEN_ANY)]
MaySeeRoles = Annotated[Caller, known(Operation.GRANT_READ)]
MayGiveRoles = Annotated[Caller, known(Operation.GRANT_WRITE)]
Asking = Annotated[Caller, Depends(caller_of)]
ToSee = Annotated[Services, opened(Operation.SCOPE_READ)]
ToSet = Annotated[Services, opened(Operation.SCOPE_WRITE)]
ToSeeRoles = Annotated[Services, opened(Operation.GRANT_READ)]
ToGiveRoles = Annotated[Services, opened(Operation.GRANT_WRITE)]


# Workspaces and registries.


@_site.get("/workspaces", responses=answers(ScopePage, "The workspaces that the caller may read, by name"))
def list_workspaces(
    request: Request, caller: MayList, limit: LimitQuery = DEFAULT, cursor: CursorQuery = None
) -> Response:
    """List workspaces."""
    return _scopes(request, caller, ScopeKind.WORKSPACE, limit, cursor)


@_site.get("/registries", responses=answers(ScopePage, "The registries that the caller may read, by name"))
def list_registries(
    request: Request, caller: MayList, limit: LimitQuery = DEFAULT, cursor: CursorQuery = None
) -> Response:
    """List registries."""
    return _scopes(request, caller, ScopeKind.REGISTRY, limit, cursor)


@_site.post(
    "/workspaces",
    status_code=201,
    responses={201: {"model": ScopeAnswer, "description": "It is made"}},
    openapi_extra=documented(ScopeBody),
)
def create_workspace(
    request: Request,
    caller: MayCreate,
    body: Annotated[Received[ScopeBody], body_of(ScopeBody)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make a workspace."""
    return _create_scope(request, caller, ScopeKind.WORKSPACE, body, idempotency_key)


@_site.post(
    "/registries",
    status_code=201,
    responses={201: {"model": ScopeAnswer, "description": "It is made"}},
    openapi_extra=documented(ScopeBody),
)
def create_registry(
    request: Request,
    caller: MayCreate,
    body: Annotated[Received[ScopeBody], body_of(ScopeBody)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make a registry."""
    return _create_scope(request, caller, ScopeKind.REGISTRY, body, idempotency_key)


@_inner.get("", responses=answers(ScopeAnswer, "The namespace"))
def show_scope(services: ToSee) -> Response:
    """Show a workspace or registry."""
    return answer(scope_document(services.scope))


@_inner.get("/settings", responses=answers(SettingsAnswer, "What is set"))
def show_settings(request: Request, services: ToSee, caller: Asking) -> Response:
    """Show what is set for a workspace or registry."""
    scope = services.scope
    return answer(asdict(Administration(site_of(request)).settings(caller, scope.kind, scope.name)))


@_inner.put(
    "/settings", responses=answers(SettingsAnswer, "What is set from now on"), openapi_extra=documented(SettingsBody)
)
def set_settings(
    request: Request,
    services: ToSet,
    caller: Asking,
    body: Annotated[Received[SettingsBody], body_of(SettingsBody)],
) -> Response:
    """Set all that can be set for a workspace or registry."""
    scope, administration = services.scope, Administration(site_of(request))
    return answer(asdict(administration.set_settings(caller, scope.kind, scope.name, body.value.to_core())))


def _scopes(request: Request, caller: Caller, kind: ScopeKind, limit: int, cursor: str | None) -> Response:
    found = Administration(site_of(request)).scopes(caller, kind)
    return _page(request, found, lambda each: each.name, scope_document, limit, cursor)


def _create_scope(
    request: Request, caller: Caller, kind: ScopeKind, body: Received[ScopeBody], key: str | None
) -> Response:
    said = body.value
    wanted = NewScope(kind, said.name, said.subscription, said.resource_group, said.location)

    def create() -> tuple[int, bytes]:
        return 201, encode(scope_document(Administration(site_of(request)).create_scope(caller, wanted)))

    status, content = once(request, key, body.raw, create)
    return Response(content, status, media_type="application/json")


# Who asks, and tokens.


@_site.get("/whoami", responses=answers(WhoAnswer, "Who asks, with their roles"))
def whoami(caller: MayHaveTokens) -> Response:
    """Say whose token was shown."""
    return answer(who_document(caller.principal))


@_site.get("/tokens", responses=answers(TokenPage, "The caller's tokens, the newest first"))
def list_tokens(
    request: Request, caller: MayHaveTokens, limit: LimitQuery = DEFAULT, cursor: CursorQuery = None
) -> Response:
    """List one's own tokens."""
    return _tokens(request, Tokens(site_of(request)).own(caller), limit, cursor)


@_site.post(
    "/tokens",
    status_code=201,
    responses={201: {"model": NewTokenAnswer, "description": "It is made; its secret is in this answer only"}},
    openapi_extra=documented(TokenBody),
)
def create_token(
    request: Request, caller: MayHaveTokens, body: Annotated[Received[TokenBody], body_of(TokenBody)]
) -> Response:
    """
    Make a token.

    An idempotency key has no effect here, because the answer, which has a secret in it, is not kept.
    """
    said = body.value
    wanted = NewToken(said.name, said.to_lifetime(), said.to_only(), said.owner)
    token, secret = Tokens(site_of(request)).create(caller, wanted)
    return answer(token_document(token) | {"secret": secret}, 201, {"Cache-Control": "no-store"})


@_site.delete("/tokens/{token}", status_code=204, response_class=Response)
def revoke_token(request: Request, caller: MayHaveTokens, token: WordPath) -> Response:
    """Make a token worthless: one's own, or, for administrators everywhere, anybody's."""
    Tokens(site_of(request)).revoke(caller, token)
    return Response(status_code=204)


@_site.get("/all-tokens", responses=answers(TokenPage, "Everybody's tokens, or somebody's, the newest first"))
def list_all_tokens(
    request: Request,
    caller: MaySeeTokens,
    owner: Annotated[str | None, Query(min_length=1, max_length=100, description="Whose, by name or id.")] = None,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """List everybody's tokens."""
    return _tokens(request, Tokens(site_of(request)).all(caller, owner), limit, cursor, owner or "")


def _tokens(request: Request, tokens: Sequence[Token], limit: int, cursor: str | None, order: str = "") -> Response:
    def key(token: Token) -> str:
        return f"{token.created_at.isoformat(timespec='microseconds')} {token.id}"

    return _page(request, tokens, key, token_document, limit, cursor, falling=True, order=order)


# Principals and roles.


@_site.get("/principals", responses=answers(PrincipalPage, "Everybody, by name"))
def list_principals(
    request: Request, caller: MaySeeRoles, limit: LimitQuery = DEFAULT, cursor: CursorQuery = None
) -> Response:
    """List everybody."""
    found = Administration(site_of(request)).principals(caller)
    return _page(request, found, lambda each: each.name, principal_document, limit, cursor)


@_site.post(
    "/principals",
    status_code=201,
    responses={201: {"model": PrincipalAnswer, "description": "They are known now, without a role"}},
    openapi_extra=documented(PrincipalBody),
)
def create_principal(
    request: Request,
    caller: MayGiveRoles,
    body: Annotated[Received[PrincipalBody], body_of(PrincipalBody)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Register a program, or a person who does not log in elsewhere."""

    def create() -> tuple[int, bytes]:
        found = Administration(site_of(request)).create_principal(caller, body.value.name)
        return 201, encode(principal_document(found))

    status, content = once(request, idempotency_key, body.raw, create)
    return Response(content, status, media_type="application/json")


@_site.get("/grants", responses=answers(GrantPage, "Who has a role everywhere"))
def list_roles(
    request: Request, caller: MaySeeRoles, limit: LimitQuery = DEFAULT, cursor: CursorQuery = None
) -> Response:
    """List roles everywhere."""
    return _grants(request, Administration(site_of(request)).grants(caller), limit, cursor)


@_site.put(
    "/grants/{principal}",
    responses=answers(GrantAnswer, "What they are everywhere"),
    openapi_extra=documented(RoleBody),
)
def set_role(
    request: Request, caller: MayGiveRoles, principal: WordPath, body: Annotated[Received[RoleBody], body_of(RoleBody)]
) -> Response:
    """Give somebody, by name or id, a role everywhere."""
    return answer(_grant(Administration(site_of(request)).set_role(caller, principal, body.value.role)))


@_site.delete("/grants/{principal}", status_code=204, response_class=Response)
def remove_role(request: Request, caller: MayGiveRoles, principal: WordPath) -> Response:
    """Take away what somebody is everywhere; never from the last administrator."""
    Administration(site_of(request)).set_role(caller, principal, None)
    return Response(status_code=204)


@_inner.get("/grants", responses=answers(GrantPage, "Who has a role there; roles everywhere hold there, too"))
def list_roles_there(
    request: Request, services: ToSeeRoles, caller: Asking, limit: LimitQuery = DEFAULT, cursor: CursorQuery = None
) -> Response:
    """List roles in a workspace or registry."""
    scope = services.scope
    return _grants(request, Administration(site_of(request)).grants(caller, scope.kind, scope.name), limit, cursor)


@_inner.put(
    "/grants/{principal}",
    responses=answers(GrantAnswer, "What they are there"),
    openapi_extra=documented(RoleBody),
)
def set_role_there(
    request: Request,
    services: ToGiveRoles,
    caller: Asking,
    principal: WordPath,
    body: Annotated[Received[RoleBody], body_of(RoleBody)],
) -> Response:
    """Give somebody, by name or id, a role in a workspace or registry."""
    scope, administration = services.scope, Administration(site_of(request))
    return answer(_grant(administration.set_role(caller, principal, body.value.role, scope.kind, scope.name)))


@_inner.delete("/grants/{principal}", status_code=204, response_class=Response)
def remove_role_there(request: Request, services: ToGiveRoles, caller: Asking, principal: WordPath) -> Response:
    """Take away what somebody is in a workspace or registry."""
    scope = services.scope
    Administration(site_of(request)).set_role(caller, principal, None, scope.kind, scope.name)
    return Response(status_code=204)


def _grants(request: Request, grants: Sequence[Grant], limit: int, cursor: str | None) -> Response:
    return _page(
        request, grants, lambda each: f"{each.name} {each.principal} {each.scope}", _grant, limit, cursor
    )  # fmt: skip


def _grant(grant: Grant | None) -> dict[str, Any]:
    assert grant is not None
    return grant_document(grant.principal, grant.name, grant.scope, grant.role)


def _page(
    request: Request,
    entries: Sequence[T],
    key: Callable[[T], str],
    document: Callable[[T], dict[str, Any]],
    limit: int,
    cursor: str | None,
    *,
    falling: bool = False,
    order: str = "",
) -> Response:
    """One page of a list that is short enough to be read whole."""
    ordered = sorted(entries, key=key, reverse=falling)

    def read(most: int, after: str | None) -> list[T]:
        left = (each for each in ordered if after is None or (key(each) < after if falling else key(each) > after))
        return [each for _, each in zip(range(most), left, strict=False)]

    return page(request, limit, cursor, read, key, document, order=order)


router: Final = APIRouter()
router.include_router(_site, tags=["site"])
router.include_router(under_both(_inner, "site"))
