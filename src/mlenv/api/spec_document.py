"""A spec as JSON, as it is attached to images (`core.evidence.spec_document`), read back into a definition."""

import json
from collections.abc import Mapping
from typing import Any, Final

from mlenv.api.problems import Findings, InvalidField, MissingField, Place
from mlenv.core.environment import Definition
from mlenv.core.evidence import is_spec_document
from mlenv.core.reference import parse_name, parse_version
from mlenv.core.spec import Spec

#: What may be said beside such a file; all else is in it.
_BESIDE: Final = frozenset({"name", "default_name", "version", "description", "tags"})


def looks_like_spec(text: str) -> bool:
    """Whether the text of a file is one of ours."""
    try:
        return is_spec_document(json.loads(text))
    except (ValueError, RecursionError):
        return False


def parse_spec(text: str, file: str) -> Spec:
    """
    The spec, if a file of a user's could have said it.

    Raises:
        InvalidBody: It is not one in shape.
        InvalidInput, ExceptionGroup: It has faults.
    """
    from mlenv.api.wire import read
    from mlenv.api.wire_spec import SpecBody

    document = json.loads(text)
    return read(SpecBody, json.dumps(document["spec"]), file).to_core(local=True)


def definition_of_spec(text: str, file: str, overrides: Mapping[str, Any], findings: Findings) -> Definition | None:
    """
    A definition of a spec, with the name that the command line gives it; None if there are faults.

    Raises:
        As `parse_spec`; InvalidName.
    """
    for key, value in overrides.items():
        if value and key not in _BESIDE:
            flag = Place(f"--{key.replace('_', '-')}")
            findings.add(InvalidField(f"{file} says already all that a version is", flag))
    name = overrides.get("name") or overrides.get("default_name")
    if not name:
        hint = "give it with `--name`; the file says what is installed, not what it is called"
        findings.add(MissingField("Environment name is required.", Place(file), path="name", hint=hint))
    if findings.problems or not name:
        return None
    version = overrides.get("version")
    return Definition(
        parse_name(name),
        parse_spec(text, file),
        parse_version(version) if version else None,
        overrides.get("description"),
        dict(overrides.get("tags") or {}),
    )
