"""The field rules of in-toto's Statement v1 and of SLSA's provenance v1, as their specifications give them."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

#: in-toto, spec/v1/field_types.md, "Timestamp": RFC 3339, in UTC.
_TIMESTAMP = re.compile(r"\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?Z")
#: RFC 6838, section 4.2.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]*/[A-Za-z0-9][\w!#$&^.+-]*")
_DESCRIPTOR = {"name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"}


def check_statement(document: Any) -> None:
    """The statement layer (spec/v1/statement.md), and the predicate below it."""
    assert set(document) == {"_type", "subject", "predicateType", "predicate"}
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert isinstance(document["subject"], list)
    assert document["subject"]
    for each in document["subject"]:
        check_descriptor(each)
        assert each["digest"], "each element must have `digest` set"
    names = [each["name"] for each in document["subject"] if "name" in each]
    assert len(set(names)) == len(names), "`name` should be unique within subject"
    check_provenance(document["predicate"])


def check_provenance(predicate: Any) -> None:
    """slsa.dev/provenance/v1, "Schema" and the tables below it."""
    assert set(predicate) == {"buildDefinition", "runDetails"}
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert set(definition) <= {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    check_type_uri(definition["buildType"])
    assert isinstance(definition["externalParameters"], dict)
    assert isinstance(definition.get("internalParameters", {}), dict)
    assert not set(definition["externalParameters"]) & set(definition.get("internalParameters", {}))
    for each in definition.get("resolvedDependencies", []):
        check_descriptor(each)
    assert set(details) <= {"builder", "metadata", "byproducts"}
    assert set(details["builder"]) <= {"id", "version", "builderDependencies"}
    check_type_uri(details["builder"]["id"])
    assert all(isinstance(each, str) for each in details["builder"].get("version", {}).values())
    metadata = details.get("metadata", {})
    assert set(metadata) <= {"invocationId", "startedOn", "finishedOn"}
    for key in ("startedOn", "finishedOn"):
        assert key not in metadata or _TIMESTAMP.fullmatch(metadata[key])
    for each in details.get("byproducts", []):
        check_descriptor(each)


def check_descriptor(described: Mapping[str, Any]) -> None:
    """spec/v1/resource_descriptor.md and spec/v1/digest_set.md."""
    assert set(described) <= _DESCRIPTOR
    assert set(described) & {"uri", "digest", "content"}, "one of `uri`, `digest` or `content` at a minimum"
    for algorithm, value in described.get("digest", {}).items():
        assert algorithm == algorithm.lower()
        assert re.fullmatch(r"[0-9a-f]+", value)
        assert algorithm != "sha256" or len(value) == 64
    for key in ("uri", "downloadLocation"):
        if key in described:
            check_uri(described[key])
    assert "mediaType" not in described or _MEDIA_TYPE.fullmatch(described["mediaType"])


def check_uri(text: str) -> None:
    """spec/v1/field_types.md, "ResourceURI": RFC 3986, its scheme and authority in lower case."""
    assert re.fullmatch(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", text), text
    parts = urlsplit(text)
    assert parts.scheme
    assert text.startswith(parts.scheme + ":"), "the scheme is in lower case"
    assert parts.netloc == parts.netloc.lower()
    assert not re.search(r"%(?![0-9A-Fa-f]{2})", text)


def check_type_uri(text: str) -> None:
    """The same; it should include a version."""
    check_uri(text)
    assert re.search(r"v\d+", text)
