"""What runs need of the world: wheels as files, and somebody who compiles bytecode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.progress import Progress


class WheelFiles(Protocol):
    """Where the wheels of a lock are."""

    def path(self, digest: Digest) -> Path:
        """The wheel as a file that must not be changed. Raises `NotFound`."""


class SourceFile(Struct, frozen=True):
    """
    One Python file to compile.

    Attributes:
        source: Where it is.
        target: Where its bytecode goes; the directory may not exist yet.
        name: The file's name in the code object.
    """

    source: Path
    target: Path
    name: str


class BytecodeCompiler(Protocol):
    """Compiles Python files with `unchecked-hash` validation (PEP 552)."""

    def __call__(self, interpreter: Path, sources: Sequence[SourceFile], progress: Progress) -> None:
        """
        Write the bytecode of `sources`, on all cores, leaving out what is no Python of this version.

        Raises:
            MlenvError: The interpreter did not run.
        """
