"""
Requirements as pip reads them: one per line, with options, continuation lines and included files.

After pip's "Requirements File Format" (pip documentation, reference); each requirement is PEP 508 or a direct URL.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from mlenv.api.files import Read, read_text, shown
from mlenv.api.problems import Findings, InvalidLine, Place
from mlenv.api.requirement_line import check_requirement
from mlenv.api.requirement_options import Options, listed_hash, split_options
from mlenv.core.spec import PUBLIC, Requirement, Sources
from mlenv.errors import InvalidInput

#: How deep files may include files.
_DEPTH: Final = 10
#: How many files one definition may include.
_FILES: Final = 100
_COMMENT: Final = re.compile(r"(^|\s+)#.*$")


class Requirements(Struct, frozen=True):
    """
    What a requirements file, or a `pip:` section, asks for.

    Attributes:
        requirements: Its requirements, with those of included files, in order.
        constraints: Its `-c` files' lines.
        sources: Its indexes.
        allow_source: Packages named by `--no-binary`, normalised.
        prereleases: Whether `--pre` is given.
    """

    requirements: tuple[Requirement, ...] = ()
    constraints: tuple[Requirement, ...] = ()
    sources: Sources = PUBLIC
    allow_source: tuple[str, ...] = ()
    prereleases: bool = False


def parse_requirements(text: str, file: str, *, findings: Findings, read: Read = read_text) -> Requirements:
    """
    Read a requirements file.

    Args:
        text: Its content.
        file: Its path, as the user named it; included files are relative to it.
        findings: Takes faults and warnings. The result leaves out lines with faults.
        read: Brings included files.
    """
    reader = RequirementsReader(findings, read)
    reader.read_file(text, file)
    return reader.result()


class RequirementsReader:
    """Reads lines, one by one or file by file, and adds up what they ask for."""

    def __init__(self, findings: Findings, read: Read = read_text) -> None:
        self._findings = findings
        self._read = read
        self._requirements: list[Requirement] = []
        self._constraints: list[Requirement] = []
        self._options = Options(findings)
        self._open: list[str] = []
        self._files = 0

    def result(self) -> Requirements:
        """What was read so far."""
        return Requirements(
            tuple(self._requirements),
            tuple(self._constraints),
            self._options.sources(),
            tuple(self._options.allow_source),
            self._options.prereleases,
        )

    def read_file(self, text: str, file: str, *, constraint: bool = False) -> None:
        """Read every line of a file."""
        self._open.append(file)
        for line, place in logical_lines(text, file):
            self.read_line(line, place, constraint=constraint)
        self._open.pop()

    def read_line(self, line: str, place: Place, *, constraint: bool = False) -> None:
        """Read one line: a requirement, an option, or both. Faults go to the findings."""
        try:
            body, options = split_options(line, place)
            editable = False
            hashes = set()
            for name, value in options:
                if name in {"-r", "--requirement", "-c", "--constraint"}:
                    self._include(value, place, constraint=constraint or "c" in name[:3])
                elif name in {"-e", "--editable"}:
                    body, editable = value, True
                elif name == "--hash" and body:
                    hashes.add(listed_hash(value, place, self._findings))
                else:
                    self._options.take(name, value, place, alone=not body)
            if body:
                requirement = check_requirement(body, place, self._findings, editable=editable, constraint=constraint)
                listed = tuple(sorted(each for each in hashes if each is not None))
                (self._constraints if constraint else self._requirements).append(replace(requirement, hashes=listed))
        except InvalidInput as problem:
            self._findings.add(problem)

    def _include(self, target: str, place: Place, *, constraint: bool) -> None:
        path = Path(place.file).parent / target
        name = shown(path)
        if name in self._open:
            raise InvalidLine(f"{name} includes itself: {' → '.join([*self._open, name])}", place)
        self._files += 1
        if len(self._open) >= _DEPTH or self._files > _FILES:
            raise InvalidLine(f"more than {_DEPTH} levels or {_FILES} included files", place)
        self.read_file(self._read(path, place), name, constraint=constraint)


def logical_lines(text: str, file: str) -> Iterator[tuple[str, Place]]:
    """The lines that say something, continuations joined and comments taken off, each with where it starts."""
    pending: list[str] = []
    start = 1
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        if not pending:
            start = number
        comment = raw.lstrip().startswith("#")
        if raw.endswith("\\") and not comment:
            pending.append(raw[:-1])
            continue
        # NOTE: pip ends a continuation at a comment line, and the comment is no part of it.
        joined = "".join([*pending, "" if comment else raw])
        pending = []
        line = _COMMENT.sub("", joined)
        if line.strip():
            column = len(line) - len(line.lstrip()) + 1
            yield line.strip(), Place(file, start, column)
