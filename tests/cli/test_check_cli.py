"""`mlenv check` and `mlenv diff` as their users see them."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support.conda_locked import conda_lock, keep_lock, locked
from support.conda_packages import make_package
from support.world import World

from mlenv.wiring.embedded import open_embedded


@pytest.fixture(scope="module")
def train(world: World) -> str:
    """Two versions that are locked: the second has another beta and a variable."""
    world.ok("environment", "create", "-f", str(world.define("train", "alpha", image=None)))
    more = world.define("train", "alpha", "beta<2", image=None, environment_variables={"MODE": "fast"})
    world.ok("environment", "create", "-f", str(more))
    assert world.run("run", "train:1", "--", "true").returncode == 0
    world.ok("environment", "lock", "train:2")
    return "train"


@pytest.fixture
def drifted(world: World, train: str, tmp_path: Path) -> Path:
    """A virtual environment with train:1's packages in it, as pip puts them there; its interpreter."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    done = world.run("run", "train:1", "--", "python", "-c", "import sys; print(sys.prefix)")
    site = next(Path(done.stdout.strip(), "lib").glob("python*")) / "site-packages"
    target = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    for each in site.iterdir():
        subprocess.run(["cp", "-r", "--no-preserve=mode", str(each), str(target)], check=True)
    return python


def test_what_was_materialised_is_as_locked(world: World, train: str) -> None:
    inner = [sys.executable, "-m", "mlenv", "check", "train:1"]
    done = world.run("run", "train:1", "--", *inner, "-o", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["drift"], report["locked"], report["matching"], report["findings"]) == (False, 3, 3, [])
    assert done.stderr.startswith("no drift: 3 of 3 packages as locked in ")
    own = world.run("run", "train:1", "--", *inner[:-1], "-o", "none")
    assert (own.returncode, own.stdout) == (0, ""), "an environment knows its own lock"
    other = world.run("run", "train:2", "--", *inner, "-o", "tsv")
    assert (other.returncode, other.stdout) == (1, "beta\tversion\t2.0\t1.0\t\ttrue\n")


def test_an_interpreter_is_named_by_its_environment(world: World, train: str, drifted: Path) -> None:
    done = world.run("check", "train:1", "--python", str(drifted.parents[1]), "-o", "none")
    assert (done.returncode, done.stderr[:8]) == (0, "no drift"), done.stderr
    (next((drifted.parents[1] / "lib").glob("python*")) / "site-packages" / "alpha" / "__init__.py").unlink()
    done = world.run("check", "train:1", "--python", str(drifted), "-o", "none")
    assert done.stderr.startswith("drift: 1 finding in ")
    done = world.run("check", "train:1", "--python", "/nowhere/python")
    assert done.stderr == "error: /nowhere/python could not be inspected: No such file or directory\n"


def test_drift_is_found_and_the_exit_status_is_1(world: World, train: str, drifted: Path) -> None:
    fine = world.run("check", "train:1", "--python", str(drifted), "-o", "json")
    assert fine.returncode == 0, fine.stdout
    site = next((drifted.parents[1] / "lib").glob("python*")) / "site-packages"
    (site / "alpha" / "__init__.py").write_text("VALUE = 0\n")
    subprocess.run(["mv", str(site / "beta-2.0.dist-info"), str(site / "gamma-2.0.dist-info")], check=True)
    metadata = site / "gamma-2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Name: beta", "Name: gamma"))
    done = world.run("check", "train:1", "--python", str(drifted), "-o", "json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    kinds = {(each["name"], each["kind"]): each for each in report["findings"]}
    assert kinds["alpha", "modified"]["files"] == ["alpha/__init__.py"]
    assert ("beta", "missing") in kinds
    assert ("gamma", "extra") in kinds
    table = world.run("check", "train:1", "--python", str(drifted), "-o", "table")
    assert table.returncode == 1
    line = next(line for line in table.stdout.splitlines() if line.startswith("alpha"))
    assert line.split() == ["alpha", "modified", "1.0", "1.0", "alpha/__init__.py", "true"]
    assert table.stderr.startswith("drift: ")


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["check", "nothing"], 1, "no environment is named 'nothing'"),
        (["check", "image-only"], 1, "image-only:1 names no packages, so there is nothing to compare"),
        (["check", "unlocked"], 2, "unlocked:1 is not locked for "),
        (["check", "--engine", "container"], 2, "the image of which environment?"),
        (["check", "train:1", "--python", "/nowhere/python"], 1, "/nowhere/python could not be inspected"),
        (["diff", "train:1"], 2, "the following arguments are required: B"),
        (["diff", "train:1", "train:9"], 1, "environment 'train' has no version '9'"),
    ],
)
def test_refusals(world: World, train: str, arguments: list[str], status: int, error: str) -> None:
    world.ok("environment", "create", "-n", "image-only", "-i", "example.org/x:1")
    world.ok("environment", "create", "-f", str(world.define("unlocked", "alpha", image=None)))
    done = world.run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"error: {error}"), done.stderr


def test_without_a_reference_and_a_lock_it_asks_for_one(world: World, train: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", symlinks=True)
    world.environment = {"VIRTUAL_ENV": str(tmp_path / "empty")}
    try:
        done = world.run("check")
    finally:
        world.environment = {}
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {os.path.realpath(tmp_path)}/empty has no lock of its own\n"
        "hint: say which environment it should be: NAME:VERSION\n"
    )


def test_an_environment_without_python_is_not_taken_for_another(world: World, train: str, tmp_path: Path) -> None:
    lock = conda_lock(locked(make_package("zlib")))
    (tmp_path / "pylock.toml").write_text(lock.to_pylock())
    world.environment = {"VIRTUAL_ENV": str(tmp_path)}
    try:
        inside = world.run("check")
    finally:
        world.environment = {}
    assert inside.returncode == 1
    assert inside.stderr.startswith(f"error: {tmp_path} has no Python, and only an interpreter can")
    world.ok("environment", "create", "-f", str(world.define("tools", "alpha")))
    with open_embedded(world.home) as store:
        keep_lock(store, "tools", lock)
    for options in ((), ("--engine", "container")):
        named = world.run("check", "tools:1", *options)
        assert (named.returncode, named.stdout) == (1, "")
        assert named.stderr.startswith("error: tools:1 has no Python"), named.stderr


def test_a_difference_names_packages_variables_and_specs(world: World, train: str) -> None:
    done = world.run("diff", "train:1", "train:2", "-o", "table")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "train:1 → train:2"
    assert lines[1].startswith("Packages: 1 differs, ")
    assert lines[2].startswith("  ~ beta 2.0 → 1.0 (")
    assert lines[3:5] == ["Variables", "  MODE: none → fast"]
    assert "Specs, side by side" in lines
    document = world.ok("diff", "train:1", "train:2")
    assert (document["old"], document["new"], document["locked"]) == ("train:1", "train:2", True)
    assert [(each["name"], each["kind"]) for each in document["packages"]] == [("beta", "changed")]
    assert world.run("diff", "train:1", "train@latest", "--query", "packages[].name", "-o", "tsv").stdout == "beta\n"
    assert world.run("diff", "train:1", "train:2", "--query", "old", "-o", "table").stdout.split()[-1] == "train:1"
    assert world.run("diff", "train:1", "train:1", "-o", "table").stdout == "train:1 → train:1\n  no difference\n"


def test_a_side_that_is_not_locked_yet_is_locked(world: World, train: str) -> None:
    world.ok("environment", "create", "-f", str(world.define("fresh", "beta", image=None)))
    done = world.run("diff", "train:1", "fresh:1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Resolving 1 requirement for ")
    assert [(each["name"], each["kind"]) for each in json.loads(done.stdout)["packages"]] == [("alpha", "removed")]


def test_specs_are_compared_where_a_side_cannot_be_locked(world: World, train: str) -> None:
    context = world.directory / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\n")
    for tag in ("1", "2"):
        world.ok("environment", "create", "-n", "docker", "-b", "context")
        world.ok("environment", "create", "-n", "plain", "-i", f"example.org/x:{tag}")
    done = world.run("diff", "plain:1", "docker:1", "-o", "table")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: only the specs are compared: the image of docker:1 is not built yet")
    assert "Packages" not in done.stdout
    assert "    example.org/x:1" in done.stdout
    document = world.ok("diff", "plain:1", "docker:1")
    assert (document["locked"], document["packages"]) == (False, [])
    images = world.run("diff", "plain:1", "plain:2", "-o", "table")
    assert (images.returncode, images.stderr) == (0, "")
    assert "    example.org/x:1                                          | example.org/x:2" in images.stdout
