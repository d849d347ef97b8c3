"""`mlenv base|store|doctor|schema`, and a store that is damaged or can't be used, as their users see them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from support.conda_channel import serve_channels
from support.conda_packages import make_package
from support.world import BASE, MINOR, World


@pytest.fixture(scope="module")
def built(world: World) -> str:
    """The lock of a version that is built, with its base in the store."""
    world.ok("base", "import", "oci:base", "--name", BASE)
    world.ok("environment", "create", "-f", str(world.define("train", "alpha")))
    return str(world.ok("environment", "build", "train")["lock"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_told_with_what_to_do(world: World) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mlenv", "schema"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    hint = "hint: make room on the disk of MLENV_HOME, or where the output goes"
    assert (done.returncode, done.stderr.splitlines()) == (1, ["error: No space left on device", hint])


# base


def test_bases_are_imported_listed_and_shown(fresh_world: World) -> None:
    done = fresh_world.run("base", "list", "-o", "table")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "there is none yet: `mlenv base create debian:bookworm`, or `mlenv base import`\n"
    document = fresh_world.ok("base", "import", "oci:base", "--name", BASE)
    assert (document["name"], document["os"]["id"], document["layers"]) == (BASE, "example", 1)
    assert [each["path"] for each in document["pythons"]] == [f"/usr/local/bin/python{MINOR}"]
    assert fresh_world.ok("base", "list") == [{"name": BASE, "digest": document["digest"]}]
    assert fresh_world.ok("base", "show", BASE) == document
    assert fresh_world.run("base", "show", "oci:base", "--query", "os.id", "-o", "tsv").stdout == "example\n"


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["base", "show", "nothing"], 1, "the base image nothing is not in this store"),
        (["base", "import", "oci-archive:no.tar", "--name", "x"], 1, "no such file or directory: no.tar"),
        (["base", "import", "oci:base"], 2, "the following arguments are required: --name"),
        (["base", "create", "ubuntu:22.04"], 1, "can't make a base 'ubuntu:22.04': expected debian:bookworm"),
        (["base", "make"], 2, "mlenv base has no command 'make'"),
    ],
)
def test_refusals_of_base(world: World, arguments: list[str], status: int, error: str) -> None:
    done = world.run("--quiet", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"error: {error}"), done.stderr


# store verify


@pytest.fixture
def copy(world: World, built: str, tmp_path: Path) -> World:
    """A copy of the store, to be damaged."""
    subprocess.run(["cp", "-r", str(world.home), str(tmp_path / "home")], check=True)
    return World(world.directory, tmp_path / "home", world.index)


def _blob(world: World, digest: str) -> Path:
    return world.home / "oci" / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _harm(world: World) -> list[str]:
    done = world.run("store", "verify")
    assert done.returncode == 1, done.stdout
    findings = [each["finding"] for each in json.loads(done.stdout) if each["harm"]]
    assert done.stderr.splitlines()[-1].startswith(f"{len(findings)} finding")
    return findings


def test_a_whole_store_is_said_to_be_whole(copy: World) -> None:
    done = copy.run("store", "verify", "-o", "table")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "the store is whole"


def test_a_lost_lock_is_told_with_whose_it_is(copy: World, built: str) -> None:
    _blob(copy, built).unlink()
    assert any(text.startswith("the lock of train:1 for linux/") for text in _harm(copy))
    done = copy.run("run", "train", "--", "true")
    assert (done.returncode, done.stdout) == (1, "")
    first, hint = done.stderr.splitlines()
    assert re.match(r"error: the lock of train:1 for \S+ is lost or damaged: ", first)
    assert hint.startswith("hint: see with `mlenv store verify`")


@pytest.mark.parametrize(("part", "name"), [("lock", "the lock of train:1 for "), ("layer", "the image of train:1")])
def test_a_flipped_bit_is_told_with_who_needs_it(copy: World, built: str, part: str, name: str) -> None:
    image = copy.ok("environment", "build", "train")["image"]
    layers = json.loads(_blob(copy, image).read_bytes())["layers"]
    digest = built if part == "lock" else layers[-1]["digest"]
    blob = _blob(copy, digest)
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-2] ^= 1
    blob.write_bytes(data)
    assert any(blob.name in text and name in text for text in _harm(copy))


def test_a_truncated_database_is_told(copy: World) -> None:
    database = copy.home / "mlenv.db"
    for extra in copy.home.glob("mlenv.db-*"):
        extra.unlink()
    os.truncate(database, 100)
    done = copy.run("store", "verify")
    assert (done.returncode, done.stdout) == (1, "")
    first, hint = done.stderr.splitlines()
    assert first.startswith(f"error: the store is damaged, or is not one: {database}: ")
    assert hint == "hint: restore it from a copy, or move it away to begin anew"


# homes that can't be used


@pytest.mark.parametrize("arguments", [["environment", "list"], ["run", "train", "--", "true"], ["base", "list"]])
def test_a_home_that_is_a_file_is_told(world: World, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "home").touch()
    done = World(world.directory, tmp_path / "home", world.index).run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    first, hint = done.stderr.splitlines()
    assert first == f"error: the store can't be used: {tmp_path}/home: it is not a directory"
    assert "MLENV_HOME" in hint


def test_a_home_that_cannot_be_made_is_told(world: World) -> None:
    done = World(world.directory, Path("/proc/none/home"), world.index).run("environment", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the store can't be used: /proc/none/home: ")


def test_without_home_and_variables_the_users_directory_is_found(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "mlenv", "environment", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert (tmp_path / "mlenv" / "mlenv.db").exists()


# doctor


def _doctor(world: World, **variables: str) -> tuple[int, dict[str, dict[str, str | None]]]:
    world.environment = {"UV_HTTP_RETRIES": "0", "HTTPS_PROXY": "http://127.0.0.1:9", **variables}
    try:
        done = world.run("doctor", "-o", "json")
    finally:
        world.environment = {}
    return done.returncode, {each["topic"]: each for each in json.loads(done.stdout)}


def test_doctor_says_what_is_missing_and_what_to_do(world: World, tmp_path: Path) -> None:
    status, found = _doctor(world, PATH=str(tmp_path))
    assert status == 0, "what is missing stops some of what mlenv does, not all"
    assert list(found) == [
        "store",
        "Python",
        "uv",
        "package index",
        "conda",
        "containers",
        "Dockerfiles",
        "base images",
    ]
    states = {topic: each["state"] for topic, each in found.items()}
    assert states == {
        "store": "good",
        "Python": "good",
        "uv": "good",
        "package index": "missing",
        "conda": "missing",
        "containers": "missing",
        "Dockerfiles": "missing",
        "base images": "missing",
    }
    assert str(found["uv"]["found"]).startswith("uv ")
    assert "apt-get install podman" in str(found["containers"]["advice"])
    assert "apt-get install mmdebstrap" in str(found["base images"]["advice"])
    assert "HTTPS_PROXY" in str(found["package index"]["advice"])
    assert "py-rattler" in str(found["conda"]["found"])
    assert "HTTPS_PROXY" in str(found["conda"]["advice"])


def test_doctor_says_which_conda_channels_are_asked(world: World, tmp_path: Path) -> None:
    with serve_channels() as channels:
        channels.add("forge", make_package("num"))
        settings = {"channel_alias": channels.url, "channels": ["forge", "team"]}
        (tmp_path / "condarc").write_text(json.dumps(settings))
        status, found = _doctor(world, CONDARC=str(tmp_path / "condarc"), HOME=str(tmp_path))
    assert (status, found["conda"]["state"]) == (0, "good")
    solver, _, rest = str(found["conda"]["found"]).partition(", ")
    assert solver.startswith("py-rattler ")
    assert rest == f"asks forge, team by default: {channels.url}/forge answers"
    (tmp_path / "condarc").write_text("channels: [")
    status, found = _doctor(world, CONDARC=str(tmp_path / "condarc"), HOME=str(tmp_path))
    assert (status, found["conda"]["state"]) == (0, "missing")
    assert "not YAML" in str(found["conda"]["found"])


def test_doctor_names_a_store_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    status, found = _doctor(World(world.directory, tmp_path / "home", world.index))
    assert (status, [each["state"] for each in found.values()]) == (1, ["bad"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mlenv.db").write_text("no database" * 20)
    status, found = _doctor(World(world.directory, tmp_path / "other", world.index))
    assert (status, found["store"]["state"], found["uv"]["state"]) == (1, "bad", "good")


def test_doctors_table_fits_a_terminal(world: World, tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    done = World(world.directory, tmp_path / "home", world.index).run("doctor", "-o", "table")
    first, advice = done.stdout.splitlines()
    assert first == f"bad      store  the store can't be used: {tmp_path}/home: it is not a directory"
    assert advice.startswith(" " * 16 + "→ check that the directory exists")


# schema, and the edges of the process


def test_the_schema_takes_what_create_takes(world: World) -> None:
    schema = world.ok("schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(json.loads(world.define("some", "alpha").read_text()))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"name": "e", "imagee": "x"})


def test_a_reader_that_goes_away_is_no_error(world: World) -> None:
    with world.start("schema") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_help_is_there_without_a_store(world: World) -> None:
    nowhere = World(world.directory, Path("/proc/none/home"), world.index)
    for words in ([], ["environment"], ["run"], ["base", "create"]):
        done = nowhere.run(*words, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: mlenv {' '.join(words)}".rstrip() + " [-h]")
