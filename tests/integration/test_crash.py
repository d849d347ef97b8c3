"""`kill -9` at every named point of create, lock, build and materialise: the store is whole, and the work can be done again."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.world import BASE, World, make_world


class Prepared:
    """A world in which stores are prepared once, and copied for every test that starts from there."""

    def __init__(self, world: World, root: Path) -> None:
        self._world, self._root = world, root

    def world(self, home: Path) -> World:
        """The world with another store, which is not there yet."""
        return replace(self._world, home=home)

    def store(self, home: Path, upto: str) -> None:
        """Put a store in which all is done that comes before the command `upto`."""
        prepared = self._root / upto
        if upto != "create" and not prepared.exists():
            world = self.world(prepared)
            world.define("train", "alpha")
            world.ok("environment", "create", "-f", "train.yml")
            if upto == "build":
                world.ok("base", "import", "oci:base", "--name", BASE)
        if prepared.exists():
            shutil.copytree(prepared, home)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    root = tmp_path_factory.mktemp("crash")
    with make_world(root) as world:
        world.define("train", "alpha")
        world.define("score", "beta<2", "alpha")
        yield Prepared(world, root / "stores")


@pytest.fixture
def world(prepared: Prepared, tmp_path: Path) -> World:
    return prepared.world(tmp_path / "home")


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
        ("build", "packages.fetched"),
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
def test_a_killed_command_leaves_a_whole_store_and_can_be_repeated(
    prepared: Prepared, world: World, command: str, fault: str
) -> None:
    prepared.store(world.home, command)
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


def test_what_was_built_after_a_kill_is_what_is_built_without(prepared: Prepared, world: World, tmp_path: Path) -> None:
    prepared.store(world.home, "build")
    assert world.run(*COMMANDS["build"], fault="layer.cached").returncode == -signal.SIGKILL
    resumed = world.ok(*COMMANDS["build"])

    prepared.store(tmp_path / "other", "build")
    world.home = tmp_path / "other"
    assert world.ok(*COMMANDS["build"])["image"] == resumed["image"]


def test_eight_processes_build_the_same_and_different_versions(prepared: Prepared, world: World) -> None:
    prepared.store(world.home, "build")
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
    world.define("local", "alpha", image=None)
    command = ("run", "--file", "local.yml", "--", "python", "-c", "import alpha; print(alpha.VALUE)")
    processes = [world.start(*command) for _ in range(8)]
    ended = [(each.communicate(), each.returncode) for each in processes]
    assert [(out, code) for (out, _), code in ended] == [("43\n", 0)] * 8, [err for (_, err), _ in ended]
    assert [each["version"] for each in world.ok("environment", "list", "-n", "local")] == ["1"]
    assert len([each for each in (world.home / "prefixes").iterdir() if not each.name.endswith(".lock")]) == 1
    world.verify()
