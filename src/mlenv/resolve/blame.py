"""Whose line it is: from a project in uv's explanation back to what the user wrote."""

from collections.abc import Iterable, Sequence
from typing import TypedDict

from mlenv.core.spec import Requirement
from mlenv.resolve.explanation import Explanation
from mlenv.resolve.requirement_lines import Line


class Facts(TypedDict):
    """What every failure carries."""

    lines: list[Requirement]
    chain: tuple[str, ...]
    detail: str


class Blame:
    """
    An explanation, and the lines that it is about.

    Args:
        explanation: What uv said.
        lines: What was asked for; mlenv's own seeds among it are never to blame.
    """

    def __init__(self, explanation: Explanation, lines: Sequence[Line]) -> None:
        self.explanation = explanation
        self.asked = tuple(each for each in lines if not each.seed)

    def lines(self, name: str) -> list[Line]:
        """The user's lines about a project."""
        return [each for each in self.asked if each.name == name]

    def chain(self, name: str) -> tuple[str, ...]:
        """The way from a user's project to this one; see `Explanation.chain_to`."""
        return self.explanation.chain_to(name, {each.name: each.text for each in self.asked})

    def roots(self, name: str) -> list[Requirement]:
        """The user's lines that lead to a project."""
        chain = self.chain(name)
        return [each.source for each in self.lines(chain[0] if chain else name)]

    def facts(self, name: str) -> Facts:
        """What a failure over this project carries."""
        return {"lines": self.roots(name), "chain": self.chain(name), "detail": self.explanation.detail}

    def message(self, name: str, what: str) -> str:
        """The user's line first, then the way to the culprit, then what is wrong with it."""
        roots = self.roots(name)
        way = " → ".join(self.chain(name)[1:])
        start = f"{roots[0]}: " if roots else ""
        return f"{start}needs {way}: {what}" if way and start else f"{start}{what}"

    def bounds(self, name: str) -> str:
        """What is asked of a project's version: by the user's line, or else by the first that needs it."""
        for line in self.lines(name):
            return str(line.pep508.specifier)
        needs = self.explanation.needs
        return next((need.bounds for need in needs if need.name == name and need.bounds), "")

    def suspects(self, parents: Iterable[str]) -> list[Line]:
        """The user's lines that a conflict involves, those that lead to these projects first."""
        roots = [chain[0] for parent in parents if (chain := self.chain(parent))]
        named = [each.name for each in self.asked if self.explanation.mentions(each.name)]
        return [line for name in dict.fromkeys([*roots, *named]) for line in self.lines(name)]
