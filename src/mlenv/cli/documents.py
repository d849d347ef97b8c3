"""Environments and versions as the plain data that is printed, in the words of `az ml environment`."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from msgspec.structs import replace

from mlenv.cli.printer import Column
from mlenv.core.environment import Environment, EnvironmentVersion, LabelChange
from mlenv.core.reference import LabelName, Reference, Workspace
from mlenv.core.spec import Index, Requirement, Route, Sources, Spec

VERSION_COLUMNS: Final = (
    Column("Name", "name"),
    Column("Version", "version"),
    Column("Created", "creation_context.created_at"),
    Column("Archived", "archived"),
)
ENVIRONMENT_COLUMNS: Final = (
    Column("Name", "name"),
    Column("Version", "latest_version"),
    Column("Created", "creation_context.created_at"),
    Column("Archived", "archived"),
)
LABEL_COLUMNS: Final = (Column("Label", "label"), Column("Version", "version"), Column("Set", "set_at"))


def version_document(version: EnvironmentVersion, place: Workspace | str) -> dict[str, Any]:
    """
    One version. What is not set is left out, but for description and tags.

    Args:
        place: The workspace's address, or the registry's name.
    """
    document: dict[str, Any] = {
        "id": _id(Reference(version.name, version=version.version), place),
        "name": version.name,
        "version": version.version,
        "description": version.description,
        "tags": dict(version.tags),
        **_spec(version.spec),
        "creation_context": _times(version.created_at, version.modified_at),
        "archived": version.archived,
    }
    return document


def environment_document(environment: Environment, place: Workspace | str) -> dict[str, Any]:
    """One environment as a whole."""
    return {
        "id": _id(Reference(environment.name), place),
        "name": environment.name,
        "latest_version": environment.latest_version,
        "next_version": environment.next_version,
        "labels": dict(environment.labels),
        "creation_context": _times(environment.created_at, environment.modified_at),
        "archived": environment.archived,
    }


def label_documents(labels: dict[LabelName, list[LabelChange]]) -> list[dict[str, Any]]:
    """Labels, each with where it points and where it pointed before."""
    return [
        {
            "label": label,
            "version": history[0].version,
            "set_at": rfc3339(history[0].at),
            "history": [{"version": each.version, "set_at": rfc3339(each.at)} for each in history],
        }
        for label, history in labels.items()
    ]


def rfc3339(time: datetime) -> str:
    """`2026-11-22T14:25:00.123456Z`, always with microseconds, so that it sorts as text."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _id(reference: Reference, place: Workspace | str) -> str:
    """The reference in full: an ARM id, or that of a registry."""
    if isinstance(place, str):
        return str(replace(reference, registry=place))
    return f"azureml:{replace(reference, workspace=place)}"


def _times(created: datetime, modified: datetime) -> dict[str, str]:
    return {"created_at": rfc3339(created), "last_modified_at": rfc3339(modified)}


def _spec(spec: Spec) -> dict[str, Any]:
    inference = spec.inference_config
    document: dict[str, Any] = {
        "image": spec.image,
        "build": {"path": spec.build.path, "dockerfile_path": spec.build.dockerfile_path} if spec.build else None,
        "conda_file": json.loads(spec.conda.document) if spec.conda else None,
        "requirements": _texts(spec.requirements) if spec.requirements is not None else None,
        "constraints": _texts(spec.constraints) or None,
        "pylock": spec.pylock,
        "indexes": _indexes(spec.sources) or None,
        "no_index": spec.sources.no_index or None,
        "python": spec.python,
        "environment_variables": dict(spec.environment_variables) or None,
        "platforms": [str(each) for each in spec.platforms] or None,
        "allow_source": list(spec.allow_source) or None,
        "prereleases": spec.prereleases or None,
        "os_type": spec.os_type,
        "inference_config": {
            "liveness_route": _route(inference.liveness_route),
            "readiness_route": _route(inference.readiness_route),
            "scoring_route": _route(inference.scoring_route),
        }
        if inference
        else None,
        "cuda": spec.cuda,
        "resolver": spec.resolver if spec.resolver != "conda" else None,
    }
    return {key: value for key, value in document.items() if value is not None}


def _texts(requirements: Iterable[Requirement]) -> list[str]:
    return [each.line for each in requirements]


def _route(route: Route) -> dict[str, Any]:
    return {"port": route.port, "path": route.path}


def _indexes(sources: Sources) -> list[dict[str, Any]]:
    default = [_index(sources.default) | {"default": True}] if sources.default else []
    return [*default, *(_index(each) for each in sources.extra)]


def _index(index: Index) -> dict[str, Any]:
    facts = {"name": index.name, "url": index.url, "packages": list(index.packages), "flat": index.flat}
    return {key: value for key, value in facts.items() if value}
