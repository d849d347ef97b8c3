"""
Running a command as if it had been run directly: its terminal, stdin, signals and exit status are the caller's.

The command stays in our process group, so the terminal's signals reach it by themselves; a signal that somebody sends
to us alone is passed on. When it stops, we stop; when it dies by a signal, so do we (`leave`).
"""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Never

from msgspec import Struct

from mlenv.errors import InvalidInput, NotFound

_POSIX: Final = sys.platform != "win32"
#: `si_code` of a signal that the kernel sends, such as for Ctrl-C (Linux, `asm-generic/siginfo.h`).
_SI_KERNEL: Final = 0x80
#: Seconds after which we look for ourselves whether the command has ended.
_LOOK_AGAIN: Final = 1.0


class CommandNotFound(NotFound):
    """There is no such command in the environment or on the caller's `PATH`."""

    #: What a shell exits with.
    exit_code: Final = 127
    hint = "name a command of the environment, such as `python`, or give a path"

    def __init__(self, command: str) -> None:
        super().__init__(f"command not found: {command!r}")
        self.command = command


class CommandNotRunnable(InvalidInput):
    """The command is there and can't be run."""

    #: What a shell exits with.
    exit_code: Final = 126

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"command {command!r} can't be run: {reason}")
        self.command, self.reason = command, reason


class Ended(Struct, frozen=True):
    """
    How a command ended.

    Attributes:
        status: What it exited with; None if a signal ended it.
        signal: The signal's number; None if it exited.
    """

    status: int | None
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """One number for records, as a shell's `$?` has it: 128 and the signal's number for a death by signal."""
        return 128 + self.signal if self.signal is not None else self.status or 0


def run_command(command: Sequence[str], *, environment: Mapping[str, str], directory: Path | None = None) -> Ended:
    """
    Run a command to its end. Call it from the main thread, while no other thread runs.

    Args:
        command: The command and its arguments; a bare name is looked up on the `PATH` in `environment`.
        environment: All of its environment variables.
        directory: Where it runs, or None for here.

    Raises:
        CommandNotFound: There is no such file.
        CommandNotRunnable: It is no programme, or may not be run.
    """
    path = find_command(command[0], environment, directory)
    if not _POSIX:
        return _run_on_windows(path, command, environment, directory)
    with _catching() as caught:
        return _wait(_spawn(path, command, environment, directory), caught)


def replace_by(command: Sequence[str], *, environment: Mapping[str, str], directory: Path | None = None) -> Never:
    """
    Become the command: same process, nobody waits for it. For kernels and shells, whose process id their caller knows.

    Raises: As `run_command`. On Windows, where a process can't become another, it is run and then left.
    """
    path = find_command(command[0], environment, directory)
    if not _POSIX:
        leave(_run_on_windows(path, command, environment, directory))
    if directory is not None:
        os.chdir(directory)
    # Python ignores these two at its start; programmes expect to be ended by them.
    for number in _restored():
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, list(command), dict(environment))
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            os.execve("/bin/sh", ["/bin/sh", path, *command[1:]], dict(environment))
        raise CommandNotRunnable(command[0], error.strerror or "unknown") from error


def leave(ended: Ended) -> Never:
    """End this process as the command ended, so that the caller sees no difference: by the same signal, if it was one."""
    sys.stdout.flush()
    sys.stderr.flush()
    if ended.signal is not None and _POSIX:
        import resource

        # The command has left its core already, if one was wanted.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if ended.signal not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(ended.signal, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {ended.signal})
        os.kill(os.getpid(), ended.signal)
    os._exit(ended.exit_code)


def find_command(name: str, environment: Mapping[str, str], directory: Path | None = None) -> str:
    """
    The path of a command, as a shell would find it.

    Raises:
        CommandNotFound: There is no such file.
        CommandNotRunnable: It is a directory, or may not be run.
    """
    if os.sep not in name and not (os.altsep and os.altsep in name):
        found = shutil.which(name, path=environment.get("PATH", os.defpath))
        if found is None:
            raise CommandNotFound(name)
        return os.path.abspath(found)
    path = os.path.join(directory or "", name)
    if not os.path.exists(path):
        raise CommandNotFound(name)
    if os.path.isdir(path):
        raise CommandNotRunnable(name, "it is a directory")
    if not os.access(path, os.X_OK):
        raise CommandNotRunnable(name, "it is not executable; for a Python file, write `python` before it")
    return os.path.abspath(path)


def _run_on_windows(path: str, command: Sequence[str], environment: Mapping[str, str], directory: Path | None) -> Ended:
    """The console sends Ctrl-C to both; ours is ignored until the command has ended."""
    import subprocess

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return Ended(subprocess.call([path, *command[1:]], env=dict(environment), cwd=directory))
    except OSError as error:
        raise CommandNotRunnable(command[0], error.strerror or "unknown") from error
    finally:
        signal.signal(signal.SIGINT, before)


if sys.platform != "win32":
    #: What is passed on when it is sent to us alone.
    _FORWARDED: Final = frozenset(
        {
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGTERM,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGWINCH,
            signal.SIGTSTP,
            signal.SIGCONT,
        }
    )

    def _restored() -> tuple[signal.Signals, ...]:
        """Signals that Python ignores at its start, unlike the programme that started it."""
        return (signal.SIGPIPE, signal.SIGXFSZ)

    @contextmanager
    def _catching() -> Iterator[frozenset[signal.Signals]]:
        """Hold back the signals that `_wait` looks for. What is ignored here (as by `nohup`) stays so, for both."""
        ignored = {each for each in _FORWARDED if signal.getsignal(each) is signal.SIG_IGN}
        caught = (_FORWARDED - ignored) | {signal.SIGCHLD}
        # NOTE: without a handler, a signal whose default is to be ignored may be dropped even while it is blocked.
        handlers = {each: signal.signal(each, lambda *_: None) for each in caught}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
        try:
            yield frozenset(caught)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for each, handler in handlers.items():
                # NOTE: if there was none for SIGCHLD, ours stays, which does nothing. The kernel may have given the
                # signal to another thread that has not come to run it yet, and Python complains of a signal whose
                # handler is gone by then.
                if each != signal.SIGCHLD or callable(handler):
                    signal.signal(each, handler if handler is not None else signal.SIG_DFL)

    def _spawn(path: str, command: Sequence[str], environment: Mapping[str, str], directory: Path | None) -> int:
        """Start the command with no signal blocked. `posix_spawn` runs no Python between fork and exec."""
        here = os.open(".", os.O_RDONLY) if directory is not None else -1
        try:
            if directory is not None:
                os.chdir(directory)
            return _posix_spawn(path, command, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                return _posix_spawn("/bin/sh", ["/bin/sh", path, *command[1:]], environment)
            if error.errno == errno.ENOENT:
                raise CommandNotRunnable(
                    command[0], f"the interpreter in its first line is missing ({path})"
                ) from error
            raise CommandNotRunnable(command[0], error.strerror or "unknown") from error
        finally:
            if here >= 0:
                os.chdir(here)
                os.close(here)

    def _posix_spawn(path: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
        return os.posix_spawn(path, list(command), dict(environment), setsigmask=(), setsigdef=_restored())

    def _wait(child: int, caught: frozenset[signal.Signals]) -> Ended:
        while True:
            number, direct = _next_signal(caught, child)
            if number != signal.SIGCHLD:
                if direct:
                    os.kill(child, number)
                continue
            found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if not found:
                continue
            if os.WIFSTOPPED(status):
                # The shell that waits for us must see that the job has stopped. It wakes both of us together.
                os.kill(os.getpid(), signal.SIGSTOP)
            elif os.WIFSIGNALED(status):
                return Ended(None, os.WTERMSIG(status))
            else:
                return Ended(os.WEXITSTATUS(status))

    def _next_signal(caught: frozenset[signal.Signals], child: int) -> tuple[int, bool]:
        """The next signal, and whether it was sent to us rather than by the terminal to the whole group."""
        if sys.platform == "linux":
            info = signal.sigtimedwait(caught, _LOOK_AGAIN)
            if info is None:
                # A thread that does not hold SIGCHLD back may have got it in our place: look whether the child has ended.
                return signal.SIGCHLD, False
            return info.si_signo, info.si_code != _SI_KERNEL and info.si_pid != child
        number = signal.sigwait(caught)
        return number, not _in_foreground()

    def _in_foreground() -> bool:
        """Whether a terminal's signals reach our group. Where the sender isn't told, a terminal is taken for it."""
        try:
            terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        except OSError:
            return False
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        except OSError:
            return False
        finally:
            os.close(terminal)
