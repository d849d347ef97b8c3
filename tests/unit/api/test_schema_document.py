"""The JSON Schema that `mlenv schema` prints."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlenv.api.definition import parse_definition
from mlenv.api.files import no_files
from mlenv.api.schema import AZURE_FIELDS, OWN_FIELDS, environment_schema
from mlenv.api.yaml_text import Kind, Node, Scalar, YamlList, parse_yaml
from mlenv.errors import InvalidInput

GOOD = [
    "name: e\nimage: i\n",
    "name: e\nversion: 1.10\nimage: i\ntags: {a: 2.10, b: , c: yes}\nos_type: LINUX\n",
    "name: e\nimage: i\nconda_file: {name: c, dependencies: [python=3.10, {pip: [a]}]}\n",
    "name: e\nimage: i\nconda_file: {dependencies: [numpy=1.26]}\ncuda: 12.1\nresolver: pypi\n",
    "name: e\nrequirements: [numpy]\npython: 3.10\nplatforms: [linux/amd64]\nallow_source: [a]\nprereleases: true\n",
    """name: e
python: '>=3.10'
environment_variables: {A: 1}
indexes: [{name: a, url: 'https://example.org/s', packages: [b]}]
""",
    "name: e\nbuild: {path: 'https://example.org/c.git', dockerfile_path: D}\n",
    """name: e
image: i
inference_config:
  liveness_route: {port: 1, path: /}
  readiness_route: {port: '1', path: /}
  scoring_route: {port: 1, path: /}
auto_delete_setting: {condition: created_greater_than, value: 30d}
""",
]
BAD = [
    "image: i\n",
    "name: e\n",
    "name: 5\nimage: i\n",
    "name: e\nimage: i\nfoo: 1\n",
    "name: e\nimage: i\nbuild: {path: 'https://example.org/c'}\n",
    "name: e\nbuild: {}\n",
    "name: e\nimage: i\ntags: {a: {b: c}}\n",
    "name: e\nimage: i\nos_type: macos\n",
    "name: e\nimage: i\nconda_file: {dependencies: [5]}\n",
    "name: e\nimage: i\nconda_file: {}\nrequirements: []\n",
    "name: e\nimage: i\nenvironment_variables: {A-B: c}\n",
    "name: e\nimage: i\ninference_config: {}\n",
    "name: e\nimage: i\nindexes: [{name: a}]\n",
    "name: e\nimage: i\nversion:\n",
    "name: e\nimage: i\ncuda: 12.1\n",
    "name: e\nimage: i\nconda_file: {dependencies: [a]}\ncuda: twelve\n",
    "name: e\nimage: i\nconda_file: {dependencies: [a]}\nresolver: mamba\n",
]


def to_data(node: Node) -> Any:
    """What an editor's YAML reader makes of a document."""
    if isinstance(node, YamlList):
        return [to_data(each) for each in node.items]
    if not isinstance(node, Scalar):
        return {key: to_data(each) for key, each in node.entries.items()}
    if node.kind is Kind.INTEGER:
        return int(node.text)
    if node.kind is Kind.FLOAT:
        return float(node.text)
    if node.kind is Kind.BOOLEAN:
        return node.true
    return None if node.kind is Kind.NULL else node.text


def is_valid(text: str) -> bool:
    node = parse_yaml(text, "e.yml")
    assert node is not None
    return bool(jsonschema.Draft202012Validator(environment_schema()).is_valid(to_data(node)))


def loads(text: str) -> bool:
    try:
        parse_definition(text, "e.yml", read=no_files)
    except (InvalidInput, ExceptionGroup):
        return False
    return True


def test_it_is_a_schema_and_json() -> None:
    jsonschema.Draft202012Validator.check_schema(environment_schema())
    assert json.loads(json.dumps(environment_schema()))["title"] == "ML environment"


@pytest.mark.parametrize("text", GOOD)
def test_it_accepts_what_the_loader_accepts(text: str) -> None:
    assert loads(text)
    assert is_valid(text)


@pytest.mark.parametrize("text", BAD)
def test_it_refuses_what_the_loader_refuses(text: str) -> None:
    assert not loads(text)
    assert not is_valid(text)


def test_the_reference_describes_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs/environment-yaml.md").read_text()
    missing = [key for key in (*AZURE_FIELDS, *OWN_FIELDS) if f"`{key}`" not in page]
    assert not missing
