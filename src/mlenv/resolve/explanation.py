"""uv's explanation of a failure, read for its facts. What can't be read is left out: the whole text stays as detail."""

import re
from functools import cached_property
from typing import Final

from msgspec import Struct
from packaging.utils import canonicalize_name

from mlenv.core.redact import redact
from mlenv.resolve.uv_input import PROJECT

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[\w,. -]+\])?"
_SPEC = r"(?:(?:===?|[<>~!]=|[<>])[\w.*+!-]*\w\*?(?:,(?:===?|[<>~!]=|[<>])[\w.*+!-]*\w\*?)*)?"
_ITEM = rf"{_NAME}{_SPEC}"
_VERB = r"(?:depends?|has|have|was|were|cannot|is|are|requires?)\b"
# NOTE: the group is atomic, so that "… and a==0.41 depends on" is not read as an `a==0.4` that ends a list.
_DEPENDS: Final = re.compile(rf"({_ITEM}) depends? on ({_ITEM})((?:(?> and (?!all versions of ){_ITEM})(?! {_VERB}))*)")
_CONCLUSION: Final = re.compile(r"we can conclude that .*?(?=\.(?: |$)|$)")
_STATUS: Final = re.compile(r"\((40[13]) \w+|status client error \((40[13])")
_URL: Final = re.compile(r"(?:https?|file)://[^\s`)]+")
_UNREACHABLE: Final = re.compile(
    r"error sending request|Failed to fetch|Request failed|dns error|timed out|Connection refused|Could not connect"
)
#: As Linux, macOS and Windows say it.
_NOT_THERE: Final = re.compile(
    r"(?i)connection refused|actively refused|(?:name or service|servname provided, or) not known|no such host"
    r"|timed out|(?:network is|host is) unreachable|unreachable (?:network|host)|no route to host"
)


class Need(Struct, frozen=True):
    """`parent` (with its bounds) needs `name` within `bounds`. The parent is None for the user."""

    parent: str | None
    name: str
    bounds: str

    @property
    def text(self) -> str:
        """What is needed: `pyarrow<4`."""
        return self.name + self.bounds

    @property
    def parent_name(self) -> str | None:
        """The parent's name alone, normalised."""
        return None if self.parent is None else split(self.parent)[0]


def split(item: str) -> tuple[str, str]:
    """Normalised name and bounds of `name[extra]>=1`."""
    match = re.match(r"([\w.-]*\w)(?:\[[^\]]*\])?(.*)", item)
    return (canonicalize_name(match[1]), match[2].strip()) if match else (canonicalize_name(item), "")


class Explanation:
    """The text that uv wrote to stderr, and what it says."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        body, _, _ = re.sub(r"\s+", " ", self.text).partition(" hint: ")
        self._body = body
        self._all = re.sub(r"\s+", " ", self.text)

    @property
    def detail(self) -> str:
        """The text as it is shown: the project that stands for the user is called so, and no address has a secret."""
        text = self.text.replace(f"{PROJECT} depends on", "you require").replace(PROJECT, "what you require")
        return redact(text)

    @cached_property
    def needs(self) -> tuple[Need, ...]:
        """Who needs what, as far as it is said outright, not concluded."""
        facts = _CONCLUSION.sub("", self._body)
        found: dict[Need, None] = {}
        for parent, first, more in _DEPENDS.findall(facts):
            owner = None if parent == PROJECT else parent
            for item in [first, *re.findall(rf" and ({_ITEM})", more)]:
                name, bounds = split(item)
                if name != "python":
                    found[Need(owner, name, bounds)] = None
        return tuple(found)

    @cached_property
    def not_found(self) -> tuple[str, ...]:
        """Projects that no index has."""
        pattern = rf"({_NAME})(?:{_SPEC}) was not found in (?:the package registry|the provided package locations)"
        return self._names(pattern)

    @cached_property
    def no_wheel(self) -> tuple[str, ...]:
        """Projects of which only source would do."""
        hints = re.findall(r"Wheels are required for `([^`]+)`", self._all)
        disabled = re.findall(r"Building source distributions for `([^`]+)` is disabled", self._all)
        return tuple(dict.fromkeys(split(each)[0] for each in (*hints, *disabled)))

    @cached_property
    def no_fitting_wheel(self) -> tuple[str, ...]:
        """Projects whose wheels are for other Pythons or systems, and that have no source."""
        return self._names(rf"({_NAME}){_SPEC} (?:has|have) no wheels with a matching")

    @cached_property
    def no_version(self) -> tuple[str, ...]:
        """Projects without a version within bounds."""
        return self._names(rf"there (?:is no version|are no versions) of ({_NAME})")

    @cached_property
    def bounded(self) -> tuple[str, ...]:
        """Projects of which it lists the versions that there are."""
        one = self._names(rf"only ({_NAME}){_SPEC} is available")
        return (*one, *self._names(rf"only the following versions of ({_NAME}) are available"))

    @property
    def lacks_credentials(self) -> bool:
        """Whether there are none for an index that always wants them."""
        return "Missing credentials" in self.text or "Incomplete credentials" in self.text

    @cached_property
    def only_other_python(self) -> tuple[str, ...]:
        """Projects whose versions ask for another Python."""
        return self._names(rf"({_NAME}){_SPEC} depends? on Python[<>=!~]")

    @cached_property
    def filtered_by_date(self) -> tuple[str, ...]:
        """Projects of which everything that fits was uploaded too late."""
        return self._names(r"`([^`]+)` was filtered by `exclude-newer`")

    @cached_property
    def undated(self) -> bool:
        """Whether an index did not say when files were uploaded, though that matters."""
        return "is missing an upload date" in self._all

    @cached_property
    def later_index(self) -> tuple[str, str] | None:
        """A project that one index has, but whose fitting version may be on a later one: name and first index."""
        match = re.search(r"`([^`]+)` was found on (\S+), but not at the requested version", self._all)
        return None if match is None else (split(match[1])[0], match[2])

    @cached_property
    def refused(self) -> int | None:
        """The HTTP status with which an index refused credentials: 401 or 403."""
        match = _STATUS.search(self._all)
        return None if match is None else int(match[1] or match[2])

    @cached_property
    def unreachable(self) -> bool:
        """Whether an index did not answer."""
        return _UNREACHABLE.search(self._body) is not None and "No solution found" not in self._body

    @cached_property
    def missing_directory(self) -> str | None:
        """A directory of files that is named and can't be read."""
        match = re.search(r"Failed to read `--find-links` directory: (.+?)(?: cause: |$)", self._all)
        return match[1] if match else None

    @property
    def not_there(self) -> bool:
        """Whether that is since nothing answers at its address, so that asking once more has little hope."""
        return self.unreachable and _NOT_THERE.search(self._body) is not None

    @cached_property
    def url(self) -> str | None:
        """The first address in it."""
        match = _URL.search(self._all)
        return None if match is None else match[0].rstrip(".,;")

    @cached_property
    def unread_project(self) -> bool:
        """Whether uv could not read the project file that it was given."""
        return "error: Building source distributions is disabled" in self.text

    @cached_property
    def broken_build(self) -> tuple[str, str] | None:
        """Name and version of what did not build."""
        match = re.search(rf"Failed to (?:download and )?build `({_NAME})(?:==([^`]+)| @ [^`]*)?`", self._all)
        return None if match is None else (split(match[1])[0], match[2] or "")

    @cached_property
    def wheel_platforms(self) -> dict[str, tuple[str, ...]]:
        """For what systems there are wheels, by project."""
        found = re.findall(
            r"Wheels are available for `([^`]+)` \([^)]*\) on the following platforms?: ((?:`\w+`(?:, )?)+)", self._all
        )
        return {split(name)[0]: tuple(re.findall(r"`(\w+)`", listed)) for name, listed in found}

    def mentions(self, name: str) -> bool:
        """Whether it speaks of a project."""
        return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", self._body, re.IGNORECASE) is not None

    def chain_to(self, name: str, direct: dict[str, str]) -> tuple[str, ...]:
        """
        The shortest way from a line of the user's to a project.

        Args:
            name: Where to, normalised.
            direct: The user's lines, by project.

        Returns:
            The project of the user's line, then what is needed on the way, `name` with its bounds last; empty if no
            way is told.
        """
        if name in direct:
            return (name,)
        ways: list[tuple[str, ...]] = [(start,) for start in direct]
        seen = set(direct)
        texts: dict[str, tuple[str, ...]] = {start: (start,) for start in direct}
        while ways:
            following: list[tuple[str, ...]] = []
            for way in ways:
                for need in self.needs:
                    if need.parent_name == way[-1] and need.name not in seen:
                        seen.add(need.name)
                        texts[need.name] = (*texts[way[-1]], need.text)
                        if need.name == name:
                            return texts[name]
                        following.append((*way, need.name))
            ways = following
        return ()

    def _names(self, pattern: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(split(each)[0] for each in re.findall(pattern, self._all)))
