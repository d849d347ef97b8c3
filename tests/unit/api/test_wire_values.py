"""Values of the core as JSON and back: nothing is lost, and nothing hostile comes in."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlenv.api import wire, wire_records
from mlenv.api.definition import load_definition
from mlenv.api.problems import CredentialInUrl, InvalidDefinition
from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.layer import Compression
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Glibc, Platform
from mlenv.core.records import BuildRecord, BuildStatus, TimedStep, UseRecord
from mlenv.core.reference import EnvironmentName, InvalidName, LabelName, VersionName
from mlenv.core.spec import (
    BuildContext,
    Index,
    InferenceConfig,
    Origin,
    Requirement,
    Route,
    Sources,
    Spec,
    WrittenSpec,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
DIGEST = Digest.of(b"x")
FULL = Spec(
    image="debian:bookworm",
    requirements=(Requirement("numpy==2.1.0", Origin("r.txt", 3)), Requirement("six", None, (f"sha256:{'0' * 64}",))),
    constraints=(Requirement("scipy<2"),),
    sources=Sources(
        Index("https://a.example.org/simple", "a"),
        (Index("https://b.example.org/simple", "b", ("torch",)), Index("https://c.example.org/files", None, (), True)),
        no_index=True,
    ),
    python=">=3.10,<3.13",
    environment_variables=(("A", "é\n"), ("B", "")),
    platforms=(Platform("linux", "amd64"), Platform("linux", "arm64")),
    allow_source=("a-b",),
    prereleases=True,
    os_type="windows",
    inference_config=InferenceConfig(Route(1, "/a"), Route(2, "/b"), Route(65535, "")),
)


def test_every_definition_of_the_corpus_passes_unchanged(corpus: Path) -> None:
    passed = 0
    for path in sorted(each for each in corpus.rglob("*") if each.is_file()):
        try:
            definition = load_definition(path, name="x")
        except (InvalidDefinition, ExceptionGroup):
            continue
        body = wire.read(wire.DefinitionBody, wire.encode(wire.definition_document(definition))).to_core()
        assert body.spec == definition.spec, path
        # Places in files and the text of conda files do not count for equality, and are kept all the same.
        assert body.spec.to_dict() == definition.spec.to_dict(), path
        passed += 1
    assert passed > 200


@pytest.mark.parametrize("spec", [FULL, Spec(build=BuildContext("https://example.org/x.git", "a/Dockerfile"))])
def test_a_version_is_the_same_after_the_way(spec: Spec) -> None:
    version = EnvironmentVersion(
        EnvironmentName("é"),
        VersionName("1"),
        WrittenSpec.of(spec),
        "d",
        {"a": "", "b": "x"},
        True,
        NOW,
        LATER,
        {"stage": ["x", 1.5]},
    )
    answer = wire.read(wire.VersionAnswer, wire.version_text(version))
    assert answer.to_core() == version
    assert answer.to_core().spec.to_dict() == spec.to_dict()
    assert answer.digest == str(spec.digest)
    definition = Definition(version.name, spec, version.version, "d", {"a": ""}, details={"x": {"y": None}})
    assert wire.read(wire.DefinitionBody, wire.encode(wire.definition_document(definition))).to_core() == definition


def test_a_version_that_was_created_has_the_version_itself_in_it() -> None:
    details = {"x": ',"new":true}', "new": False}
    version = EnvironmentVersion(
        EnvironmentName("a"), VersionName("1"), WrittenSpec.of(FULL), None, {}, False, NOW, NOW, details
    )
    for new in (True, False):
        text = wire.created_text(version, new)
        assert wire.read(wire.CreatedAnswer, text).new is new
        assert wire.version_of_created(text) == wire.version_text(version)


def test_a_page_of_versions_is_read_as_it_was_written() -> None:
    versions = [
        EnvironmentVersion(EnvironmentName("é"), VersionName(each), WrittenSpec.of(FULL), None, {}, False, NOW, LATER)
        for each in ("2", "1")
    ]
    for shown, next in ((versions, "é"), (versions[:1], None), ([], None)):
        page = wire.read(wire.VersionPage, wire.versions_text(shown, next))
        assert [each.to_core() for each in page.value] == shown
        assert page.next == next


def test_records_are_the_same_after_the_way() -> None:
    environment = Environment(
        EnvironmentName("a"), None, VersionName("1"), False, {LabelName("l"): VersionName("3")}, NOW, LATER
    )
    assert (
        wire.read(wire.EnvironmentAnswer, wire.encode(wire.environment_document(environment))).to_core() == environment
    )
    changes = [LabelChange(LabelName("l"), VersionName("2"), LATER), LabelChange(LabelName("l"), VersionName("1"), NOW)]
    label = wire.read(wire.LabelAnswer, wire.encode(wire.label_document(LabelName("l"), changes)))
    assert [each.to_core() for each in label.history] == changes
    build = BuildRecord(
        "b", EnvironmentName("a"), VersionName("1"), Platform("linux", "arm64"), BuildStatus.CANCELED, NOW, LATER,
        DIGEST, "e", (TimedStep("t", 0.25, "n"), TimedStep("u", 1.0)), NOW, Compression.GZIP, {"o": [1]}, 3, "w", 2, DIGEST,
    )  # fmt: skip
    bare = BuildRecord("b", build.name, build.version, build.platform, BuildStatus.QUEUED, NOW)
    for each in (build, bare):
        assert wire.read(wire_records.BuildAnswer, wire.encode(wire_records.build_document(each))).to_core() == each
    use = UseRecord(
        "u", EnvironmentName("a"), VersionName("1"), "run", "local", DIGEST, ("python", "-c", "é"), "me", "h", NOW,
        DIGEST, -9, LATER,
    )  # fmt: skip
    assert wire.read(wire_records.UseAnswer, wire.encode(wire_records.use_document(use))).to_core() == use
    assert wire.read(wire_records.UseBody, wire.encode(wire_records.use_body(use))).to_core("a") == use
    facts = BaseFacts(
        DIGEST, Platform("linux", "amd64"), "debian", "12", "Debian", Glibc(2, 36),
        (Interpreter("/usr/bin/python3", "3.11.2", "/usr", True),), "12.4", "9", ("/opt/conda",), 3, 5, 7,
    )  # fmt: skip
    for fact in (facts, BaseFacts(DIGEST, facts.platform)):
        assert wire.read(wire_records.FactsAnswer, wire.encode(wire_records.facts_document(fact))).to_core() == fact
    options = LockOptions(("a",), True, NOW, False)
    document = wire.encode(wire_records.lock_options_document(options))
    assert wire.read(wire_records.LockOptionsBody, document).to_core() == options


CONDA = {
    "text": "dependencies:\n- python=3.11\n- pip:\n  - six\n",
    "document": '{"dependencies":["python=3.11",{"pip":["six"]}]}',
    "python": "3.11",
    "pip": [{"text": "six"}],
}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "Docker image or Dockerfile is required"),
        ({"image": "a b"}, "not an image reference"),
        ({"image": "oci-archive:/etc/passwd"}, "a file can't be the base"),
        ({"image": "x\u0000"}, "not an image reference"),
        ({"image": "x", "build": {"path": "."}}, "not both"),
        ({"image": "x", "requirements": [], "pylock": ""}, "can't be given together"),
        ({"requirements": [{"text": "-r /etc/passwd"}]}, "not a requirement"),
        ({"requirements": [{"text": "file:///etc/passwd"}]}, "a local path"),
        ({"requirements": [{"text": "x @ file:///etc/passwd"}]}, "a local path"),
        ({"requirements": [{"text": "-e ."}]}, "not a requirement"),
        ({"requirements": [{"text": " six "}]}, "not as it would be kept"),
        ({"requirements": [], "constraints": [{"text": "six ="}]}, "not a requirement"),
        ({"requirements": [], "python": "three"}, "not a Python version"),
        ({"requirements": [], "sources": {"default": {"url": "file:///srv"}}}, "can't be an index of a server"),
        ({"requirements": [], "sources": {"default": {"url": "ftp://example.org"}}}, "not the URL of an index"),
        ({"requirements": [], "sources": {"extra": [{"url": "http://e.org", "name": "a b"}]}}, "not the name of an index"),
        (
            {"requirements": [], "sources": {"extra": [{"url": "http://e.org", "name": "a"}, {"url": "http://f.org", "name": "a"}]}},
            "two indexes have the same name",
        ),
        ({"image": "x", "environment_variables": [["B", ""], ["A", ""]]}, "not sorted"),
        ({"image": "x", "environment_variables": [["1A", ""]]}, "not the name of an environment variable"),
        ({"image": "x", "environment_variables": [["A", "\u0000"]]}, "NUL"),
        ({"image": "x", "allow_source": [":all:"]}, "not the normalised name"),
        ({"image": "x", "conda": CONDA | {"text": "dependencies: []\n"}}, "something else"),
        ({"image": "x", "conda": CONDA | {"pip": [{"text": "evil"}]}}, "something else"),
        ({"image": "x", "conda": CONDA | {"needs_conda": [{"text": "gcc"}]}}, "something else"),
        ({"image": "x", "conda": CONDA | {"text": "a: [b"}}, "spec.conda.text"),
        ({"image": "x", "pylock": "lock-version = 9"}, "spec.pylock"),
    ],
)  # fmt: skip
def test_a_spec_that_no_file_could_say_is_refused(spec: dict[str, Any], why: str) -> None:
    body = wire.read(wire.DefinitionBody, json.dumps({"name": "a", "spec": spec}))
    with pytest.raises((ExceptionGroup, InvalidDefinition)) as caught:
        body.to_core()
    found: BaseException = caught.value
    faults = found.exceptions if isinstance(found, ExceptionGroup) else [found]
    assert why in "\n".join(map(str, faults))


@pytest.mark.parametrize(
    "spec",
    [
        {"image": "https://u:secret@example.org/x"},
        {"build": {"path": "https://u:secret@example.org/x"}},
        {"requirements": [{"text": "x @ https://u:secret@example.org/x"}]},
        {"requirements": [], "sources": {"default": {"url": "https://u:secret@example.org"}}},
        {"image": "x", "environment_variables": [["A", "https://u:secret@example.org"]]},
    ],
)
def test_credentials_are_refused_and_not_repeated(spec: dict[str, Any]) -> None:
    body = wire.read(wire.DefinitionBody, json.dumps({"name": "a", "spec": spec}))
    with pytest.raises(CredentialInUrl) as caught:
        body.to_core()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{",
        '{"name": "a"}',
        '{"name": "a", "spec": {"image": "x"}, "more": 1}',
        '{"name": "a", "spec": {"image": "x", "imge": "y"}}',
        '{"name": 1, "spec": {"image": "x"}}',
        '{"name": "a", "spec": {"image": ["x"]}}',
        '{"name": "a", "spec": {"image": "x", "prereleases": 1}}',
        '{"name": "a", "spec": {"image": "\\ud800"}}',
        '{"name": "a", "spec": {"image": "x", "platforms": [{"os": "linux", "architecture": "mips"}]}}',
        '{"name": "a", "tags": {"a": 1}, "spec": {"image": "x"}}',
        '{"name": "a", "tags": {"": "x"}, "spec": {"image": "x"}}',
        '{"name": "a", "spec": {"image": "x", "requirements": [{"text": "a", "origin": ["f", 1.5]}]}}',
        json.dumps({"name": "a" * 256, "spec": {"image": "x"}}),
        json.dumps({"name": "a", "spec": {"image": "x"}, "description": "a" * 65_537}),
        json.dumps({"name": "a", "spec": {"image": "x"}, "tags": {str(each): "" for each in range(101)}}),
        '{"name": "a", "details": ' + '{"a":' * 5000 + "1" + "}" * 5000 + ', "spec": {"image": "x"}}',
    ],
)
def test_what_is_no_definition_is_refused_with_its_place(document: str) -> None:
    with pytest.raises(wire.InvalidBody):
        wire.read(wire.DefinitionBody, document)


def test_a_fault_says_where_it_is_and_shows_no_input() -> None:
    with pytest.raises(
        wire.InvalidBody, match=r"spec\.requirements\[1\]\.text: Input should be a valid string"
    ) as caught:
        wire.read(wire.DefinitionBody, '{"name": "a", "spec": {"requirements": [{"text": "a"}, {"text": 987654}]}}')
    assert "987654" not in str(caught.value)


def test_a_name_that_none_can_have_is_refused() -> None:
    body = wire.read(wire.DefinitionBody, '{"name": "a/b", "spec": {"image": "x"}}')
    with pytest.raises(InvalidName):
        body.to_core()


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**40])
def test_integers_of_any_size_are_written(number: int) -> None:
    assert json.loads(wire.encode({"details": {"number": number}})) == {"details": {"number": number}}


@pytest.mark.parametrize("microsecond", [0, 1, 250_000])
def test_times_are_written_as_models_write_them(microsecond: int) -> None:
    at = datetime(2026, 3, 1, 12, 0, 0, microsecond, UTC)
    model = wire.LabelChangeAnswer(label="stable", version="1", at=at)
    assert wire.encode({"label": "stable", "version": "1", "at": at}) == model.model_dump_json().encode()
