"""The words of a Dockerfile's line: quotes, flags, and variables as `FROM` expands them ("Environment replacement")."""

import re
from collections.abc import Mapping
from typing import Final

from mlenv.errors import InvalidInput

_VARIABLE: Final = re.compile(
    r"\$(?:(?P<bare>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>[^}]*)\})"
)
_OPERATOR: Final = re.compile(r"(:?[-+?])(.*)", re.DOTALL)
#: How deep defaults of defaults may be.
_DEPTH: Final = 8


class Unexpandable(InvalidInput):
    """A word with a variable that can't be replaced."""


def split_words(text: str, escape: str, *, keep_quotes: bool = False) -> list[str]:
    """The words of a line, parted by spaces outside quotes. Quotes go, and escapes; variables stay as they are."""
    words: list[str] = []
    current: list[str] = []
    quote, started, position = "", False, 0
    while position < len(text):
        character = text[position]
        position += 1
        if quote:
            if character == quote:
                quote = ""
                current += [character] if keep_quotes else []
            elif character == escape and quote == '"' and position < len(text):
                current += [character, text[position]] if keep_quotes else [text[position]]
                position += 1
            else:
                current.append(character)
        elif character in "'\"":
            quote, started = character, True
            current += [character] if keep_quotes else []
        elif character == escape and position < len(text):
            current += [character, text[position]] if keep_quotes else [text[position]]
            position, started = position + 1, True
        elif character in " \t":
            if started:
                words.append("".join(current))
            current, started = [], False
        else:
            current.append(character)
            started = True
    return [*words, "".join(current)] if started else words


def flags_of(text: str, escape: str) -> tuple[dict[str, list[str]], list[str]]:
    """The flags at the beginning of an instruction, `--name=value`, by name; and the words after them."""
    words = split_words(text, escape)
    flags: dict[str, list[str]] = {}
    while words and words[0].startswith("--"):
        name, _, value = words.pop(0)[2:].partition("=")
        flags.setdefault(name.lower(), []).append(value)
    return flags, words


def expand(word: str, values: Mapping[str, str], escape: str, depth: int = _DEPTH) -> str:
    """
    A word with its variables replaced: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:+other}`, `${NAME:?error}`.

    Raises:
        Unexpandable: It has a form of variable that is not known, or one that must be set and is not.
    """
    if depth == 0:
        raise Unexpandable(f"{word[:100]!r} has variables in variables in variables, and so on")

    def value(match: re.Match[str]) -> str:
        name = match["bare"] or match["name"]
        found = values.get(name)
        rest = match["rest"]
        if not rest:
            return found or ""
        operator = _OPERATOR.fullmatch(rest)
        if operator is None:
            raise Unexpandable(f"${{{name}{rest}}} is a way to replace variables that is not known here")
        # With a colon, what is empty counts as what is not there (POSIX.1-2017, 2.6.2).
        there = bool(found) if operator[1].startswith(":") else found is not None
        other = operator[2]
        match operator[1][-1]:
            case "-":
                return (found or "") if there else expand(other, values, escape, depth - 1)
            case "+":
                return expand(other, values, escape, depth - 1) if there else ""
            case _:
                if not there:
                    raise Unexpandable(f"{name}: {other or 'is not set'}")
                return found or ""

    replaced = _VARIABLE.sub(value, word)
    if "${" in word and "${" in _VARIABLE.sub("", word):
        raise Unexpandable(f"{word[:100]!r} has a variable that does not end")
    return replaced
