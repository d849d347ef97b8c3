"""`kill -9` at every named point of create, lock, build and materialise: the store is whole, and the work can be done again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.world import BASE, World, make_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as made:
        yield made


def _prepare(world: World, upto: str) -> None:
    world.define("train", "alpha")
    if upto == "create":
        return
    world.ok("environment", "create", "-f", "train.yml")
    if upto == "build":
        world.ok("base", "import", "oci:base", "--name", BASE)


COMMANDS = {
    "create": ("environment", "create", "-f", "train.yml"),
    "lock": ("environment", "lock", "train:1"),
    "build": ("environment", "build", "train:1"),
    "materialise": ("run", "train:1", "--", "python", "-c", "import alpha; print(alpha.VALUE)"),
    "import": ("base", "import", "oci:base", "--name", BASE),
}


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("create", "migration.step"),
        ("create", "version.added"),
        ("create", "version.committed"),
        ("import", "blob.written"),
        ("import", "blob.kept"),
        ("import", "blob.kept#2"),
        ("lock", "blob.written"),
        ("lock", "lock.written"),
        ("lock", "lock.added"),
        ("lock", "lock.committed"),
        ("lock", "lock.named"),
        ("build", "blob.written#2"),
        ("build", "wheels.fetched"),
        ("build", "layer.written"),
        ("build", "layer.cached"),
        ("build", "layer.written#2"),
        ("build", "image.written"),
        ("build", "image.added"),
        ("build", "image.committed"),
        ("build", "image.named"),
        ("materialise", "blob.kept#2"),
        ("materialise", "wheel.unpacked"),
        ("materialise", "prefix.staged"),
        ("materialise", "prefix.kept"),
    ],
)
def test_a_killed_command_leaves_a_whole_store_and_can_be_repeated(world: World, command: str, fault: str) -> None:
    _prepare(world, command)
    killed = world.run(*COMMANDS[command], fault=fault)
    assert killed.returncode == -signal.SIGKILL, f"{fault} was not reached: {killed.stderr}"
    if fault != "migration.step":
        world.verify()
    again = world.run(*COMMANDS[command])
    assert again.returncode == 0, again.stderr
    if command == "materialise":
        assert again.stdout == "43\n"
    world.verify()
    leftovers = [each.name for each in (world.home / "prefixes").glob(".staging*")] if command == "materialise" else []
    assert leftovers == []


def test_what_was_built_after_a_kill_is_what_is_built_without(world: World, tmp_path: Path) -> None:
    _prepare(world, "build")
    assert world.run(*COMMANDS["build"], fault="layer.cached").returncode == -signal.SIGKILL
    resumed = world.ok(*COMMANDS["build"])

    world.home = tmp_path / "other"
    _prepare(world, "build")
    assert world.ok(*COMMANDS["build"])["image"] == resumed["image"]


def test_eight_processes_build_the_same_and_different_versions(world: World) -> None:
    _prepare(world, "build")
    world.define("score", "beta<2", "alpha")
    world.ok("environment", "create", "-f", "score.yml")
    processes = [world.start("environment", "build", name) for name in ("train:1", "score:1") for _ in range(4)]
    ended = [(each.communicate(), each.returncode) for each in processes]
    assert [code for _, code in ended] == [0] * 8, [err for (_, err), _ in ended]
    images = [out for (out, _), _ in ended]
    builds = {world.ok("environment", "build", name)["image"] for name in ("train:1", "score:1")}
    assert len(builds) == 2
    assert all(any(image in out for image in builds) for out in images)
    world.verify()


def test_eight_processes_create_and_run_one_environment(world: World) -> None:
    world.define("train", "alpha", image=None)
    command = ("run", "--file", "train.yml", "--", "python", "-c", "import alpha; print(alpha.VALUE)")
    processes = [world.start(*command) for _ in range(8)]
    ended = [(each.communicate(), each.returncode) for each in processes]
    assert [(out, code) for (out, _), code in ended] == [("43\n", 0)] * 8, [err for (_, err), _ in ended]
    assert [each["version"] for each in world.ok("environment", "list", "-n", "train")] == ["1"]
    assert len([each for each in (world.home / "prefixes").iterdir() if not each.name.endswith(".lock")]) == 1
    world.verify()
