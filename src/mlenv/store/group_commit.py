"""
Group commit: what several threads write at about the same time becomes one transaction, and one wait for the disk.

Each commit waits until its bytes are on the disk. Who finds somebody at it leaves what it has to write; whoever comes next
writes all that was left.
"""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

W = TypeVar("W")


class Part(Generic[W]):
    """
    What one thread wants written, and what came of it.

    Attributes:
        work: What is to be written.
        result: What that gave.
        error: Why it was not written.
    """

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: W) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False


class GroupCommit(Generic[W]):
    """
    Writes for the threads of a process.

    Args:
        write: Writes parts in one transaction, and says in each what came of it. What it raises came of all of them.
    """

    def __init__(self, write: Callable[[list[Part[W]]], None]) -> None:
        self._write = write
        self._left: list[Part[W]] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def run(self, work: W) -> Any:
        """
        Have `work` written: it is on the disk when this returns. Gives its part's result.

        Raises:
            Its part's error.
        """
        part = Part(work)
        with self._guard:
            self._left.append(part)
        with self._turn:
            if not part.done:
                with self._guard:
                    parts, self._left = self._left, []
                try:
                    self._write(parts)
                except BaseException as error:  # noqa: BLE001 - each thread is told what became of its part
                    for each in parts:
                        each.error = each.error or error
                finally:
                    for each in parts:
                        each.done = True
        if part.error is not None:
            raise part.error
        return part.result
