"""How long work tells what it is doing. The talk itself is elsewhere: on a terminal, in a log, or nowhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol


def quantity(number: int, noun: str) -> str:
    """So many of something: `1 layer`, `2 layers`."""
    return f"{number} {noun}{'s' * (number != 1)}"


class Step(Protocol):
    """One long thing under way."""

    def advance(self, amount: int) -> None:
        """`amount` more units are done. May be called from any thread."""

    def note(self, text: str) -> None:
        """Say what came of it, in a few words: `12 from cache`. The last note stands."""


class Progress(Protocol):
    """Where steps are announced."""

    def step(
        self, title: str, *, total: int | None = None, unit: Literal["bytes", "items"] = "items"
    ) -> AbstractContextManager[Step]:
        """Start a step; it ends, well or badly, with the context."""

    def warn(self, text: str) -> None:
        """Say something that the user should know and that stops nothing."""

    def line(self, text: str) -> None:
        """Pass on a line that another program said, for the log."""


class _SilentStep:
    def advance(self, amount: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Silent:
    """Progress that nobody watches. Warnings are kept in `warnings`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @contextmanager
    def step(
        self, title: str, *, total: int | None = None, unit: Literal["bytes", "items"] = "items"
    ) -> Iterator[Step]:
        yield _SilentStep()

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def line(self, text: str) -> None:
        pass
