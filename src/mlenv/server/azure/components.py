"""Components: kept under versions that never change, each with the environment that it runs in."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from mlenv.core.access import Operation
from mlenv.core.assets import Asset, AssetKind
from mlenv.core.environment import View
from mlenv.server.azure.addresses import WORKSPACE, azure_router
from mlenv.server.azure.asset_documents import (
    component_container,
    component_document,
    component_identity,
    component_spec,
    environment_in,
    properties_of,
)
from mlenv.server.azure.asset_pages import page_of
from mlenv.server.azure.door import azure_opened, elsewhere
from mlenv.service.services import Services

router: APIRouter = azure_router()

#: What the client asks for when its user names no version.
_DEFAULT = "azureml_default"
_CONTAINER = f"{WORKSPACE}/components/{{name}}"
_VERSION = f"{_CONTAINER}/versions/{{version}}"
_Reading = Annotated[Services, azure_opened(Operation.ASSET_READ)]
_Writing = Annotated[Services, azure_opened(Operation.ASSET_WRITE)]
_View = Annotated[View, Query(alias="listViewType")]
_Top = Annotated[int | None, Query(alias="$top", ge=1)]
_Token = Annotated[str | None, Query(alias="$skipToken")]


@router.put(_VERSION)
def put_version(
    request: Request, response: Response, name: str, version: str, body: Annotated[Any, Body()], services: _Writing
) -> dict[str, Any]:
    """Register a version; one that is there with the same content takes over description, tags and `isArchived`."""
    properties = properties_of(body)
    spec = component_spec(properties)
    saved = services.assets.put(
        AssetKind.COMPONENT,
        name,
        version,
        properties,
        lookup=component_identity(properties),
        environment=environment_in("properties.componentSpec.environment", spec.get("environment")),
        elsewhere=elsewhere(request, services.scope),
        archived=bool(properties.get("isArchived")),
    )
    response.status_code = 201 if saved.new else 200
    return _document(services, saved.asset)


@router.get(_VERSION)
def get_version(name: str, version: str, services: _Reading) -> dict[str, Any]:
    """One version; `azureml_default` is the newest."""
    if version == _DEFAULT:
        return _document(services, services.assets.latest(AssetKind.COMPONENT, name))
    return _document(services, services.assets.get(AssetKind.COMPONENT, name, version))


@router.get(f"{_CONTAINER}/versions")
def list_versions(
    request: Request,
    name: str,
    services: _Reading,
    view: _View = View.ACTIVE,
    top: _Top = None,
    token: _Token = None,
) -> dict[str, Any]:
    """Versions, the newest first."""
    return page_of(
        request,
        lambda size, after: services.assets.list(AssetKind.COMPONENT, view, limit=size, after=after, name=name),
        lambda asset: _document(services, asset),
        top=top,
        token=token,
    )


@router.get(_CONTAINER)
def get_container(name: str, services: _Reading) -> dict[str, Any]:
    """A component as a whole, with its latest and its next version."""
    return _container(services, services.assets.latest(AssetKind.COMPONENT, name))


@router.put(_CONTAINER)
def put_container(name: str, body: Annotated[Any, Body()], services: _Writing) -> dict[str, Any]:
    """Archive or restore a component with all its versions."""
    archived = bool(properties_of(body).get("isArchived"))
    for asset in services.assets.each(AssetKind.COMPONENT, View.ACTIVE if archived else View.ARCHIVED, name=name):
        services.assets.set_archived(AssetKind.COMPONENT, name, asset.version, archived)
    return _container(services, services.assets.latest(AssetKind.COMPONENT, name))


@router.get(f"{WORKSPACE}/components")
def list_containers(
    request: Request, services: _Reading, view: _View = View.ACTIVE, top: _Top = None, token: _Token = None
) -> dict[str, Any]:
    """Components, the one that was changed last first. Those without a name are not listed."""
    return page_of(
        request,
        lambda size, after: services.assets.list(
            AssetKind.COMPONENT, view, limit=size, after=after, newest_of_each=True
        ),
        lambda asset: None if asset.document.get("isAnonymous") else _container(services, asset),
        top=top,
        token=token,
    )


def _document(services: Services, asset: Asset) -> dict[str, Any]:
    return component_document(asset, id=f"{services.scope.address}/components/{asset.name}/versions/{asset.version}")


def _container(services: Services, latest: Asset) -> dict[str, Any]:
    return component_container(
        latest,
        next_version=services.assets.next_version(AssetKind.COMPONENT, latest.name),
        archived=not services.assets.list(AssetKind.COMPONENT, View.ACTIVE, limit=1, name=latest.name),
        id=f"{services.scope.address}/components/{latest.name}",
    )
