"""rattler's explanation of a failure, read for its facts. What can't be read is left out: the whole text stays as detail."""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Final, Literal

from msgspec import Struct

_START: Final = re.compile(r"^Cannot solve the request because of:\s*")
_BRANCH: Final = re.compile(r"^(?P<indent>(?:│  |   )*)(?:├─|└─) (?P<text>.*)$")
_WANTED: Final = re.compile(
    r"(?:No candidates were found for (?P<missing>.+)\.$)"
    r"|(?P<spec>.+?)(?P<how>,? (?:which )?can be installed with any of the following options:"
    r"|,? (?:which )?cannot be installed because there are no viable options:"
    r"|, for which no candidates were found\."
    r"|,? (?:which )?conflicts with any installable versions previously reported\.?)$"
)
_PACKAGE: Final = re.compile(
    r"(?P<name>\S+) (?P<versions>.+?)(?: would (?P<verb>require|constrain)|, which (?P<conflicts>conflicts) with the versions "
    r"reported above\.| is excluded because (?P<why>.+))?$"
)
#: Characters of an explanation that are read, and lines of it that are shown.
_LIMIT: Final = 1 << 20
_SHOWN: Final = 200
Kind = Literal["wanted", "missing", "clashing", "package", "excluded"]


class Fact(Struct, frozen=True):
    """
    One line of the tree.

    Attributes:
        kind: A spec that is `wanted`, `missing` altogether, or `clashing` with what was found before; a `package`, or
            one that is `excluded`.
        name: The package's.
        text: The spec, or the versions.
        why: Why it is excluded.
        depth: How deep in the tree, from 0.
    """

    kind: Kind
    name: str
    text: str
    depth: int
    why: str = ""
    constrains: bool = False


class Way(Struct, frozen=True):
    """From one of the user's specs down to a fact: the facts on the way, the first of them the user's."""

    facts: tuple[Fact, ...]

    @property
    def last(self) -> Fact:
        """Where it leads."""
        return self.facts[-1]

    @property
    def specs(self) -> tuple[Fact, ...]:
        """What is asked for on the way, the user's first."""
        return tuple(each for each in self.facts if each.kind in ("wanted", "missing", "clashing"))

    @property
    def said(self) -> str:
        """Who asks for the last spec: `old 1.0 needs num <2`."""
        for at in range(len(self.facts) - 1, 0, -1):
            spec, parent = self.facts[at], self.facts[at - 1]
            if spec.kind in ("wanted", "missing", "clashing") and parent.kind == "package":
                verb = "allows only" if parent.constrains else "needs"
                return f"{parent.name} {_few(parent.text)} {verb} {spoken(spec.text)}"
        return f"you ask for {spoken(self.facts[0].text)}"


class CondaExplanation:
    """The text of a `SolverError`, and what it says."""

    def __init__(self, text: str) -> None:
        self.text = _START.sub("", text.strip())

    @property
    def detail(self) -> str:
        """The text as it is shown."""
        lines = self.text[:_LIMIT].splitlines()
        return "\n".join([*lines[:_SHOWN], *(["…"] if len(lines) > _SHOWN else [])])

    @cached_property
    def ways(self) -> tuple[Way, ...]:
        """The ways to every fact, in the order of the text."""
        found: list[Way] = []
        path: list[Fact] = []
        for fact in self._facts():
            del path[fact.depth :]
            path.append(fact)
            found.append(Way(tuple(path)))
        return tuple(found)

    @cached_property
    def missing(self) -> tuple[Way, ...]:
        """The ways to what nothing was found for."""
        return tuple(each for each in self.ways if each.last.kind == "missing")

    @cached_property
    def excluded(self) -> tuple[Way, ...]:
        """The ways to packages that do not count, for a reason."""
        return tuple(each for each in self.ways if each.last.kind == "excluded" and each.last.why != "conflicts")

    @cached_property
    def clash(self) -> tuple[Way, Way] | None:
        """Two ways that lead to the same package, of which no version does for both: the first, and the conflicting."""
        for way in self.ways:
            fact = way.last
            if fact.kind == "clashing" or (fact.kind == "excluded" and fact.why == "conflicts"):
                before = self.ways[: self.ways.index(way)]
                same = [each for each in before if each.last.name == fact.name and each.last.kind == "wanted"]
                others = [each for each in same if not _begins(way, each)] or [
                    each for each in before if each.last.name == fact.name and not _begins(way, each)
                ]
                if others:
                    return others[0], way
        return None

    def _facts(self) -> Iterator[Fact]:
        head, *rest = self.text[:_LIMIT].splitlines() or [""]
        base = 0
        if (first := _read(head, 0)) is not None and first.kind in ("wanted", "missing", "clashing"):
            yield first
            base = 1
        for line in rest:
            branch = _BRANCH.match(line)
            if branch is not None:
                fact = _read(branch["text"], base + len(branch["indent"]) // 3)
                if fact is not None:
                    yield fact


def _read(text: str, depth: int) -> Fact | None:
    text = text.strip()
    if match := _WANTED.fullmatch(text):
        spec = match["missing"] or match["spec"]
        how = match["how"] or "no candidates"
        kind: Kind = "missing" if "no candidates" in how else "clashing" if "conflicts" in how else "wanted"
        return Fact(kind, name_of(spec), spec, depth)
    if match := _PACKAGE.fullmatch(text):
        why = "conflicts" if match["conflicts"] else match["why"] or ""
        kind = "excluded" if why else "package"
        return Fact(kind, match["name"], match["versions"], depth, why, match["verb"] == "constrain")
    return None


def name_of(spec: str) -> str:
    """The package's name in a spec as rattler writes it."""
    found = re.match(r"(?:.*::)?([^\s\[=<>!~]+)", spec)
    return found[1] if found else spec


def _begins(way: Way, start: Way) -> bool:
    """Whether a way goes on where another ends."""
    return way.facts[: len(start.facts)] == start.facts


def spoken(spec: str) -> str:
    """A spec of rattler's as people write it: `num=2` for `num 2.*`, `num>=2` for `num >=2`, and without an address."""
    text = re.sub(r"\[channel=\"[^\"]*\"\]$", "", spec.strip())
    words = text.split(" ")
    if len(words) > 3 or "[" in text:
        return text
    name, version, build = (*words, "*", "*")[:3]
    if re.fullmatch(r"[\w.]+\.\*", version):
        version = f"={version.removesuffix('.*')}"
    if build != "*":
        return f"{name}={version.lstrip('=')}={build}" if re.fullmatch(r"=*[\w.*]+", version) else text
    return name if version == "*" else f"{name}{version}" if version[0] in "=<>!~" else text


def _few(versions: str) -> str:
    """The versions, the last few of many."""
    every = versions.split(" | ")
    return versions if len(every) <= 3 else f"{every[0]} … {every[-1]}"
