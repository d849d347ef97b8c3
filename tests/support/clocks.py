"""
A clock that jumps, for the processes that are given its variables.

A small library is loaded before C's, and adds to the time of day what a file says at that moment. (libfaketime does more,
and so it fails: with it, sleeping by the clock that never jumps is an error.)
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("jumping_clock.c")


@dataclass
class Clock:
    """
    A clock of its own.

    Attributes:
        directory: Where the library is, and the file that says how far the clock is from the machine's own.
    """

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir()
        command = ["tcc", "-shared", "-fPIC", "-nostdlib", "-o", str(self._library), str(_SOURCE)]
        subprocess.run(command, check=True)
        self.set(days=0)

    def set(self, *, days: int) -> None:
        """Let it jump to so many days from the true time."""
        partial = self._offset.with_suffix(".partial")
        partial.write_text(f"{days * 86400}\n")
        partial.replace(self._offset)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process, and of all that it starts."""
        return {"LD_PRELOAD": str(self._library), "JUMPING_CLOCK": str(self._offset)}

    @property
    def _library(self) -> Path:
        return self.directory / "jumping_clock.so"

    @property
    def _offset(self) -> Path:
        return self.directory / "offset"
