"""Environments of workspaces, in Azure's dialect."""

from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from mlenv.core.access import Operation
from mlenv.core.reference import Reference, parse_name, parse_version
from mlenv.core.scope import ScopeKind
from mlenv.server.azure import environment_calls as calls
from mlenv.server.azure.addresses import WORKSPACE, azure_router
from mlenv.server.azure.bodies import ContainerBody, PublishBody, VersionBody
from mlenv.server.azure.door import open_as_caller
from mlenv.server.azure.environment_documents import environment_document, version_document
from mlenv.server.azure.environment_routes import Reading, Writing, add_environment_routes
from mlenv.server.azure.storage import uploaded
from mlenv.server.door import site_of
from mlenv.service.sharing import share

router = azure_router()
add_environment_routes(router, f"{WORKSPACE}/environments")

ENVIRONMENT = f"{WORKSPACE}/environments/{{name}}"
VERSION = f"{ENVIRONMENT}/versions/{{version}}"


@router.put(ENVIRONMENT)
def put_environment(request: Request, services: Writing, name: str, body: ContainerBody) -> dict[str, Any]:
    """Archive or restore an environment with all its versions."""
    found = calls.set_archived(services, name, bool(body.properties.is_archived))
    return environment_document(found, calls.address_of(request, services))


@router.put(VERSION)
def put_version(request: Request, services: Writing, name: str, version: str, body: VersionBody) -> Response:
    """Register a version, or set what may change: 201 if it is new, 200 if it was there."""
    created = calls.put_version(services, name, version, body.properties)
    build = created.version.spec.build
    if created.new and build is not None and (place := uploaded(request, services.scope, build.path)):
        services.files.seal(*place)
    document = version_document(created.version, calls.address_of(request, services))
    return JSONResponse(document, 201 if created.new else 200)


@router.post(f"{VERSION}/publish")
def publish(request: Request, services: Reading, name: str, version: str, body: PublishBody) -> Response:
    """Share a version into a registry."""
    target = open_as_caller(request, Operation.SHARE, ScopeKind.REGISTRY, body.registry_name)
    with calls.told_as_azure(body.destination_name or name, body.destination_version or version):
        share(
            services,
            target,
            Reference(parse_name(name), parse_version(version)),
            name=parse_name(body.destination_name) if body.destination_name else None,
            version=parse_version(body.destination_version) if body.destination_version else None,
            clock=site_of(request).clock,
        )
    return JSONResponse({})
