"""Locks between processes."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlenv.file_lock import FileLock, Timeout

HOLD = """
import pathlib, sys
from mlenv.file_lock import FileLock
with FileLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_against_other_processes_until_they_die(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout), FileLock(path, timeout=0):
            pass
        holder.kill()
    with FileLock(path, timeout=0):
        assert path.exists()


def test_a_lock_is_held_against_other_threads(tmp_path: Path) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with FileLock(tmp_path / "lock"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == 1


def test_a_lock_file_that_was_removed_is_not_the_lock_any_more(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    taken = threading.Event()
    with FileLock(path):
        waiting = FileLock(path)

        def wait() -> None:
            waiting.acquire()
            taken.set()

        thread = threading.Thread(target=wait)
        thread.start()
        path.unlink()
        with FileLock(path, timeout=0):
            pass
    thread.join()
    assert taken.is_set()
    with pytest.raises(Timeout), FileLock(path, timeout=0):
        pass
    waiting.release()


def test_a_lock_can_be_taken_again_by_the_same_object(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    for _ in range(2):
        with lock, pytest.raises(Timeout), FileLock(tmp_path / "lock", timeout=0):
            pass
