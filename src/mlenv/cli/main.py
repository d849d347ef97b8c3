"""Where the command line begins and ends: parse, run, and say what went wrong, in one place."""

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from typing import Final

from mlenv.cli.command import Context, ExitStatus, UsageError
from mlenv.cli.parser import parse
from mlenv.cli.printer import Printer
from mlenv.errors import MlenvError

#: How many more objects have to be there before garbage is looked for.
_GARBAGE: Final = 50_000


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command line.

    Args:
        arguments: Without the program's name; None for the process's own.

    Returns:
        The exit status: 0 done, 1 refused or failed, 2 bad command line, 130 interrupted. An error that has a status
        of its own, as that of a command that is not found, gives that.
    """
    # NOTE: imports make many objects, of which none becomes garbage. Looking for it after every 700 of them takes longer
    # than a tenth of a short command.
    gc.set_threshold(_GARBAGE)
    if arguments is not None:
        return _status(arguments, own=False)
    status = _status(sys.argv[1:], own=True)
    _leave(status)
    return status


def _status(arguments: Sequence[str], *, own: bool) -> int:
    """The exit status of a command line, after everything was said. Args: own: Whether it is the whole process's."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Until the command line is understood, its options can only be guessed.
    printer = Printer(verbose=not {"--verbose", "--debug"}.isdisjoint(arguments))
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Nobody reads any more. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.PIPE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - this is the edge; nothing above would say it better
        # NOTE: most commands end well, and need no threads: not imported at start.
        from mlenv.threads import interrupted

        if not interrupted(error):
            return report(error, printer)
        printer.error("interrupted")
        if own:
            # Threads may wait for a server that sends nothing. What they leave behind is swept up as after a kill.
            sys.stdout.flush()
            os._exit(ExitStatus.INTERRUPTED)
        return ExitStatus.INTERRUPTED


def _leave(status: int) -> None:
    """
    End the process, unless there is more for it to do than to be taken apart.

    NOTE: Python frees each module and object at its end, for as long as a fifth of a short command takes. The kernel takes
    all of it at once.
    """
    threading = sys.modules.get("threading")
    waited_for = threading is not None and any(
        not each.daemon for each in threading.enumerate() if each is not threading.main_thread()
    )
    # Profilers and debuggers write down what they saw after this.
    if waited_for or sys.getprofile() is not None or sys.gettrace() is not None:
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        # Python says so in its own way.
        return
    os._exit(status)


def _run(arguments: Sequence[str]) -> int:
    parsed = parse(arguments)
    general = parsed.general
    printer = Printer(general.output, query=general.query, verbose=general.verbose, quiet=general.quiet)
    if parsed.verb is None:
        printer.text(parsed.text or "")
        return ExitStatus.DONE
    context = Context(printer, general.where)
    try:
        return parsed.verb.run(parsed.settings, context)
    finally:
        context.close()


def report(error: BaseException, printer: Printer) -> int:
    """Say what went wrong: each fault on a line of its own, hints after it. Returns the exit status."""
    if isinstance(error, BaseExceptionGroup):
        return max(report(each, printer) for each in error.exceptions)
    if isinstance(error, MlenvError):
        lines: Sequence[str] = getattr(error, "difference", ())
        printer.error(str(error), hint=error.hint, detail=error.detail, lines=lines)
        if isinstance(error, UsageError):
            return ExitStatus.USAGE
        code: int = getattr(error, "exit_code", ExitStatus.FAILED)
        return code
    if isinstance(error, OSError) and error.strerror:
        from mlenv.core.disk_faults import FULL

        what = f"{error.filename}: " if error.filename is not None else ""
        full = "make room on the disk of MLENV_HOME, or where the output goes" if error.errno in FULL else None
        printer.error(f"{what}{error.strerror}", hint=full, detail=_traceback(error))
        return ExitStatus.FAILED
    hint = None if printer.verbose else "this is a fault in mlenv; `--verbose` shows where it happened"
    printer.error(f"unexpected {type(error).__name__}: {error}", hint=hint, detail=_traceback(error))
    return ExitStatus.FAILED


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip()
