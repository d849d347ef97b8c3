"""Trying out what would solve it: a few more runs, within limits of number and time."""

import time
from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from mlenv.resolve.requirement_lines import Line
from mlenv.resolve.session import Outcome, Session
from mlenv.resolve.uv_input import Attempt
from mlenv.resolve.uv_process import UvTimeout

#: What trying may cost: runs of uv, seconds for one, and seconds in all.
_TRIES: Final = 16
_ONE_TRY: Final = 30.0
_ALL_TRIES: Final = 60.0


class Edit(Struct, frozen=True):
    """
    A change of one line after which everything resolves.

    Attributes:
        line: The line as it is.
        text: What it should be.
        built: What must be allowed to be built from source for that.
    """

    line: Line
    text: str
    built: tuple[str, ...]

    @property
    def hint(self) -> str:
        """The edit in words."""
        allowed = f" and allow source: `allow_source: [{', '.join(self.built)}]`" if self.built else ""
        return f"write `{self.text}`{allowed}"


class Edits:
    """Tries attempts with a session, until its limits are reached."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._left = _TRIES
        self._until = time.monotonic() + _ALL_TRIES

    def run(self, attempt: Attempt) -> Outcome | None:
        """One more run, or None when it brought nothing in time, or enough were made."""
        left = self._until - time.monotonic()
        if self._left <= 0 or left <= 0:
            return None
        self._left -= 1
        try:
            return self._session.run(attempt, timeout=min(left, _ONE_TRY))
        except UvTimeout:
            return None

    def solves(self, attempt: Attempt) -> bool:
        """Whether an attempt was seen to have an answer."""
        outcome = self.run(attempt)
        return outcome is not None and outcome.found is not None

    def run_with_source(self, attempt: Attempt) -> Outcome | None:
        """As `run`, taking whatever has no wheel as source that needs nothing."""
        while (outcome := self.run(attempt)) is not None and outcome.found is None:
            names = set(outcome.explanation.no_wheel) - attempt.assumed.keys()
            if not names:
                break
            attempt = replace(attempt, assumed={**attempt.assumed, **dict.fromkeys(names, ())})
        return outcome

    def relax(self, attempt: Attempt, lines: Iterable[Line]) -> Edit | None:
        """The first of these lines that solves it when its bounds are dropped, with the version it then gets."""
        for line in lines:
            if not line.pep508.specifier:
                continue
            outcome = self.run_with_source(swap(attempt, {line: line.relaxed()}))
            if outcome is None or outcome.found is None:
                continue
            version = next((each.version for each in outcome.found if each.name == line.name), None)
            built = tuple(each.name for each in outcome.found if each.wheel is None)
            if version is not None:
                return Edit(line, line.with_specifier(f"=={version}").text, built)
        return None


def swap(attempt: Attempt, changes: dict[Line, Line]) -> Attempt:
    """The attempt with other lines in place of some."""
    return attempt.with_lines(changes.get(each, each) for each in attempt.lines)
