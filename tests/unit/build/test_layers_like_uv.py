"""What lies in a layer is what `uv pip install` would have put there, file for file."""

import io
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import uv
from support.wheels import make_wheel

from mlenv.core.wheel import Scheme, read_wheel

_MINOR = ".".join(map(str, sys.version_info[:2]))
#: What each installer writes in its own way.
_OWN = (".lock", "INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "uv_cache.json")


def _installed_by_uv(wheel: Path, place: Path) -> dict[str, tuple[bytes, bool]]:
    environment = {"PATH": os.environ["PATH"], "UV_CACHE_DIR": str(place / "cache"), "UV_OFFLINE": "1"}
    prefix = place / "env"

    def run(*arguments: str | Path) -> None:
        subprocess.run([uv.find_uv_bin(), "-q", "--no-config", *arguments], check=True, env=environment)

    run("venv", "--python", sys.executable, prefix)
    before = _files(prefix)
    run("pip", "install", "--no-deps", "--python", prefix / "bin/python", wheel)
    return {path: content for path, content in _files(prefix).items() if path not in before}


def _files(root: Path) -> dict[str, tuple[bytes, bool]]:
    found = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            runnable = bool(path.stat().st_mode & stat.S_IXUSR)
            found[path.relative_to(root).as_posix()] = path.read_bytes(), runnable
    return found


def _installed_by_us(wheel: Path, prefix: Path) -> dict[str, tuple[bytes, bool]]:
    scheme = Scheme.posix(_MINOR, script_python=str(prefix / "bin/python"))
    with open(wheel, "rb") as file:
        tree = read_wheel(io.BytesIO(file.read()), filename=wheel.name).install(scheme, requested=True)
        return {each.path: (b"".join(tree.chunks(each)), each.executable) for each in tree.files}


def _compare(wheel: Path, place: Path) -> None:
    theirs = _installed_by_uv(wheel, place)
    ours = _installed_by_us(wheel, place / "env")
    generated = {path for path in ours if path.startswith("bin/")}

    def kept(files: dict[str, tuple[bytes, bool]]) -> dict[str, object]:
        return {
            path: (content if path not in generated else content[0].splitlines()[0], content[1])
            for path, content in files.items()
            if path.rpartition("/")[2] not in _OWN and not path.endswith(".pyc")
        }

    assert kept(ours) == kept(theirs)
    assert len(ours) > 3


def test_synthetic_wheels_are_installed_alike(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        "Some.Pkg",
        "1.0",
        {"some_pkg/__init__.py": b"def main():\n    print('hi')\n", "some_pkg/deep/ünïcode.txt": b"1", "top.py": b""},
        entry_points={"console_scripts": {"hi": "some_pkg:main"}},
        scripts={"old": b"#!python\nprint(1)\n", "shell": b"#!/bin/sh\necho\n"},
        data={"data/share/some/y": b"y", "headers/h.h": b"h", "purelib/pure.py": b"p = 1\n", "platlib/plat.py": b""},
    )
    _compare(wheel, tmp_path / "place")


@pytest.mark.online
@pytest.mark.parametrize("requirement", ["six==1.17.0", "pyyaml==6.0.2"])
def test_real_wheels_are_installed_alike(tmp_path: Path, requirement: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", requirement]
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    _compare(wheel, tmp_path / "place")


def test_generated_scripts_run(tmp_path: Path) -> None:
    files = {"some.py": b"import sys\ndef main():\n    print(sys.argv[1:])\n    return 3\n"}
    wheel = make_wheel(tmp_path, "some", files=files, entry_points={"console_scripts": {"hi": "some:main"}})
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    content, _ = next(each for path, each in _installed_by_us(wheel, tmp_path).items() if path == "bin/hi")
    long = tmp_path / ("with space " + "x" * 120)
    long.symlink_to(sys.executable)
    scheme = Scheme.posix(_MINOR, script_python=str(long))
    tree = read_wheel(io.BytesIO(wheel.read_bytes()), filename=wheel.name).install(scheme, requested=False)
    by_way_of_sh = next(each.content for each in tree.files if each.path == "bin/hi")
    for number, script in enumerate(
        (content.replace(str(tmp_path / "bin/python").encode(), sys.executable.encode()), by_way_of_sh)
    ):
        path = tmp_path / f"hi{number}"
        path.write_bytes(script)
        path.chmod(0o755)
        result = subprocess.run(
            [path, "a", "b c"],
            env={"PYTHONPATH": str(tmp_path / "site"), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.stdout, result.returncode) == ("['a', 'b c']\n", 3), result.stderr
