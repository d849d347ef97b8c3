"""
Real, public definitions: every file is read or refused with a reason, and environments as Azure's own client does.

`tests/data/azure_verdicts.json` was made by running `load_environment` of the unmodified client on the same files.
"""

import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from mlenv.api.definition import load_definition
from mlenv.api.problems import FileProblem, InvalidDefinition
from mlenv.api.schema import environment_schema
from mlenv.api.yaml_text import Kind, Node, Scalar, YamlList, YamlMap, parse_yaml
from mlenv.core.environment import Definition

ROOT = Path(__file__).parents[2]
CORPUS = ROOT.parent / "shared/corpus"
VERDICTS = json.loads((ROOT / "tests/data/azure_verdicts.json").read_text())
#: Where we are stricter than the client: what its service refuses, what can't be a name here, what is surely a slip.
STRICTER = {
    "name-empty": "name: Not a valid value",
    "name-spaces": "name: Not a valid value",
    "name-slash": "name: Not a valid value",
    "version-empty": "version: Not a valid value",
    "version-slash": "version: Not a valid value",
    "version-sexagesimal": "version: Not a valid value",
    "tags-nested": "a tag can't be nested",
    "tags-list-val": "a tag can't be nested",
    "image-empty": "image: Not a valid value",
    "build-empty": "build.path: Missing data for required field.",
    "build-df-only": "build.path: Missing data for required field.",
    "build-path-empty": "build.path: Not a valid value",
    "build-user": "credentials can't be kept",
    "build-conda": "`conda_file` and `build` can't be given together",
    "conda-notmap": "not a conda file",
    "conda-emptyfile": "the conda file is empty",
    "inf-portfloat": "inference_config.liveness_route.port",
    "inf-portneg": "inference_config.liveness_route.port",
    "dup": "the key 'image' stands here and on line 2",
    "bintag": "the tag",
}


def files(kind: str) -> list[Path]:
    found = sorted(path for path in (CORPUS / kind).rglob("*") if path.is_file())
    assert found, f"no corpus at {CORPUS}"
    return found


def attempt(path: Path, *, name: str | None = None) -> tuple[Definition | None, list[InvalidDefinition]]:
    """The definition, or its faults. Any other exception fails the test."""
    try:
        return load_definition(path, name=name), []
    except InvalidDefinition as problem:
        return None, [problem]
    except ExceptionGroup as group:
        if group.split(InvalidDefinition)[1] is not None:
            raise
        return None, [each for each in group.exceptions if isinstance(each, InvalidDefinition)]


def test_every_environment_as_azure_has_it() -> None:
    verdicts: dict[str, str] = VERDICTS["corpus"]
    found = files("environments")
    assert sorted(verdicts) == sorted(str(path.relative_to(CORPUS / "environments")) for path in found)
    for path in found:
        definition, problems = attempt(path)
        verdict = verdicts[str(path.relative_to(CORPUS / "environments"))]
        assert (definition is not None) == (verdict == "accepted"), path
        if verdict != "accepted":
            assert [problem.path or "conda_file" for problem in problems] == [verdict.split()[0]]
            assert problems[0].place.line
            assert problems[0].place.column
    assert Counter(verdicts.values()) == {"build.path is not there": 67, "accepted": 6, "conda_file is not there": 2}


def test_every_environment_is_accepted_where_its_files_are(tmp_path: Path) -> None:
    assert VERDICTS["corpus_with_files"]["refused"] == []
    schema = jsonschema.Draft202012Validator(environment_schema())
    for number, path in enumerate(files("environments")):
        node = parse_yaml(path.read_text(), path.name)
        assert isinstance(node, YamlMap)
        here = tmp_path / str(number)
        here.mkdir()
        copy = here / path.name
        copy.write_bytes(path.read_bytes())
        if isinstance(build := node.entries.get("build"), YamlMap) and isinstance(at := build.entries["path"], Scalar):
            (here / at.text).mkdir(exist_ok=True)
        if isinstance(conda := node.entries.get("conda_file"), Scalar):
            (here / conda.text).write_text("dependencies: [python=3.10]\n")
        definition, problems = attempt(copy)
        assert definition is not None, problems
        assert schema.is_valid(to_data(node)), path
        assert any("template" in each for each in definition.warnings) == ("{{" in path.read_text())


@pytest.mark.parametrize("case", sorted(VERDICTS["cases"]))
def test_made_up_environments_as_azure_has_them(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "ctx/Dockerfile": "FROM x\n", "conda.yml": "name: c\ndependencies: [python=3.10]\n", "list.yml": "- a\n",
        "bad.yml": "a: [\n", "empty.yml": "", "env.yml": VERDICTS["cases"][case]["text"],
    }.items():  # fmt: skip
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    definition, problems = attempt(Path("env.yml"))
    accepted = VERDICTS["cases"][case]["verdict"] == "accepted"
    assert accepted or definition is None
    if case in STRICTER:
        assert accepted
        assert STRICTER[case] in str(problems[0])
    else:
        assert (definition is not None) == accepted, problems


def test_every_conda_file_loads_or_says_why() -> None:
    counts: Counter[str] = Counter()
    for path in files("conda"):
        definition, problems = attempt(path, name="e")
        if definition is not None:
            conda = definition.spec.conda
            assert conda is not None
            assert conda.text == path.read_bytes().decode("utf-8-sig")
            counts["needs conda" if conda.needs_conda else "pip is enough"] += 1
            continue
        counts["template" if all("unfilled template" in str(each) for each in problems) else "other"] += 1
        for problem in problems:
            assert problem.place.line
            assert problem.hint
    assert counts == {"pip is enough": 91, "needs conda": 76, "template": 63, "other": 10}


def test_every_requirements_file_loads_or_says_why() -> None:
    counts: Counter[str] = Counter()
    for path in files("requirements"):
        definition, problems = attempt(path, name="e")
        if definition is not None:
            lines = path.read_text().splitlines()
            for requirement in definition.spec.pip_requirements:
                assert requirement.origin is not None
                assert requirement.text.split()[0] in lines[requirement.origin.line - 1]
            counts["loads"] += 1
            continue
        counts["template" if all("unfilled template" in str(each) for each in problems) else "other"] += 1
        for problem in problems:
            assert problem.place.line
            assert problem.hint
            assert not isinstance(problem, FileProblem) or "-r " in path.read_text()
    assert counts == {"loads": 87, "template": 45, "other": 6}


def to_data(node: Node) -> object:
    """What an editor's YAML reader makes of a document."""
    if isinstance(node, YamlList):
        return [to_data(each) for each in node.items]
    if isinstance(node, YamlMap):
        return {key: to_data(each) for key, each in node.entries.items()}
    if node.kind is Kind.INTEGER:
        return int(node.text)
    if node.kind is Kind.FLOAT:
        return float(node.text)
    return None if node.kind is Kind.NULL else node.text
