"""What limits the solver of conda packages: its time, memory and answers, and that it never outlives who asked."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.builds import alive, solvers_below, until
from support.conda_channel import CondaChannels, serve_channels
from support.conda_packages import make_package

from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.site_policy import DEFAULT_POLICY
from mlenv.core.spec import Requirement
from mlenv.resolve import conda, conda_process, conda_request
from mlenv.resolve.conda import CondaResolver, SolversBusy
from mlenv.resolve.conda_process import CondaCrashed, CondaProcess, CondaTimeout
from mlenv.resolve.conda_request import AsksTooMuch, CondaRequest
from mlenv.resolve.condarc import CondaSettings
from mlenv.wiring.machine import Machine
from mlenv.work.process import Process

_TARGET = Target(Platform("linux", "amd64"), "", Glibc(2, 36))
#: Solves from a channel that takes connections and never answers; what ends it by SIGTERM ends it as a build's process.
_WAITING = """
import signal, sys
from pathlib import Path
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.spec import Requirement
from mlenv.resolve.conda import CondaResolver
from mlenv.resolve.conda_request import CondaRequest
from mlenv.resolve.condarc import CondaSettings

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
resolver = CondaResolver(Path(sys.argv[1]), settings=CondaSettings(channel_alias=sys.argv[2], channels=()))
target = Target(Platform("linux", "amd64"), "", Glibc(2, 36))
resolver.solve(CondaRequest((Requirement("num"),), target, ("slow",)), progress=Silent())
"""


@pytest.fixture
def channels() -> Iterator[CondaChannels]:
    with serve_channels() as served:
        served.add("main", *(make_package(f"num{at}") for at in range(3)))
        yield served


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def _address(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def _solve(url: str, cache: Path, *specs: str, channels: tuple[str, ...] = ("main",), **options: float) -> int:
    resolver = CondaResolver(cache, settings=CondaSettings(channel_alias=url, channels=()), **options)  # type: ignore[arg-type]
    request = CondaRequest(tuple(map(Requirement, specs)), _TARGET, channels)
    return len(resolver.solve(request, progress=Silent()))


@pytest.mark.parametrize("grace", [5.0, 0.0])
def test_a_build_that_is_stopped_leaves_no_solver(tmp_path: Path, silent: socket.socket, grace: float) -> None:
    command = [sys.executable, "-c", _WAITING, str(tmp_path), _address(silent)]
    process = Process(command, environment=dict(os.environ), output=lambda _: None, grace=grace)
    silent.settimeout(60)
    connection, _ = silent.accept()
    solvers = solvers_below(process.pid)
    assert len(solvers) == 1
    # It is in a process group of its own, which is not the one of the build.
    assert all(os.getpgid(each) == each for each in solvers)
    process.stop()
    assert process.wait(20) is not None
    assert not alive(solvers)
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_solver_ends_with_whoever_asked_however_that_ends(
    tmp_path: Path, silent: socket.socket, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", _WAITING, str(tmp_path), _address(silent)]
    # A session of its own, so that what is sent to its group does not reach this one.
    asking = subprocess.Popen(command, start_new_session=True)
    silent.settimeout(60)
    connection, _ = silent.accept()
    solvers = solvers_below(asking.pid)
    assert len(solvers) == 1
    os.killpg(asking.pid, number)
    asking.wait(20)
    until(lambda: not alive(solvers), "the solver lives on", 20)
    connection.close()


def test_a_channel_that_never_answers_is_given_up(tmp_path: Path, silent: socket.socket) -> None:
    start = time.monotonic()
    with pytest.raises(CondaTimeout, match="did not end within 2 s"):
        _solve(_address(silent), tmp_path, "num", timeout=2.0)
    assert time.monotonic() - start < 20
    assert not solvers_below(os.getpid())


def test_an_answer_that_is_too_large_is_refused(
    channels: CondaChannels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conda_process, "_ANSWER", 600)
    with pytest.raises(CondaCrashed, match="gave an answer of more than"):
        _solve(channels.url, tmp_path, "num0", "num1", "num2")
    assert not solvers_below(os.getpid())


def test_what_is_asked_and_answered_has_a_limit(
    channels: CondaChannels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conda, "_MOST", 2)
    assert _solve(channels.url, tmp_path, "num0", "num1") == 2
    with pytest.raises(AsksTooMuch, match="3 conda packages are in the solution: at most 2 are taken"):
        _solve(channels.url, tmp_path, "num0", "num1", "num2")
    channels.log.clear()
    monkeypatch.setattr(conda_request, "_MOST_SPECS", 2)
    with pytest.raises(AsksTooMuch, match="3 conda packages are asked for"):
        _solve(channels.url, tmp_path, "num0", "num1", "num2")
    monkeypatch.setattr(conda_request, "_MOST_CHANNELS", 2)
    with pytest.raises(AsksTooMuch, match="3 conda channels are to be searched"):
        _solve(channels.url, tmp_path, "c::num0", channels=("a", "b"))
    assert channels.log == []


def test_the_solver_s_limits_are_set_in_its_process() -> None:
    with CondaProcess(timeout=30, memory=5 << 30) as process:
        lines = Path(f"/proc/{process._process.pid}/limits").read_text().splitlines()
    limits = {line[:26].strip(): line[26:].split()[0] for line in lines}
    assert limits["Max address space"] == str(5 << 30)
    assert limits["Max file size"] == str(2 << 30)
    assert limits["Max core file size"] == "0"


def test_no_more_solvers_run_at_once_than_there_is_room_for(channels: CondaChannels, tmp_path: Path) -> None:
    seen = []

    class Watched(dict[str, tuple[int, bytes]]):
        """What a channel answers instead of what it has: nothing, but it is looked up at each request."""

        def items(self) -> Any:
            seen.append(len(solvers_below(os.getpid())))
            return super().items()

    channels.answers = Watched()
    resolver = CondaResolver(tmp_path, settings=CondaSettings(channel_alias=channels.url, channels=()), at_once=1)
    request = CondaRequest((Requirement("num0"),), _TARGET, ("main",))
    with ThreadPoolExecutor(3) as pool:
        solved = [pool.submit(resolver.solve, request, progress=Silent()) for _ in range(3)]
        assert [len(each.result()) for each in solved] == [1, 1, 1]
    assert set(seen) == {1}


def test_whoever_waits_for_others_does_not_wait_longer_than_a_solution_may_take(tmp_path: Path) -> None:
    with pytest.raises(SolversBusy, match=r"none had ended after 0 s"):
        _solve("http://127.0.0.1:9", tmp_path, "num0", timeout=0.1, at_once=0)
    assert solvers_below(os.getpid()) == set()


def test_servers_have_room_for_two_and_whoever_works_alone_for_any_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HOME": str(tmp_path), "CONDARC": str(tmp_path / "none"), "CONDA_ROOT": ""}.items():
        monkeypatch.setenv(name, value)
    assert Machine(tmp_path / "site", DEFAULT_POLICY).conda_resolver.at_once == 2
    assert Machine(tmp_path / "own").conda_resolver.at_once is None
