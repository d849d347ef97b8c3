"""Components, endpoints and deployments in Azure's words. They are kept as they were sent, and answered so."""

from collections.abc import Mapping
from typing import Any, Final

from mlenv.core.assets import Asset
from mlenv.core.digest import Digest
from mlenv.core.reference import Reference
from mlenv.core.spec import canonical_json
from mlenv.errors import InvalidInput
from mlenv.server.azure.job_documents import system_data

_PROVIDER: Final = "Microsoft.MachineLearningServices"
#: Of a component, what may change under one version.
_CHANGING: Final = frozenset(
    {"description", "tags", "properties", "isArchived", "isAnonymous", "stage", "provisioningState"}
)


class UnusableAsset(InvalidInput):
    """Something in a component, endpoint or deployment that makes no sense."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where


def properties_of(body: Any) -> dict[str, Any]:
    """The properties in a body, without those that have no value. Raises `UnusableAsset`."""
    if not isinstance(body, dict):
        raise UnusableAsset("body", "it is no object")
    properties = body.get("properties")
    if not isinstance(properties, dict):
        raise UnusableAsset("properties", "it is missing, or no object")
    for key in ("tags", "properties"):
        _check_texts(properties, key)
    if not isinstance(properties.get("isArchived", False) or False, bool):
        raise UnusableAsset("properties.isArchived", "it is neither true nor false")
    return {key: value for key, value in properties.items() if value is not None}


def component_identity(properties: Mapping[str, Any]) -> str:
    """The sha256, in hex, of what may not change under one version of a component."""
    fixed = {key: value for key, value in properties.items() if key not in _CHANGING}
    spec = fixed.get("componentSpec")
    if isinstance(spec, dict):
        # The client repeats name and version in it; those of the address count.
        ignored = {"version", "description", "tags", "_source", "name"}
        fixed["componentSpec"] = {key: value for key, value in spec.items() if key not in ignored}
    try:
        return Digest.of(canonical_json(fixed).encode()).hex
    except (UnicodeEncodeError, RecursionError) as error:
        raise UnusableAsset("properties.componentSpec", "it can't be written as JSON") from error


def component_spec(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    """A component's spec. Raises `UnusableAsset` if there is none."""
    spec = properties.get("componentSpec")
    if not isinstance(spec, dict) or not spec:
        raise UnusableAsset("properties.componentSpec", "it is missing, or no object")
    return spec


def environment_in(where: str, text: Any) -> Reference | None:
    """
    A reference to an environment; None if there is none.

    Raises:
        UnusableAsset: It is no text.
        InvalidReference, InvalidName: It is no reference.
    """
    if text is None or text == "":
        return None
    if not isinstance(text, str):
        raise UnusableAsset(where, "it is not text")
    return Reference.parse(text)


def component_document(asset: Asset, *, id: str) -> dict[str, Any]:
    """A component's version, as its client is answered."""
    properties = dict(asset.document)
    spec = {"name": asset.name, **properties["componentSpec"], "version": asset.version}
    properties |= {"componentSpec": spec, "isArchived": asset.archived, "provisioningState": "Succeeded"}
    return {
        "id": id,
        "name": asset.version,
        "type": f"{_PROVIDER}/workspaces/components/versions",
        "properties": {"tags": {}, "properties": {}, "isAnonymous": False, "description": None} | properties,
        "systemData": system_data(asset.created_at, asset.modified_at),
    }


def component_container(latest: Asset, *, next_version: str, archived: bool, id: str) -> dict[str, Any]:
    """A component as a whole."""
    return {
        "id": id,
        "name": latest.name,
        "type": f"{_PROVIDER}/workspaces/components",
        "properties": {
            "description": latest.document.get("description"),
            "tags": latest.document.get("tags") or {},
            "properties": {},
            "isArchived": archived,
            "latestVersion": latest.version,
            "nextVersion": next_version,
            "provisioningState": "Succeeded",
        },
        "systemData": system_data(latest.created_at, latest.modified_at),
    }


def resource_document(
    asset: Asset, *, id: str, type: str, defaults: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """
    An endpoint or deployment: the whole resource as it was sent, with what the server knows.

    Args:
        type: `onlineEndpoints` or `onlineEndpoints/deployments`.
        defaults: Properties that are there if the client did not send them.
        own: Properties that the server alone decides.
    """
    document = {key: value for key, value in asset.document.items() if value is not None}
    properties = {
        **defaults,
        **{key: value for key, value in document["properties"].items() if value is not None},
        **own,
    }
    return {
        "tags": {},
        **document,
        "id": id,
        "name": asset.name.rpartition("/")[2],
        "type": f"{_PROVIDER}/workspaces/{type}",
        "properties": properties,
        "systemData": system_data(asset.created_at, asset.modified_at),
    }


def _check_texts(properties: Mapping[str, Any], key: str) -> None:
    given = properties.get(key)
    if given is None:
        return
    if not isinstance(given, dict):
        raise UnusableAsset(f"properties.{key}", "it is no object")
    for name, value in given.items():
        if isinstance(value, dict | list):
            raise UnusableAsset(f"properties.{key}.{name[:100]}", "it is not text")
