"""Workspaces, resource groups and subscriptions, in Azure's dialect: what of them the caller may see."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Request

from mlenv.core.access import Caller, Operation
from mlenv.core.scope import Scope, ScopeKind
from mlenv.errors import NotFound
from mlenv.server.azure.addresses import PROVIDER, WORKSPACE, WORKSPACES, azure_router, base_of
from mlenv.server.azure.door import azure_opened
from mlenv.server.azure.environment_documents import system_data
from mlenv.server.door import known, public, site_of
from mlenv.service.services import Services

router = azure_router()

Known = Annotated[Caller, known(Operation.SCOPE_LIST)]


class NothingThere(NotFound):
    """There is no such subscription or resource group, or none that the caller may see."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name[:200]!r}, or none that you may see")


class NoComputes(NotFound):
    """Clients ask for a compute before they send jobs of several steps."""

    hint = "send a command job: the compute that it names is not looked at"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no compute {name[:200]!r}: command jobs run on the server's own workers, and no other jobs are run"
        )


@router.get(f"{WORKSPACE}/computes/{{name}}")
def get_compute(services: Annotated[Services, azure_opened(Operation.SCOPE_READ)], name: str) -> dict[str, Any]:
    """There is none."""
    raise NoComputes(name)


@router.get(WORKSPACE)
def get_workspace(
    request: Request, services: Annotated[Services, azure_opened(Operation.SCOPE_READ)]
) -> dict[str, Any]:
    """One workspace."""
    return workspace_document(services.scope, base_of(request))


@router.get(WORKSPACES)
@router.get(f"/subscriptions/{{subscription}}/providers/{PROVIDER}/workspaces")
def list_workspaces(request: Request, caller: Known, subscription: str, group: str | None = None) -> dict[str, Any]:
    """The workspaces of a subscription or resource group that the caller may see."""
    found = [
        each
        for each in _visible(request, caller)
        if each.subscription.lower() == subscription.lower() and (group is None or each.group.lower() == group.lower())
    ]
    return {"value": [workspace_document(each, base_of(request)) for each in found]}


@router.get("/subscriptions")
def list_subscriptions(request: Request, caller: Known) -> dict[str, Any]:
    """The subscriptions that have a workspace or registry that the caller may see."""
    return {"value": [_subscription(each) for each in _subscriptions(request, caller)]}


@router.get("/subscriptions/{subscription}")
def get_subscription(request: Request, caller: Known, subscription: str) -> dict[str, Any]:
    """One subscription."""
    for each in _subscriptions(request, caller):
        if each.lower() == subscription.lower():
            return _subscription(each)
    raise NothingThere("subscription", subscription)


@router.get("/tenants")
def list_tenants(caller: Known) -> dict[str, Any]:
    """The one tenant there is: the site."""
    return {
        "value": [{"id": f"/tenants/{TENANT}", "tenantId": TENANT, "displayName": "mlenv", "tenantCategory": "Home"}]
    }


@router.get("/subscriptions/{subscription}/resourceGroups")
def list_groups(request: Request, caller: Known, subscription: str) -> dict[str, Any]:
    """The resource groups of a subscription."""
    return {"value": [_group(each) for each in _groups(request, caller, subscription)]}


@router.get("/subscriptions/{subscription}/resourceGroups/{group}")
def get_group(request: Request, caller: Known, subscription: str, group: str) -> dict[str, Any]:
    """One resource group."""
    for each in _groups(request, caller, subscription):
        if each.group.lower() == group.lower():
            return _group(each)
    raise NothingThere("resource group", group)


@router.get("/discovery/workspaces/{workspace_id}")
@public
def discover(request: Request, workspace_id: str) -> dict[str, Any]:
    """Where the services of a workspace are: all of them here. The client asks without a token."""
    base = base_of(request)
    return {
        "api": base,
        "catalog": base,
        "experimentation": base,
        "history": base,
        "modelmanagement": base,
        "studio": base,
    }


#: The tenant that every subscription is of.
TENANT = "00000000-0000-0000-0000-000000000000"


def workspace_document(scope: Scope, base: str) -> dict[str, Any]:
    """A workspace."""
    return {
        "id": str(scope.address),
        "name": scope.name,
        "type": f"{PROVIDER}/workspaces",
        "location": scope.location,
        "kind": "Default",
        "tags": {},
        "identity": None,
        "properties": {
            "workspaceId": scope.id,
            "friendlyName": scope.name,
            "description": "",
            "discoveryUrl": f"{base}/discovery/workspaces/{scope.id}",
            "mlFlowTrackingUri": "",
            "provisioningState": "Succeeded",
            "publicNetworkAccess": "Enabled",
            "hbiWorkspace": False,
        },
        "systemData": system_data(scope.created_at, scope.created_at),
    }


def _visible(request: Request, caller: Caller) -> list[Scope]:
    return site_of(request).visible(caller, ScopeKind.WORKSPACE)


def _subscriptions(request: Request, caller: Caller) -> list[str]:
    everything: Iterable[Scope] = (each for kind in ScopeKind for each in site_of(request).visible(caller, kind))
    return sorted({each.subscription for each in everything})


def _subscription(name: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{name}",
        "subscriptionId": name,
        "tenantId": TENANT,
        "displayName": name,
        "state": "Enabled",
        "managedByTenants": [],
    }


def _groups(request: Request, caller: Caller, subscription: str) -> list[Scope]:
    """One namespace of each resource group."""
    found = {
        each.group.lower(): each
        for each in _visible(request, caller)
        if each.subscription.lower() == subscription.lower()
    }
    return [found[name] for name in sorted(found)]


def _group(scope: Scope) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{scope.subscription}/resourceGroups/{scope.group}",
        "name": scope.group,
        "type": "Microsoft.Resources/resourceGroups",
        "location": scope.location,
        "properties": {"provisioningState": "Succeeded"},
    }
