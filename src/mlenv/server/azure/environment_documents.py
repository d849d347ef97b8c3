"""Environments and their versions, as Azure's client is answered."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic.alias_generators import to_camel

from mlenv.core.environment import Environment, EnvironmentVersion
from mlenv.core.scope import ScopeKind
from mlenv.server.azure.addresses import PROVIDER, Address
from mlenv.server.azure.definitions import SPEC_PROPERTY

#: What the client calls environments that its user gave no name. They are in no list.
ANONYMOUS: Final = "CliV2AnonymousEnvironment"
#: Fields of a spec that the dialect has words for, and those that it says with a conda file.
_SAID: Final = frozenset({"image", "build", "conda", "os_type", "inference_config"})
_SAID_BY_CONDA: Final = frozenset({"python", "environment_variables", "sources", "constraints"})
_URL: Final = re.compile(r"(?i)(?:https?|ftps?)://")


def version_document(version: EnvironmentVersion, address: Address) -> dict[str, Any]:
    """One version."""
    said, details = version.written.to_dict(), version.details
    own = dict(details.get("properties") or {})
    if not _is_whole(said):
        own[SPEC_PROPERTY] = str(version.written.digest)
    properties: dict[str, Any] = {
        "description": version.description,
        "tags": dict(version.tags),
        "properties": own,
        "isAnonymous": bool(details.get("isAnonymous")) or version.name == ANONYMOUS,
        "isArchived": version.archived,
        "environmentType": "UserCreated",
        # NOTE: no client of ours sends this of itself; one that does sends back what it was given (`put_version`).
        "autoRebuild": details.get("autoRebuild", "Disabled"),
        "stage": details.get("stage"),
        "provisioningState": "Succeeded",
        **_content(said),
    }
    if "intellectualProperty" in details:
        properties["intellectualProperty"] = details["intellectualProperty"]
    return {
        "id": address.version_id(version),
        "name": version.version,
        "type": f"{PROVIDER}/{_plural(address)}/environments/versions",
        "properties": {key: value for key, value in properties.items() if value is not None},
        "systemData": system_data(version.created_at, version.modified_at),
    }


def environment_document(environment: Environment, address: Address) -> dict[str, Any]:
    """An environment as a whole. Neither of its versions is ever null: the client would ask again without end."""
    return {
        "id": address.environment_id(environment.name),
        "name": environment.name,
        "type": f"{PROVIDER}/{_plural(address)}/environments",
        "properties": {
            "tags": {},
            "properties": {},
            "isArchived": environment.archived,
            "latestVersion": environment.latest_version or environment.next_version,
            "nextVersion": environment.next_version,
            "provisioningState": "Succeeded",
        },
        "systemData": system_data(environment.created_at, environment.modified_at),
    }


def system_data(created_at: datetime, modified_at: datetime) -> dict[str, str]:
    """When something was made and changed."""
    return {
        "createdAt": created_at.isoformat(),
        "createdByType": "User",
        "lastModifiedAt": modified_at.isoformat(),
        "lastModifiedByType": "User",
    }


def _plural(address: Address) -> str:
    return "workspaces" if address.scope.kind is ScopeKind.WORKSPACE else "registries"


def _content(said: Mapping[str, Any]) -> dict[str, Any]:
    """
    A spec in the dialect's words.

    Args:
        said: The spec as plain data. A list has many, and reading each would take most of its time.
    """
    content: dict[str, Any] = {
        "image": said.get("image"),
        "osType": "Windows" if said.get("os_type") == "windows" else "Linux",
    }
    if (conda := said.get("conda")) is not None:
        content["condaFile"] = conda.get("text", "")
    if (build := said.get("build")) is not None:
        content["build"] = {
            "contextUri": build["path"],
            "dockerfilePath": build.get("dockerfile_path", "Dockerfile"),
        }
    if (inference := said.get("inference_config")) is not None:
        content["inferenceConfig"] = {to_camel(name): route for name, route in inference.items()}
    return content


def _is_whole(said: Mapping[str, Any]) -> bool:
    """Whether all of a spec can be said in the dialect, so that reading it again gives the same spec."""
    build, conda = said.get("build"), said.get("conda")
    if build is not None and ("digest" in build or not _URL.match(build["path"])):
        return False
    if conda is None:
        return said.keys() <= _SAID
    if not said.keys() <= _SAID | _SAID_BY_CONDA:
        return False
    variables: Any = {}
    if '"variables"' in conda["document"]:
        variables = json.loads(conda["document"]).get("variables") or {}
    return said.get("python") == conda.get("python") and len(said.get("environment_variables", ())) == len(variables)
