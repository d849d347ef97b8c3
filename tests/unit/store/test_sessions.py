import os
import subprocess
import sys
from pathlib import Path

from mlenv.store.sessions import Sessions

_DIE = """
import os, pathlib, signal, sys
from mlenv.store.sessions import Sessions
(Sessions(pathlib.Path(sys.argv[1])).directory() / "half").write_text("x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def _die(root: Path) -> None:
    assert subprocess.run([sys.executable, "-c", _DIE, root], check=False).returncode == -9


def _age(root: Path) -> None:
    """Make all that is there look two hours old."""
    for path in [*root.rglob("*")]:
        os.utime(path, (path.stat().st_atime - 7200, path.stat().st_mtime - 7200))


def test_a_session_that_ends_leaves_nothing(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "work")
    directory = sessions.directory()
    (directory / "half").write_text("x")
    assert directory == sessions.directory()
    sessions.close()
    assert list((tmp_path / "work").iterdir()) == []
    assert sessions.directory() != directory


def test_only_its_user_sees_into_a_session(tmp_path: Path) -> None:
    assert Sessions(tmp_path / "work").directory().stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700


def test_the_next_session_removes_what_a_dead_one_left_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "work"
    live = Sessions(root)
    (live.directory() / "half").write_text("x")
    _die(root)
    [left] = live.leftovers()
    _age(root)
    new = Sessions(root)
    new.directory()
    assert not left.exists()
    assert (live.directory() / "half").exists()
    assert {each.name for each in root.iterdir() if each.is_dir()} == {live.directory().name, new.directory().name}


def test_what_died_a_moment_ago_stays_for_an_hour(tmp_path: Path) -> None:
    _die(tmp_path / "work")
    sessions = Sessions(tmp_path / "work")
    sessions.directory()
    assert [each.name for each in sessions.leftovers()[0].iterdir()] == ["half"]


def test_nothing_is_left_where_nothing_was(tmp_path: Path) -> None:
    assert Sessions(tmp_path / "work").leftovers() == []
    assert Sessions(tmp_path / "work").sweep() == 0
