"""
Registries, in Azure's dialect: where they are, their environments, and sharing into them.

What takes long at Azure is done at once here; but older clients take nothing for an answer to a registration but 202,
with an address at which they find it done.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Request
from msgspec.structs import replace
from starlette.responses import JSONResponse, Response

from mlenv.core.access import Operation
from mlenv.core.files import lasting_container
from mlenv.core.reference import Reference, parse_name, parse_version
from mlenv.core.scope import ScopeKind
from mlenv.core.spec import Spec
from mlenv.errors import InvalidInput
from mlenv.server.azure import environment_calls as calls
from mlenv.server.azure.addresses import REGISTRY, azure_router, base_of
from mlenv.server.azure.bodies import ContainerBody, ImportBody, TemporaryDataBody, VersionBody
from mlenv.server.azure.door import azure_opened, open_as_caller, open_at
from mlenv.server.azure.environment_documents import environment_document
from mlenv.server.azure.environment_routes import Writing, add_environment_routes
from mlenv.server.azure.storage import is_lasting, new_container, reference_to, uploaded
from mlenv.server.door import site_of
from mlenv.service.services import Services
from mlenv.service.sharing import share
from mlenv.service.site import ScopeNotFound

router = azure_router()
add_environment_routes(router, f"{REGISTRY}/environments")

ENVIRONMENT = f"{REGISTRY}/environments/{{name}}"
VERSION = f"{ENVIRONMENT}/versions/{{version}}"
_SOURCE: Final = re.compile(
    r"azureml://locations/[^/]+/workspaces/(?P<workspace>[A-Za-z0-9_.-]+)/environments/(?P<name>[^/]+)/versions/(?P<version>[^/]+)"
)


class UnknownSource(InvalidInput):
    """What is to be shared has an address of no known form."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"properties.sourceAssetId: {text[:500]!r}; expected "
            "azureml://locations/L/workspaces/ID/environments/N/versions/V, or another reference to an environment"
        )


@router.get("/registrymanagement/v1.0/registries/{registry}/discovery")
def discover(request: Request, services: Annotated[Services, azure_opened(Operation.SCOPE_READ)]) -> dict[str, Any]:
    """Where a registry is reached."""
    scope = services.scope
    base = f"{base_of(request)}/"
    return {
        "registryName": scope.name,
        "subscriptionId": scope.subscription,
        "resourceGroup": scope.group,
        "registryRegion": scope.location,
        "primaryRegion": scope.location,
        "regions": [scope.location],
        "primaryRegionResourceProviderUri": base,
        "registryId": scope.id,
    }


@router.put(ENVIRONMENT)
def put_environment(request: Request, services: Writing, name: str, body: ContainerBody) -> Response:
    """Archive or restore an environment with all its versions. All clients take 201, and only the newest others."""
    found = calls.set_archived(services, name, bool(body.properties.is_archived))
    return JSONResponse(environment_document(found, calls.address_of(request, services)), 201)


@router.put(VERSION)
def put_version(request: Request, services: Writing, name: str, version: str, body: VersionBody) -> Response:
    """Register a version, or set what may change."""
    created = calls.put_version(services, name, version, body.properties, prepare=_settled(request, services))
    path = f"{calls.address_of(request, services).path}/environments/{quote(created.version.name, safe='')}"
    location = f"{base_of(request)}{quote(path)}/versions/{quote(created.version.version, safe='')}"
    # NOTE: 0 would count as absent, and the client would wait for half a minute.
    return Response(status_code=202, headers={"Location": location, "Retry-After": "1"})


def _settled(request: Request, services: Services) -> Callable[[Spec], Spec]:
    """Moves a build's context from where it was uploaded for a while to where it stays, named by its content."""

    def settle(spec: Spec) -> Spec:
        if spec.build is None or (found := uploaded(request, services.scope, spec.build.path)) is None:
            return spec
        container, directory = found
        if is_lasting(services.scope, container):
            return spec
        target = lasting_container(services.scope.id)
        path = services.files.settle(container, directory, target)
        return replace(spec, build=replace(spec.build, path=f"{base_of(request)}/blobs/{target}/{path}"))

    return settle


@router.put(f"{REGISTRY}/tempdatarefs/{{name}}/versions/{{version}}")
@router.post(f"{REGISTRY}/tempdatarefs/{{name}}/versions/{{version}}")
def create_temporary_data(
    request: Request,
    services: Annotated[Services, azure_opened(Operation.BLOB_WRITE)],
    name: str,
    version: str,
    body: TemporaryDataBody,
) -> dict[str, Any]:
    """A new place to upload to. Each registration has its own, so that none can change what another uploaded."""
    parse_name(name), parse_version(version)
    container = new_container(request, services.scope)
    return {"blobReferenceForConsumption": reference_to(request, container)}


@router.post(f"{REGISTRY}/import")
def import_version(
    request: Request, services: Annotated[Services, azure_opened(Operation.SHARE)], body: ImportBody
) -> Response:
    """Share a version into this registry. The answer has no body: the client fails on any."""
    properties = body.properties
    source, reference = _source(request, properties.source_asset_id)
    name, version = properties.destination_name or reference.name, properties.destination_version or reference.version
    with calls.told_as_azure(name, version or ""):
        share(
            source,
            services,
            reference,
            name=parse_name(name),
            version=parse_version(version) if version else None,
            clock=site_of(request).clock,
        )
    return Response(status_code=200)


def _source(request: Request, text: str) -> tuple[Services, Reference]:
    """The namespace that a version is shared from, for the request's caller, and which version."""
    if match := _SOURCE.fullmatch(text):
        reference = Reference(parse_name(match["name"]), parse_version(match["version"]))
        scope = site_of(request).store.scope_by_id(match["workspace"])
        if scope is None or scope.kind is not ScopeKind.WORKSPACE:
            raise ScopeNotFound(ScopeKind.WORKSPACE, match["workspace"])
        return open_as_caller(request, Operation.ENVIRONMENT_READ, scope.kind, scope.name), reference
    reference = Reference.parse(text)
    if reference.registry is not None:
        return open_as_caller(request, Operation.ENVIRONMENT_READ, ScopeKind.REGISTRY, reference.registry), reference
    if reference.workspace is not None:
        return open_at(request, Operation.ENVIRONMENT_READ, reference.workspace), reference
    raise UnknownSource(text)
