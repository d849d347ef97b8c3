"""The routes of environments that workspaces and registries have alike, in Azure's dialect."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mlenv.core.access import Operation
from mlenv.server.azure import environment_calls as calls
from mlenv.server.azure.door import azure_opened
from mlenv.server.azure.environment_documents import environment_document, version_document
from mlenv.service.services import Services

Reading = Annotated[Services, azure_opened(Operation.ENVIRONMENT_READ)]
Writing = Annotated[Services, azure_opened(Operation.ENVIRONMENT_WRITE)]


def add_environment_routes(router: APIRouter, environments: str) -> None:
    """Add to a router what is read, and what is refused, of environments; `environments` is their collection's path."""
    environment, versions = f"{environments}/{{name}}", f"{environments}/{{name}}/versions"
    version = f"{versions}/{{version}}"
    router.get(environments)(list_environments)
    router.get(environment)(get_environment)
    router.delete(environment)(delete_environment)
    router.get(versions)(list_versions)
    router.get(version)(get_version)
    router.delete(version)(delete_version)


def list_environments(
    request: Request,
    services: Reading,
    view: calls.ViewQuery = None,
    top: calls.TopQuery = None,
    token: calls.TokenQuery = None,
) -> dict[str, Any]:
    """A page of environments."""
    return calls.list_environments(request, services, view, top, token)


def get_environment(request: Request, services: Reading, name: str) -> dict[str, Any]:
    """One environment."""
    return environment_document(calls.get_environment(services, name), calls.address_of(request, services))


def delete_environment(services: Writing, name: str) -> Response:
    """Refused: what was registered is kept."""
    raise calls.VersionsAreKept(f"environment {calls.get_environment(services, name).name}")


def list_versions(
    request: Request,
    services: Reading,
    name: str,
    view: calls.ViewQuery = None,
    order: calls.OrderQuery = None,
    top: calls.TopQuery = None,
    token: calls.TokenQuery = None,
) -> dict[str, Any]:
    """A page of versions."""
    return calls.list_versions(request, services, name, view, order, top, token)


def get_version(request: Request, services: Reading, name: str, version: str) -> dict[str, Any]:
    """One version. In a registry, it is where the client finds its registration done, too."""
    return version_document(calls.get_version(services, name, version), calls.address_of(request, services))


def delete_version(services: Writing, name: str, version: str) -> Response:
    """Refused: what was registered is kept."""
    raise calls.VersionsAreKept(f"environment {calls.get_version(services, name, version)}")
