"""The runs of uv that one resolution takes, each in a directory of its own under the working directory."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.disk_faults import told_disk_fault
from mlenv.core.spec import Requirement
from mlenv.resolve.explanation import Explanation
from mlenv.resolve.requirement_lines import Line, parse_line
from mlenv.resolve.uv_input import Attempt, compile_arguments, write
from mlenv.resolve.uv_output import Found, read_edges, read_pylock
from mlenv.resolve.uv_process import RETRIES, Finished, Uv


class Outcome(Struct, frozen=True):
    """How an attempt ended: with packages, or with the explanation of why not."""

    found: tuple[Found, ...] | None
    explanation: Explanation


class Session:
    """
    Runs attempts.

    Args:
        uv: What runs.
        workdir: Where files go; its owner removes it.
        public: The address of the public index, for its cache control; None leaves it to uv.
        timeout: Seconds that one run may take.
        find_python: Finds an interpreter of a minor version on this machine; None asks uv.
    """

    def __init__(
        self,
        uv: Uv,
        workdir: Path,
        *,
        public: str | None,
        timeout: float,
        find_python: Callable[[str], str | None] | None = None,
    ) -> None:
        self.uv = uv
        self.public = public
        self._workdir = workdir
        self._timeout = timeout
        self._count = 0
        self._find_python = find_python or self._ask_uv
        self._python: dict[str, str | None] = {}

    def run(self, attempt: Attempt, *, timeout: float | None = None) -> Outcome:
        """Try. Raises `UvTimeout` after `timeout` seconds, `UnreadableAnswer`, `DiskFull`, `DiskFailed`."""
        directory = self._write(attempt)
        arguments = [*compile_arguments(attempt, self._interpreter(attempt)), "--format", "pylock.toml"]
        done = self._ask(arguments, directory, timeout or self._timeout)
        if not done.ok and (fault := told_disk_fault(done.err)) is not None:
            raise fault
        explanation = Explanation(done.err)
        return Outcome(read_pylock(done.out, attempt.request.target, attempt.hashes) if done.ok else None, explanation)

    def _ask(self, arguments: Sequence[str], directory: Path, timeout: float) -> Finished:
        """
        Run uv with little patience, and where something answered, but badly, with all of it.

        uv repeats requests for ten seconds, which helps with a server that falters, and not with an address at which
        there is none. What has come in is cached.
        """
        done = self.uv.run(arguments, timeout=timeout, workdir=directory, retries=1)
        explanation = Explanation(done.err)
        if done.ok or not explanation.unreachable or explanation.not_there or RETRIES in os.environ:
            return done
        return self.uv.run(arguments, timeout=timeout, workdir=directory)

    def edges(self, attempt: Attempt, found: tuple[Found, ...]) -> Mapping[str, tuple[str, ...]]:
        """
        What each package needs.

        uv's pylock.toml does not say it, so uv is asked again, in its other format, with every version pinned. All
        that it needs was just cached: this takes some milliseconds.
        """
        pins = tuple(
            _pin(each) for each in found if not any(line.name == each.name and _is_url(line) for line in attempt.lines)
        )
        request = replace(attempt.request, prereleases=True)
        again = replace(attempt, request=request, constraints=(*attempt.constraints, *pins))
        directory = self._write(again)
        arguments = [*compile_arguments(again, self._interpreter(again)), "--annotation-style", "line"]
        done = self.uv.run([*arguments, "--offline"], timeout=self._timeout, workdir=directory)
        if not done.ok:
            done = self.uv.run(arguments, timeout=self._timeout, workdir=directory)
        return read_edges(done.out)

    def python(self, version: str) -> str | None:
        """An interpreter of this minor version on this machine, or None."""
        minor = ".".join(version.split(".")[:2])
        if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
            return sys.executable
        if minor not in self._python:
            self._python[minor] = self._find_python(minor)
        return self._python[minor]

    def _ask_uv(self, minor: str) -> str | None:
        found = self.uv.run(["python", "find", "--no-project", "--no-config", minor], timeout=60.0)
        return found.out.strip() or None if found.ok else None

    def configuration(self, attempt: Attempt) -> Path:
        """A directory with the attempt's `uv.toml` and `build-constraints.txt`, for a build."""
        return self._write(attempt)

    def _interpreter(self, attempt: Attempt) -> str:
        # NOTE: named always, since otherwise uv asks every Python on PATH what it is, which can take seconds.
        return (self.python(attempt.request.target.python) if attempt.source else None) or sys.executable

    def _write(self, attempt: Attempt) -> Path:
        self._count += 1
        directory = self._workdir / f"attempt-{self._count}"
        write(attempt, directory, public=self.public)
        return directory


def _pin(found: Found) -> Line:
    return parse_line(Requirement(f"{found.name}=={found.version}"))


def _is_url(line: Line) -> bool:
    return line.pep508.url is not None
