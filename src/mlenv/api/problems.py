"""
What can be wrong with a definition, said so that its author finds the place.

    InvalidInput
    └── InvalidDefinition     one fault, with file, line, column and the path into the data
        ├── InvalidSyntax     the file is not YAML, TOML or text at all, or is dangerous to read
        ├── InvalidField      a value of the wrong type, or outside what is allowed
        ├── MissingField      a required value is not there
        ├── UnknownField      a key that nothing knows
        ├── InvalidLine       a line of a requirements file or `pip:` section
        ├── CredentialInUrl   a secret where none may be kept
        └── FileProblem       a file that is not there, too large, not text, or of no known kind

Several faults in one definition are one `ExceptionGroup` of these.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from mlenv.core.redact import redact
from mlenv.core.spec import Origin
from mlenv.errors import InvalidInput

#: More faults than this in one file are counted, not listed.
_MOST: Final = 50
#: What people write from habit with other tools, and what it is called here.
_ALIASES: Final = {
    "base_image": "image",
    "conda": "conda_file",
    "docker": "build",
    "env": "environment_variables",
    "env_vars": "environment_variables",
    "pip": "requirements",
    "python_version": "python",
    "variables": "environment_variables",
}


class Place(Struct, frozen=True):
    """Where something stands: a file as the user named it, and line and column, both from 1. A flag has no line."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(each) for each in (self.file, self.line, self.column) if each is not None)

    @property
    def origin(self) -> Origin:
        """The place without its column, as the core keeps it."""
        return Origin(self.file, self.line or 1)

    def shifted(self, columns: int) -> "Place":
        """The place so many columns to the right."""
        return Place(self.file, self.line, self.column + columns if self.column is not None else None)


class InvalidDefinition(InvalidInput):
    """
    One fault in what defines an environment.

    Attributes:
        place: Where it stands.
        path: The path into the data: `build.path`; empty for the document as a whole.
        why: What is wrong.
        found: What stands there, redacted, or None.
        expected: What should stand there, or None.
    """

    def __init__(
        self,
        why: str,
        place: Place,
        *,
        path: str = "",
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        got = f"found {found}" if found else ""
        want = f"expected {expected}" if expected else ""
        facts = ", ".join(each for each in (got, want) if each)
        said = f"{why.removesuffix('.')}; {facts}" if facts else why
        message = f"{place}: {path + ': ' if path else ''}{said}"
        super().__init__(redact(message))
        self.place, self.path, self.why = place, path, redact(why)
        self.found = redact(found) if found else None
        self.expected = expected
        if hint is not None:
            self.hint = redact(hint)


class InvalidSyntax(InvalidDefinition):
    """The file is not YAML, TOML or text at all, or is dangerous to read."""


class InvalidField(InvalidDefinition):
    """A value of the wrong type, or outside what is allowed."""


class MissingField(InvalidDefinition):
    """A required value is not there."""


class UnknownField(InvalidDefinition):
    """A key that nothing knows."""

    def __init__(self, key: str, place: Place, *, path: str, known: Iterable[str], hint: str | None = None) -> None:
        self.key = key
        self.meant = nearest(key, known)
        names = sorted(known)
        if hint is None and self.meant:
            hint = f"did you mean `{self.meant}`?"
        elif hint is None:
            hint = f"known here: {', '.join(names)}" if len(names) < 9 else "`mlenv schema` prints what is known"
        super().__init__("Unknown field.", place, path=path, hint=hint)


class InvalidLine(InvalidDefinition):
    """A line of a requirements file, or of a `pip:` section, that asks for nothing that can be installed."""


class CredentialInUrl(InvalidDefinition):
    """A secret where none may be kept."""

    hint = (
        "take them out of the URL and give them at run time: UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD for an "
        "index with a name, an entry in ~/.netrc, or the keyring"
    )

    def __init__(self, place: Place, *, path: str = "", url: str = "") -> None:
        super().__init__("credentials can't be kept in a definition", place, path=path, found=url or None)


class FileProblem(InvalidDefinition):
    """A file that is not there, too large, not text, or of no known kind."""


class Findings:
    """Collects the faults and warnings of one definition, so that all are said at once."""

    def __init__(self) -> None:
        self.problems: list[InvalidInput] = []
        self._warnings: dict[str, None] = {}

    def add(self, problem: InvalidInput) -> None:
        """Note a fault."""
        self.problems.append(problem)

    def warn(self, place: Place, text: str) -> None:
        """Note something the user should know; the same sentence about the same place is kept once."""
        self._warnings[redact(f"{place}: {text}")] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, in the order in which they were found."""
        return tuple(self._warnings)

    def raise_any(self, what: str) -> None:
        """Raise the one fault there is, or an `ExceptionGroup` of several; nothing if there is none."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            count = len(self.problems)
            raise ExceptionGroup(f"{count} problems in {what}", self.problems[:_MOST])


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None."""
    import difflib

    words = {each.lower().replace("-", "_"): each for each in known}
    if (alias := _ALIASES.get(word.lower().replace("-", "_"))) in words:
        return alias
    close = difflib.get_close_matches(word.lower().replace("-", "_"), words, n=1, cutoff=0.7)
    return words[close[0]] if close else None
