"""Online endpoints and their deployments: recorded, with the environments that they refer to. Nothing is served."""

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Body, Query, Request, Response

from mlenv.core.access import Operation
from mlenv.core.assets import Asset, AssetKind
from mlenv.core.environment import View
from mlenv.server.azure.addresses import WORKSPACE, azure_router, base_of
from mlenv.server.azure.asset_documents import environment_in, properties_of, resource_document
from mlenv.server.azure.asset_pages import page_of
from mlenv.server.azure.door import azure_opened, elsewhere
from mlenv.service.services import Services

router: APIRouter = azure_router()

_ENDPOINTS: Final = f"{WORKSPACE}/onlineEndpoints"
_ENDPOINT: Final = f"{_ENDPOINTS}/{{endpoint}}"
_DEPLOYMENT: Final = f"{_ENDPOINT}/deployments/{{deployment}}"
_Reading = Annotated[Services, azure_opened(Operation.ASSET_READ)]
_Writing = Annotated[Services, azure_opened(Operation.ASSET_WRITE)]
_Token = Annotated[str | None, Query(alias="$skipToken")]
#: Of a resource, what the server writes itself.
_OWN: Final = frozenset({"id", "name", "type", "systemData"})


@router.put(_ENDPOINT)
def put_endpoint(
    request: Request, response: Response, endpoint: str, body: Annotated[Any, Body()], services: _Writing
) -> dict[str, Any]:
    """Register an endpoint, or replace it."""
    saved = services.assets.put(AssetKind.ENDPOINT, endpoint, "", _kept(body))
    response.status_code = 201 if saved.new else 200
    return _endpoint(request, services, saved.asset)


@router.get(_ENDPOINT)
def get_endpoint(request: Request, endpoint: str, services: _Reading) -> dict[str, Any]:
    """One endpoint."""
    return _endpoint(request, services, services.assets.get(AssetKind.ENDPOINT, endpoint))


@router.get(_ENDPOINTS)
def list_endpoints(request: Request, services: _Reading, token: _Token = None) -> dict[str, Any]:
    """Endpoints, the newest first."""
    return page_of(
        request,
        lambda size, after: services.assets.list(AssetKind.ENDPOINT, View.ALL, limit=size, after=after),
        lambda asset: _endpoint(request, services, asset),
        token=token,
    )


@router.delete(_ENDPOINT)
def delete_endpoint(endpoint: str, services: _Writing) -> Response:
    """Forget an endpoint with its deployments."""
    while found := services.assets.find(AssetKind.DEPLOYMENT, endpoint):
        for each in found:
            services.assets.remove(AssetKind.DEPLOYMENT, each.name)
    return Response(status_code=200 if services.assets.remove(AssetKind.ENDPOINT, endpoint) else 204)


@router.put(_DEPLOYMENT)
def put_deployment(
    request: Request,
    response: Response,
    endpoint: str,
    deployment: str,
    body: Annotated[Any, Body()],
    services: _Writing,
) -> dict[str, Any]:
    """Register a deployment of an endpoint that is there, or replace it."""
    services.assets.get(AssetKind.ENDPOINT, endpoint)
    kept = _kept(body)
    saved = services.assets.put(
        AssetKind.DEPLOYMENT,
        f"{endpoint}/{deployment}",
        "",
        kept,
        lookup=endpoint,
        environment=environment_in("properties.environmentId", kept["properties"].get("environmentId")),
        elsewhere=elsewhere(request, services.scope),
    )
    response.status_code = 201 if saved.new else 200
    # NOTE: clients up to 1.34 read an answer that is final twice, and fail the second time. So it is told where to ask
    # whether it is done; they ask at once, and get the deployment once more.
    document = _deployment(services, saved.asset)
    response.headers["Azure-AsyncOperation"] = f"{base_of(request)}{quote(document['id'])}/operation"
    response.headers["Retry-After"] = "1"
    return document


@router.get(f"{_DEPLOYMENT}/operation")
def get_operation(endpoint: str, deployment: str, services: _Reading) -> dict[str, str]:
    """Whether a deployment is registered. It is, as soon as its registration was answered."""
    services.assets.get(AssetKind.DEPLOYMENT, f"{endpoint}/{deployment}")
    return {"status": "Succeeded"}


@router.get(_DEPLOYMENT)
def get_deployment(endpoint: str, deployment: str, services: _Reading) -> dict[str, Any]:
    """One deployment."""
    return _deployment(services, services.assets.get(AssetKind.DEPLOYMENT, f"{endpoint}/{deployment}"))


@router.get(f"{_ENDPOINT}/deployments")
def list_deployments(request: Request, endpoint: str, services: _Reading, token: _Token = None) -> dict[str, Any]:
    """Deployments of an endpoint, the newest first."""
    services.assets.get(AssetKind.ENDPOINT, endpoint)
    return page_of(
        request,
        lambda size, after: services.assets.find(AssetKind.DEPLOYMENT, endpoint, limit=size, after=after),
        lambda asset: _deployment(services, asset),
        token=token,
    )


@router.delete(_DEPLOYMENT)
def delete_deployment(endpoint: str, deployment: str, services: _Writing) -> Response:
    """Forget a deployment."""
    removed = services.assets.remove(AssetKind.DEPLOYMENT, f"{endpoint}/{deployment}")
    return Response(status_code=200 if removed else 204)


def _kept(body: Any) -> Mapping[str, Any]:
    """A resource, as it is kept."""
    properties = properties_of(body)
    return {key: value for key, value in body.items() if key not in _OWN} | {"properties": properties}


def _endpoint(request: Request, services: Services, asset: Asset) -> dict[str, Any]:
    path = f"{services.scope.address}/onlineEndpoints/{asset.name}"
    return resource_document(
        asset,
        id=path,
        type="onlineEndpoints",
        defaults={"authMode": "Key", "properties": {}, "traffic": {}, "mirrorTraffic": {}},
        own={
            "provisioningState": "Succeeded",
            "scoringUri": f"{base_of(request)}{path}/score",
            "swaggerUri": f"{base_of(request)}{path}/swagger.json",
        },
    )


def _deployment(services: Services, asset: Asset) -> dict[str, Any]:
    endpoint, _, name = asset.name.partition("/")
    defaults = {"endpointComputeType": "Managed", "scaleSettings": {"scaleType": "Default"}, "properties": {}}
    if asset.document["properties"].get("endpointComputeType") == "Kubernetes":
        # The client reads what is in it, also where its user said nothing.
        defaults["containerResourceRequirements"] = {}
    return resource_document(
        asset,
        id=f"{services.scope.address}/onlineEndpoints/{endpoint}/deployments/{name}",
        type="onlineEndpoints/deployments",
        defaults=defaults,
        own={"provisioningState": "Succeeded"},
    )
