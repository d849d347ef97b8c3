"""Environments and their versions, as Azure's client is answered."""

import json
import re
from datetime import datetime
from typing import Any, Final

from mlenv.core.environment import Environment, EnvironmentVersion
from mlenv.core.scope import ScopeKind
from mlenv.core.spec import PUBLIC, Route, Spec
from mlenv.server.azure.addresses import PROVIDER, Address
from mlenv.server.azure.definitions import SPEC_PROPERTY

#: What the client calls environments that its user gave no name. They are in no list.
ANONYMOUS: Final = "CliV2AnonymousEnvironment"
_URL: Final = re.compile(r"(?i)(?:https?|ftps?)://")


def version_document(version: EnvironmentVersion, address: Address) -> dict[str, Any]:
    """One version."""
    spec, details = version.spec, version.details
    own = dict(details.get("properties") or {})
    if not _is_whole(spec):
        own[SPEC_PROPERTY] = str(spec.digest)
    properties: dict[str, Any] = {
        "description": version.description,
        "tags": dict(version.tags),
        "properties": own,
        "isAnonymous": bool(details.get("isAnonymous")) or version.name == ANONYMOUS,
        "isArchived": version.archived,
        "environmentType": "UserCreated",
        "osType": "Windows" if spec.os_type == "windows" else "Linux",
        # NOTE: no client of ours sends this of itself; one that does sends back what it was given (`put_version`).
        "autoRebuild": details.get("autoRebuild", "Disabled"),
        "stage": details.get("stage"),
        "provisioningState": "Succeeded",
        **_content(spec),
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


def _content(spec: Spec) -> dict[str, Any]:
    content: dict[str, Any] = {"image": spec.image}
    if spec.conda is not None:
        content["condaFile"] = spec.conda.text
    if spec.build is not None:
        content["build"] = {"contextUri": spec.build.path, "dockerfilePath": spec.build.dockerfile_path}
    if (inference := spec.inference_config) is not None:
        content["inferenceConfig"] = {
            "livenessRoute": _route(inference.liveness_route),
            "readinessRoute": _route(inference.readiness_route),
            "scoringRoute": _route(inference.scoring_route),
        }
    return content


def _route(route: Route) -> dict[str, Any]:
    return {"port": route.port, "path": route.path}


def _is_whole(spec: Spec) -> bool:
    """Whether all of a spec can be said in the dialect, so that reading it again gives the same spec."""
    if spec.requirements is not None or spec.pylock is not None or spec.platforms or spec.allow_source:
        return False
    if spec.prereleases or (spec.build is not None and (spec.build.digest or not _URL.match(spec.build.path))):
        return False
    if spec.cuda is not None or spec.resolver != "conda":
        return False
    if spec.conda is None:
        return spec.sources == PUBLIC and not (spec.python or spec.environment_variables or spec.constraints)
    variables = json.loads(spec.conda.document).get("variables") or {}
    return spec.python == spec.conda.python and len(spec.environment_variables) == len(variables)
