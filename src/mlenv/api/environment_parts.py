"""The parts of the environment YAML that have a shape of their own: `build`, `inference_config` and `platforms`."""

import re
from pathlib import Path
from typing import Final

from mlenv.api import schema
from mlenv.api.fields import Fields, from_flag
from mlenv.api.problems import CredentialInUrl, InvalidField
from mlenv.api.yaml_text import Kind, Scalar, describe
from mlenv.core.platform import InvalidPlatform, Platform
from mlenv.core.redact import has_credentials, redact
from mlenv.core.spec import BuildContext, InferenceConfig, Route

#: What Azure's client takes for a URL (marshmallow's `fields.URL`): these schemes, and a host with a dot or localhost.
_URL: Final = re.compile(
    r"(?:https?|ftps?)://(?:[^\s/@]*@)?(?:localhost|\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+\.?)"
    r"(?::\d{1,5})?(?:[/?#]\S*)?"
)


def read_build(fields: Fields, base: Path) -> BuildContext | None:
    """The `build` field. A local path is made absolute, from the directory `base`."""
    table = fields.table("build")
    if table is None:
        return None
    inner = Fields(table, schema.BUILD, fields.findings, path="build")
    dockerfile = inner.text("dockerfile_path", empty=False)
    path = inner.text("path", empty=False)
    if path is None:
        return None
    location = _context(inner, path, base)
    # NOTE: Azure's CLI writes `/Dockerfile` for one at the top of the context.
    return BuildContext(location, dockerfile.text.lstrip("/")) if dockerfile else BuildContext(location)


def read_conda_choices(fields: Fields, conda: bool) -> tuple[str | None, str]:
    """
    The fields `cuda` and `resolver`, which say how a conda file is solved.

    Args:
        conda: There is a conda file.
    """
    cuda = fields.written("cuda", (Kind.STRING, Kind.FLOAT, Kind.INTEGER), "a CUDA version such as 12.1")
    if cuda is not None and not re.fullmatch(schema.OWN_FIELDS["cuda"]["pattern"], cuda.text):
        fields.wrong("cuda", cuda, "a CUDA version such as 12.1")
    resolver = fields.text("resolver")
    allowed = schema.OWN_FIELDS["resolver"]["enum"]
    if resolver is not None and resolver.text not in allowed:
        fields.wrong("resolver", resolver, " or ".join(allowed))
    for key in ("cuda", "resolver"):
        if key in fields and not conda:
            why = f"`{key}` says how a conda file is solved, and there is none"
            fields.findings.add(InvalidField(why, fields.place(key), path=key, hint="leave it out"))
    return cuda.text if cuda else None, resolver.text if resolver else "conda"


def _context(fields: Fields, path: Scalar, base: Path) -> str:
    if _URL.fullmatch(path.text):
        if has_credentials(path.text):
            refuse_credential(fields, path, fields.path("path"))
        return path.text
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:(?!\\)", path.text):
        fields.wrong("path", path, "a directory, or a URL with http, https or ftp", why="Not a valid URL.")
        return path.text
    location = (Path.cwd() if from_flag(path) else base) / path.text
    try:
        location = location.resolve()
        there = location.exists()
    except (OSError, ValueError, RuntimeError):
        there = False
    if not there:
        fields.wrong(
            "path",
            path,
            "a directory that exists, or a URL",
            why=f"Can't find directory or file in resolved absolute path: {location}.",
            hint="the path is relative to the directory of the YAML file" if not from_flag(path) else None,
        )
    return str(location)


def refuse_credential(fields: Fields, scalar: Scalar, path: str) -> None:
    """Note that an address in a definition holds a secret."""
    problem = CredentialInUrl(scalar.place, path=path, url=repr(redact(scalar.text)))
    problem.hint = "take it out; log in where the image is built, with the container tool or git's credential helper"
    fields.findings.add(problem)


def read_inference(fields: Fields) -> InferenceConfig | None:
    """The `inference_config` field."""
    table = fields.table("inference_config")
    if table is None:
        return None
    inner = Fields(table, schema.INFERENCE, fields.findings, path="inference_config")
    routes = {key: _route(inner, key) for key in schema.INFERENCE["required"]}
    complete = {key: route for key, route in routes.items() if route is not None}
    return InferenceConfig(**complete) if len(complete) == len(routes) else None


def _route(fields: Fields, key: str) -> Route | None:
    table = fields.table(key)
    if table is None:
        return None
    route = Fields(table, schema.ROUTE, fields.findings, path=fields.path(key))
    port = route.written("port", (Kind.INTEGER, Kind.STRING), "a port, 1 to 65535", hint=None)
    path = route.text("path")
    if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port.text) and 0 < int(port.text) < 65536):
        route.wrong("port", port, "a port, 1 to 65535", why="Not a valid integer.")
        port = None
    return Route(int(port.text), path.text) if port is not None and path is not None else None


def read_platforms(fields: Fields) -> tuple[Platform, ...]:
    """The `platforms` field, each platform once."""
    platforms: dict[Platform, None] = {}
    for path, scalar in fields.texts("platforms", "platforms"):
        try:
            platforms[Platform.parse(scalar.text)] = None
        except InvalidPlatform as error:
            fields.findings.add(
                InvalidField("not a platform", scalar.place, path=path, found=describe(scalar), hint=error.hint)
            )
    return tuple(platforms)
