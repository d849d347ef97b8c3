"""A version as Azure's client sends it becomes a `Definition`, by the readers of the environment YAML."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from mlenv.api.environment_yaml import read_environment
from mlenv.api.files import TEXT_LIMIT, no_files
from mlenv.api.problems import Findings, Place
from mlenv.api.yaml_text import Kind, Node, Scalar, YamlMap
from mlenv.core.environment import Definition, EnvironmentVersion
from mlenv.core.redact import has_credentials, redact
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import BuildContext
from mlenv.errors import InvalidInput
from mlenv.server.azure.bodies import BuildBody, InferenceBody, VersionProperties

#: The property that stands for content which the dialect has no words for: the digest of the whole spec.
SPEC_PROPERTY: Final = "mlenv.spec"
_CONDA: Final = Path("condaFile")
_PLACE: Final = Place("properties")
_CONTEXT: Final = re.compile(r"(?i)(?:https?|ftps?)://.+")


class InvalidContext(InvalidInput):
    """The place of a build's context is not one that it could be brought from."""

    hint = "upload the context first, or give a URL with http, https or ftp"

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(f"properties.build.contextUri: {why}: {redact(uri)[:500]!r}")


def to_definition(
    name: EnvironmentName, version: VersionName, properties: VersionProperties, stored: EnvironmentVersion | None
) -> Definition:
    """
    What a version is to be.

    Args:
        stored: What it is already, if it is there: its content counts where the client sends back what it was given.

    Raises:
        InvalidDefinition, InvalidContext, ExceptionGroup: The content makes no sense.
    """
    tags = {key: value or "" for key, value in (properties.tags or {}).items()}
    own = {key: value or "" for key, value in (properties.properties or {}).items()}
    details = _details(properties, own)
    if stored is not None and own.get(SPEC_PROPERTY) == str(stored.spec.digest):
        return Definition(name, stored.spec, version, properties.description, tags, details=details)
    findings = Findings()
    read = _only_conda(properties.conda_file or "")
    definition = read_environment(_document(name, version, properties), base=Path(), findings=findings, read=read)
    findings.raise_any("the environment")
    assert definition is not None
    spec = definition.spec
    if properties.build is not None:
        spec = replace(spec, build=_context(properties.build))
    return Definition(name, spec, version, properties.description, tags, definition.warnings, details)


def _details(properties: VersionProperties, own: Mapping[str, str]) -> dict[str, Any]:
    """What goes with a version and is not its content; only what was sent."""
    given: dict[str, Any] = {
        "stage": properties.stage,
        "autoRebuild": properties.auto_rebuild,
        "intellectualProperty": properties.intellectual_property,
        "isAnonymous": properties.is_anonymous or None,
    }
    if properties.properties is not None:
        given["properties"] = {key: value for key, value in own.items() if key != SPEC_PROPERTY}
    return {key: value for key, value in given.items() if value is not None}


def _document(name: str, version: str, properties: VersionProperties) -> YamlMap:
    """The same as an environment YAML, as its reader takes it."""
    entries: dict[str, Node] = {"name": _text(name), "version": _text(version)}
    for key, value in (("image", properties.image), ("os_type", properties.os_type)):
        if value is not None:
            entries[key] = _text(value)
    if properties.conda_file:
        entries["conda_file"] = _text(str(_CONDA))
    if properties.build is not None:
        # The address itself is checked by `_context`: the reader knows fewer hosts than clients upload to.
        entries["build"] = _map({"path": _text("https://localhost/")})
    if properties.inference_config is not None:
        entries["inference_config"] = _inference(properties.inference_config)
    return _map(entries)


def _inference(given: InferenceBody) -> YamlMap:
    routes = {
        "liveness_route": given.liveness_route,
        "readiness_route": given.readiness_route,
        "scoring_route": given.scoring_route,
    }
    return _map(
        {key: _map({"port": _text(str(route.port)), "path": _text(route.path)}) for key, route in routes.items()}
    )


def _context(given: BuildBody) -> BuildContext:
    uri = given.context_uri
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        host = None
    if not _CONTEXT.fullmatch(uri) or not host or not uri.isprintable() or len(uri) > 4096:
        raise InvalidContext(uri, "no URL that a build could bring its context from")
    if has_credentials(uri):
        raise InvalidContext(uri, "credentials can't be kept in a definition")
    dockerfile = (given.dockerfile_path or "").lstrip("/")
    if not dockerfile.isprintable():
        raise InvalidInput(f"properties.build.dockerfilePath: not a path: {dockerfile[:500]!r}")
    return BuildContext(uri, dockerfile) if dockerfile else BuildContext(uri)


def _only_conda(text: str) -> Callable[..., str]:
    def read(path: Path, asked: Place, *, limit: int = TEXT_LIMIT) -> str:
        return text if path == _CONDA else no_files(path, asked, limit=limit)

    return read


def _text(value: str) -> Scalar:
    return Scalar(value, Kind.STRING, _PLACE)


def _map(entries: Mapping[str, Node]) -> YamlMap:
    return YamlMap(dict(entries), {key: _text(key) for key in entries}, _PLACE)
