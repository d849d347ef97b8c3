"""
The JSON Schema of the environment YAML (draft 2020-12): what `mlenv schema` prints, and what the loader knows fields by.

The loader takes names, allowed values and descriptions from here, so that there is one list of them.
"""

from collections.abc import Mapping
from typing import Any, Final

_TEXT: Final = {"type": "string"}
#: Scalars that are kept as the text that is written.
_WRITTEN: Final = {"type": ["string", "number", "boolean"]}
_ENVIRONMENT_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"

ROUTE: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["port", "path"],
    "properties": {
        "port": {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string", "pattern": "^[0-9]+$"}],
            "description": "The TCP port.",
        },
        "path": {**_TEXT, "description": "The path in its URL: `/health`."},
    },
}
INFERENCE: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "Where the inference server inside the image answers.",
    "additionalProperties": False,
    "required": ["liveness_route", "readiness_route", "scoring_route"],
    "properties": {"liveness_route": ROUTE, "readiness_route": ROUTE, "scoring_route": ROUTE},
}
BUILD: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "A Dockerfile and what it is built with, instead of `image`.",
    "additionalProperties": False,
    "required": ["path"],
    "properties": {
        "path": {**_TEXT, "minLength": 1, "description": "The build context: a path from this file, or a URL."},
        "dockerfile_path": {**_TEXT, "description": "The Dockerfile, from the context.", "default": "Dockerfile"},
    },
}
AUTO_DELETE: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "Accepted for Azure, without effect.",
    "additionalProperties": False,
    "properties": {
        "condition": {"enum": ["created_greater_than", "last_accessed_greater_than"]},
        "value": _TEXT,
    },
}
INDEX: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "url"],
    "properties": {
        "name": {
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]+$",
            "description": "Credentials are looked up by it: UV_INDEX_<NAME>_USERNAME, UV_INDEX_<NAME>_PASSWORD.",
        },
        "url": {**_TEXT, "description": "A simple index (PEP 503 or 691), without credentials."},
        "packages": {"type": "array", "items": _TEXT, "description": "Only these come from it, and from nowhere else."},
        "default": {"type": "boolean", "description": "It stands in for the public index.", "default": False},
    },
}
CONDA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "channels": {"type": ["array", "string", "null"], "items": _TEXT},
        "dependencies": {
            "type": ["array", "null"],
            "items": {
                "anyOf": [
                    _TEXT,
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"pip": {"type": ["array", "null"], "items": _TEXT}},
                    },
                ]
            },
        },
        "variables": {"type": ["object", "null"]},
    },
}

#: Read by Azure's tools where they show a version; no one writes them, and they count for nothing.
IGNORED: Final = ("$schema", "creation_context", "latest_version", "intellectual_property")

#: What Azure's client knows.
AZURE_FIELDS: Final[Mapping[str, Any]] = {
    "$schema": {**_TEXT, "description": "Ignored; editors use it."},
    "name": {**_TEXT, "minLength": 1, "maxLength": 255, "description": "The environment's name."},
    "version": {**_WRITTEN, "description": "The version, kept as it is written. Left out: the next one."},
    "description": {**_TEXT, "description": "Free text."},
    "tags": {
        "type": "object",
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        "description": "Free names and values, kept as they are written.",
    },
    "image": {**_TEXT, "minLength": 1, "description": "The base image, or the whole image."},
    "build": BUILD,
    "conda_file": {
        "anyOf": [_TEXT, CONDA],
        "description": "A conda environment file on top of `image`: a path from this file, or its content.",
    },
    "os_type": {
        "type": "string",
        "pattern": "^([Ll][Ii][Nn][Uu][Xx]|[Ww][Ii][Nn][Dd][Oo][Ww][Ss])$",
        "description": "`linux` or `windows`, any case.",
    },
    "inference_config": INFERENCE,
    "datastore": {**_TEXT, "description": "Accepted for Azure, without effect."},
    "auto_delete_setting": AUTO_DELETE,
    "id": {**_TEXT, "description": "Ignored; Azure's tools write it."},
    "creation_context": {"description": "Ignored; Azure's tools write it."},
    "latest_version": {"description": "Ignored; Azure's tools write it."},
    "intellectual_property": {"description": "Ignored; Azure's tools write it."},
}

#: What mlenv adds.
OWN_FIELDS: Final[Mapping[str, Any]] = {
    "requirements": {
        "anyOf": [_TEXT, {"type": "array", "items": _TEXT}],
        "description": "Python requirements, instead of `conda_file`: a path from this file, or a list of lines.",
    },
    "python": {
        "type": ["string", "number"],
        "description": "The Python that is wanted: `3.11`, `3.11.4`, or a range (`>=3.10,<3.12`).",
    },
    "environment_variables": {
        "type": "object",
        "propertyNames": {"pattern": _ENVIRONMENT_NAME},
        "additionalProperties": _WRITTEN,
        "description": "Set in the image and for local runs. No secrets: anyone who can read the version reads them.",
    },
    "platforms": {
        "type": "array",
        "items": _TEXT,
        "description": "What images are built for: `linux/amd64`, `linux/arm64`.",
    },
    "allow_source": {
        "type": "array",
        "items": _TEXT,
        "description": "Packages that may be built from source where there is no wheel.",
    },
    "indexes": {"type": "array", "items": INDEX, "description": "Package indexes of one's own."},
    "prereleases": {"type": "boolean", "description": "Pre-releases may be chosen.", "default": False},
    "cuda": {
        "type": ["string", "number"],
        "pattern": r"^[0-9]{1,4}(\.[0-9]{1,4}){0,2}$",
        "description": "The CUDA of the driver where it runs, for conda's choice: `12.1`. Left out: the base image's.",
    },
    "resolver": {
        "enum": ["conda", "pypi"],
        "description": "Who solves `conda_file`: `pypi` takes conda's packages from PyPI where they are there, too.",
        "default": "conda",
    },
}

FIELDS: Final[Mapping[str, Any]] = {**AZURE_FIELDS, **OWN_FIELDS}


def environment_schema() -> dict[str, Any]:
    """The schema of the environment YAML."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ML environment",
        "description": "An environment for mlenv: Azure ML's environment YAML, and a few fields more.",
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {key: dict(value) for key, value in FIELDS.items()},
        "anyOf": [{"required": [key]} for key in ("image", "build", "requirements", "python")],
        "dependentRequired": {"cuda": ["conda_file"], "resolver": ["conda_file"]},
        "not": {
            "anyOf": [
                {"required": ["image", "build"]},
                {"required": ["build", "conda_file"]},
                {"required": ["build", "requirements"]},
                {"required": ["build", "python"]},
                {"required": ["conda_file", "requirements"]},
            ]
        },
    }
