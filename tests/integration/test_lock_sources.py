"""Where the bytes of a lock come from: builds of source, indexes that want to know who asks, and who else reads the lock."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.world import BASE, MINOR, World, make_world

_CANARY = "s3cret-canary-of-the-index"
_BACKEND = """
import os, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    content = {
        "NAME.py": "VALUE = 7",
        "NAME-3.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: NAME\\nVersion: 3.0\\n",
        "NAME-3.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "NAME-3.0.dist-info/RECORD": "NAME.py,,\\nNAME-3.0.dist-info/METADATA,,\\n"
        "NAME-3.0.dist-info/WHEEL,,\\nNAME-3.0.dist-info/RECORD,,\\n",
    }
    with zipfile.ZipFile(os.path.join(directory, "NAME-3.0-py3-none-any.whl"), "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return "NAME-3.0-py3-none-any.whl"
"""
_PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as made:
        made.environment["NETRC"] = str(tmp_path / "netrc")
        for name in ("fuse", "shim"):
            files = {"pyproject.toml": _PROJECT, "backend.py": _BACKEND.replace("NAME", name)}
            made.index.source(name, "3.0", files=files)
        made.index.wheel("runtime", "1.0", requires=["fuse>=3", "shim", "beta"])
        yield made


def _create(world: World, name: str, *lines: str, **fields: Any) -> None:
    world.define(name, *lines, **fields)
    world.ok("environment", "create", "-f", f"{name}.yml")


def _sources(lock: Any) -> list[str]:
    return [each["name"] for each in lock["packages"] if each["source"]]


def test_source_is_built_where_the_definition_allows_it(world: World) -> None:
    _create(world, "train", "runtime", allow_source=["fuse", "shim"])
    assert _sources(world.ok("environment", "lock", "train:1")) == ["fuse", "shim"]


def test_source_is_built_where_the_command_line_allows_it(world: World) -> None:
    _create(world, "train", "runtime")
    refused = world.run("environment", "lock", "train:1", "--allow-source", "fuse")
    assert refused.returncode == 1
    assert "needs shim" in refused.stderr
    assert "`--allow-source shim`" in refused.stderr
    lock = world.ok("environment", "lock", "train:1", "--allow-source", "fuse", "--allow-source", "shim")
    assert _sources(lock) == ["fuse", "shim"]


def test_what_is_built_without_being_named_is_reported(world: World) -> None:
    _create(world, "train", "runtime")
    done = world.run("environment", "lock", "train:1", "--allow-source-auto")
    assert done.returncode == 0, done.stderr
    assert "built from source, since there is no wheel: fuse, shim" in done.stderr


def test_what_was_built_is_kept_and_installed_from_the_store(world: World, tmp_path: Path) -> None:
    _create(world, "train", "runtime", allow_source=["fuse", "shim"])
    world.ok("base", "import", "oci:base", "--name", BASE)
    built = world.ok("environment", "build", "train:1")
    world.ok("environment", "lock", "train:1", "--to", "pylock.toml")
    packages = {each["name"]: each for each in tomllib.loads((world.directory / "pylock.toml").read_text())["packages"]}
    wheel = packages["fuse"]["wheels"][0]
    assert wheel["path"] == "./fuse-3.0-py3-none-any.whl"
    assert wheel["size"] == (world.directory / wheel["path"]).stat().st_size
    source = packages["fuse"]["tool"]["mlenv"]["built-from"]
    assert source["url"] == world.index.address("fuse-3.0.tar.gz")

    world.index.files.clear()
    world.index.log.clear()
    done = world.run("run", "train:1", "--", "python", "-c", "import fuse, shim, beta; print(fuse.VALUE + shim.VALUE)")
    assert (done.stdout, done.returncode) == ("14\n", 0), done.stderr
    assert world.ok("environment", "build", "train:1")["image"] == built["image"]
    assert world.index.log == []
    world.verify()


def _guard(world: World) -> None:
    world.index.user, world.index.password = "me", _CANARY


def _use(world: World) -> None:
    """Lock, build and run what a guarded index has, and find no trace of its password in anything that is kept or said."""
    world.index.source(
        "sourced", "3.0", files={"pyproject.toml": _PROJECT, "backend.py": _BACKEND.replace("NAME", "sourced")}
    )
    _create(world, "train", "alpha", "sourced", allow_source=["sourced"])
    world.ok("base", "import", "oci:base", "--name", BASE)
    said = []
    for command in (
        ("environment", "lock", "train:1"),
        ("environment", "build", "train:1"),
        ("run", "train:1", "--", "python", "-c", "import alpha; print(alpha.VALUE)"),
        ("environment", "lock", "train:1", "--to", "-"),
        ("environment", "show", "train:1"),
        ("environment", "export", "train:1", "--to", "dir:exported"),
    ):
        done = world.run("--verbose", *command)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    assert "43\n" in said[2]
    assert world.index.authorized
    assert _CANARY not in "".join(said)
    kept = [path for root in (world.home, world.directory) for path in root.rglob("*") if path.is_file()]
    assert world.home / "mlenv.db" in kept
    assert [path for path in kept if _CANARY.encode() in path.read_bytes()] == []


def test_credentials_from_variables(world: World) -> None:
    _guard(world)
    world.environment |= {"UV_INDEX_LOCAL_USERNAME": "me", "UV_INDEX_LOCAL_PASSWORD": _CANARY}
    _use(world)


def test_credentials_from_netrc(world: World) -> None:
    _guard(world)
    netrc = Path(world.environment["NETRC"])
    netrc.write_text(f"machine 127.0.0.1 login me password {_CANARY}\n")
    netrc.chmod(0o600)
    _use(world)


_KEYRING = """\
#!{python}
import sys
_, verb, service, *rest = sys.argv
if verb != "get" or service != {service!r} or rest not in (["me"], ["--mode", "creds"]):
    sys.exit(1)
print({password!r} if rest == ["me"] else "me\\n" + {password!r})
"""


@pytest.mark.parametrize("user", [None, "me"])
@pytest.mark.parametrize("by_host", [False, True])
def test_credentials_from_the_keyring_command(world: World, tmp_path: Path, user: str | None, by_host: bool) -> None:
    """A `keyring` on PATH that answers as the real one does: `get SERVICE USER`, or `get SERVICE --mode creds`."""
    _guard(world)
    command = tmp_path / "bin" / "keyring"
    command.parent.mkdir()
    service = world.index.url.removeprefix("http://") if by_host else world.index.simple
    command.write_text(_KEYRING.format(python=sys.executable, service=service, password=_CANARY))
    command.chmod(0o755)
    world.environment["PATH"] = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    if user:
        world.environment["UV_INDEX_LOCAL_USERNAME"] = user
    _use(world)


def test_a_keyring_without_an_answer_is_as_none(world: World, tmp_path: Path) -> None:
    _guard(world)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "keyring").symlink_to("/bin/false")
    world.environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    _create(world, "train", "alpha")
    done = world.run("environment", "lock", "train:1")
    assert done.returncode == 1
    assert "wants credentials" in done.stderr
    assert "UV_INDEX_LOCAL_USERNAME" in done.stderr


def test_credentials_that_fail_while_wheels_are_fetched(world: World) -> None:
    _create(world, "train", "alpha")
    world.ok("environment", "lock", "train:1")
    _guard(world)
    done = world.run("run", "train:1", "--", "python", "-c", "")
    assert done.returncode == 1
    assert "wants credentials" in done.stderr
    assert "UV_INDEX_LOCAL_USERNAME" in done.stderr
    world.environment |= {"UV_INDEX_LOCAL_USERNAME": "me", "UV_INDEX_LOCAL_PASSWORD": _CANARY}
    assert world.run("run", "train:1", "--", "python", "-c", "").returncode == 0


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A pip that reads `pylock.toml`."""
    directory = tmp_path_factory.mktemp("pip")
    command = ["-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", str(directory)]
    subprocess.run([sys.executable, *command, "pip>=26.1"], check=True, capture_output=True)
    return [sys.executable, str(directory / "pip")]


def _call(command: list[str], **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


@pytest.mark.online
def test_pip_and_uv_read_the_lock_as_it_is(world: World, pip: list[str], tmp_path: Path) -> None:
    _create(world, "train", "runtime", "alpha", allow_source=["fuse", "shim"])
    (tmp_path / "out").mkdir()
    world.ok("environment", "lock", "train:1", "--to", str(tmp_path / "out" / "pylock.toml"))
    lock = world.ok("environment", "lock", "train:1")
    locked = {f"{each['name']}-{each['version']}" for each in lock["packages"]}
    assert len(locked) == 6

    # Nothing but the lock says where anything is.
    offline = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    offline |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "UV_NO_CONFIG": "1"}
    options = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--disable-pip-version-check"]
    for start in (tmp_path / "out", tmp_path):
        path = os.path.relpath(tmp_path / "out" / "pylock.toml", start)
        done = _call([*pip, *options, "-r", path], env=offline, cwd=start)
        assert done.returncode == 0, done.stderr
        would = done.stdout.partition("Would install ")[2].split()
        assert set(would) == locked

        target = tmp_path / f"target-{start.name}"
        command = [sys.executable, "-m", "uv", "pip", "install", "--target", str(target), "--python", sys.executable]
        command += ["--cache-dir", str(tmp_path / "uv")]
        dry = _call([*command, "--dry-run", "-r", path], env=offline, cwd=start)
        assert dry.returncode == 0, dry.stderr
        assert f"Would install {len(locked)} packages" in dry.stderr
        real = _call([*command, "-r", path], env=offline, cwd=start)
        assert real.returncode == 0, real.stderr
        assert (target / "fuse.py").read_text() == "VALUE = 7"


@pytest.mark.online
def test_pip_refuses_what_is_not_the_locked_bytes(world: World, pip: list[str]) -> None:
    _create(world, "train", "beta")
    text = world.run("environment", "lock", "train:1", "--to", "-").stdout
    document = tomllib.loads(text)
    digest = next(each for each in document["packages"] if each["name"] == "beta")["wheels"][0]["hashes"]["sha256"]
    (world.directory / "pylock.toml").write_text(text.replace(digest, "0" * 64))
    command = [*pip, "install", "--dry-run", "--ignore-installed", "--no-deps", "-r", "pylock.toml"]
    done = _call(command, cwd=world.directory)
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()


def test_the_lock_is_for_the_python_of_the_target(world: World) -> None:
    _create(world, "train", "beta")
    document = tomllib.loads(world.run("environment", "lock", "train:1", "--to", "-").stdout)
    assert document["lock-version"] == "1.0"
    assert document["created-by"] == "mlenv"
    assert document["requires-python"].startswith(f"=={MINOR}")
