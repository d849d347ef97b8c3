"""How the command line's process ends: at once, but not before anybody who has still something to do."""

import subprocess
import sys

_BEGIN = """
import atexit, sys, threading
from mlenv.cli.main import main
sys.argv = ["mlenv", "--version"]
class Kept:
    def __del__(self):
        print("taken apart", flush=True)
kept = Kept()
"""


def _python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_it_is_not_taken_apart_and_what_was_said_is_written() -> None:
    done = _python("-c", f"{_BEGIN}\natexit.register(print, 'last words')\nmain()\nprint('went on')\n")
    first, *others = done.stdout.splitlines()
    assert first.startswith("mlenv ")
    assert (done.returncode, others, done.stderr) == (0, ["last words"], "")


def test_its_exit_status_is_kept() -> None:
    done = _python("-c", "import sys\nfrom mlenv.cli.main import main\nsys.argv = ['mlenv', 'nothing']\nmain()\n")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_a_thread_is_waited_for() -> None:
    work = "ended = threading.Event()\nthreading.Thread(target=lambda: (ended.wait(60), print('worked'))).start()\n"
    done = _python("-c", f"{_BEGIN}\n{work}\nmain()\nended.set()\n")
    assert done.stdout.splitlines()[1:] == ["worked", "taken apart"]


def test_a_profiler_writes_what_it_saw() -> None:
    done = _python("-m", "cProfile", "-m", "mlenv", "--version")
    assert done.returncode == 0
    assert "function calls" in done.stdout


def test_output_that_can_not_be_written_is_said() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mlenv", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr


def test_called_from_a_program_it_comes_back() -> None:
    done = _python("-c", f"{_BEGIN}\nprint(main(['--version']))\n")
    assert done.stdout.splitlines()[1:] == ["0", "taken apart"]
