"""All that is printed: data to stdout, talk to stderr. No other module of the command line prints."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TextIO, TypeAlias

from msgspec import Struct

Document: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None


class Output(StrEnum):
    """How data is printed; a final `c` means in colour."""

    JSON = "json"
    JSONC = "jsonc"
    YAML = "yaml"
    YAMLC = "yamlc"
    TABLE = "table"
    TSV = "tsv"
    NONE = "none"


class Column(Struct, frozen=True):
    """A column of a table: its title, and where its text is in a document (`creation_context.created_at`)."""

    title: str
    path: str


_BOLD_RED: Final = "\x1b[1;31m"
_YELLOW: Final = "\x1b[33m"
_CYAN: Final = "\x1b[36m"
_RESET: Final = "\x1b[0m"


class Printer:
    """
    Prints.

    Args:
        output: How data is printed.
        query: A JMESPath expression; only what it finds is printed. Raises `mlenv.cli.query.InvalidQuery`.
        verbose: Details of errors are printed.
        quiet: Only errors are.
        stdout, stderr: Where to; the process's own unless given.
    """

    def __init__(
        self,
        output: Output = Output.JSON,
        *,
        query: str | None = None,
        verbose: bool = False,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.output, self.verbose, self.quiet = output, verbose, quiet
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self._query = None
        if query is not None:
            from mlenv.cli.query import Query

            self._query = Query(query)

    @property
    def tabular(self) -> bool:
        """Whether data is printed in columns, all of it: then a list says more than the document that it is in."""
        return self.output in {Output.TABLE, Output.TSV} and self._query is None

    def data(self, document: Document, columns: Sequence[Column] = ()) -> None:
        """
        Print plain data in the chosen form, after the query.

        Args:
            document: Mappings, sequences, text, numbers, as JSON knows them.
            columns: What a table or tsv shows of each mapping, when there is no query.
        """
        if self.output is Output.NONE:
            return
        from mlenv.cli import formats

        if self._query is not None:
            document, columns = self._query.search(document), ()
        colour = self.output in {Output.JSONC, Output.YAMLC} and _in_colour(self.stdout)
        for text in formats.render(document, self.output, columns, colour=colour):
            self.stdout.write(text)

    def text(self, text: str) -> None:
        """Print text that is the command's result, as it is."""
        self.stdout.write(text)

    def say(self, text: str) -> None:
        """Tell the user something. Nothing with `--quiet`."""
        if not self.quiet:
            self._talk(text)

    def warn(self, text: str) -> None:
        """Tell the user something that stops nothing, and matters. Nothing with `--quiet`."""
        if not self.quiet:
            self._talk(text, "warning: ", _YELLOW)

    def error(
        self, text: str, *, hint: str | None = None, detail: str | None = None, lines: Iterable[str] = ()
    ) -> None:
        """
        Tell what went wrong.

        Args:
            text: What, in one line.
            hint: What the user can do about it; printed last.
            detail: A longer explanation; printed with `--verbose`.
            lines: What belongs to it and is always printed, such as a difference.
        """
        self._talk(text, "error: ", _BOLD_RED)
        for line in lines:
            self._talk(f"  {line}")
        if detail and self.verbose:
            self._talk(detail)
        if hint:
            self._talk(hint, "hint: ", _CYAN)

    def _talk(self, text: str, head: str = "", colour: str = "") -> None:
        if "://" in text:
            # NOTE: the last net. Who raises an error with an address in it hides its credentials already.
            from mlenv.core.redact import redact

            text = redact(text)
        if head and _in_colour(self.stderr):
            head = f"{colour}{head.rstrip()}{_RESET} "
        self.stderr.write(f"{head}{visible(text)}\n")
        self.stderr.flush()


def visible(text: str) -> str:
    """Text with characters that would steer a terminal written out; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _written_out(each) for each in text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def _in_colour(stream: TextIO) -> bool:
    """On a terminal, unless NO_COLOR is set (no-color.org) or the terminal can't."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()
