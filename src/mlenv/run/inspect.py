"""What is installed in an interpreter: this one, another on this machine, or one inside a container."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from mlenv.core.check import CheckReport, InstalledConda, InstalledDistribution, compare_installed
from mlenv.core.lock import Lock
from mlenv.errors import Unavailable

#: Seconds that hashing every file of an environment may take.
_TIMEOUT: Final = 600


class InspectionFailed(Unavailable):
    """An interpreter that could not say what it has."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} could not be inspected: {reason}")
        self.what, self.reason = what, reason


class Inspection(Struct, frozen=True):
    """
    What an interpreter said of itself.

    Attributes:
        python: Its full version.
        prefix: Its `sys.prefix`.
        executable: Its path.
        lock: The text of `pylock.toml` at its prefix, or None: which environment it claims to be.
        distributions: In the order in which imports find them.
        conda: What conda has installed at its prefix, by the records there.
    """

    python: str
    prefix: str
    executable: str
    lock: str | None
    distributions: tuple[InstalledDistribution, ...]
    conda: tuple[InstalledConda, ...] = ()

    def check(self, lock: Lock) -> CheckReport:
        """Compare with a lock."""
        return compare_installed(lock, self.distributions, self.conda, python=self.python, prefix=self.prefix)


def installed_in(python: Path | None = None, *, check_files: bool = True) -> Inspection:
    """
    Inspect an interpreter.

    Args:
        python: The interpreter, or None for the running one.
        check_files: Whether files are read and compared with `RECORD` and conda's records.

    Raises:
        InspectionFailed: It did not start, or said something else.
    """
    if python is None:
        from mlenv.run import _inspect_script

        return _inspection(_inspect_script.inspect([each for each in sys.path if each], check_files))
    return inspect_by([str(python), "-"], what=str(python), check_files=check_files)


def inspect_by(command: Sequence[str], *, what: str, check_files: bool = True) -> Inspection:
    """
    Inspect whatever interpreter `command` starts; the script goes to its stdin.

    Args:
        command: Such as `podman run --rm -i IMAGE python -`.
        what: The interpreter's name in messages.
        check_files: Whether files are read and compared with `RECORD` and conda's records.

    Raises:
        InspectionFailed: It did not start, or said something else.
    """
    arguments = [*command] if check_files else [*command, "--no-hash"]
    try:
        done = subprocess.run(arguments, input=script(), capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InspectionFailed(what, getattr(error, "strerror", None) or str(error)) from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InspectionFailed(what, f"exit code {done.returncode}: {lines[-1] if lines else 'no message'}")
    try:
        return _inspection(json.loads(done.stdout))
    except ValueError as error:
        raise InspectionFailed(what, "it did not answer with JSON") from error


def script() -> bytes:
    """The inspecting script: standard library only, Python 3.7 or later."""
    return resources.files("mlenv.run").joinpath("_inspect_script.py").read_bytes()


def _inspection(data: Any) -> Inspection:
    try:
        return Inspection(
            python=data["python"],
            prefix=data["prefix"],
            executable=data["executable"],
            lock=data["lock"],
            distributions=tuple(InstalledDistribution.from_dict(each) for each in data["distributions"]),
            conda=tuple(InstalledConda.from_dict(each) for each in data["conda"]),
        )
    except (KeyError, TypeError) as error:
        raise InspectionFailed("the interpreter", f"its answer lacks {error}") from error
