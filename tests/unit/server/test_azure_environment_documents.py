"""Versions in Azure's words: all that the dialect can say is said, and what it can't is stood for by a digest."""

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from mlenv.core.environment import EnvironmentVersion
from mlenv.core.platform import Platform
from mlenv.core.reference import parse_name, parse_version
from mlenv.core.scope import Scope, ScopeKind
from mlenv.core.spec import BuildContext, CondaFile, InferenceConfig, Requirement, Route, Spec, WrittenSpec
from mlenv.server.azure.addresses import Address
from mlenv.server.azure.definitions import SPEC_PROPERTY
from mlenv.server.azure.environment_documents import version_document

_NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
_ADDRESS = Address(Scope(ScopeKind.WORKSPACE, "default", "id", "sub", "rg", "local", _NOW), "https://example.org")
_CONDA = CondaFile(document='{"dependencies":["python=3.11"],"variables":{"A":"b"}}', text="…", python="3.11")


class Unread(WrittenSpec, frozen=True):
    """A spec that must not be read."""

    def read(self) -> Spec:
        raise AssertionError("the spec was read")


def _properties(spec: Spec) -> dict[str, Any]:
    written = WrittenSpec.of(spec)
    version = EnvironmentVersion(
        parse_name("train"), parse_version("1"), Unread(written.document, written.digest), None, {}, False, _NOW, _NOW
    )
    properties: dict[str, Any] = version_document(version, _ADDRESS)["properties"]
    return properties


def test_a_version_is_said_without_reading_its_spec() -> None:
    routes = InferenceConfig(Route(1, "/live"), Route(2, "/ready"), Route(3, "/score"))
    found = _properties(Spec(image="debian:12", os_type="windows", inference_config=routes))
    assert (found["image"], found["osType"], "condaFile" in found, "build" in found) == (
        "debian:12",
        "Windows",
        False,
        False,
    )
    assert found["inferenceConfig"] == {
        "livenessRoute": {"port": 1, "path": "/live"},
        "readinessRoute": {"port": 2, "path": "/ready"},
        "scoringRoute": {"port": 3, "path": "/score"},
    }
    built = _properties(Spec(build=BuildContext("https://example.org/context/")))
    assert built["build"] == {"contextUri": "https://example.org/context/", "dockerfilePath": "Dockerfile"}
    assert "image" not in built


_SAID = Spec(image="debian:12", conda=_CONDA, python="3.11", environment_variables=(("A", "b"),))


@pytest.mark.parametrize(
    ("spec", "whole"),
    [
        (Spec(image="debian:12"), True),
        (Spec(build=BuildContext("https://example.org/context/", "docker/Dockerfile")), True),
        (_SAID, True),
        (replace(_SAID, environment_variables=()), False),
        (replace(_SAID, python="3.12"), False),
        (replace(_SAID, platforms=(Platform("linux", "arm64"),)), False),
        (Spec(image="debian:12", python="3.11"), False),
        (Spec(image="debian:12", requirements=(Requirement("numpy"),)), False),
        (Spec(image="debian:12", environment_variables=(("A", "b"),)), False),
        (Spec(build=BuildContext("context")), False),
    ],
)
def test_what_the_dialect_has_no_words_for_is_stood_for_by_a_digest(spec: Spec, whole: bool) -> None:
    assert _properties(spec)["properties"] == ({} if whole else {SPEC_PROPERTY: str(spec.digest)})
