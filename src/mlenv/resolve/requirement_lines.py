"""The user's lines as pip's requirements (PEP 508), and which of them can't be taken."""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace
from packaging.requirements import InvalidRequirement as InvalidPep508
from packaging.requirements import Requirement as Pep508
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from mlenv.core.spec import Requirement
from mlenv.resolve.failures import InvalidRequirement

_VCS: Final = re.compile(r"(?:[\w.\-\[\],]+\s*@\s*)?(git|hg|svn|bzr)\+\w+:")
_URL: Final = re.compile(r"(https?|file)://\S+")
_PATH: Final = re.compile(r"(\.{1,2}(/|\\|$)|/|~|[A-Za-z]:\\)|\S+\.(whl|zip|tar\.gz)$")
#: `>=1.9.*`, which pip took for long: `.*` stands only after `==` and `!=` (PEP 440).
_STARRED: Final = re.compile(r"(?<![=!])(>=|<=|>|<|~=)\s*([\w.!+-]*?)\.\*")
_SINGLE_EQUALS: Final = re.compile(r"^[\w.-]+(\[[\w,. -]+\])?\s*=\s*[\w.*]+$")


class Line(Struct, frozen=True):
    """
    One thing asked for.

    Attributes:
        source: The user's line, or mlenv's own.
        name: The project, normalised (PEP 503).
        text: The line as PEP 508 has it.
        seed: mlenv asks for it, not the user.
    """

    source: Requirement
    name: str
    text: str
    seed: bool = False

    @property
    def pep508(self) -> Pep508:
        """The line's parts."""
        return Pep508(self.text)

    def relaxed(self) -> "Line":
        """The same without version bounds."""
        return self.with_specifier("")

    def with_specifier(self, specifier: str) -> "Line":
        """The same with other version bounds, such as `==2.7`."""
        parts = self.pep508
        extras = f"[{','.join(sorted(parts.extras))}]" if parts.extras else ""
        marker = f" ; {parts.marker}" if parts.marker else ""
        return replace(self, text=f"{parts.name}{extras}{specifier}{marker}")

    def renamed(self, name: str) -> "Line":
        """The same bounds for another project."""
        match = re.match(r"[\w.-]+", self.text)
        rest = self.text[match.end() :] if match else ""
        return replace(self, name=name, text=name + rest)


def parse_line(requirement: Requirement, *, seed: bool = False) -> Line:
    """Read one line. Raises `InvalidRequirement`."""
    text = requirement.text.strip()
    if text.startswith(("-e ", "-e\t", "--editable")):
        raise InvalidRequirement(requirement, "an editable install is a link to a directory, not a version", _PATH_HINT)
    if _VCS.match(text):
        raise InvalidRequirement(requirement, "a repository can't be locked to exact bytes", _VCS_HINT)
    if _URL.match(text):
        text = _named_url(requirement, text)
    elif _PATH.match(text) and "@" not in text:
        raise InvalidRequirement(requirement, "a path on this machine means nothing on another", _PATH_HINT)
    try:
        parts = Pep508(_STARRED.sub(r"\1\2", text))
    except InvalidPep508 as error:
        hint = f"write `{text.replace('=', '==', 1)}`" if _SINGLE_EQUALS.match(text) else None
        raise InvalidRequirement(requirement, str(error).splitlines()[0], hint) from error
    if parts.url is not None and parts.url.startswith("file:"):
        raise InvalidRequirement(requirement, "a path on this machine means nothing on another", _PATH_HINT)
    return Line(requirement, canonicalize_name(parts.name), str(parts), seed)


def parse_lines(requirements: Iterable[Requirement], seeds: Iterable[Requirement] = ()) -> tuple[Line, ...]:
    """
    Read the user's lines and mlenv's own; a user's line about a project replaces mlenv's.

    Raises:
        InvalidRequirement: A line can't be taken.
        ExceptionGroup: Several can't.
    """
    lines: list[Line] = []
    faults: list[InvalidRequirement] = []
    for each in requirements:
        try:
            lines.append(parse_line(each))
        except InvalidRequirement as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise ExceptionGroup(f"{len(faults)} lines are not requirements", faults)
    named = {each.name for each in lines}
    own = [parse_line(each, seed=True) for each in seeds]
    return (*lines, *(each for each in own if each.name not in named))


_VCS_HINT: Final = "name a release of it (`name==1.2`), or the URL of a wheel made from it"
_PATH_HINT: Final = "put the package on an index and name it, or give the URL of a wheel"


def _named_url(requirement: Requirement, text: str) -> str:
    """`name @ url` for a bare URL, the name from the file's name."""
    url, _, marker = text.partition(" ")
    filename = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    try:
        name = parse_wheel_filename(filename)[0] if filename.endswith(".whl") else parse_sdist_filename(filename)[0]
    except (InvalidWheelFilename, InvalidSdistFilename) as error:
        raise InvalidRequirement(
            requirement, "the URL does not say which project this is", f"write `name @ {url}`"
        ) from error
    return f"{name} @ {url} {marker}".strip()
