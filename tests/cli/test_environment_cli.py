"""
`mlenv environment …` as its users see it: exit status, stdout, stderr.

The same tests run with this user's own store and with a workspace of a server, but for those that ask for `run_here`.
"""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support.server import Server

from mlenv.cli.main import main
from mlenv.core.scope import DEFAULT_GROUP, DEFAULT_SUBSCRIPTION, DEFAULT_WORKSPACE

YAML_FILE = """\
$schema: https://example.org/environment.schema.json
name: iris
image: registry.example.org/base:12
conda_file:
  channels: [conda-forge]
  dependencies:
    - python=3.11
    - pip:
      - scikit-learn==1.5.0
tags: {team: vision}
description: Trains on flowers.
"""


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Run:
    """
    Runs a command line in an empty directory, with an empty store.

    Attributes:
        workspace: The workspace that commands work with.
    """

    workspace: str
    capsys: pytest.CaptureFixture[str]

    @property
    def address(self) -> str:
        """What ids of environments begin with."""
        return (
            f"azureml:/subscriptions/{DEFAULT_SUBSCRIPTION}/resourceGroups/{DEFAULT_GROUP}/providers"
            f"/Microsoft.MachineLearningServices/workspaces/{self.workspace}/environments/"
        )

    @property
    def remote(self) -> bool:
        return self.workspace != DEFAULT_WORKSPACE

    def __call__(self, *arguments: str) -> Ran:
        self.capsys.readouterr()
        status = main(arguments)
        captured = self.capsys.readouterr()
        return Ran(status, captured.out, captured.err)


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Commands with this user's own store."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MLENV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLENV_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("MLENV_OUTPUT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (directory / "environment.yml").write_text(YAML_FILE)
    return Run(DEFAULT_WORKSPACE, capsys)


@pytest.fixture(params=["embedded", "remote"])
def run(request: pytest.FixtureRequest, run_here: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands with this user's own store, and with a new workspace of a server."""
    if request.param == "embedded":
        return run_here
    server: Server = request.getfixturevalue("team_server")
    workspace = f"team-{os.urandom(6).hex()}"
    with server.client() as client:
        made = client.post("/api/v1/workspaces", json={"name": workspace})
        assert made.status_code == 201, made.text
    monkeypatch.setenv("MLENV_SERVER", server.url)
    monkeypatch.setenv("MLENV_CA", str(server.ca))
    monkeypatch.setenv("MLENV_TOKEN", server.token)
    monkeypatch.setenv("MLENV_WORKSPACE", workspace)
    return replace(run_here, workspace=workspace)


def create(run: Run, *images: str, name: str = "e") -> None:
    for image in images:
        assert run("environment", "create", "--name", name, "--image", image).status == 0


def test_create_prints_the_whole_document(run: Run) -> None:
    ran = run("environment", "create", "-f", "environment.yml")
    assert (ran.status, ran.err) == (0, "created iris:1\n")
    document = ran.json
    times = document.pop("creation_context")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", times["created_at"])
    assert times["created_at"] == times["last_modified_at"]
    assert document == {
        "id": f"{run.address}iris/versions/1",
        "name": "iris",
        "version": "1",
        "description": "Trains on flowers.",
        "tags": {"team": "vision"},
        "image": "registry.example.org/base:12",
        "conda_file": {
            "channels": ["conda-forge"],
            "dependencies": ["python=3.11", {"pip": ["scikit-learn==1.5.0"]}],
        },
        "python": "3.11",
        "os_type": "linux",
        "archived": False,
    }


def test_create_again_is_no_new_version(run: Run) -> None:
    run("environment", "create", "-f", "environment.yml")
    ran = run("environment", "create", "-f", "environment.yml")
    assert (ran.status, ran.json["version"]) == (0, "1")
    assert ran.err == "iris:1 is there already, with the same content\n"
    ran = run("environment", "create", "-f", "environment.yml", "--set", "image=registry.example.org/base:13")
    assert (ran.json["version"], ran.err) == ("2", "created iris:2\n")


def test_create_with_every_flag_of_azure(run: Run) -> None:
    Path("conda.yml").write_text("dependencies: [python=3.12, {pip: [numpy]}]\n")
    ran = run(
        *("environment", "create", "-n", "e", "-v", "1.0", "-i", "base", "-c", "conda.yml", "--os-type", "Linux"),
        *("--tags", "a=b", "c=d=e", "--description", "text", "--datastore", "d", "--no-wait"),
        *("-g", "group", "-w", run.workspace, "--set", "tags.x=y"),
    )
    assert ran.status == 0, ran.err
    assert (ran.json["version"], ran.json["os_type"], ran.json["description"]) == ("1.0", "linux", "text")
    assert ran.json["conda_file"] == {"dependencies": ["python=3.12", {"pip": ["numpy"]}]}
    assert ran.json["tags"] == {"a": "b", "c": "d=e"}
    Path("context").mkdir()
    Path("context/Dockerfile").write_text("FROM scratch\n")
    ran = run("environment", "create", "-n", "b", "-b", "context", "-d", "Dockerfile")
    assert (ran.status, ran.json["build"]["dockerfile_path"]) == (0, "Dockerfile"), ran.err


def test_create_under_a_taken_version_shows_the_difference(run: Run) -> None:
    run("environment", "create", "-f", "environment.yml")
    ran = run("environment", "create", "-f", "environment.yml", "-v", "1", "--image", "other")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        "error: environment iris with version 1 is already registered with other content and cannot be changed\n"
        "  image:\n"
        "    - registry.example.org/base:12\n"
        "    + other\n"
        "hint: leave the version out to get the next one, or name a version that is free\n"
    )


def test_create_with_nothing_is_a_bad_command_line(run: Run) -> None:
    ran = run("environment", "create")
    assert ran.status == 2
    assert ran.err.splitlines()[0] == "error: nothing to create"


def test_several_faults_are_a_line_each(run: Run) -> None:
    Path("bad.yml").write_text("name: e\nimage: [a]\ntags: 3\n")
    ran = run("environment", "create", "-f", "bad.yml")
    assert (ran.status, ran.out) == (1, "")
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert sorted(line.split()[1].split(":")[:2] for line in errors) == [["bad.yml", "2"], ["bad.yml", "3"]]


@pytest.mark.parametrize(
    "reference",
    [
        ["e:1"],
        ["azureml:e:1"],
        ["e@production"],
        ["-n", "e", "-v", "1"],
        ["--name", "e", "--label", "production"],
        ["e", "-v", "1"],
        ["{address}e/versions/1"],
        ["/subscriptions/{address}e/versions/1"],
        ["-n", "e:1", "-g", "group", "-w", "{workspace}"],
    ],
)
def test_show_takes_every_spelling(run: Run, reference: list[str]) -> None:
    create(run, "a", "b")
    ran = run("environment", "label", "set", "e:1", "--label", "production")
    assert ran.err == "e@production is now e:1\n"
    words = [each.replace("/subscriptions/{address}", run.address.removeprefix("azureml:")) for each in reference]
    words = [each.format(address=run.address, workspace=run.workspace) for each in words]
    ran = run("environment", "show", *words)
    assert (ran.status, ran.json["version"], ran.json["image"]) == (0, "1", "a")


def test_show_without_a_version_is_the_newest(run: Run) -> None:
    create(run, "a", "b")
    assert run("environment", "show", "e").json["version"] == "2"
    assert run("environment", "show", "-n", "e", "-l", "latest").json["version"] == "2"


def test_one_version_and_several_labels_are_told_as_such(run: Run) -> None:
    create(run, "a")
    run("environment", "label", "set", "e:1", "-l", "canary")
    assert "hint: its only version is 1\n" in run("environment", "show", "e:9").err
    assert "hint: its labels are latest, canary; set one with" in run("environment", "show", "e@x").err


@pytest.mark.parametrize(
    ("arguments", "status", "error", "hint"),
    [
        (["show", "ee"], 1, "no environment is named 'ee'", "did you mean 'e'?"),
        (["show", "e:9"], 1, "environment 'e' has no version '9'", "its newest versions are 2, 1"),
        (["show", "e@x"], 1, "environment 'e' has no label 'x'", "its only label is latest; set one with"),
        (["show", "e:latest"], 1, "environment 'e' has no version 'latest'", "the newest is `e@latest`, or just `e`"),
        (["show"], 2, "no environment is named", "write NAME"),
        (["show", "-v", "1"], 2, "a version or label of which environment?", "give its name"),
        (["show", "e", "-n", "e"], 2, "the environment is named twice", "give either"),
        (["show", "e:1", "-v", "2"], 2, "which version? '2' and '1' are both given", None),
        (["show", "a b"], 1, "not an environment name: 'a b'", "use 1 to 255"),
        (["show", "e", "--registry-name", "r"], 1, "there is no registry 'r'", None),
        (["list", "--registry-name", "r"], 1, "there is no registry 'r'", None),
        (["list", "--include-archived", "--archived-only"], 2, "argument --archived-only: not allowed", "see"),
        (["list", "-r", "0"], 2, "argument -r/--max-results: 0 is less than 1", "see"),
        (["list", "--inclde-archived"], 2, "has no option '--inclde-archived'", "did you mean --include-archived?"),
        (["list", "a", "b"], 2, "one argument too many: 'b'", "see"),
        (["lst"], 2, "mlenv environment has no command 'lst'", "did you mean `mlenv environment list`?"),
        (["lab"], 2, "mlenv environment has no command 'lab'", "did you mean `mlenv environment label`?"),
        (["list", "-o", "xml"], 2, "--output: no output format is called 'xml'", "use json"),
        (["list", "--query", "[?"], 2, "--query '[?'", "see jmespath.org"),
        (["list", "--query", "length(`1`)"], 2, "--query 'length(`1`)'", "see jmespath.org"),
        (["update", "e:1"], 2, "nothing to change", "use --description"),
        (["update", "e:1", "--set", "image=x"], 1, "'image' of a version can't be changed", "only description"),
        (["update", "e:1", "--tags", "x"], 2, "--tags: 'x' is not KEY=VALUE", None),
        (["update", "e:1", "--remove", "tags.x"], 1, "tag 'x' can't be removed", None),
        (["label", "set", "e:1", "-l", "latest"], 1, "the label 'latest' is computed", "choose another"),
    ],
)
def test_refusals_say_what_and_what_to_do(
    run: Run, arguments: list[str], status: int, error: str, hint: str | None
) -> None:
    create(run, "a", "b")
    ran = run("environment", *arguments)
    assert (ran.status, ran.out) == (status, "")
    first, *rest = ran.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    if "--registry-name" in arguments:
        hint = "`mlenv registry list`" if run.remote else "leave the registry out"
    assert [line.startswith(f"hint: {hint}") for line in rest] == ([True] if hint else [])


def test_list_has_a_row_per_environment(run: Run) -> None:
    create(run, "a", "b", name="second")
    create(run, "a", name="first")
    listed = run("environment", "list").json
    assert [(each["name"], each["latest_version"], each["archived"]) for each in listed] == [
        ("first", "1", False),
        ("second", "2", False),
    ]
    table = run("environment", "list", "-o", "table").out.splitlines()
    assert table[0].split() == ["Name", "Version", "Created", "Archived"]
    assert [line.split()[:2] for line in table[2:]] == [["first", "1"], ["second", "2"]]
    assert len(run("environment", "list", "-r", "1").json) == 1


def test_list_of_one_environment_has_a_row_per_version(run: Run) -> None:
    create(run, *"abc")
    assert [each["version"] for each in run("environment", "list", "-n", "e").json] == ["3", "2", "1"]
    tsv = run("environment", "list", "e", "-r", "2", "-o", "tsv").out
    assert [line.split("\t")[:2] for line in tsv.splitlines()] == [["e", "3"], ["e", "2"]]
    ran = run("environment", "list", "nothing")
    assert (ran.status, ran.out) == (1, "")


def test_archived_ones_are_listed_when_asked_for(run: Run) -> None:
    create(run, "a", "b")
    assert run("environment", "archive", "-n", "e", "-v", "1").err == "archived e:1\n"
    assert [each["version"] for each in run("environment", "list", "e").json] == ["2"]
    assert [each["version"] for each in run("environment", "list", "e", "--archived-only").json] == ["1"]
    assert len(run("environment", "list", "e", "--include-archived").json) == 2
    assert run("environment", "show", "e:1").json["archived"] is True
    assert run("environment", "archive", "e").err == "archived e, with all its versions\n"
    assert run("environment", "list").json == []
    assert [each["name"] for each in run("environment", "list", "--archived-only").json] == ["e"]
    refused = run("environment", "restore", "e:1")
    assert refused.status == 1
    assert refused.err.endswith("hint: restore the environment first: `mlenv environment restore e`\n")
    assert run("environment", "restore", "e").status == 0
    assert [each["version"] for each in run("environment", "list", "e").json] == ["2"]
    assert run("environment", "restore", "e:1").err == "restored e:1\n"


def test_update_in_every_spelling(run: Run) -> None:
    create(run, "a")
    changed = run("environment", "update", "e:1", "--set", "tags.a=1", "description=one", "--add", "tags", "b=2").json
    assert (changed["tags"], changed["description"]) == ({"a": "1", "b": "2"}, "one")
    changed = run("environment", "update", "-n", "e", "-v", "1", "--remove", "tags.a", "description").json
    assert (changed["tags"], changed["description"]) == ({"b": "2"}, None)
    changed = run("environment", "update", "e", "--tags", "c=3", "--description", "two").json
    assert (changed["tags"], changed["description"]) == ({"c": "3"}, "two")
    assert run("environment", "update", "e", "--remove", "tags").json["tags"] == {}


def test_labels_are_listed_with_history(run: Run) -> None:
    create(run, "a", "b")
    for version in ("1", "2"):
        run("environment", "label", "set", "-n", "e", "-v", version, "-l", "canary")
    listed = run("environment", "label", "list", "e").json
    assert [(each["label"], each["version"]) for each in listed] == [("canary", "2")]
    assert [each["version"] for each in listed[0]["history"]] == ["2", "1"]


def test_every_output_format(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("environment", "create", "-f", "environment.yml", "--description", "two\nlines\n")
    document = run("environment", "show", "iris").json
    assert YAML(typ="safe").load(io.StringIO(run("environment", "show", "iris", "-o", "yaml").out)) == document
    assert "description: |\n  two\n  lines\n" in run("environment", "show", "iris", "-o", "yaml").out
    assert run("environment", "show", "iris", "-o", "jsonc").json == document
    assert run("environment", "show", "iris", "-o", "none") == Ran(0, "", "")
    assert run("environment", "show", "iris", "-o", "tsv").out.startswith("iris\t1\t")
    monkeypatch.setenv("MLENV_OUTPUT", "yaml")
    assert run("environment", "show", "iris").out.startswith("id: azureml:/subscriptions/")
    assert run("environment", "show", "iris", "-o", "json").json == document
    monkeypatch.setenv("MLENV_OUTPUT", "xml")
    assert run("environment", "show", "iris").err.startswith("error: MLENV_OUTPUT: no output format is called 'xml'")


def test_query_narrows_what_is_printed(run: Run) -> None:
    create(run, "a", "b")
    query = ("--query", "[].{name: name, newest: latest_version}")
    assert run("environment", "list", *query).json == [{"name": "e", "newest": "2"}]
    assert run("environment", "list", *query, "-o", "table").out == "Name  Newest\n----  ------\ne     2\n"
    assert run("environment", "show", "e", "--query", "version", "-o", "tsv").out == "2\n"
    assert run("environment", "list", "--query", "length(@)").json == 1
    assert run("-o", "tsv", "environment", "list", "e", "--query", "[].[name, version]").out == "e\t2\ne\t1\n"


def test_terminal_is_not_steered_by_what_is_stored(run: Run) -> None:
    create(run, "a")
    run("environment", "update", "e", "--description", "\x1b[31mred\x9b0m", "--set", "tags.a=\x1b]0;t\x07")
    for output in ("json", "yaml", "table", "tsv"):
        ran = run("environment", "list", "e", "-o", output, "--query", "[].{d: description, t: tags.a}")
        assert not {"\x1b", "\x9b", "\x07"} & set(ran.out), output
    assert "\x1b" not in run("environment", "show", "\x1b[31m").err


def test_quiet_says_only_errors(run: Run) -> None:
    assert run("environment", "create", "-f", "environment.yml", "--quiet").err == ""
    assert run("environment", "show", "nothing", "--quiet").err.startswith("error: ")


def test_help_and_version(run: Run) -> None:
    for arguments in ([], ["--help"], ["environment"], ["environment", "--help"], ["environment", "create", "-h"]):
        ran = run(*arguments)
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith("usage: mlenv")
    assert re.fullmatch(r"mlenv \d+\.\d+\.\d+\n", run("--version").out)
    assert run("schema").json["title"] == "ML environment"


def test_unexpected_fault_is_short_and_whole_with_verbose(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("mlenv.wiring.embedded.open_embedded", explode)
    ran = run_here("environment", "list")
    assert (ran.status, len(ran.err.splitlines())) == (1, 2)
    assert ran.err.startswith("error: unexpected ZeroDivisionError: oops\nhint: ")
    ran = run_here("environment", "list", "--verbose")
    assert ran.status == 1
    assert "Traceback" in ran.err


def test_interrupt_is_130(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_inside_of_threading(_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    for each in (interrupt, interrupt_inside_of_threading):
        monkeypatch.setattr("mlenv.wiring.embedded.open_embedded", each)
        assert run_here("environment", "list") == Ran(130, "", "error: interrupted\n")


def test_unusable_home_is_told(run_here: Run, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file in the way")
    ran = run_here("environment", "list")
    assert ran.status == 1
    assert ran.err.startswith(f"error: the store can't be used: {tmp_path / 'home'}")


def process(*arguments: str, **keywords: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mlenv", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)


def test_reader_that_goes_away_is_no_error(run: Run) -> None:
    create(run, "a")
    running = process("environment", "list", stdin=subprocess.DEVNULL)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == ""
    running.stderr.close()
    assert running.wait(timeout=60) in {0, 141}


def test_list_imports_nothing_heavy(run_here: Run) -> None:
    create(run_here, "a")
    code = (
        "import sys; from mlenv.cli.main import main; status = main(['environment', 'list', '-o', 'table'])\n"
        "heavy = {'sqlalchemy', 'alembic', 'pydantic', 'rich', 'ruamel', 'platformdirs', 'jmespath', 'filelock',"
        " 'importlib.metadata', 'asyncio', 'ssl', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)), status)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert ran.stdout.splitlines()[-1] == "[] 0"
