"""
How routes of Azure's dialect reach the use cases: through `Site.open`, as `mlenv.server.door` has it for the native API.

    @router.get(f"{WORKSPACE}/environments")
    def list_(services: Annotated[Services, azure_opened(Operation.ENVIRONMENT_READ)]) -> ...
"""

from collections.abc import Callable
from typing import Any

from fastapi import Depends, Request

from mlenv.core.access import Caller, Operation
from mlenv.core.reference import Reference, Workspace
from mlenv.core.scope import Scope, ScopeKind
from mlenv.server.door import caller_of, site_of
from mlenv.server.threads import in_thread
from mlenv.service.services import Services
from mlenv.service.site import ScopeNotFound


def azure_opened(operation: Operation) -> Any:
    """A dependency: the use cases of the workspace or registry at the request's address, for this operation."""

    async def open_services(request: Request) -> Services:
        request.state.caller = await caller_of(request)
        return await in_thread(_open_addressed, request, operation)

    open_services.operation = operation  # type: ignore[attr-defined]
    return Depends(open_services)


def _open_addressed(request: Request, operation: Operation) -> Services:
    where = request.path_params
    if "registry" in where:
        return open_as_caller(request, operation, ScopeKind.REGISTRY, where["registry"])
    return open_at(request, operation, Workspace(where["subscription"], where["group"], where["workspace"]))


def open_at(request: Request, operation: Operation, address: Workspace) -> Services:
    """The use cases of the workspace at an address, for the request's caller. Raises `ScopeNotFound`, `NotAllowed`."""
    found = None
    # What is not printable is no name, and no text for a database.
    if str(address).isprintable():
        found = site_of(request).store.scope_at(address.subscription, address.group, address.name)
    if found is None or found.kind is not ScopeKind.WORKSPACE:
        raise ScopeNotFound(ScopeKind.WORKSPACE, address.name)
    return open_as_caller(request, operation, ScopeKind.WORKSPACE, found.name)


def open_as_caller(request: Request, operation: Operation, kind: ScopeKind, name: str) -> Services:
    """
    The use cases of another namespace, for the caller of a request that was opened. Raises `ScopeNotFound`, `NotAllowed`.
    """
    if not name.isprintable():
        raise ScopeNotFound(kind, name)
    return site_of(request).open(known_caller(request), operation, kind, name)


def known_caller(request: Request) -> Caller:
    """Who asks, once a dependency of this module has found out."""
    caller: Caller = request.state.caller
    return caller


def elsewhere(request: Request, own: Scope) -> Callable[[Reference], Services | None]:
    """
    Opens the namespace that a reference names, to read its environments, for the request's caller.

    What it returns gives None for references into the namespace `own`, and raises `ScopeNotFound` and `NotAllowed`.
    """

    def find(reference: Reference) -> Services | None:
        if reference.registry is not None:
            kind, name = ScopeKind.REGISTRY, reference.registry
            if (kind, name) == (own.kind, own.name):
                return None
            return open_as_caller(request, Operation.ENVIRONMENT_READ, kind, name)
        if reference.workspace is None:
            return None
        services = open_at(request, Operation.ENVIRONMENT_READ, reference.workspace)
        return None if services.scope.key == own.key else services

    return find
