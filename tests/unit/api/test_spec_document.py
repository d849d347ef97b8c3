"""A spec that was attached to an image can be registered again, and is checked like any file."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlenv.api.definition import load_definition, parse_definition
from mlenv.core.evidence import spec_document
from mlenv.core.spec import Spec
from mlenv.errors import InvalidInput

CONDA = """\
name: own
channels: [conda-forge]
dependencies:
  - python=3.11  # why not
  - pip
  - pip:
      - -r more.txt
      - numpy>1
variables:
  MODE: fast
"""


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)
    return directory


@pytest.mark.parametrize(
    ("files", "main"),
    [
        ({"env_yml": "name: t\nimage: debian:bookworm\nconda_file: conda.yml\n", "conda_yml": CONDA}, "env.yml"),
        ({"req_txt": "--extra-index-url https://example.org/simple\n-c more.txt\n-f ./w\nnumpy>1\n"}, "req.txt"),
        ({"req_txt": "numpy>1  # a comment\n--pre\n"}, "req.txt"),
        ({"pylock_toml": 'lock-version = "1.0"\ncreated-by = "x"\npackages = []\n'}, "pylock.toml"),
        (
            {
                "env_yml": "name: t\nimage: oci:base\npython: '3.11'\nrequirements: [a, 'b; python_version<\"4\"']\n"
                "environment_variables: {B: '1', A: ''}\nplatforms: [linux/amd64, linux/arm64]\nallow_source: [c]\n"
                "indexes: [{name: own, url: 'https://example.org/simple', packages: [a]}]\n"
                "inference_config: {liveness_route: {port: 1, path: /l}, readiness_route: {port: 2, path: /r}, "
                "scoring_route: {port: 3, path: /s}}\n"
            },
            "env.yml",
        ),
    ],
)
def test_a_spec_goes_out_and_comes_back(tmp_path: Path, files: dict[str, str], main: str) -> None:
    write(tmp_path, more_txt="pandas<3\n", **files)
    (tmp_path / "w").mkdir()
    spec = load_definition(tmp_path / main, name="t", image="debian:12" if main != "env.yml" else None).spec
    (tmp_path / "spec.json").write_bytes(spec_document(spec))
    again = load_definition(tmp_path / "spec.json", name="again", version="7", description="d", tags={"a": "b"})
    assert again.spec.digest == spec.digest
    assert spec_document(again.spec) == spec_document(spec)
    assert (again.name, again.version, again.description, again.tags) == ("again", "7", "d", {"a": "b"})
    assert str(tmp_path).encode() not in spec_document(spec).replace(f"file://{tmp_path}".encode(), b"")


def document(**fields: Any) -> str:
    spec: dict[str, Any] = {"image": "debian:bookworm", **fields}
    return json.dumps({"format": "dev.mlenv.spec.v1", "spec": spec})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (document(image=7), "image"),
        (document(surprise=1), "surprise"),
        (document(requirements=[{"text": "numpy @ https://user:pass@example.org/n.whl"}]), "credentials"),
        (document(requirements=[{"text": "--index-url x"}]), "spec.requirements"),
        (document(environment_variables=[["B", "1"], ["A", "2"]]), "not sorted"),
        (document(sources={"default": {"url": "ftp://example.org"}}), "not the URL of an index"),
        (document(build={"path": "."}), "both"),
    ],
)
def test_what_a_file_could_not_have_said_is_refused(text: str, says: str) -> None:
    with pytest.raises((InvalidInput, ExceptionGroup)) as caught:
        parse_definition(text, "spec.json", name="t")
    group = caught.value
    texts = [str(each) for each in group.exceptions] if isinstance(group, ExceptionGroup) else [str(group)]
    texts += [str(each) for each in getattr(group, "faults", ())]
    assert any(says in each for each in texts), texts


def test_it_needs_a_name_and_takes_nothing_else() -> None:
    with pytest.raises(InvalidInput, match="name is required") as caught:
        parse_definition(document(), "spec.json")
    assert "--name" in str(caught.value.hint)
    with pytest.raises(InvalidInput, match=r"--python: spec.json says already"):
        parse_definition(document(), "spec.json", name="t", python="3.11")
    assert parse_definition(document(), "spec.json", default_name="d").spec == Spec(image="debian:bookworm")


def test_other_json_is_an_environment_file_as_before() -> None:
    text = json.dumps({"name": "t", "image": "debian:bookworm"})
    assert parse_definition(text, "environment.json").spec == Spec(image="debian:bookworm")
