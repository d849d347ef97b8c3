"""A command under `run_command` behaves as if it had been run directly: status, signals, stdin, terminal, job control."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mlenv.run.process import CommandNotFound, CommandNotRunnable, Ended, find_command, run_command

#: Runs its arguments as `mlenv run` would, and ends as they ended.
_RUNNER = """
import os, sys
from mlenv.run.process import leave, run_command
leave(run_command(sys.argv[1:], environment=os.environ))
"""
_SECONDS = 20


def _runner(*command: str) -> list[str]:
    return [sys.executable, "-c", _RUNNER, *command]


@contextmanager
def _started(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python code below the runner, from when the code has printed `ready`."""
    command = _runner(sys.executable, "-uc", code)
    # NOTE: a group of its own, since nothing can stop the processes of a group that no shell looks after, such as ours
    # may be where no terminal is (POSIX, "orphaned process group").
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            # What failed must not be waited for. The command goes first, since it is not ours to be told of.
            for pid in (_child_of(process.pid), process.pid) if process.poll() is None else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_exit_status_is_the_commands(status: int) -> None:
    assert subprocess.run(_runner("sh", "-c", f"exit {status}"), check=False).returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGABRT])
def test_death_by_signal_is_ours_too(number: signal.Signals) -> None:
    done = subprocess.run(_runner("sh", "-c", f"kill -{int(number)} $$"), check=False)
    assert done.returncode == -number


def test_a_record_has_the_number_a_shell_shows() -> None:
    assert Ended(None, signal.SIGTERM).exit_code == 143
    assert Ended(7).exit_code == 7


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_a_signal_sent_to_us_reaches_the_command_once(number: signal.Signals) -> None:
    code = (
        "import signal\n"
        f"signal.signal({int(number)}, lambda *_: print('got', flush=True))\n"
        "signal.signal(signal.SIGALRM, lambda *_: exit(5))\n"
        "print('ready')\n"
        "while True: signal.pause()\n"
    )
    with _started(code) as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "got\n"
        os.kill(_child_of(process.pid), signal.SIGALRM)
        rest, _ = process.communicate(timeout=_SECONDS)
        assert (rest, process.returncode) == ("", 5)


def test_a_command_that_does_not_handle_the_signal_dies_of_it() -> None:
    with _started("import signal\nprint('ready')\nsignal.pause()") as process:
        process.terminate()
        assert process.wait(_SECONDS) == -signal.SIGTERM


def test_what_nohup_ignores_stays_ignored() -> None:
    code = "import signal; print('ready'); print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _started(code) as process:
            assert process.stdout is not None
            assert process.stdout.read() == "True\n"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_command_starts_with_no_signal_blocked_and_none_ignored() -> None:
    # Two signals above 31 are the C library's own.
    # Python itself ignores SIGPIPE and SIGXFSZ, so a shell is asked, which changes nothing.
    shell = "grep -E 'SigBlk|SigIgn' /proc/self/status"
    done = subprocess.run(_runner("sh", "-c", shell), capture_output=True, text=True, check=True)
    blocked, ignored = (int(line.split()[1], 16) & 0x7FFFFFFF for line in done.stdout.splitlines())
    assert (blocked, ignored) == (0, 0)


def test_much_stdin_and_stdout_pass_untouched() -> None:
    data = os.urandom(8_000_000)
    assert subprocess.run(_runner("cat"), input=data, capture_output=True, check=True, timeout=60).stdout == data


def test_a_closed_pipe_ends_the_command() -> None:
    with subprocess.Popen(_runner("yes"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(100)
        process.stdout.close()
        assert process.wait(_SECONDS) == -signal.SIGPIPE


def test_stop_and_continue_are_seen_by_the_shell() -> None:
    with _started("import signal\nprint('ready')\nsignal.pause()") as process:
        process.send_signal(signal.SIGTSTP)
        stopped, status = os.waitpid(process.pid, os.WUNTRACED)
        assert stopped == process.pid
        assert os.WIFSTOPPED(status)
        assert _state(_child_of(process.pid)) == "T"
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(_SECONDS) == -signal.SIGTERM


def test_the_terminal_is_the_callers() -> None:
    code = "import os, sys; print([os.isatty(n) for n in range(3)], os.get_terminal_size(), os.tcgetpgrp(0) == os.getpgrp())"
    with _terminal(_runner(sys.executable, "-c", code)) as terminal:
        assert b"[True, True, True] os.terminal_size(columns=80, lines=24) True" in _read_until(terminal, b"True\r\n")


def test_control_c_interrupts_once_and_what_follows_is_the_commands_choice() -> None:
    code = (
        "import signal\ncount = 0\n"
        "def more(*_):\n    global count\n    count += 1\n"
        "signal.signal(signal.SIGINT, more)\nsignal.signal(signal.SIGQUIT, lambda *_: exit(40 + count))\n"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    with _terminal(_runner(sys.executable, "-c", code)) as terminal:
        _read_until(terminal, b"ready")
        os.write(terminal.fd, b"\x03")
        _read_until(terminal, b"^C")
        os.write(terminal.fd, b"\x1c")
        assert terminal.wait() == 41


def test_control_c_on_a_command_that_minds_nothing_kills_both_by_it() -> None:
    with _terminal(_runner("sh", "-c", "echo ready; exec sleep 60")) as terminal:
        _read_until(terminal, b"ready")
        os.write(terminal.fd, b"\x03")
        assert terminal.wait() == -signal.SIGINT


def test_a_job_can_be_stopped_and_continued_from_an_interactive_shell() -> None:
    with _terminal(["bash", "--norc", "--noediting", "-i"], {"PYTHON": sys.executable, "CODE": _RUNNER}) as terminal:
        os.write(terminal.fd, b'$PYTHON -c "$CODE" sh -c "echo rea\'dy\'; exec cat"\n')
        _read_until(terminal, b"ready")
        os.write(terminal.fd, b"\x1a")
        _read_until(terminal, b"Stopped")
        os.write(terminal.fd, b"fg\n")
        _read_until(terminal, b"exec cat")
        os.write(terminal.fd, b"again\n")
        _read_until(terminal, b"again\r\nagain\r\n")
        os.write(terminal.fd, b"\x04")
        os.write(terminal.fd, b"echo status=$?; exit\n")
        assert b"status=0" in _read_until(terminal, b"status=0")


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound) as caught:
        run_command(["no-such-command"], environment={"PATH": str(tmp_path)})
    assert caught.value.exit_code == 127
    with pytest.raises(CommandNotFound):
        run_command(["./nothing"], environment={}, directory=tmp_path)


def test_a_file_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "train.py"
    plain.write_text("print(1)\n")
    with pytest.raises(CommandNotRunnable, match="not executable") as caught:
        run_command([str(plain)], environment={})
    assert caught.value.exit_code == 126
    with pytest.raises(CommandNotRunnable, match="directory"):
        run_command([str(tmp_path)], environment={})
    orphan = tmp_path / "orphan"
    orphan.write_text(f"#!{tmp_path}/no-interpreter\n")
    orphan.chmod(0o755)
    with pytest.raises(CommandNotRunnable, match="first line"):
        run_command([str(orphan)], environment={})


def test_a_script_without_a_first_line_is_the_shells(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("exit 9\n")
    script.chmod(0o755)
    assert run_command([str(script)], environment=dict(os.environ)) == Ended(9)


def test_signals_are_ours_again_when_the_command_has_ended(tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTSTP)
    before = [signal.getsignal(each) for each in numbers]
    orphan = tmp_path / "orphan"
    orphan.write_text(f"#!{tmp_path}/no-interpreter\n")
    orphan.chmod(0o755)
    with pytest.raises(CommandNotRunnable):
        run_command([str(orphan)], environment={})
    assert [signal.getsignal(each) for each in numbers] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    # Another thread may have been given the child's end, and not have come to it: see `_catching`.
    assert callable(signal.getsignal(signal.SIGCHLD))


def test_bare_names_are_found_on_the_given_path(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\npwd > where\n")
    tool.chmod(0o755)
    assert find_command("tool", {"PATH": str(tmp_path)}) == str(tool)
    here = Path.cwd()
    (tmp_path / "work").mkdir()
    assert run_command(
        ["tool"], environment={"PATH": f"{tmp_path}:/bin:/usr/bin"}, directory=tmp_path / "work"
    ) == Ended(0)
    assert (tmp_path / "work" / "where").read_text().strip() == str((tmp_path / "work").resolve())
    assert Path.cwd() == here


def test_a_process_can_become_the_command(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom mlenv.run.process import replace_by\nprint(os.getpid(), flush=True)\n"
        "replace_by(sys.argv[2:], environment=os.environ, directory=Path(sys.argv[1]))"
    )
    shell = "echo $$; pwd; grep SigIgn /proc/self/status; exit 3"
    command = [sys.executable, "-c", code, str(tmp_path), "sh", "-c", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    before, after, directory, ignored = done.stdout.splitlines()
    assert (before, directory, done.returncode) == (after, str(tmp_path.resolve()), 3)
    assert int(ignored.split()[1], 16) & 0x7FFFFFFF == 0


class _Terminal:
    """A process on a pseudo-terminal of its own, as its session's leader."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd = pid, fd

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def _terminal(command: list[str], variables: dict[str, str] | None = None) -> Iterator[_Terminal]:
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, **(variables or {})})
    termios.tcsetwinsize(fd, (24, 80))
    try:
        yield _Terminal(pid, fd)
    finally:
        os.close(fd)


def _read_until(terminal: _Terminal, expected: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + _SECONDS
    while expected not in seen:
        assert select.select([terminal.fd], [], [], deadline - time.monotonic())[0], seen
        try:
            chunk = os.read(terminal.fd, 4096)
        except OSError:
            chunk = b""
        assert chunk, seen
        seen += chunk
    return seen


def _child_of(pid: int) -> int:
    """The command below a runner; the runner itself if the command has ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
