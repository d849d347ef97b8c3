"""
The first process of a container whose engine has no init: runs its arguments, hands on signals, buries orphans.

It needs nothing but the standard library of Python 3.6 or later; it is passed to `python -c`.
"""

import os
import signal
import sys

_NAMES = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT")


def main(command: "list[str]") -> int:
    """Run the command; returns its exit code, or 128 and the number of the signal that ended it."""
    wanted = {getattr(signal, name) for name in _NAMES}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted | {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            sys.stderr.write(f"{command[0]}: {error.strerror}\n")
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    while True:
        information = signal.sigwaitinfo(wanted | {signal.SIGCHLD})
        if information.si_signo != signal.SIGCHLD:
            # The terminal's own signals reach the command by themselves.
            if information.si_code != 0x80:
                os.kill(child, information.si_signo)
            continue
        found = -1
        while found:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 0
            if found == child:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
