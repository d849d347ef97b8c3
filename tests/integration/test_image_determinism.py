"""The same lock on the same base is the same image, to the bit, whoever builds it, and where, when and how."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.wheels import wheel_bytes
from support.world import BASE, MINOR, World, make_world

from mlenv.core.python_version import minor_of
from mlenv.run.pythons import Pythons

#: One worker makes the world once for all of these tests.
pytestmark = pytest.mark.online
_REPOSITORY = Path(__file__).parents[2]
_COMPRESSIONS = ("zstd", "gzip")

_SECONDS = 120


@dataclass(frozen=True)
class Made:
    """What a store says of the environment that it built: the lock, and the image by compression."""

    lock: str
    bytecode: str | None
    images: dict[str, str]


@dataclass
class Workshop:
    """A world that every user of this machine may look into, and the image that is the measure."""

    world: World
    root: Path
    expected: Made

    def make(
        self,
        place: str,
        *,
        start: Sequence[str] = (sys.executable, "-m", "mlenv"),
        variables: dict[str, str] | None = None,
        name: str = "train",
        **more: Any,
    ) -> Made:
        """Create, lock and build from nothing, in another directory and store; `start` is how mlenv is called."""
        directory = self.root / place
        directory.mkdir(exist_ok=True)
        os.chown(directory, more.get("user", os.getuid()), -1)
        environment = {**os.environ, "MLENV_HOME": str(directory / "home"), "MLENV_OUTPUT": "json", **(variables or {})}

        def run(*arguments: str) -> Any:
            done = subprocess.run(
                [*start, "--quiet", *arguments],
                env=environment,
                cwd=directory,
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
                **more,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout) if done.stdout.strip() else None

        run("base", "import", f"oci:{self.world.directory / 'base'}", "--name", BASE)
        run("environment", "create", "-f", str(self.world.directory / f"{name}.yml"), "-o", "none")
        lock = run("environment", "lock", f"{name}:1")
        images = {
            each: run("environment", "build", f"{name}:1", "--compression", each)["image"] for each in _COMPRESSIONS
        }
        run("store", "verify")
        return Made(lock["lock"], lock["bytecode"], images)


def _offer(world: World) -> None:
    """Packages with what may differ between machines: modes, scripts, order, names beyond ASCII, sets in bytecode."""
    module = (
        "import os\n\nNAMES = {'a', 'b', 'c', 'd', 'e'}\n\n\ndef known(x):\n    return x in {'p', 'q', 'r', 's', 't'}\n"
    )
    files = {f"large/part{number}.py": f"{module}NUMBER = {number}\n".encode() for number in range(60)}
    files |= {"large/data.bin": bytes(range(256)) * 30_000, "large/Upper.py": b"A = 1\n", "large/upper_.py": b"A = 2\n"}
    world.index.offer("large", "1.0", *wheel_bytes("large", "1.0", files))
    scripted = wheel_bytes(
        "scripted",
        "1.0",
        {"scripted.py": "def main():\n    print('é')\n".encode()},
        entry_points={"console_scripts": {"scripted": "scripted:main", "another": "scripted:main"}},
        scripts={"shell-script": b"#!/bin/sh\necho hello\n", "python-script": b"#!python\nprint(1)\n"},
        data={"data/share/scripted/notes.txt": b"notes\n", "headers/scripted.h": b"\n"},
        executable=["scripted-1.0.data/scripts/shell-script"],
    )
    world.index.offer("scripted", "1.0", *scripted)
    world.index.offer(
        "accented", "1.0", *wheel_bytes("accented", "1.0", {"accented/ünï.py": b"", "accented/Z.py": b""})
    )


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    # A directory of pytest's own would be closed to other users.
    root = Path(tempfile.mkdtemp(prefix="mlenv-images-", dir="/var/tmp"))
    try:
        root.chmod(0o755)
        with make_world(root) as world:
            _offer(world)
            world.define("train", "alpha", "large", "scripted", "accented", environment_variables={"GREETING": "é, ü"})
            made = Workshop(world, root, Made("", None, {}))
            made.expected = made.make("reference")
            yield made
    finally:
        shutil.rmtree(root)


def test_the_measure_holds_bytecode_and_two_images(workshop: Workshop) -> None:
    assert workshop.expected.bytecode is not None
    assert minor_of(workshop.expected.bytecode) == MINOR
    assert len(set(workshop.expected.images.values())) == 2


def test_another_clock_locale_hash_seed_and_directory(workshop: Workshop) -> None:
    variables = {
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "LANG": "tr_TR.UTF-8",
        "PYTHONHASHSEED": "77",
        "PYTHONUTF8": "0",
    }
    variables |= {
        "SOURCE_DATE_EPOCH": "1",
        "COLUMNS": "40",
        "UMASK": "077",
        "PYTHONOPTIMIZE": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert workshop.make("öther place", variables=variables) == workshop.expected


@pytest.mark.parametrize("umask", [0o077, 0o002, 0])
def test_another_umask(workshop: Workshop, umask: int) -> None:
    assert workshop.make(f"umask-{umask:o}", umask=umask) == workshop.expected


class Gate:
    """Lets files go out in one order only, whatever the order in which they are asked for."""

    def __init__(self, order: Sequence[str]) -> None:
        self._left = list(order)
        self._turn = threading.Condition()
        self.sent: list[str] = []

    def __call__(self, filename: str) -> None:
        with self._turn:
            assert self._turn.wait_for(lambda: self._left[0] == filename, timeout=_SECONDS), "it was not asked for"
            self.sent.append(self._left.pop(0))
            self._turn.notify_all()


@pytest.mark.parametrize("backwards", [False, True])
def test_another_order_of_downloads(workshop: Workshop, backwards: bool) -> None:
    index = workshop.world.index
    names = sorted({each.rpartition("/")[2] for each in index.log if each.startswith("GET /files/")})
    wheels = [each for each in names if each.endswith(".whl")]
    assert len(wheels) == 6
    gate = Gate(wheels[::-1] if backwards else wheels)
    index.before = gate
    try:
        assert workshop.make(f"order-{backwards}") == workshop.expected
    finally:
        index.before = None
    assert gate.sent == (wheels[::-1] if backwards else wheels)


def test_a_store_that_has_every_layer_already(workshop: Workshop) -> None:
    world = workshop.world
    world.define("other", "alpha", "large", "scripted", "accented", description="the same packages")
    workshop.make("full", name="other")
    world.index.log.clear()
    assert workshop.make("full") == workshop.expected
    assert [each for each in world.index.log if each.endswith(".whl")] == []


def _install(python: str | Path, target: Path) -> dict[str, str]:
    """mlenv for another interpreter, as a directory of its own that all may read; what makes Python look there."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(_REPOSITORY)], check=True, capture_output=True)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | 0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return {"PYTHONPATH": str(target)}


def test_mlenv_on_another_python(workshop: Workshop, tmp_path: Path) -> None:
    found = [each for each in Pythons(tmp_path, os.environ).find() if (3, 11) <= tuple(map(int, each.minor.split(".")))]
    others = {each.minor: each for each in found if each.minor != MINOR}
    # Where there is no other, another installation of mlenv still has another path.
    for python in list(others.values())[:2] or found[:1]:
        variables = _install(python.path, workshop.root / f"mlenv-{python.version}")
        # What compiles is named by the lock, and has to be found.
        variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        start = (str(python.path), "-m", "mlenv")
        assert workshop.make(f"python-{python.version}", start=start, variables=variables) == workshop.expected


def _python_for_all(root: Path) -> Path:
    """This interpreter, at a place that every user may read: a copy, if it is in someone's home."""
    original = Path(sys.executable).resolve()
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in original.parents) and original.stat().st_mode & 0o005:
        return original
    prefix = Path(sys.base_prefix)
    unneeded = shutil.ignore_patterns(
        "test", "tests", "__pycache__", "site-packages", "share", "*.a", "idlelib", "lib2to3"
    )
    shutil.copytree(prefix, root / "python", symlinks=True, ignore=unneeded)
    return root / "python" / original.relative_to(prefix)


def test_another_user(workshop: Workshop) -> None:
    nobody = pwd.getpwnam("nobody")
    assert os.getuid() == 0, "only root can become another user: run this test as root"
    python = _python_for_all(workshop.root)
    home = workshop.root / "home of nobody"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    variables = _install(sys.executable, workshop.root / "mlenv-for-all")
    variables |= {"HOME": str(home), "USER": "nobody", "LOGNAME": "nobody", "PATH": f"{python.parent}:/usr/bin:/bin"}
    # A copy finds the shared library of its interpreter only where it is told to look.
    variables["LD_LIBRARY_PATH"] = str(python.parents[1] / "lib")
    who: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "umask": 0o077}
    assert workshop.make("nobody", start=(str(python), "-m", "mlenv"), variables=variables, **who) == workshop.expected
    assert (workshop.root / "nobody" / "home" / "mlenv.db").stat().st_uid == nobody.pw_uid
