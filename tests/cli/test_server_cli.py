"""`mlenv server` and `mlenv worker` where the libraries of a server are not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

_WITHOUT = """
import sys
sys.modules["uvicorn"] = None
from mlenv.cli.main import main
sys.exit(main())
"""


def without(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `mlenv` in a Python that has no uvicorn."""
    command = [sys.executable, "-c", _WITHOUT, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"MLENV_HOME": str(home)}, check=False
    )


@pytest.mark.parametrize("command", [("server", "start"), ("server", "ca"), ("server", "token"), ("worker", "start")])
def test_what_needs_a_servers_libraries_says_how_to_install_them(command: tuple[str, ...], tmp_path: Path) -> None:
    done = without(tmp_path / "home", *command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "a server needs the Python package 'uvicorn', which is not installed" in done.stderr
    assert "`pip install 'mlenv[server]'`" in done.stderr
    assert not (tmp_path / "home").exists()


def test_help_and_settings_need_none_of_them(tmp_path: Path) -> None:
    shown = without(tmp_path, "server", "start", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--database" in shown.stdout
    listed = without(tmp_path, "server", "config", "--port", "7", "-o", "tsv")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "port\t7\t" in listed.stdout
