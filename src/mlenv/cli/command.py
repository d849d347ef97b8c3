"""What a command is: its arguments, its settings, and what it does with them."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mlenv.cli.printer import Output, Printer
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    from mlenv.core.progress import Progress
    from mlenv.wiring import Embedded

S = TypeVar("S")


class ExitStatus(IntEnum):
    """How the process ends. A command that was run for the user ends as that command did."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130
    PIPE = 141


class UsageError(InvalidInput):
    """The command line is wrong: exit status 2."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Context:
    """
    What a command works with. Members that cost something are made when they are first used.

    Attributes:
        printer: All that is printed goes through it.
    """

    def __init__(self, printer: Printer) -> None:
        self.printer = printer

    @cached_property
    def embedded(self) -> "Embedded":
        """The embedded store of this user."""
        from mlenv.home import home
        from mlenv.wiring import open_embedded

        return open_embedded(home())

    @cached_property
    def progress(self) -> "Progress":
        """Tells of long work: bars on a terminal, lines otherwise, nothing with `--quiet`."""
        from mlenv.cli.progress import progress_for

        return progress_for(self.printer)

    def close(self) -> None:
        """Let go of what was made."""
        if "embedded" in self.__dict__:
            self.embedded.close()


@dataclass(frozen=True, slots=True)
class Verb(Generic[S]):
    """
    A command that does something.

    Attributes:
        arguments: Adds its arguments to a parser.
        settings: Makes its settings, a frozen dataclass, of what was parsed. Raises `UsageError`.
        run: Does it, and says how the process ends.
        output: How data is printed when the user doesn't say.
    """

    arguments: Callable[[argparse.ArgumentParser], Any]
    settings: Callable[[argparse.Namespace], S]
    run: Callable[[S, Context], int]
    output: Output = Output.JSON
