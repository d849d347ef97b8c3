"""A machine that knows packages from its own mirror only, by the variables of uv and pip, with a password in them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.world import BASE, MINOR, World, make_world

_CANARY = "c4nary-in-the-address"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as made:
        made.index.user, made.index.password = "me", _CANARY
        made.environment |= {"NETRC": str(tmp_path / "none"), "UV_HTTP_RETRIES": "0"}
        (made.directory / "train.yml").write_text(
            json.dumps({"name": "train", "image": BASE, "requirements": ["alpha"], "python": MINOR})
        )
        yield made


def _address(world: World, password: str = _CANARY) -> str:
    return world.index.simple.replace("://", f"://me:{password}@")


def _find(canary: str, root: Path) -> list[Path]:
    files = [each for each in root.rglob("*") if each.is_file() and not each.is_symlink()]
    return [each for each in files if canary.encode() in each.read_bytes()]


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"])
def test_the_mirror_is_used_and_its_password_is_kept_nowhere(world: World, variable: str) -> None:
    world.environment[variable] = _address(world)
    said = ""
    for command in (
        ("base", "import", "oci:base", "--name", BASE),
        ("environment", "create", "-f", "train.yml"),
        ("environment", "lock", "train:1", "--to", "pylock.toml", "--verbose"),
        ("environment", "build", "train:1", "--verbose"),
        ("environment", "show", "train:1"),
        ("run", "train:1", "--verbose", "--", "python", "-c", "import alpha", _address(world)),
    ):
        done = world.run(*command)
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert f"{world.index.url}/files/alpha-1.0-py3-none-any.whl" in (world.directory / "pylock.toml").read_text()
    assert _CANARY not in said
    assert _find(_CANARY, world.home.parent) == []


@pytest.mark.parametrize("password", ["wr0ng-canary", "wr0ng%2Fcanary"])
def test_a_mirror_that_refuses_is_named_without_its_password(world: World, password: str) -> None:
    world.environment["UV_DEFAULT_INDEX"] = _address(world, password)
    world.ok("environment", "create", "-f", "train.yml")
    done = world.run("environment", "lock", "train:1", "--verbose")
    assert done.returncode == 1
    assert f"error: {world.index.simple} wants credentials" in done.stderr
    assert "(401)" in done.stderr
    assert "UV_INDEX_MLENV_DEFAULT_USERNAME" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert _find("canary", world.home.parent) == []


def test_an_index_in_the_definition_comes_before_the_mirror(world: World) -> None:
    world.environment["UV_DEFAULT_INDEX"] = "http://127.0.0.1:9/simple"
    world.index.user = None
    world.define("train", "alpha")
    world.ok("environment", "create", "-f", "train.yml")
    assert world.ok("environment", "lock", "train:1")["packages"]


def test_what_is_no_address_is_refused(world: World) -> None:
    world.environment["UV_DEFAULT_INDEX"] = f"mirror:{_CANARY}"
    world.ok("environment", "create", "-f", "train.yml")
    done = world.run("environment", "lock", "train:1", "--verbose")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: the environment variable UV_DEFAULT_INDEX is not the address of a package index",
        "hint: set it to an address that begins with https://, http:// or file://, or unset it",
    ]
