"""How Azure's clients address what is here, and how what they are answered names it."""

import re
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from msgspec import Struct

from mlenv.core.environment import EnvironmentVersion
from mlenv.core.reference import EnvironmentName, Reference
from mlenv.core.scope import Scope, ScopeKind

PROVIDER: Final = "Microsoft.MachineLearningServices"
_GROUP: Final = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}"
#: Paths of workspaces and registries, as routes have them.
WORKSPACES: Final = f"{_GROUP}/workspaces"
WORKSPACE: Final = f"{WORKSPACES}/{{workspace}}"
REGISTRY: Final = f"/mferp/managementfrontend{_GROUP}/registries/{{registry}}"


class AzureRoute(APIRoute):
    """A route whose fixed parts are the same in any case, as all of the resource manager's are."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)


def azure_router() -> APIRouter:
    """A router for the resource manager's dialect. Its routes are in no native description."""
    return APIRouter(route_class=AzureRoute, include_in_schema=False)


def base_of(request: Request) -> str:
    """Where this client reaches the server, without a slash at the end: `https://127.0.0.1:8443`."""
    settings = getattr(request.app.state, "settings", None)
    if settings is not None and settings.public_url:
        return str(settings.public_url)
    return f"{request.url.scheme}://{request.url.netloc}"


class Address(Struct, frozen=True):
    """
    What things in a namespace are called.

    Attributes:
        scope: The namespace.
        base: Where the server is reached.
    """

    scope: Scope
    base: str

    @property
    def path(self) -> str:
        """The namespace's path on this server."""
        if self.scope.kind is ScopeKind.WORKSPACE:
            return str(self.scope.address)
        group = f"/subscriptions/{self.scope.subscription}/resourceGroups/{self.scope.group}/providers/{PROVIDER}"
        return f"/mferp/managementfrontend{group}/registries/{self.scope.name}"

    def environment_id(self, name: EnvironmentName) -> str:
        """An environment's id."""
        return self._id(Reference(name))

    def version_id(self, version: EnvironmentVersion) -> str:
        """A version's id. The client takes name and version from it, and from nowhere else."""
        return self._id(Reference(version.name, version.version))

    def _id(self, reference: Reference) -> str:
        if self.scope.kind is ScopeKind.WORKSPACE:
            where = Reference(reference.name, reference.version, workspace=self.scope.address)
        else:
            where = Reference(reference.name, reference.version, registry=self.scope.name)
        return str(where)
