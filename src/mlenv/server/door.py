"""
How routes reach the use cases: through `Site.open`, with one operation each.

    @router.get("/environments/{name}")
    def show(name: str, services: Annotated[Services, opened(Operation.ENVIRONMENT_READ)]) -> ...

A route without such a rule is found by a test, which knows the few that are public (`public`).
"""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Depends, Request

from mlenv.core.access import Caller, Operation, Principal
from mlenv.core.scope import ScopeKind
from mlenv.server.threads import in_thread
from mlenv.service.services import Services
from mlenv.service.site import Site, UnknownToken

_F = TypeVar("_F", bound=Callable[..., Any])


def site_of(request: Request) -> Site:
    """The site that this server serves."""
    site: Site = request.app.state.site
    return site


def secret_of(request: Request) -> str | None:
    """The bearer token of a request (RFC 6750, section 2.1), or None."""
    # Of several such headers, the first one counts.
    shown = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
    scheme, _, secret = shown.decode("latin-1").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None


async def caller_of(request: Request) -> Caller:
    """Who asks. Raises `UnknownToken`."""
    state = request.scope.setdefault("state", {})
    principal: Principal | None = state.get("principal")
    if principal is None:
        if (secret := secret_of(request)) is None:
            raise UnknownToken("no token was shown")
        site = site_of(request)
        # What is remembered costs no thread.
        principal = site.recall(secret)
        if principal is None:
            principal = await in_thread(site.authenticate, secret)
        state["principal"] = principal
    client = request.scope.get("client")
    return Caller(principal, client[0] if client else "", state.get("request_id", ""))


def opened(operation: Operation) -> Any:
    """A dependency: the use cases of the namespace in the path (`{workspace}` or `{registry}`), for this operation."""

    async def open_services(request: Request) -> Services:
        caller = await caller_of(request)
        kind = ScopeKind.WORKSPACE if "workspace" in request.path_params else ScopeKind.REGISTRY
        name = request.path_params[kind.value]
        site = site_of(request)
        if site.is_at_hand(kind, name):
            return site.open(caller, operation, kind, name)
        return await in_thread(site.open, caller, operation, kind, name)

    open_services.operation = operation  # type: ignore[attr-defined]
    return Depends(open_services)


def known(operation: Operation) -> Any:
    """A dependency: the caller, who may do this operation on the site as a whole."""

    async def know(request: Request) -> Caller:
        caller = await caller_of(request)
        site_of(request).allow(caller, operation)
        return caller

    know.operation = operation  # type: ignore[attr-defined]
    return Depends(know)


def public(route: _F) -> _F:
    """Mark a route that needs no token."""
    route.public = True  # type: ignore[attr-defined]
    return route


def short(route: _F) -> _F:
    """
    Mark a route that reads some rows and does little else.

    It is called in the event loop where the database can be waited for there (`create_app`): it must wait for nothing else.
    """
    route.short = True  # type: ignore[attr-defined]
    return route
