"""
What a `.dockerignore` leaves out of a build context.

The rules are docker's (docs.docker.com/build/concepts/context, ".dockerignore files"; github.com/moby/patternmatcher):
patterns of Go's `filepath.Match` with `**`, one a line, against paths from the root of the context. A pattern also
matches what is below a directory that it matches. `!` takes back; the last pattern that matches a path decides.
"""

import posixpath
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from mlenv.errors import InvalidInput

_BOM: Final = "\ufeff"


class InvalidIgnoreFile(InvalidInput):
    """A pattern that is none. `line` counts from 1."""

    def __init__(self, file: str, line: int, pattern: str) -> None:
        super().__init__(f"{file}, line {line}: not a pattern: {pattern!r}")
        self.file, self.line, self.pattern = file, line, pattern


class _Pattern(Struct, frozen=True):
    expression: re.Pattern[str]
    keeps: bool


class Ignore:
    """The patterns of one file."""

    def __init__(self, patterns: Sequence[_Pattern] = ()) -> None:
        self._patterns = tuple(patterns)

    @classmethod
    def parse(cls, text: str, file: str = ".dockerignore") -> "Ignore":
        """Read a file. Raises `InvalidIgnoreFile`."""
        patterns = []
        for number, line in enumerate(text.removeprefix(_BOM).split("\n"), 1):
            # NOTE: a comment begins in the first column; elsewhere `#` is a character like others.
            if line.startswith("#") or not (pattern := line.strip()):
                continue
            keeps = pattern.startswith("!")
            pattern = pattern[1:].strip() if keeps else pattern
            if not pattern:
                raise InvalidIgnoreFile(file, number, line.strip())
            cleaned = posixpath.normpath(pattern)
            if len(cleaned) > 1:
                cleaned = cleaned.lstrip("/")
            try:
                patterns.append(_Pattern(re.compile(_expression(cleaned), re.DOTALL), keeps))
            except re.error as error:
                raise InvalidIgnoreFile(file, number, pattern) from error
        return cls(patterns)

    def excludes(self, path: str) -> bool:
        """Whether a path, relative and with `/`, is left out."""
        parts = path.split("/")
        candidates = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        out = False
        for pattern in self._patterns:
            if pattern.keeps == out and any(pattern.expression.fullmatch(each) for each in candidates):
                out = not pattern.keeps
        return out

    @property
    def may_keep(self) -> bool:
        """Whether something below an excluded directory may be kept, so that it must be looked into."""
        return any(each.keeps for each in self._patterns)


def _expression(pattern: str) -> str:
    """A pattern as a regular expression."""
    result, position = [], 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            if pattern.startswith("*", position):
                while pattern.startswith("*", position):
                    position += 1
                if pattern.startswith("/", position):
                    position += 1
                # At the end all that follows; elsewhere any number of directories, none among them.
                result.append(".*" if position == len(pattern) else "(?:.*/)?")
            else:
                result.append("[^/]*")
        elif character == "?":
            result.append("[^/]")
        elif character == "[":
            inner, position = _class(pattern, position)
            result.append(inner)
        elif character == "\\":
            if position == len(pattern):
                raise re.error("a backslash at the end")
            result.append(re.escape(pattern[position]))
            position += 1
        else:
            result.append(re.escape(character))
    return "".join(result)


def _class(pattern: str, position: int) -> tuple[str, int]:
    """`[a-z]`, `[^a-z]` (Go, `path/filepath.Match`): never a slash."""
    negated = pattern.startswith("^", position)
    position += negated
    parts: list[str] = []
    while not pattern.startswith("]", position) or not parts:
        low, position = _character(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _character(pattern, position + 1)
        parts.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"(?!/)[{'^' if negated else ''}{''.join(parts)}]", position + 1


def _character(pattern: str, position: int) -> tuple[str, int]:
    if pattern.startswith("\\", position):
        position += 1
    if position >= len(pattern) or (pattern[position] in "-]" and pattern[position - 1] != "\\"):
        raise re.error("a class that does not end")
    return pattern[position], position + 1
