"""Commands with a server: locks are made there, runs happen here and are told there, and what makes no sense is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server, run_server
from support.world import BASE, MINOR, World, make_world


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, team_server: Server) -> Iterator[World]:
    """A world whose commands work with a workspace of a server."""
    with make_world(tmp_path_factory.mktemp("remote")) as made:
        workspace = f"team-{os.urandom(6).hex()}"
        with team_server.client() as client:
            for kind, name in (("workspaces", workspace), ("registries", f"shared-{workspace}")):
                answer = client.post(f"/api/v1/{kind}", json={"name": name})
                assert answer.status_code == 201, answer.text
        made.environment |= {
            "MLENV_SERVER": team_server.url,
            "MLENV_CA": str(team_server.ca),
            "MLENV_TOKEN": team_server.token,
            "MLENV_WORKSPACE": workspace,
            "MLENV_CONFIG_HOME": str(made.home / "config"),
        }
        yield made


def test_lock_is_made_on_the_server_once(remote: World) -> None:
    remote.ok("environment", "create", "-f", str(remote.define("locked", "alpha", image=None)))
    made = remote.run("environment", "lock", "locked")
    assert made.returncode == 0, made.stderr
    assert "on the server" in made.stderr
    document = json.loads(made.stdout)
    assert {each["name"] for each in document["packages"]} == {"alpha", "beta", "pip"}
    again = remote.run("environment", "lock", "locked")
    assert (json.loads(again.stdout), again.stderr) == (document, "")
    to = remote.directory / "pylock.toml"
    assert remote.run("environment", "lock", "locked", "--to", str(to)).returncode == 0
    assert 'name = "alpha"' in to.read_text()


def test_lock_with_other_options_is_refused_as_without_a_server(remote: World) -> None:
    remote.ok("environment", "create", "-f", str(remote.define("dated", "beta", image=None)))
    remote.ok("environment", "lock", "dated")
    refused = remote.run("environment", "lock", "dated", "--as-of", "2020-01-01")
    assert refused.returncode == 1
    assert "dated:1 is locked for" in refused.stderr
    assert "create a new version to lock it in another way" in refused.stderr


def test_conflict_is_explained_as_without_a_server(remote: World) -> None:
    remote.ok("environment", "create", "-f", str(remote.define("clash", "alpha", "beta==2.0", "beta<2", image=None)))
    refused = remote.run("environment", "lock", "clash")
    here = remote.run("--embedded", "environment", "create", "-f", "clash.yml")
    assert here.returncode == 0, here.stderr
    expected = remote.run("--embedded", "environment", "lock", "clash")
    assert (refused.returncode, refused.stdout) == (expected.returncode, expected.stdout) == (1, "")
    errors = [[line for line in ran.stderr.splitlines() if "error:" in line] for ran in (refused, expected)]
    assert errors[0] == errors[1] != []


def test_run_happens_here_and_is_told_there(remote: World, team_server: Server) -> None:
    remote.ok("environment", "create", "-f", str(remote.define("ran", "alpha", image=None)))
    ran = remote.run("run", "ran", "--", "python", "-c", "import alpha, sys; print(alpha.VALUE); sys.exit(7)")
    assert (ran.returncode, ran.stdout) == (7, "43\n"), ran.stderr
    uses = _uses(remote, team_server, "ran")
    assert [(each["kind"], each["engine"], each["version"], each["exit_code"]) for each in uses] == [
        ("run", "local", "1", 7)
    ]
    again = remote.run("run", "ran", "--", "python", "-c", "print('quick')")
    assert (again.stdout, again.stderr) == ("quick\n", "")
    assert not (remote.home / "remote" / "mlenv.db").exists()


def _uses(remote: World, server: Server, name: str) -> list[dict[str, object]]:
    with server.client() as client:
        path = f"/api/v1/workspaces/{remote.environment['MLENV_WORKSPACE']}/environments/{name}/uses"
        found: list[dict[str, object]] = client.get(path).json()["value"]
        return found


def test_version_without_a_python_is_locked_for_the_one_here(remote: World, team_server: Server) -> None:
    Path(remote.directory / "requirements.txt").write_text(f"--index-url {remote.index.simple}\nbeta\n")
    remote.ok("environment", "create", "-f", "requirements.txt", "-n", "any")
    ran = remote.run("run", "any", "--", "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    assert ran.returncode == 0, ran.stderr
    assert "on the server" not in ran.stderr
    with team_server.client() as client:
        root = f"/api/v1/workspaces/{remote.environment['MLENV_WORKSPACE']}/environments/any/versions/1/locks"
        machine = os.uname().machine
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
        kept = client.get(f"{root}/{sys.platform}/{architecture}")
        assert kept.status_code == 200, kept.text
    assert f'requires-python = "=={ran.stdout.strip()}.*"' in kept.text
    assert MINOR


def test_registry_is_a_place_of_its_own(remote: World) -> None:
    registry = f"shared-{remote.environment['MLENV_WORKSPACE']}"
    made = remote.ok("environment", "create", "-n", "e", "-i", "a", "--registry-name", registry)
    assert made["id"] == f"azureml://registries/{registry}/environments/e/versions/1"
    assert remote.ok("environment", "show", made["id"])["image"] == "a"
    assert remote.ok("environment", "show", "e:1", "--registry-name", registry)["image"] == "a"
    assert remote.run("environment", "show", "e").returncode == 1
    remote.ok("environment", "create", "-n", "e", "-i", "b")
    difference = remote.ok("diff", "e:1", made["id"], "-o", "json")
    assert (difference["old"], difference["new"]) == ("e:1", "e:1")
    assert "b" in json.dumps(difference)


@pytest.mark.parametrize(
    "arguments",
    [["store", "verify"], ["base", "create", "debian:bookworm"], ["base", "import", "oci:base", "--name", "b"]],
)
def test_what_makes_no_sense_through_a_server_is_refused(remote: World, arguments: list[str]) -> None:
    refused = remote.run(*arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "can't be done through a server" in refused.stderr.splitlines()[0]
    assert "hint: " in refused.stderr


def test_own_store_is_meant_when_it_is_said(remote: World) -> None:
    remote.ok("environment", "create", "-n", "there", "-i", "a")
    for own in (["--embedded", "environment", "list"], ["environment", "list", "--server", ""]):
        listed = remote.ok(*own)
        assert "there" not in [each["name"] for each in listed]
    refused = remote.run("environment", "list", "--embedded", "--server", "https://127.0.0.1:1")
    assert refused.returncode == 2


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("MLENV_TOKEN", "mlenv_nobodys", "unknown, expired or revoked"),
        ("MLENV_TOKEN", "", "no token was shown"),
        ("MLENV_CA", "", "is not trusted"),
        ("MLENV_CA", "nothing.pem", "no certificate authority can be read from nothing.pem"),
        ("MLENV_SERVER", "https://127.0.0.1:9", "does not answer"),
        ("MLENV_SERVER", "127.0.0.1", "not a server's address"),
        ("MLENV_WORKSPACE", "nowhere", "there is no workspace 'nowhere'"),
    ],
)
def test_what_is_wrong_with_the_connection_is_one_clear_line(
    remote: World, variable: str, value: str, text: str
) -> None:
    command = [sys.executable, "-m", "mlenv", "environment", "list"]
    environment = {**os.environ, **remote.environment, "MLENV_HOME": str(remote.home), variable: value}
    ran = subprocess.run(
        command, env=environment, cwd=remote.directory, capture_output=True, text=True, check=False, timeout=120
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    first, *rest = ran.stderr.splitlines()
    assert first.startswith("error: ")
    assert text in first
    assert [line[:6] for line in rest] == ["hint: "]
    assert remote.environment["MLENV_TOKEN"] not in ran.stderr
    assert "mlenv_nobodys" not in ran.stderr


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose commands work with a server that has a worker and a base image."""
    directory = tmp_path_factory.mktemp("building")
    with make_world(directory) as made, run_server(directory / "server", workers=1) as server:
        owner = World(made.directory, server.home, made.index)
        owner.ok("base", "import", "oci:base", "--name", BASE)
        made.environment |= {"MLENV_SERVER": server.url, "MLENV_CA": str(server.ca), "MLENV_TOKEN": server.token}
        yield made


def test_build_is_made_on_the_server_and_followed_here(building: World) -> None:
    building.ok("environment", "create", "-f", str(building.define("built", "alpha")))
    first = building.run("environment", "build", "built")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    # Besides, there are the base's layer and the one that sets the environment up.
    assert (document["reused"], document["new_layers"]) == (False, document["layers"] - 2)
    assert "Building layers" in [each["title"] for each in document["steps"]]
    assert any("Building layers" in line for line in first.stderr.splitlines())
    again = building.run("environment", "build", "built")
    assert again.stderr == "built:1 is built already\n"
    assert json.loads(again.stdout) == document | {"reused": True, "new_layers": 0, "steps": []}
    bases = building.ok("base", "list", "-o", "json")
    assert [each["name"] for each in bases] == [BASE]
    assert building.ok("base", "show", BASE)["pythons"][0]["version"].startswith(MINOR)


def test_image_is_the_same_as_one_made_here(building: World) -> None:
    building.ok("environment", "create", "-f", str(building.define("same", "beta")))
    there = building.ok("environment", "build", "same")
    exported = building.run("environment", "export", "same", "--to", "oci-archive:there.tar")
    assert exported.returncode == 0, exported.stderr
    building.ok("--embedded", "base", "import", "oci:base", "--name", BASE)
    building.ok("--embedded", "environment", "create", "-f", "same.yml")
    here = building.ok("--embedded", "environment", "build", "same", "--compression", "gzip")
    assert (here["image"], here["lock"], here["size"]) == (there["image"], there["lock"], there["size"])
    target = ("--to", "oci-archive:here.tar", "--compression", "gzip")
    building.ok("--embedded", "environment", "export", "same", *target)
    assert (building.directory / "here.tar").read_bytes() == (building.directory / "there.tar").read_bytes()


def test_build_that_fails_there_fails_here_with_its_reason(building: World) -> None:
    building.ok("environment", "create", "-f", str(building.define("unbuildable", "nothing-of-that-name")))
    failed = building.run("environment", "build", "unbuildable")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "nothing-of-that-name" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("hint: ")


def test_builds_are_listed_with_their_logs(building: World) -> None:
    building.ok("environment", "create", "-f", str(building.define("logged", "beta<2")))
    built = building.run("environment", "build", "logged")
    assert built.returncode == 0, built.stderr
    (build,) = building.ok("build", "list", "logged")
    assert (build["environment"], build["status"], build["attempts"]) == ("logged:1", "succeeded", 1)
    assert build["image"] == json.loads(built.stdout)["image"]
    assert building.ok("build", "show", build["id"]) == build
    whole = building.run("build", "logs", build["id"])
    assert "Building layers" in whole.stdout
    followed = building.run("build", "logs", "-f", build["id"])
    assert (followed.returncode, followed.stdout) == (0, whole.stdout)
    assert [line in built.stderr.splitlines() for line in whole.stdout.splitlines()].count(False) == 0
    assert building.run("build", "cancel", build["id"]).stderr == f"{build['id']} has ended before: succeeded\n"
    assert build["id"] in [each["id"] for each in building.ok("build", "list", "--status", "succeeded")]
    assert building.run("build", "logs", "nothing").returncode == 1
    own = building.run("--embedded", "build", "logs", build["id"])
    assert (own.returncode, own.stderr.splitlines()[0]) == (2, "error: which server?")


def test_build_of_what_can_not_be_built_is_refused_at_once(building: World) -> None:
    building.ok("environment", "create", "-f", str(building.define("baseless", "alpha", image=None)))
    refused = building.run("environment", "build", "baseless")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, "error: baseless:1 names no base image")
