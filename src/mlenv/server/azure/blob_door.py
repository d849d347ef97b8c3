"""
How routes of the blob dialect reach the files of a namespace: with a signature in the address, or with a token.

Either way the call passes `Site.open`, as whoever asked for the signature or shows the token.
"""

from typing import Any

from fastapi import Depends, Request

from mlenv.core.access import Caller, Operation
from mlenv.core.files import scope_of
from mlenv.errors import NotFound
from mlenv.server.azure.signatures import InvalidSignature, check, signing_key
from mlenv.server.door import caller_of, site_of
from mlenv.server.threads import in_thread
from mlenv.service.services import Services


class NoSuchContainer(NotFound):
    """There is no such container, or none that the caller may see."""

    def __init__(self, container: str) -> None:
        super().__init__(f"there is no container {container[:100]!r}, or none that you may see")
        self.container = container


def blobs_opened(operation: Operation, permissions: str) -> Any:
    """
    A dependency: the use cases of the namespace that `{container}` belongs to, for this operation.

    Args:
        permissions: What a signature must allow, one of these letters at least.
    """

    async def open_services(request: Request) -> Services:
        if "sig" in request.query_params:
            caller = await in_thread(_signer, request, permissions)
        else:
            caller = await caller_of(request)
        return await in_thread(_open, request, caller, operation)

    open_services.operation = operation  # type: ignore[attr-defined]
    return Depends(open_services)


def _signer(request: Request, permissions: str) -> Caller:
    """Who asked for the signature that is shown. Raises `InvalidSignature`."""
    site = site_of(request)
    key = signing_key(request.app.state.settings.home)
    signed = check(key, request.path_params["container"], request.query_params, now=site.clock())
    if not set(permissions) & set(signed.permissions):
        raise InvalidSignature(f"it allows {signed.permissions!r}, this needs {' or '.join(permissions)!r}")
    principal = site.store.principal(signed.principal)
    if principal is None:
        raise InvalidSignature("whoever asked for it is gone")
    address = request.client.host if request.client else ""
    return Caller(principal, address, getattr(request.state, "request_id", ""))


def _open(request: Request, caller: Caller, operation: Operation) -> Services:
    container = request.path_params["container"]
    site = site_of(request)
    id = scope_of(container)
    scope = site.store.scope_by_id(id) if id is not None else None
    if scope is None:
        raise NoSuchContainer(container)
    return site.open(caller, operation, scope.kind, scope.name)
