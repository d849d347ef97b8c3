"""
A process that has imported what `mlenv` imports, and that forks one process after the other. `commands` starts it.

Each request is one packet: JSON, with the new process's standard streams, and a pipe for what there is to say of it:
its id when it is set up, and how it ended, as `os.wait` has it.
"""

import atexit
import gc
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from typing import Any, Final, TextIO

#: The longest request, in bytes.
LIMIT: Final = 1 << 20
#: Of others: what mlenv imports only when it needs it.
_OTHERS: Final = (
    "alembic.command",
    "alembic.config",
    "alembic.runtime.migration",
    "authlib.oauth2.rfc7636",
    "cryptography.x509",
    "httpx",
    "isal.igzip",
    "jmespath",
    "joserfc.jwt",
    "packaging.requirements",
    "platformdirs.unix",
    "psycopg.types",
    "psycopg_binary",
    "rich.console",
    "rich.table",
    "ruamel.yaml",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.httptools_impl",
    "zstandard",
)
#: Programs of their own.
_PROGRAMS: Final = ("__main__", "child", "conda_child", "context_jail", "supervisor", "env", "_script")


def main() -> None:
    """Answer requests until nobody can make one; in a new process, be `python -m mlenv`."""
    _import_all()
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads can't be forked"
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        program = importlib.util.find_spec("mlenv.__main__")
        assert program is not None
        sys.argv = [str(program.origin), *request["arguments"]]
        sys.orig_argv = [sys.executable, "-m", "mlenv", *request["arguments"]]
        sys.path[0] = os.getcwd()
        _exit(_run())


def _run() -> int:
    """Run the program; gives its exit status."""
    try:
        runpy.run_module("mlenv", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
            return 1
        return error.code or 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    return 0


def _exit(code: int) -> None:
    """End as an interpreter does, but for taking itself apart, which would copy all memory that is shared."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    os._exit(code)


def _import_all() -> None:
    package = importlib.import_module("mlenv")
    for each in pkgutil.walk_packages(package.__path__, "mlenv."):
        if not each.name.endswith(_PROGRAMS) and ".migrations" not in each.name:
            importlib.import_module(each.name)
    for name in _OTHERS:
        importlib.import_module(name)
    importlib.import_module("mlenv.server.app").preload()


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork until the other end is closed; gives a request in the process that is to do it."""
    awake, wake = os.pipe()
    for end in (awake, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipes: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), awake], [], [])
        if awake in ready:
            os.read(awake, 1 << 12)
        _tell_ends(pipes)
        if control.fileno() not in ready:
            continue
        packet, descriptors, _, _ = socket.recv_fds(control, LIMIT, 4)
        if not packet:
            return None
        *streams, pipe = descriptors
        pid = os.fork()
        if pid == 0:
            request: dict[str, Any] = json.loads(packet)
            _become(request, streams, pipe)
            return request
        pipes[pid] = pipe
        for each in streams:
            os.close(each)


def _tell_ends(pipes: dict[int, int]) -> None:
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = pipes.pop(pid)
        try:
            os.write(pipe, f"{status}\n".encode())
        except BrokenPipeError:
            pass
        os.close(pipe)


def _become(request: dict[str, Any], streams: list[int], pipe: int) -> None:
    """Take the streams, directory, variables and signals that a new process would have."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    pipe = os.dup2(pipe, 3, inheritable=False)
    os.closerange(4, 1 << 12)
    if request["session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # It read its variable when it was imported.
    importlib.reload(importlib.import_module("mlenv.faults"))
    # NOTE: the streams that are there would seek, or not, as what they were opened on.
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), encoding=sys.stdin.encoding, errors=sys.stdin.errors
    )
    sys.stdout, sys.stderr = _output(1, sys.stdout), _output(2, sys.stderr)
    os.write(pipe, f"{os.getpid()}\n".encode())
    os.close(pipe)


def _output(number: int, like: TextIO) -> TextIO:
    """A standard stream, as unbuffered as another."""
    assert isinstance(like, io.TextIOWrapper)
    file = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(
        file if like.write_through else io.BufferedWriter(file),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


if __name__ == "__main__":
    main()
