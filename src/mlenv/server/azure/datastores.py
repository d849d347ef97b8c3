"""The one datastore of a workspace, in Azure's dialect: where build contexts are uploaded to."""

from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Query, Request
from pydantic import Field

from mlenv.core.access import Operation
from mlenv.core.files import lasting_container
from mlenv.core.scope import Scope
from mlenv.errors import NotFound
from mlenv.server.azure.addresses import PROVIDER, WORKSPACE, azure_router, base_of
from mlenv.server.azure.bodies import Body
from mlenv.server.azure.door import azure_opened
from mlenv.server.azure.environment_documents import system_data
from mlenv.server.azure.signatures import LONGEST
from mlenv.server.azure.storage import signature
from mlenv.service.services import Services

router = azure_router()

NAME: Final = "workspaceblobstore"
Reading = Annotated[Services, azure_opened(Operation.SCOPE_READ)]
DATASTORES: Final = f"{WORKSPACE}/datastores"


class DatastoreNotFound(NotFound):
    """A workspace has one datastore, and it is not called so."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no datastore {name[:200]!r}; the one there is, is {NAME!r}")
        self.name = name


class SecretsBody(Body):
    """A request for secrets."""

    expirable_secret: bool | None = None
    expire_after_hours: int | None = Field(None, ge=1)


@router.get(DATASTORES)
def list_datastores(
    request: Request, services: Reading, default: Annotated[str | None, Query(alias="isDefault")] = None
) -> dict[str, Any]:
    """The datastore there is, which is the default one."""
    found = [] if (default or "").lower() == "false" else [_document(request, services.scope)]
    return {"value": found}


@router.get(f"{DATASTORES}/{{name}}")
def get_datastore(request: Request, services: Reading, name: str) -> dict[str, Any]:
    """One datastore."""
    _check(name)
    return _document(request, services.scope)


@router.post(f"{DATASTORES}/{{name}}/listSecrets")
def list_secrets(
    request: Request,
    services: Annotated[Services, azure_opened(Operation.SECRET_READ)],
    name: str,
    body: SecretsBody | None = None,
) -> dict[str, Any]:
    """A signature that lets the caller upload for a while."""
    _check(name)
    hours = min((body.expire_after_hours if body else None) or 1, LONGEST // timedelta(hours=1))
    container = lasting_container(services.scope.id)
    return {"secretsType": "Sas", "sasToken": signature(request, container, timedelta(hours=hours))}


def _check(name: str) -> None:
    if name.lower() != NAME:
        raise DatastoreNotFound(name)


def _document(request: Request, scope: Scope) -> dict[str, Any]:
    base = urlsplit(base_of(request))
    return {
        "id": f"{scope.address}/datastores/{NAME}",
        "name": NAME,
        "type": f"{PROVIDER}/workspaces/datastores",
        "properties": {
            "datastoreType": "AzureBlob",
            # NOTE: the client makes `https://{accountName}.blob.{storage_endpoint}` of this. With the `#`, what it adds
            # is a fragment, which is no part of where it uploads to.
            "accountName": f"{base.netloc}{base.path}/blobs/#",
            "containerName": lasting_container(scope.id),
            "endpoint": "local",
            "protocol": base.scheme,
            "isDefault": True,
            "serviceDataAccessAuthIdentity": "None",
            "credentials": {"credentialsType": "Sas"},
            "description": None,
            "tags": {},
            "properties": {},
        },
        "systemData": system_data(scope.created_at, scope.created_at),
    }
