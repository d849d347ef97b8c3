"""Interpreters: which are found, which are skipped and why, and which one is chosen."""

import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlenv.run import pythons as module
from mlenv.run.candidates import Candidate, candidates
from mlenv.run.probe import Prober, UnusablePython
from mlenv.run.pythons import NoSuitablePython, Pythons, UnsuitablePython

_FACTS = {
    "version": "3.11.7",
    "release": "final",
    "implementation": "CPython",
    "prefix": "/usr",
    "system": "Linux",
    "machine": "x86_64",
    "bits": 64,
    "glibc": "glibc 2.36",
    "debug": False,
    "free_threaded": False,
}


def _interpreter(path: Path, **facts: object) -> Path:
    """A stand-in that answers the probe as told, and counts how often it was asked. It is no `#!` script: those are shims."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = json.dumps({**_FACTS, "executable": str(path), **facts})
    path.write_text(f"\necho >> '{path}.asked'\necho '{answer}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _run_by_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without a first line are run by the shell, as a shell would run them."""
    import subprocess

    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        with open(command[0], "rb") as file:
            stand_in = file.read(1) == b"\n"
        return real(["/bin/sh", *command] if stand_in else command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("subprocess.run", run)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """A machine with no interpreter but those below `tmp_path`."""
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(module, "candidates", lambda environment: _inside(candidates(environment), tmp_path))
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}


def _inside(found: object, root: Path) -> list[Candidate]:
    return [each for each in found if each.path.is_relative_to(root)]  # type: ignore[attr-defined]


def test_the_running_interpreter_comes_first(tmp_path: Path) -> None:
    chosen = Pythons(tmp_path, os.environ).choose()
    assert chosen.version == ".".join(str(each) for each in sys.version_info[:3])
    assert (str(chosen.prefix), chosen.source) == (sys.base_prefix, "running mlenv")
    assert not (chosen.path.parent.parent / "pyvenv.cfg").exists()
    if sys.platform == "linux":
        assert f"glibc {chosen.glibc}" == os.confstr("CS_GNU_LIBC_VERSION")


def test_places_are_searched_and_files_asked_once(tmp_path: Path, only: Mapping[str, str]) -> None:
    _interpreter(tmp_path / "bin" / "python3", version="3.10.1")
    _interpreter(tmp_path / "home/.pyenv/versions/3.12.1/bin/python3.12", version="3.12.1")
    _interpreter(tmp_path / "home/.pyenv/versions/3.9.9/bin/python3.9", version="3.9.9")
    _interpreter(tmp_path / "home/.local/share/uv/python/cpython-3.13.0-linux/bin/python3.13", version="3.13.0")
    _interpreter(tmp_path / "home/miniconda3/bin/python3", version="3.8.5")
    (tmp_path / "bin" / "python").symlink_to("python3")
    found = Pythons(tmp_path / "cache", only).find()
    assert [(each.version, each.source) for each in found] == [
        ("3.10.1", "PATH"),
        ("3.12.1", "pyenv"),
        ("3.9.9", "pyenv"),
        ("3.13.0", "uv"),
        ("3.8.5", "conda"),
    ]
    assert Pythons(tmp_path / "cache", only).find() == found
    assert (tmp_path / "bin" / "python3.asked").read_text() == "\n"


def test_a_changed_file_is_asked_again(tmp_path: Path, only: Mapping[str, str]) -> None:
    path = _interpreter(tmp_path / "bin" / "python3")
    assert Pythons(tmp_path / "cache", only).choose().version == "3.11.7"
    _interpreter(path, version="3.11.14")
    assert Pythons(tmp_path / "cache", only).choose().version == "3.11.14"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1, "libc": null, "pythons": {"/x": 3}}', '{"format": 99}']
)
def test_a_damaged_cache_is_made_anew(tmp_path: Path, only: Mapping[str, str], content: str) -> None:
    _interpreter(tmp_path / "bin" / "python3")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pythons.json").write_text(content)
    assert len(Pythons(tmp_path / "cache", only).find()) == 1
    assert json.loads((tmp_path / "cache" / "pythons.json").read_text())["pythons"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"implementation": "PyPy"}, "PyPy"),
        ({"free_threaded": True}, "free-threaded"),
        ({"debug": True}, "debug"),
        ({"bits": 32}, "32-bit"),
        ({"release": "beta"}, "beta"),
        ({"version": "3.5.2"}, "3.5.2"),
        ({"machine": "riscv64"}, "riscv64"),
        ({"version": None}, "did not answer"),
    ],
)
def test_what_cannot_be_used_is_skipped_with_its_reason(
    tmp_path: Path, only: Mapping[str, str], facts: dict[str, object], reason: str
) -> None:
    _interpreter(tmp_path / "bin" / "python3", **facts)
    pythons = Pythons(tmp_path / "cache", only)
    assert pythons.find() == []
    [skipped] = pythons.skipped
    assert reason in skipped.reason


def test_shims_are_not_asked(tmp_path: Path, only: Mapping[str, str]) -> None:
    shim = tmp_path / "bin" / "python3"
    shim.parent.mkdir()
    shim.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    pythons = Pythons(tmp_path / "cache", only)
    assert pythons.find() == []
    assert "shim" in pythons.skipped[0].reason
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "3.10.1"),
        ("3.11", "3.11.4"),
        ("3.11.9", "3.11.9"),
        ("3.11.5", "3.11.4"),
        (">=3.11", "3.11.4"),
        (">3.10.1,<3.11.5", "3.11.4"),
    ],
)
def test_the_choice(tmp_path: Path, only: Mapping[str, str], wanted: str | None, expected: str) -> None:
    _interpreter(tmp_path / "bin" / "python3", version="3.10.1")
    _interpreter(tmp_path / "bin" / "python3.11", version="3.11.4")
    _interpreter(tmp_path / "home/.pyenv/versions/3.11.9/bin/python3", version="3.11.9")
    assert Pythons(tmp_path / "cache", only).choose(wanted).version == expected


def test_none_that_would_do(tmp_path: Path, only: Mapping[str, str]) -> None:
    _interpreter(tmp_path / "bin" / "python3", version="3.10.1")
    _interpreter(tmp_path / "bin" / "python3.12", version="3.12.0", implementation="PyPy")
    with pytest.raises(NoSuitablePython, match=r"no Python 3\.12 .*found: 3\.10\.1") as caught:
        Pythons(tmp_path / "cache", only).choose("3.12")
    assert caught.value.hint is not None
    assert "uv python install 3.12" in caught.value.hint
    assert caught.value.detail is not None
    assert "PyPy" in caught.value.detail


def test_the_users_choice_counts_and_is_checked(tmp_path: Path, only: Mapping[str, str]) -> None:
    _interpreter(tmp_path / "bin" / "python3", version="3.10.1")
    named = _interpreter(tmp_path / "elsewhere" / "bin" / "python3", version="3.12.1")
    pythons = Pythons(tmp_path / "cache", only)
    assert pythons.choose(None, str(named)).version == "3.12.1"
    assert pythons.choose("3.12", str(tmp_path / "elsewhere")).version == "3.12.1"
    assert Pythons(tmp_path / "cache", {**only, "MLENV_PYTHON": str(named)}).choose().version == "3.12.1"
    assert pythons.choose(None, "3.10").version == "3.10.1"
    with pytest.raises(UnsuitablePython, match=r"it is 3\.12\.1, and the environment is for 3\.10$") as caught:
        pythons.choose("3.10.4", str(named))
    assert (caught.value.hint or "").endswith("or name a Python 3.10")
    with pytest.raises(NoSuitablePython, match=r"no Python 3\.10\.9"):
        pythons.choose(None, "3.10.9")


@pytest.mark.parametrize("given", ["no-such-python", "/nowhere/python3", "/proc"])
def test_what_the_user_names_must_be_there(tmp_path: Path, only: Mapping[str, str], given: str) -> None:
    with pytest.raises(UnsuitablePython, match="no such file or command"):
        Pythons(tmp_path / "cache", only).choose(None, given)


def test_a_file_that_is_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(UnusablePython, match="did not answer"), Prober(tmp_path / "pythons.json") as prober:
        prober.probe(Candidate(Path("/bin/cat"), "test"))


def test_a_shim_that_the_user_names_is_asked_every_time(tmp_path: Path, only: Mapping[str, str]) -> None:
    real = _interpreter(tmp_path / "real" / "python3")
    shim = tmp_path / "shim"
    shim.write_text(f"#!/bin/sh\nexec /bin/sh {real}\n")
    shim.chmod(0o755)
    pythons = Pythons(tmp_path / "cache", only)
    for _ in range(2):
        assert pythons.choose(None, str(shim)).path == real
    assert (tmp_path / "real" / "python3.asked").read_text() == "\n\n"
