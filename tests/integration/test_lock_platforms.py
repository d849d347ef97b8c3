"""What a lock is made for: platforms, the base's glibc and Python or the floor; and that it is made once."""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.images import make_image
from support.index import serve
from support.world import BASE, MINOR, World, make_world

ABI = f"cp{MINOR.replace('.', '')}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as made:
        for machine in ("x86_64", "aarch64"):
            for level in ("2_17", "2_28", "2_31"):
                made.index.wheel("fast", level.replace("_", "."), tag=f"{ABI}-{ABI}-manylinux_{level}_{machine}")
        yield made


def _base(world: World, glibc: str, python: str = platform.python_version(), machine: str = "x86_64") -> None:
    minor = ".".join(python.split(".")[:2])
    layer = {
        f"usr/local/bin/python{minor}": b"elf",
        "etc/os-release": b"ID=example\n",
        f"lib/{machine}-linux-gnu/libc.so.6": f"GNU C Library (Example) stable release version {glibc}.\n".encode(),
    }
    directory = world.directory / f"base-{glibc}-{python}"
    make_image(directory, [layer], {"Env": ["PATH=/usr/local/bin:/usr/bin", f"PYTHON_VERSION={python}"]})
    world.ok("base", "import", f"oci:{directory}", "--name", BASE)


def _create(world: World, name: str, *lines: str, **fields: Any) -> None:
    world.define(name, *lines, **fields)
    world.ok("environment", "create", "-f", f"{name}.yml")


def _version_of(lock: Any, name: str) -> str:
    return next(str(each["version"]) for each in lock["packages"] if each["name"] == name)


def test_a_lock_for_another_architecture(world: World) -> None:
    _create(world, "train", "fast")
    lock = world.ok("environment", "lock", "train:1", "--platform", "linux/arm64", "--to", "pylock.toml")
    assert lock is None
    text = (world.directory / "pylock.toml").read_text()
    assert f"fast-2.28-{ABI}-{ABI}-manylinux_2_28_aarch64.whl" in text
    assert "sys_platform == 'linux' and platform_machine == 'aarch64'" in text


def test_every_platform_of_the_definition_gets_a_lock(world: World) -> None:
    _create(world, "train", "fast", platforms=["linux/amd64", "linux/arm64"])
    locks = world.ok("environment", "lock", "train:1")
    assert [each["platform"] for each in locks] == ["linux/amd64", "linux/arm64"]
    assert locks[0]["lock"] != locks[1]["lock"]
    both = world.run("environment", "lock", "train:1", "--to", "pylock.toml")
    assert both.returncode == 2
    assert "--platform" in both.stderr
    assert not (world.directory / "pylock.toml").exists()


def test_without_the_base_the_floor_is_assumed_and_verified_when_it_is_there(world: World) -> None:
    _create(world, "train", "fast")
    lock = world.ok("environment", "lock", "train:1")
    assert (lock["glibc"], lock["assumed"], lock["base"], _version_of(lock, "fast")) == ("2.28", True, None, "2.28")

    _base(world, "2.17")
    refused = world.run("environment", "build", "train:1")
    assert refused.returncode == 1
    assert f"{BASE} has glibc 2.17, fast-2.28-{ABI}-{ABI}-manylinux_2_28_x86_64.whl needs 2.28" in refused.stderr
    assert "hint: create a new version" in refused.stderr

    # What the hint says does help: a new version is locked for the base as it is.
    _create(world, "train", "fast", description="again", version="2")
    again = world.ok("environment", "build", "train:2")
    assert _version_of(world.ok("environment", "lock", "train:2"), "fast") == "2.17"
    assert again["lock"] != lock["lock"]

    # A base that is newer than was assumed will do.
    _base(world, "2.36")
    assert world.ok("environment", "build", "train:1")["lock"] == lock["lock"]
    world.verify()


def test_what_the_base_has_decides(world: World) -> None:
    _base(world, "2.36")
    _create(world, "train", "fast")
    lock = world.ok("environment", "lock", "train:1")
    assert (lock["glibc"], lock["assumed"], _version_of(lock, "fast")) == ("2.36", False, "2.31")
    assert lock["python"] == platform.python_version()
    assert lock["base"].startswith("sha256:")


def test_a_base_with_another_python_is_told_apart(world: World) -> None:
    _create(world, "train", "beta")
    world.ok("environment", "lock", "train:1")
    _base(world, "2.36", python="3.9.2")
    refused = world.run("environment", "build", "train:1")
    assert refused.returncode == 1
    assert f"{BASE} has no Python {MINOR}, which this is locked for; it has 3.9.2 at " in refused.stderr
    assert "`python:`" in refused.stderr


def test_a_lock_is_made_once(world: World) -> None:
    _create(world, "train", "alpha")
    first = world.ok("environment", "lock", "train:1")
    world.index.wheel("beta", "3.0")
    world.index.log.clear()
    assert world.ok("environment", "lock", "train:1") == first
    # Options that ask for the same thing are no reason either; others are refused, not obeyed.
    assert world.ok("environment", "lock", "train:1", "--allow-source-auto") == first
    refused = world.run("environment", "lock", "train:1", "--as-of", "2023-06-01")
    assert refused.returncode == 1
    assert "train:1 is locked for linux/amd64 already" in refused.stderr
    assert "create a new version" in refused.stderr
    assert world.index.log == []


def test_the_same_request_asks_the_index_nothing_again(world: World) -> None:
    _create(world, "train", "alpha")
    first = world.ok("environment", "lock", "train:1")
    assert world.index.log
    world.index.log.clear()
    _create(world, "score", "alpha")
    assert world.ok("environment", "lock", "score:1")["lock"] == first["lock"]
    assert world.index.log == []


def test_as_of_is_what_was_there_and_stays_in_the_lock(world: World) -> None:
    world.index.wheel("beta", "2.1", uploaded="2024-02-02T00:00:00Z")
    world.index.wheel("beta", "2.2", uploaded="2024-02-03T00:00:00Z")
    _create(world, "train", "beta")
    lock = world.ok("environment", "lock", "train:1", "--as-of", "2024-02-02")
    assert (lock["as_of"], _version_of(lock, "beta")) == ("2024-02-02T23:59:59Z", "2.1")
    assert world.ok("environment", "lock", "train:1", "--as-of", "2024-02-02") == lock
    world.ok("environment", "lock", "train:1", "--to", "pylock.toml")
    assert 'as-of = "2024-02-02T23:59:59Z"' in (world.directory / "pylock.toml").read_text()


def _conda(world: World, name: str, *dependencies: str, python: str) -> Any:
    listed = "".join(f"  - {each}\n" for each in (f"python={python}", *dependencies))
    (world.directory / "conda.yml").write_text(f"dependencies:\n{listed}  - pip:\n      - beta\n")
    world.define(name, python=None, conda_file="conda.yml")
    text = (world.directory / f"{name}.yml").read_text()
    (world.directory / f"{name}.yml").write_text(text.replace('"requirements": [], "python": null, ', ""))
    world.ok("environment", "create", "-f", f"{name}.yml")
    return world.ok("environment", "lock", f"{name}:1")


def test_conda_files_get_what_condas_pip_brings(world: World) -> None:
    for version in ("20.2", "24.0"):
        world.index.wheel("pip", version)
    for version in ("79.0", "80.9", "82.0"):
        world.index.wheel("setuptools", version)
    world.index.wheel("wheel", "0.45")
    old = _conda(world, "old", python="3.12")
    assert {each["name"]: each["version"] for each in old["packages"]} == {
        "beta": "2.0", "pip": "25.0", "setuptools": "80.9", "wheel": "0.45",
    }  # fmt: skip
    new = _conda(world, "new", python="3.13")
    assert [each["name"] for each in new["packages"]] == ["beta", "pip"]
    named = _conda(world, "named", "pip=20.2", "setuptools>=81", python="3.11")
    assert (_version_of(named, "pip"), _version_of(named, "setuptools")) == ("20.2", "82.0")
    _create(world, "plain", "beta")
    assert [each["name"] for each in world.ok("environment", "lock", "plain:1")["packages"]] == ["beta", "pip"]


def test_a_package_comes_from_the_index_it_is_pinned_to(world: World) -> None:
    world.index.wheel("other", "1.0", requires=["beta"])
    with serve() as private:
        wheel = private.wheel("beta", "0.5")
        private.wheel("alpha", "9.0")
        path = world.define("train", "other")
        pinned = f'"indexes": [{{"name": "corp", "url": "{private.simple}", "packages": ["Beta"]}}, '
        path.write_text(path.read_text().replace('"indexes": [', pinned))
        world.ok("environment", "create", "-f", "train.yml")
        lock = world.ok("environment", "lock", "train:1")
        # The other index has newer ones, and the private one has what nobody pinned to it: neither counts.
        assert _version_of(lock, "beta") == "0.5"
        assert [each for each in private.log if "alpha" in each or "other" in each] == []
        assert private.address(wheel) in world.run("environment", "lock", "train:1", "--to", "-").stdout
        assert world.run("run", "train:1", "--", "python", "-c", "import beta").returncode == 0
        assert [each for each in world.index.log if "beta" in each and each.endswith(".whl")] == []
