"""
Runs one command and leaves nothing behind: a program of its own, between a worker and what it starts.

    python -I -S supervisor.py CONTROL GRACE COMMAND …

The command gets a session, and so a process group, of its own. The supervisor adopts whatever the command's
descendants leave orphaned (`prctl(2)`, PR_SET_CHILD_SUBREAPER), so that it finds all of them: also containers and
daemons, which leave their group. All are ended, by SIGTERM and after GRACE seconds by SIGKILL, when

- the command itself has ended, or
- the file descriptor CONTROL says anything or is closed, as it is when the worker dies, by whatever.

It exits as the command did; with 128 and the signal's number where that died by a signal.

NOTE: only the standard library, and little of it: this starts with every build. For the worker's death a closed
descriptor is awaited, and not PR_SET_PDEATHSIG, which fires when the *thread* ends that started the process.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Seconds between two looks at what is left.
_LOOK = 0.02


def main(arguments: list[str]) -> int:
    """Run the command to its end. Returns the exit code."""
    control, grace, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # What a terminal or a service manager sends to all: the worker hears it, too, and says what is to be done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    os.set_inheritable(control, False)
    child = _start(command)
    status: int | None = None
    while status is None:
        readable, _, _ = select.select([woken, control], [], [])
        if control in readable:
            _end_all(child, grace)
        if woken in readable:
            os.read(woken, 4096)
        status = _reap(child)
    _end_all(None, grace)
    return status if status >= 0 else 128 - status


def _control_process(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _start(command: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        # Should the supervisor itself be killed: it has one thread, which ends with it.
        _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]} can't be run: {error.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _reap(child: int) -> int | None:
    """Collect every process that ended. The status of `child` if it was among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                found = os.waitstatus_to_exitcode(ended[1])
                _reaped[child] = found
    return found if found is not None else _reaped.get(child)


_reaped: dict[int, int] = {}


def _end_all(child: int | None, grace: float) -> None:
    """End every process below this one: SIGTERM, and after the grace SIGKILL, again until none is left."""
    deadline = time.monotonic() + grace
    told: set[int] = set()
    while left := _descendants(child):
        late = time.monotonic() >= deadline
        for pid in left:
            if late or pid not in told:
                told.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(_LOOK)
        _reap(child or 0)


def _descendants(child: int | None) -> list[int]:
    """Every living process below this one. Where there is no /proc, the child alone."""
    if not os.path.exists("/proc/self/stat"):
        return [child] if child is not None and _reap(child) is None else []
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                # The name of the command, in brackets, may hold anything (`proc_pid_stat(5)`).
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    children.setdefault(int(fields[1]), []).append(int(name))
    found, front = [], [os.getpid()]
    while front:
        below = children.get(front.pop(), [])
        found += below
        front += below
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
