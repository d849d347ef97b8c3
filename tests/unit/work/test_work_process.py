"""Processes of workers: their output comes whole, and nothing of what they started outlives them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.builds import alive, until

from mlenv.run.process import Ended
from mlenv.work.process import Process

_ENVIRONMENT = {"PATH": os.environ["PATH"]}
#: Ignores SIGTERM, and has a child that does so in a session of its own, as daemons and containers do.
_STUBBORN = """
trap '' TERM
setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 60; done' &
echo $$
while :; do sleep 60; done
"""


class _Output:
    def __init__(self) -> None:
        self.data = b""
        self.changed = threading.Event()

    def __call__(self, chunk: bytes) -> None:
        self.data += chunk
        self.changed.set()


def _shell(script: str, output: _Output, **more: object) -> Process:
    return Process(["sh", "-c", script], environment=_ENVIRONMENT, output=output, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("exit 0", Ended(0)),
        ("exit 3", Ended(3)),
        ("kill -9 $$", Ended(None, 9)),
        ("kill -TERM $$", Ended(None, 15)),
    ],
)
def test_how_a_command_ends_is_told(script: str, ended: Ended) -> None:
    assert _shell(script, _Output()).wait(20) == ended


def test_a_command_that_is_not_there_ends_with_127_and_says_so() -> None:
    output = _Output()
    process = Process(["nothere"], environment=_ENVIRONMENT, output=output)
    assert process.wait(20) == Ended(127)
    assert output.data == b"nothere can't be run: No such file or directory\n"


def test_output_comes_whole_and_reports_apart_from_it() -> None:
    output, reports = _Output(), _Output()
    script = "cat; seq 1 20000; echo told >/dev/fd/$MLENV_REPORTS; echo err >&2"
    process = _shell(script, output, reports=reports, stdin=b"given\n")
    assert process.wait(20) == Ended(0)
    numbers = "".join(f"{number}\n" for number in range(1, 20001))
    assert output.data.decode() == f"given\n{numbers}err\n"
    assert reports.data == b"told\n"


def test_what_is_done_with_output_can_fail_without_stopping_the_command() -> None:
    def refuse(_: bytes) -> None:
        raise OSError("no space left on device")

    process = Process(["seq", "1", "200000"], environment=_ENVIRONMENT, output=refuse)
    assert process.wait(20) == Ended(0)


def test_stop_ends_the_whole_tree_and_what_left_its_session() -> None:
    output = _Output()
    process = _shell(_STUBBORN, output, grace=0.2)
    until(lambda: output.data.count(b"\n") == 2, "it did not start", 20)
    pids = {int(each) for each in output.data.split()} | {process.pid}
    assert alive(pids) == pids
    assert process.wait(0) is None
    process.stop()
    process.stop()
    assert process.wait(20) == Ended(None, signal.SIGKILL)
    assert not alive(pids)


def test_what_a_command_leaves_behind_is_ended_with_it() -> None:
    output = _Output()
    process = _shell("(setsid sleep 600 >/dev/null 2>&1 & echo $!)", output, grace=5)
    assert process.wait(20) == Ended(0)
    assert not alive({int(output.data)})


@pytest.mark.parametrize("victim", ["starter", "supervisor"])
def test_nothing_outlives_whoever_started_it(victim: str, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    program = (
        "import os, sys, time; from mlenv.work.process import Process;"
        f"p = Process(['sh', '-c', 'echo $$ > {file}.part; mv {file}.part {file}; exec sleep 600'],"
        " environment=dict(os.environ), output=print, grace=0.2); print(p.pid, flush=True); p.wait()"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    supervisor = int(starter.stdout.readline())
    until(file.exists, "it did not start", 20)
    pids = {int(file.read_text()), supervisor}
    assert alive(pids) == pids
    os.kill(starter.pid if victim == "starter" else supervisor, signal.SIGKILL)
    until(lambda: not alive(pids), "something lives on", 20)
    starter.wait(20)
    starter.stdout.close()
