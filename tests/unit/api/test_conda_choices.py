"""How a conda file is solved: `cuda`, `resolver`, and packages that are checked where they stand."""

import json
from typing import Any

import pytest

from mlenv.api import wire
from mlenv.api.conda import parse_conda
from mlenv.api.definition import parse_definition
from mlenv.api.files import no_files
from mlenv.api.problems import Findings, InvalidDefinition
from mlenv.core.difference import difference
from mlenv.core.digest import Digest
from mlenv.core.spec import CondaFile, Spec, canonical_json

YAML = "name: e\nimage: i\nconda_file: {dependencies: [numpy=1.26]}\n"


def read(text: str) -> Spec:
    return parse_definition(text, "env.yml", read=no_files).spec


@pytest.mark.parametrize(
    ("text", "cuda", "resolver"),
    [
        ("", None, "conda"),
        ("cuda: 12.1\n", "12.1", "conda"),
        ("cuda: 12.10\n", "12.10", "conda"),
        ("cuda: '11.8.0'\n", "11.8.0", "conda"),
        ("cuda: 12\nresolver: pypi\n", "12", "pypi"),
        ("resolver: conda\n", None, "conda"),
    ],
)
def test_choices_are_kept_as_written(text: str, cuda: str | None, resolver: str) -> None:
    spec = read(YAML + text)
    assert (spec.cuda, spec.resolver) == (cuda, resolver)
    assert Spec.from_dict(json.loads(canonical_json(spec.to_dict()))) == spec
    body = wire.read(wire.DefinitionBody, json.dumps({"name": "e", "spec": spec.to_dict()}))
    assert body.to_core().spec == spec


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{YAML}cuda: twelve\n", "a CUDA version such as 12.1"),
        (f"{YAML}cuda: '>=12'\n", "a CUDA version such as 12.1"),
        (f"{YAML}cuda: 12.1.2.3\n", "a CUDA version such as 12.1"),
        (f"{YAML}cuda: [12]\n", "a CUDA version such as 12.1"),
        (f"{YAML}cuda:\n", "Field may not be null"),
        (f"{YAML}resolver: mamba\n", "conda or pypi"),
        (f"{YAML}resolver: true\n", "Not a valid string"),
        ("name: e\nimage: i\ncuda: 12.1\n", "`cuda` says how a conda file is solved, and there is none"),
        ("name: e\nrequirements: [numpy]\nresolver: pypi\n", "`resolver` says how a conda file is solved"),
    ],
)
def test_other_choices_are_refused_at_their_place(text: str, why: str) -> None:
    with pytest.raises(InvalidDefinition) as caught:
        read(text)
    assert why in str(caught.value)
    assert caught.value.place.line == text.count("\n")


@pytest.mark.parametrize(
    ("more", "why"),
    [({"cuda": "12.1"}, "there is none"), ({"resolver": "pypi"}, "there is none")],
)
def test_a_spec_without_a_conda_file_has_no_choices(more: dict[str, Any], why: str) -> None:
    body = wire.read(wire.DefinitionBody, json.dumps({"name": "e", "spec": {"image": "i"} | more}))
    with pytest.raises(InvalidDefinition, match=why):
        body.to_core()


@pytest.mark.parametrize(
    "more", [{"cuda": "x"}, {"cuda": "12\n"}, {"cuda": 12}, {"resolver": "mamba"}, {"resolver": None}]
)
def test_the_wire_takes_no_other_words(more: dict[str, Any]) -> None:
    with pytest.raises(wire.InvalidBody):
        wire.read(wire.DefinitionBody, json.dumps({"name": "e", "spec": {"image": "i"} | more}))


def test_specs_without_choices_keep_their_digest() -> None:
    conda = CondaFile('{"dependencies":["numpy"]}', "dependencies: [numpy]\n")
    spec = Spec(image="debian:bookworm", conda=conda)
    assert spec.digest == Digest.of(
        b'{"conda":{"document":"{\\"dependencies\\":[\\"numpy\\"]}"},"image":"debian:bookworm"}'
    )
    assert "cuda" not in spec.to_dict()
    assert "resolver" not in spec.to_dict()


def test_each_choice_is_a_difference() -> None:
    assert difference(read(YAML), read(f"{YAML}cuda: 12.1\nresolver: pypi\n")) == [
        "cuda:",
        "  + 12.1",
        "resolver:",
        "  + pypi",
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("numpy=>1.26", "'=>1.26' is no version"),
        ("numpy[extra]>=1", "brackets stand once, at the end"),
        ("numpy 1.26 a b", "is no version"),
        ("numpy=1.*.3", "a wildcard where it means nothing"),
        ("https://example.org/numpy.conda", "a package file has an address"),
    ],
)
def test_packages_that_conda_would_not_understand_are_refused_where_they_stand(line: str, why: str) -> None:
    findings = Findings()
    found = parse_conda(f"dependencies:\n- pip\n- '{line}'\n", "conda.yml", findings=findings).conda
    (problem,) = findings.problems
    assert why in str(problem)
    assert "conda.yml:3" in str(problem)
    assert problem.hint
    assert found.needs_conda == ()
