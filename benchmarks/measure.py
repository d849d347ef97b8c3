"""One command, run to its end: how long it took, what it wrote, and how much memory it held."""

import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measurement:
    """
    What one command cost.

    Attributes:
        seconds: From its start to its end.
        written: Bytes that it and its children handed to block devices.
        largest: Peak resident bytes of its largest process.
        together: Peak proportional bytes of all its processes, as sampled; 0 where sampling was not asked for.
        output: Its stdout.
    """

    seconds: float
    written: int
    largest: int
    together: int
    output: str


class CommandFailed(RuntimeError):
    """A measured command that did not succeed."""


def measure(command: Sequence[str], environment: Mapping[str, str], *, sample: bool = False) -> Measurement:
    """
    Run a command and its children to the end.

    What was written before is flushed first, so that the command does not pay for it. Sampling reads the memory of
    all its processes ten times a second.

    Raises:
        CommandFailed: It ended with another status than 0; the message holds the end of what it said.
    """
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    sampler = Sampler(process.pid) if sample else None
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    together = sampler.stop() if sampler else 0
    if process.returncode != 0:
        raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}:\n{output[-4000:]}")
    return Measurement(seconds, usage.ru_oublock * 512, usage.ru_maxrss * 1024, together, output)


def median(values: Iterable[float]) -> float:
    """The median, for figures of several runs."""
    return statistics.median(values)


class Sampler:
    """Watches the memory of a process and its descendants, ten times a second, and when it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak, in proportional bytes of all of them together."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(0.1)
            self._peak = max(self._peak, sum(_proportional(pid) for pid in descendants(self._pid)))


def descendants(pid: int) -> list[int]:
    """A process, and all that it and those after it have started and that still run."""
    found = [pid]
    for each in found:
        try:
            for task in Path(f"/proc/{each}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """
    The processor time that the threads of processes have taken since they began. What has ended counts for nothing.

    NOTE: not of `/proc/PID/stat`, whose ticks of 10 ms miss much of what runs for less at a time.
    """
    total = 0
    for each in pids:
        try:
            for thread in Path(f"/proc/{each}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


def _proportional(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
