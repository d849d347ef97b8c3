"""Environment YAML and flags, and telling files apart."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlenv.api.definition import FileKind, definition_from_flags, detect, load_definition, parse_definition
from mlenv.api.files import no_files
from mlenv.api.problems import (
    CredentialInUrl,
    FileProblem,
    InvalidDefinition,
    InvalidField,
    InvalidSyntax,
    MissingField,
    UnknownField,
)
from mlenv.core.environment import Definition
from mlenv.core.platform import Platform
from mlenv.core.spec import BuildContext, Index, InferenceConfig, Origin, Requirement, Route

BASE = "name: e\nimage: example.org/base:1\n"


def read(text: str) -> Definition:
    return parse_definition(text, "env.yml", read=no_files)


def faults(text: str) -> list[InvalidDefinition]:
    try:
        read(text)
    except InvalidDefinition as problem:
        return [problem]
    except ExceptionGroup as group:
        return [each for each in group.exceptions if isinstance(each, InvalidDefinition)]
    raise AssertionError("nothing was refused")


def test_everything_that_azure_knows(tmp_path: Path) -> None:
    (tmp_path / "conda.yml").write_text("dependencies: [python=3.10, pip]\nvariables: {A: 1, B: two}\n")
    path = tmp_path / "env.yml"
    path.write_text(
        "$schema: https://example.org/environment.schema.json\nid: azureml:x\ncreation_context: {created_at: x}\n"
        "latest_version: 5\nname: e\nversion: 1.10\ndescription: text\ntags: {a: 2.10, b: yes, c: , d: 2024-01-01}\n"
        "image: example.org/base:1\nconda_file: conda.yml\nos_type: LINUX\ndatastore: d\n"
        "auto_delete_setting: {condition: created_greater_than, value: 30d}\n"
        "inference_config:\n  liveness_route: {port: 5001, path: /live}\n"
        "  readiness_route: {port: '5002', path: /ready}\n  scoring_route: {port: 5003, path: /score}\n"
        "environment_variables: {B: three}\n"
    )
    definition = load_definition(path)
    spec = definition.spec
    assert (definition.name, definition.version, definition.description) == ("e", "1.10", "text")
    assert definition.tags == {"a": "2.10", "b": "yes", "c": "", "d": "2024-01-01"}
    assert spec.image == "example.org/base:1"
    assert spec.conda is not None
    assert spec.python == spec.conda.python == "3.10"
    assert spec.environment_variables == (("A", "1"), ("B", "three"))
    assert spec.os_type == "linux"
    assert spec.inference_config == InferenceConfig(Route(5001, "/live"), Route(5002, "/ready"), Route(5003, "/score"))
    assert definition.warnings == (
        f"{path}:6:10: the version is kept as written, 1.10; without quotes, Azure's client reads 1.1",
    )


def test_everything_that_is_our_own() -> None:
    spec = read(
        "name: e\nrequirements:\n  - numpy>=2  # fast\n  - --extra-index-url https://feed.example.org/simple\n"
        "python: 3.10\nplatforms: [linux/amd64, linux/aarch64]\nallow_source: [Fuse.Py]\nprereleases: true\n"
        "environment_variables: {OMP_NUM_THREADS: 04}\n"
        "indexes:\n  - {name: feed, url: https://feed.example.org/simple, packages: [My_Own]}\n"
        "  - {name: mirror, url: https://mirror.example.org/simple, default: true}\n"
    ).spec
    assert spec.requirements == (Requirement("numpy>=2"),)
    assert spec.requirements[0].origin == Origin("env.yml", 3)
    assert spec.python == "3.10"
    assert spec.platforms == (Platform("linux", "amd64"), Platform("linux", "arm64"))
    assert spec.allow_source == ("fuse-py",)
    assert spec.prereleases
    assert spec.environment_variables == (("OMP_NUM_THREADS", "04"),)
    assert spec.sources.default == Index("https://mirror.example.org/simple", "mirror")
    assert spec.sources.extra == (Index("https://feed.example.org/simple", "feed", ("my-own",)),)
    assert type(spec).from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_inline_conda_has_the_same_digest_as_the_file(tmp_path: Path) -> None:
    (tmp_path / "conda.yml").write_text("name: c\ndependencies:\n- python=3.10\n- pip: [a]\n")
    (tmp_path / "a.yml").write_text(BASE + "conda_file: ./conda.yml\n")
    (tmp_path / "b.yml").write_text(BASE + "conda_file: {name: c, dependencies: [python=3.10, {pip: [a]}]}\n")
    first, second = load_definition(tmp_path / "a.yml").spec, load_definition(tmp_path / "b.yml").spec
    assert first.digest == second.digest
    assert second.conda is not None
    assert "- python=3.10" in second.conda.text


def test_a_build_context(tmp_path: Path) -> None:
    (tmp_path / "ctx").mkdir()
    (tmp_path / "env.yml").write_text("name: e\nbuild: {path: ctx, dockerfile_path: /docker/Dockerfile}\n")
    spec = load_definition(tmp_path / "env.yml").spec
    assert spec.build == BuildContext(str(tmp_path / "ctx"), "docker/Dockerfile")
    remote = read("name: e\nbuild: {path: 'https://example.org/c.git#main:dir'}\n").spec
    assert remote.build == BuildContext("https://example.org/c.git#main:dir")


@pytest.mark.parametrize(
    ("text", "kind", "message", "hint"),
    [
        (BASE + "conda_fil: x\n", UnknownField, "env.yml:3:1: conda_fil: Unknown field.", "did you mean `conda_file`?"),
        (BASE + "variables: {}\n", UnknownField, "Unknown field.", "did you mean `environment_variables`?"),
        (BASE + "channels: [a]\n", UnknownField, "env.yml:3:1: channels: Unknown", "it looks like you are trying to"),
        (BASE + "dependancies: [a]\n", UnknownField, "dependancies: Unknown", "did you mean `dependencies`, as conda"),
        ("image: i\n", MissingField, "env.yml:1:1: name: Environment name is required.", "give it with `--name`"),
        ("image: i\nversion: 1\n", MissingField, "If version is specified, name must be specified also.", None),
        ("name: e\n", MissingField, "Docker image or Dockerfile is required for environments", "add `image:`"),
        ("name: e\nconda_file: {dependencies: []}\n", MissingField, "Docker image or Dockerfile is required", None),
        (
            BASE + "build: {path: .}\n",
            InvalidField,
            "env.yml:3:1: build: Docker image or Dockerfile should be provided not both",
            "keep one of the two",
        ),
        ("name: e\nbuild: {path: .}\npython: 3.11\n", InvalidField, "`python` and `build` can't be", None),
        (BASE + "conda_file: {}\nrequirements: []\n", InvalidField, "can't be given together", "put the requirements"),
        (BASE + "version:\n", InvalidField, "env.yml:3:1: version: Field may not be null;", None),
        (BASE + "version: 2024-01-01\n", InvalidField, "found 2024-01-01 (a date)", "put it in quotes"),
        (BASE + "tags: {a: {b: c}}\n", InvalidField, "env.yml:3:11: tags.a: a tag can't be nested", None),
        (BASE + "tags: {1: a}\n", InvalidField, "tags.1: Not a valid string; found 1 (an integer)", "put the tag's"),
        (BASE + "os_type: macos\n", InvalidField, "found 'macos' (a string), expected linux or windows", None),
        (
            "name: e\nbuild:\n  path: nope\n",
            InvalidField,
            "env.yml:3:9: build.path: Can't find directory or file in resolved absolute path",
            "the path is relative",
        ),
        ("name: e\nbuild: {path: 'git://example.org/x'}\n", InvalidField, "build.path: Not a valid URL;", None),
        (
            BASE + "inference_config: {liveness_route: {port: x, path: /}, readiness_route: {port: 1, path: /}, "
            "scoring_route: {port: 1, path: /}}\n",
            InvalidField,
            "env.yml:3:43: inference_config.liveness_route.port: Not a valid integer; found 'x' (a string), expected",
            None,
        ),
        (
            BASE + "inference_config: {liveness_route: {port: 80.5, path: /}}\n",
            InvalidField,
            "inference_config.liveness_route.port: Not a valid value; found 80.5 (a number), expected a port",
            None,
        ),
        ('name: e\nimage: "a\\x1b[31m"\n', InvalidField, "image: Not a valid value; found 'a\\x1b[31m'", None),
        (BASE + "python: latest\n", InvalidField, "python: Not a valid value; found 'latest'", "write a version"),
        (BASE + "platforms: [linux/sparc]\n", InvalidField, "platforms[0]: not a platform", "write it as"),
        (BASE + "platforms: linux/amd64\n", InvalidField, "platforms: Not a valid list;", "write it as `- …`"),
        (BASE + "environment_variables: {A-B: c}\n", InvalidField, "environment_variables.A-B: not the name", None),
        (BASE + "environment_variables: {A: }\n", InvalidField, "environment_variables.A: Not a valid string", None),
        (BASE + "allow_source: [':all:']\n", InvalidField, "allow_source[0]: not the name", "name each package"),
        (BASE + "prereleases: maybe\n", InvalidField, "prereleases: Not a valid boolean;", None),
        (BASE + "indexes: [{name: a}]\n", MissingField, "indexes[0].url: Missing data for required field.", None),
        (BASE + "indexes: [{name: a b, url: 'https://x.org'}]\n", InvalidField, "indexes[0].name", None),
        (BASE + "requirements: [a b]\n", InvalidDefinition, "env.yml:3:18: not a requirement: 'a b'", None),
        (BASE + "name: f\n", InvalidSyntax, "env.yml:3:1: the key 'name' stands here and on line 1", None),
        ("name: {{x}}\n", InvalidDefinition, "env.yml:1:8", None),
        ("- a\n", FileProblem, "not an environment definition; found a list", None),
        ("", FileProblem, "the file is empty", "it needs at least `name:`"),
    ],
)
def test_faults_say_where_what_and_what_to_do(
    text: str, kind: type[InvalidDefinition], message: str, hint: str | None
) -> None:
    problems = [each for each in faults(text) if message in str(each)]
    assert problems, [str(each) for each in faults(text)]
    assert isinstance(problems[0], kind)
    assert (problems[0].hint or "").startswith(hint or "")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("name: e\nimgae: x\n", "image"),
        ("nmae: e\nimage: x\n", "name"),
        ("name: e\nbuilt: {path: .}\n", "build"),
        (BASE + "indexes: [{name: a, urll: 'https://example.org'}]\n", "url"),
    ],
)
def test_what_is_misspelt_is_not_missing_as_well(text: str, meant: str) -> None:
    (problem,) = faults(text)
    assert problem.hint == f"did you mean `{meant}`?"


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(ExceptionGroup, match=r"4 problems in env\.yml") as caught:
        read("version: 1\nimag: x\ntags: 5\nos_type: 1\nimage: x\n")
    assert len(caught.value.exceptions) == 4


def test_secrets_are_refused_or_warned_of() -> None:
    problems = faults(
        "name: e\nimage: https://u:hunter2@example.org/i\nenvironment_variables: {A: 'https://u:hunter2@example.org'}\n"
        "indexes: [{name: feed, url: 'https://u:hunter2@example.org/simple'}]\n"
    )
    assert len(problems) == 3
    assert all(isinstance(each, CredentialInUrl) for each in problems)
    assert "hunter2" not in "".join(f"{each} {each.hint} {each.found}" for each in problems)
    assert "UV_INDEX_FEED_USERNAME" in (problems[1].hint or "") + (problems[2].hint or "")
    warned = read(BASE + "environment_variables: {API_TOKEN: abc, PLAIN: x}\n").warnings
    assert len(warned) == 1
    assert "API_TOKEN looks like a secret" in warned[0]
    assert "abc" not in warned[0]


def test_templates_are_accepted_with_a_warning() -> None:
    definition = read("name: '{{asset.name}}'\nversion: '{{asset.version}}'\nimage: '{{image}}'\n")
    assert definition.name == "{{asset.name}}"
    assert [each.split(": ", 1)[1] for each in definition.warnings] == [
        "name: {{asset.name}} looks like an unfilled template",
        "version: {{asset.version}} looks like an unfilled template",
        "image: {{image}} looks like an unfilled template",
    ]


def test_flags_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "env.yml"
    path.write_text("name: a\nversion: 1\nimage: i\ntags: {x: y}\nallow_source: [o]\n")
    definition = load_definition(
        path,
        name="b",
        version="2.0",
        description="5",
        image="j",
        os_type="Windows",
        tags={"k": "1.10"},
        set=("environment_variables.A=b=c", "prereleases=true", "tags.gone=1", "platforms=[linux/amd64]"),
        python=">=3.10",
        allow_source=("p",),
    )
    assert (definition.name, definition.version, definition.description) == ("b", "2.0", "5")
    assert definition.tags == {"k": "1.10"}
    assert definition.spec.image == "j"
    assert definition.spec.os_type == "windows"
    assert definition.spec.environment_variables == (("A", "b=c"),)
    assert definition.spec.prereleases
    assert definition.spec.platforms == (Platform("linux", "amd64"),)
    assert definition.spec.python == ">=3.10"
    assert definition.spec.allow_source == ("o", "p")


def test_set_is_checked_like_the_file() -> None:
    with pytest.raises(InvalidField, match="--set os_type: os_type: Not a valid value"):
        parse_definition(BASE, "env.yml", set=("os_type=beos",))
    with pytest.raises(InvalidField, match="--set: not a setting; found 'x'"):
        parse_definition(BASE, "env.yml", set=("x",))
    with pytest.raises(InvalidField, match="`image` is no mapping"):
        parse_definition(BASE, "env.yml", set=("image.tag=1",))


def test_flags_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conda.yml").write_text("dependencies: [python=3.10]\n")
    Path("ctx").mkdir()
    definition = definition_from_flags(name="e", image="i", conda_file=Path("conda.yml"))
    assert definition.spec.conda is not None
    assert load_definition(None, name="e", conda_file="conda.yml").spec.image is None
    built = definition_from_flags(name="e", build_context="ctx", dockerfile_path="D")
    assert built.spec.build == BuildContext(str(tmp_path / "ctx"), "D")
    with pytest.raises(MissingField, match="Docker image or Dockerfile is required"):
        definition_from_flags(name="e")
    with pytest.raises(FileProblem, match=r"^--conda-file: No such file or directory: nope\.yml$"):
        definition_from_flags(name="e", image="i", conda_file="nope.yml")


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("environment.yml", "name: c\ndependencies: [python=3.10]\n", FileKind.CONDA),
        ("conda.yaml", "channels: [a]\n", FileKind.CONDA),
        ("env.yml", BASE, FileKind.ENVIRONMENT),
        ("env.yml", BASE + "dependencies: []\n", FileKind.ENVIRONMENT),
        ("requirements.txt", "a\n", FileKind.REQUIREMENTS),
        ("dev.in", "a\n", FileKind.REQUIREMENTS),
        ("requirements", "a\n", FileKind.REQUIREMENTS),
        ("pyproject.toml", "", FileKind.PYPROJECT),
        ("pylock.toml", "", FileKind.PYLOCK),
        ("pylock.dev.toml", "", FileKind.PYLOCK),
        ("my.toml", 'lock-version = "1.0"\n', FileKind.PYLOCK),
        ("my.toml", "[project]\n", FileKind.PYPROJECT),
    ],
)
def test_files_are_told_apart(name: str, text: str, kind: FileKind) -> None:
    assert detect(text, name)[0] is kind


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [("poetry.lock", "", "poetry export"), ("Dockerfile", "FROM x", "--build-context"), ("x.toml", "", "[project]"),
     ("x.md", "hello", "known are")],
)  # fmt: skip
def test_other_files_are_refused_with_a_way_out(name: str, text: str, hint: str) -> None:
    with pytest.raises(FileProblem) as caught:
        detect(text, name)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("conda.yml", "name: c\ndependencies: [python=3.11, pip]\n"),
        ("requirements.txt", "numpy\n"),
        ("pyproject.toml", '[project]\nname = "p"\nrequires-python = ">=3.11"\ndependencies = ["numpy"]\n'),
        ("pylock.toml", 'lock-version = "1.0"\ncreated-by = "x"\npackages = []\n'),
    ],
)
def test_every_kind_is_a_definition_when_it_has_a_name(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    definition = load_definition(path, name="e", image="i", python="3.12", set=("tags.a=b",))
    assert definition.spec.has_dependencies
    assert (definition.name, definition.spec.image, definition.spec.python) == ("e", "i", "3.12")
    assert definition.tags == {"a": "b"}
    with pytest.raises(MissingField, match="Environment name is required") as caught:
        load_definition(path)
    assert "--name" in (caught.value.hint or "")


def test_extras_belong_to_a_pyproject() -> None:
    with pytest.raises(InvalidField, match="--extra: extras are chosen from a pyproject"):
        parse_definition("a\n", "requirements.txt", name="e", extras=("x",))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"(?i)no such file"):
        load_definition(tmp_path / "nope.yml")
    (tmp_path / "conda.yml").write_text("")
    with pytest.raises(FileProblem, match="is a directory") as caught:
        load_definition(tmp_path)
    assert caught.value.hint == "pass one of its files: conda.yml"
    (tmp_path / "latin.yml").write_bytes(b"name: e\nimage: \xe9\n")
    with pytest.raises(InvalidSyntax, match=r"latin\.yml:2:8: not UTF-8 text: byte 0xe9"):
        load_definition(tmp_path / "latin.yml")
    (tmp_path / "big.yml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(FileProblem, match="larger than 1048576 bytes"):
        load_definition(tmp_path / "big.yml")
    with pytest.raises(FileProblem, match="can't read"):
        load_definition(tmp_path / "nul\0.yml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_a_byte_order_mark_says_is_heeded(tmp_path: Path, encoding: str) -> None:
    """Windows PowerShell writes UTF-16 where `pip freeze` is sent to a file."""
    (tmp_path / "requirements.txt").write_bytes("six==1.16.0\r\n# é\r\nidna\r\n".encode(encoding))
    spec = load_definition(tmp_path / "requirements.txt", name="e").spec
    assert [each.text for each in spec.requirements or ()] == ["six==1.16.0", "idna"]


def test_what_others_read_is_named_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "Pipfile").write_text("[[source]]\n")
    with pytest.raises(FileProblem, match="Pipfile: not a definition that can be read"):
        load_definition(tmp_path / "Pipfile", name="e")


def test_a_conda_file_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("sub/env.yml").write_text(BASE + "conda_file: conda.yaml\n")
    with pytest.raises(FileProblem) as caught:
        load_definition(Path("sub/env.yml"))
    assert str(caught.value) == f"{os.path.join('sub', 'env.yml')}:3:13: No such file or directory: sub/conda.yaml"


def test_importing_the_loader_imports_no_parser() -> None:
    code = "import sys, mlenv.api.definition; print([m for m in ('ruamel.yaml', 'packaging', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
