"""
Processes that a worker starts: their output as it comes, and their end, with all that they started.

Between the worker and the command stands `supervisor.py`, which ends the whole tree on our word, or when we die.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlenv.run.process import Ended

_log = logging.getLogger("mlenv.work")

#: Seconds between SIGTERM and SIGKILL, if the caller doesn't say.
GRACE: Final = 5.0
#: The most that is read from a pipe at once, in bytes: what a pipe holds on Linux.
_CHUNK: Final = 1 << 16


class Process:
    """
    A running command. Its output is passed on from a thread of its own, whole and in order.

    Attributes:
        pid: Of the supervisor, which lives exactly as long as anything of the tree.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path | None = None,
        stdin: bytes = b"",
        output: Callable[[bytes], None],
        reports: Callable[[bytes], None] | None = None,
        grace: float = GRACE,
    ) -> None:
        """
        Start it.

        Args:
            command: A bare name is looked up on the worker's own `PATH`.
            environment: All of its environment variables.
            directory: Where it runs; None for here.
            stdin: What it reads. At most what a pipe holds, 64 KiB.
            output: Called with what it writes to stdout and stderr, chunk by chunk.
            reports: Called with what it writes to the file descriptor that the variable `MLENV_REPORTS` names.
            grace: Seconds that the tree has between SIGTERM and SIGKILL.
        """
        self._readers: list[threading.Thread] = []
        self._closing = threading.Lock()
        control, self._control = os.pipe()
        given, variables = [control], dict(environment)
        ends = [control]
        if reports is not None:
            reading, writing = os.pipe()
            given.append(writing)
            ends.append(writing)
            variables["MLENV_REPORTS"] = str(writing)
        supervisor = str(Path(__file__).with_name("supervisor.py"))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor, str(control), str(grace), *command],
                env=variables,
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=given,
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._control)
            if reports is not None:
                os.close(reading)
            raise
        finally:
            for each in ends:
                os.close(each)
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(stdin)
        # NOTE: a pipe's descriptor is the reader's alone from here on.
        self._read(os.dup(self._process.stdout.fileno()), output)
        self._process.stdout.close()
        if reports is not None:
            self._read(reading, reports)

    def _read(self, descriptor: int, take: Callable[[bytes], None]) -> None:
        def read() -> None:
            with open(descriptor, "rb", buffering=0) as file:
                while chunk := file.read(_CHUNK):
                    try:
                        take(chunk)
                    except Exception as error:  # noqa: BLE001
                        # What is not read would stop the command for good: a full disk costs its log, and not more.
                        _log.warning("output of process %d is lost: %s", self.pid, error)

        thread = threading.Thread(target=read, name=f"output-{self.pid}", daemon=True)
        thread.start()
        self._readers.append(thread)

    def wait(self, timeout: float | None = None) -> Ended | None:
        """How it ended, once all its output was passed on; None if it still runs after `timeout` seconds."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        for each in self._readers:
            each.join()
        self._close_control()
        # The supervisor itself may be killed, by a signal.
        number = -code if code < 0 else code - 128 if code > 128 else None
        return Ended(None, number) if number is not None else Ended(code)

    def stop(self) -> None:
        """End the whole tree: SIGTERM now, SIGKILL after the grace. Returns at once; `wait` says when it is done."""
        self._close_control()

    def _close_control(self) -> None:
        with self._closing:
            control, self._control = self._control, -1
            if control >= 0:
                os.close(control)
