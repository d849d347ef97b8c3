"""
`mlenv` in processes of its own, as `python -m mlenv`.

A new interpreter takes up to a second to import what a command needs, and the tests start more than a thousand. So each
process is forked by one that has imported all of it; it has its own streams, variables, directory, id, signals and end.
Where a new interpreter would differ by its variables, a new one is started.
"""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_FORKER = Path(__file__).with_name("forker.py")
#: Variables that are read before a program begins, or while it is imported.
_EARLY = ("LANG", "LC_", "LD_", "PYTHON", "TZ")
#: What a process that is forked can be given.
_KNOWN = frozenset({"cwd", "env", "stdin", "stdout", "stderr", "text", "errors", "start_new_session"})


def start(*arguments: str, env: Mapping[str, str] | None = None, **more: Any) -> "subprocess.Popen[Any]":
    """Start `mlenv` with arguments; the others are those of `subprocess.Popen`."""
    environment = dict(os.environ if env is None else env)
    kind = _Forked if more.keys() <= _KNOWN and _early(environment) == _forker()[1] else subprocess.Popen
    return kind([sys.executable, "-m", "mlenv", *arguments], env=environment, **more)


def run(*arguments: str, check: bool = False, timeout: float | None = None, **more: Any) -> Any:
    """Run `mlenv` to its end; gives what `subprocess.run` gives, with its output as text."""
    with start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class _Forked(subprocess.Popen[Any]):
    """A process that is another's child: it is told how it ended."""

    _status = -1

    def _execute_child(self, args: list[str], *rest: Any) -> None:
        # As the standard library calls it, since Python 3.11.
        cwd, environment, streams, new_session = rest[4], rest[5], rest[9:15], rest[20]
        # The new process's ends of pipes; -1 where it has what this one has.
        ends = (streams[0], streams[3], streams[5])
        given = [number if end == -1 else end for number, end in enumerate(ends)]
        request = {
            "arguments": args[3:],
            "environment": environment,
            "directory": os.getcwd() if cwd is None else str(cwd),
            "umask": _umask(),
            "session": new_session,
        }
        self._status, pipe = os.pipe()
        try:
            socket.send_fds(_forker()[0], [json.dumps(request).encode()], [*given, pipe])
        finally:
            os.close(pipe)
            self._close_pipe_fds(*streams)  # type: ignore[attr-defined]
        self.pid = int(self._line())
        self._child_created = True

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._status, 1) or _lost()
        return line.decode()

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        status = int(self._line())
        os.close(self._status)
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None and (found := self._try_wait(os.WNOHANG))[0]:
                self._handle_exitstatus(found[1])  # type: ignore[attr-defined]
        return self.returncode


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)


def _lost() -> bytes:
    raise AssertionError("the process that forks others has ended")


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_EARLY)}


@cache
def _forker() -> tuple[socket.socket, dict[str, str]]:
    """A connection to the process that forks, and the variables with which it began."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLENV_")}
    process = subprocess.Popen(
        [sys.executable, str(_FORKER), str(there.fileno())],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[there.fileno()],
    )
    there.close()

    def end() -> None:
        here.close()
        process.wait()

    atexit.register(end)
    return here, _early(environment)
