"""Running py-rattler: the process that has it, what of the surroundings it sees, its limits, and how it is stopped."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from mlenv.errors import Unavailable

#: What rattler may not know of this machine: credentials, caches and virtual packages that someone set up.
_DROPPED: Final = re.compile(
    r"CONDA_.*|RATTLER_.*|PIXI_.*|MAMBA_.*|PYTHON(?!PATH|HOME).*|__PYVENV_LAUNCHER__|NETRC|RUST_LOG"
)
#: Bytes of address space that it may use; repodata of a large channel takes a tenth of it.
MEMORY: Final = 6 << 30
#: Bytes that one answer may have.
_ANSWER: Final = 1 << 27
#: Seconds until it has started.
_START: Final = 60.0
#: Bytes of what it wrote to stderr that are shown.
_TOLD: Final = 4000


class CondaMissing(Unavailable):
    """There is no py-rattler to run, or it does not start."""

    hint = "install it beside mlenv: `pip install py-rattler`"
    lasting = True

    def __init__(self, detail: str) -> None:
        super().__init__("the solver for conda packages, py-rattler, does not start")
        self.detail = detail


class CondaTimeout(Unavailable):
    """The solver did not end within its limit."""

    hint = "pin more of the packages, so that fewer versions have to be tried; or try again if a channel is slow"
    status = 504

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} did not end within {seconds:.0f} s")
        self.seconds = seconds


class CondaCrashed(Unavailable):
    """The solver's process ended before it answered."""

    hint = "a channel may have sent what it can't take; name the channels that are needed, and no others"
    lasting = True

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(f"the solver for conda packages {why}")
        self.detail = detail or None


class Refused(Exception):
    """
    The solver's own failure, as it was told.

    Attributes:
        kind: The name of rattler's exception: `SolverError`, `GatewayError`.
        text: What it says.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


class CondaProcess:
    """
    One process with py-rattler, for use in `with`: at the end of that it is killed, with all that it started.

    Args:
        timeout: Seconds for all that is asked of it.
        memory: Bytes of address space, or 0 for no limit.

    NOTE: it is a leader of a session and so of a process group, by which it is ended with all that it started. Whoever ends us
    by our own group does not reach it: but it ends by itself when its input does, which is ours alone to write to. A worker's
    supervisor (`work/supervisor.py`) goes by descent, not by group, and finds it.

    Attributes:
        version: Of py-rattler.
        alias: The address below which conda looks for channels that are named only.
        plain: What is done with the texts of failures, which may have secrets in them.
    """

    version = ""
    alias = ""
    plain: Callable[[str], str] = staticmethod(str)

    def __init__(self, *, timeout: float, memory: int = MEMORY) -> None:
        self._timeout, self._memory = timeout, memory
        self._until = 0.0
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the process
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Start it. Raises `CondaMissing`, `CondaTimeout`."""
        environment = {name: value for name, value in os.environ.items() if not _DROPPED.fullmatch(name)}
        # NOTE: `-P` keeps the working directory, which anybody may have written to, out of the path of modules.
        command = [sys.executable, "-P", "-m", "mlenv.conda_child", str(self._memory)]
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=sys.platform != "win32",
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self._until = time.monotonic() + _START
        try:
            ready = self._answer("starting the solver for conda packages", _START)
        except CondaCrashed as error:
            self.close()
            raise CondaMissing(error.detail or "") from error
        except BaseException:
            self.close()
            raise
        self.version, self.alias = ready["version"], ready["alias"]
        self._until = time.monotonic() + self._timeout
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and what it started. It keeps nothing that a sudden end could spoil."""
        if sys.platform == "win32":
            self._process.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._stderr.close()

    def ask(self, operation: str, **request: object) -> Mapping[str, Any]:
        """
        Have something done; see `mlenv.conda_child`.

        Raises:
            Refused: rattler failed.
            CondaTimeout: The time for all of it is over.
            CondaCrashed: The process ended.
        """
        line = json.dumps({"operation": operation, **request}).encode() + b"\n"
        assert self._process.stdin is not None
        # What has ended takes no input; the answer says why it has.
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()
        answer = self._answer("solving conda packages", self._timeout)
        if answer["event"] == "failed":
            raise Refused(answer["kind"], self.plain(answer["text"]))
        return answer

    def _answer(self, what: str, limit: float) -> Mapping[str, Any]:
        try:
            line = self._answers.get(timeout=max(0.0, self._until - time.monotonic()))
        except queue.Empty:
            raise CondaTimeout(what, limit) from None
        if not line.endswith(b"\n"):
            raise CondaCrashed(self._end(len(line)), self._told())
        found: Mapping[str, Any] = json.loads(line)
        return found

    def _listen(self) -> None:
        """Pass on its lines; the last is empty, or cut off."""
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            line = b"\n"
            while line.endswith(b"\n"):
                line = stdout.readline(_ANSWER)
                self._answers.put(line)

    def _end(self, size: int) -> str:
        """How it ended, as a sentence goes on."""
        if size >= _ANSWER:
            return f"gave an answer of more than {_ANSWER >> 20} MiB"
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "closed its output"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}{self._memory_note()}"
        return f"ended with {code}{self._memory_note()}"

    def _memory_note(self) -> str:
        told = self._told()
        full = "memory allocation of" in told or "MemoryError" in told or "Cannot allocate memory" in told
        return f": it may use {self._memory >> 20} MiB of memory, and wanted more" if full else ""

    def _told(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _TOLD))
        return self._stderr.read().decode(errors="replace").strip()
