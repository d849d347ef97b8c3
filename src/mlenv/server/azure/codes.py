"""Code that jobs bring along, in Azure's dialect. Its names are random: it is found by the hash of its content."""

from typing import Annotated, Any, Final

from fastapi import Query, Request
from msgspec import Struct
from starlette.responses import JSONResponse, Response

from mlenv.core.access import Operation
from mlenv.core.assets import Asset, AssetKind, check_asset_name
from mlenv.core.redact import redact
from mlenv.core.reference import parse_version
from mlenv.errors import InvalidInput
from mlenv.server.azure.addresses import PROVIDER, WORKSPACE, azure_router
from mlenv.server.azure.bodies import Body, Texts
from mlenv.server.azure.door import azure_opened
from mlenv.server.azure.environment_documents import system_data
from mlenv.server.azure.storage import is_lasting, new_container, reference_to, uploaded
from mlenv.service.services import Services

router = azure_router()

CODE: Final = f"{WORKSPACE}/codes/{{name}}"
VERSION: Final = f"{CODE}/versions/{{version}}"
Reading = Annotated[Services, azure_opened(Operation.ASSET_READ)]
Writing = Annotated[Services, azure_opened(Operation.ASSET_WRITE)]


class NothingUploaded(InvalidInput):
    """Code whose files never came."""

    hint = "upload the files first, then register them"

    def __init__(self, uri: str) -> None:
        super().__init__(f"properties.codeUri: nothing was uploaded to {redact(uri)[:500]!r}")


class CodeProperties(Body):
    """What is known of code."""

    code_uri: str
    description: str | None = None
    tags: Texts | None = None
    properties: dict[str, Any] | None = None
    is_anonymous: bool | None = None
    is_archived: bool | None = None


class CodeBody(Body):
    """A version of code."""

    properties: CodeProperties


class PendingBody(Body):
    """A request for a place to upload to."""

    pending_upload_type: str | None = None
    pending_upload_id: str | None = None


@router.get(f"{CODE}/versions")
def list_versions(
    services: Reading,
    name: str,
    hash: Annotated[str | None, Query(max_length=200)] = None,
    version: Annotated[str | None, Query(alias="hashVersion", max_length=40)] = None,
) -> dict[str, Any]:
    """
    The versions of one name; with a hash, whatever in the whole workspace has it.

    NOTE: the client asks under a name that it has just made up.
    """
    check_asset_name(AssetKind.CODE, name)
    if hash is not None:
        found = (
            services.assets.find(AssetKind.CODE, _lookup(hash, version or ""), limit=10) if hash.isprintable() else []
        )
    else:
        found = services.assets.list(AssetKind.CODE, name=name)
    return {"value": [_document(services, each) for each in found]}


@router.get(VERSION)
def get_version(services: Reading, name: str, version: str) -> dict[str, Any]:
    """One version."""
    return _document(services, services.assets.get(AssetKind.CODE, name, version))


@router.post(f"{VERSION}/startPendingUpload")
def start_upload(
    request: Request,
    services: Annotated[Services, azure_opened(Operation.BLOB_WRITE)],
    name: str,
    version: str,
    body: PendingBody | None = None,
) -> dict[str, Any]:
    """A new place to upload to."""
    check_asset_name(AssetKind.CODE, name), parse_version(version)
    container = new_container(request, services.scope)
    return {
        "pendingUploadId": (body.pending_upload_id if body else None) or container,
        "pendingUploadType": "TemporaryBlobReference",
        "blobReferenceForConsumption": reference_to(request, container),
    }


@router.put(VERSION)
def put_version(request: Request, services: Writing, name: str, version: str, body: CodeBody) -> Response:
    """Register code that was uploaded: 201 if it is new, 200 if it was there."""
    sent = body.properties
    found = _Hash.of(sent)
    place = uploaded(request, services.scope, sent.code_uri)
    if place is not None and not services.files.page(*place, limit=1):
        raise NothingUploaded(sent.code_uri)
    saved = services.assets.put(
        AssetKind.CODE,
        name,
        parse_version(version),
        sent.model_dump(by_alias=True, exclude_none=True),
        lookup=_lookup(found.hash, found.version) if found else None,
        archived=bool(sent.is_archived),
    )
    if saved.new and place is not None and is_lasting(services.scope, place[0]):
        services.files.seal(*place)
    return JSONResponse(_document(services, saved.asset), 201 if saved.new else 200)


class _Hash(Struct, frozen=True):
    """A hash of code, and the version of the way to reckon it."""

    hash: str
    version: str

    @classmethod
    def of(cls, sent: CodeProperties) -> "_Hash | None":
        known = sent.properties or {}
        hash, version = known.get("hash_sha256"), known.get("hash_version", "")
        return cls(hash, str(version)) if isinstance(hash, str) and hash and len(hash) <= 200 else None


def _lookup(hash: str, version: str) -> str:
    return f"{hash.lower()}:{version}"


def _document(services: Services, asset: Asset) -> dict[str, Any]:
    return {
        "id": f"{services.scope.address}/codes/{asset.name}/versions/{asset.version}",
        "name": asset.version,
        "type": f"{PROVIDER}/workspaces/codes/versions",
        "properties": {
            "tags": {},
            "properties": {},
            "isAnonymous": False,
            **asset.document,
            "isArchived": asset.archived,
            "provisioningState": "Succeeded",
        },
        "systemData": system_data(asset.created_at, asset.modified_at),
    }
