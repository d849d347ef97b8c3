"""What finding out why there is no solution needs: the user's lines, questions to channels, and edits that are tried."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from mlenv.core.match_spec import MatchSpec, parse_match_spec, to_rattler
from mlenv.core.spec import Requirement
from mlenv.resolve.conda_channels import ChannelTable, CondaChannel
from mlenv.resolve.conda_explanation import Fact, Way, spoken
from mlenv.resolve.conda_process import CondaProcess, CondaTimeout, Refused
from mlenv.resolve.conda_request import Asked, Plan

#: Solutions that looking for an edit may cost.
_TRIES: Final = 8

Records = Sequence[Mapping[str, Any]]


class Inquiry:
    """
    One failure that is looked into.

    Args:
        process: Where it was tried, with the same channels.
        plan: What was tried.
        table: The settings' channels.
        detail: The solver's own explanation, as it is shown.
        offline: Whether channels can't be asked.
    """

    def __init__(self, process: CondaProcess, plan: Plan, table: ChannelTable, *, detail: str, offline: bool) -> None:
        self.plan, self.table, self.offline = plan, table, offline
        self._process, self._detail = process, detail
        self._left = _TRIES

    # What a failure says.

    def asked(self, way: Way) -> Asked | None:
        """The user's line that a way begins with; None for what conda itself adds."""
        name = way.facts[0].name
        own = [each for each in self.plan.asked if each.spec.name == name and not each.seed]
        return next((each for each in own if _same(each, way.facts[0])), own[0] if own else None)

    def message(self, way: Way, what: str) -> str:
        """The user's line, what it leads to, and what is wrong there."""
        asked = self.asked(way)
        start = f"{asked.line}: " if asked else ""
        through = " → ".join(chain_of(way)[1:])
        return f"{start}needs {through}: {what}" if through and start else f"{start}{what}"

    def facts(self, way: Way) -> dict[str, Any]:
        """What every `ResolutionFailed` is told besides."""
        asked = self.asked(way)
        return {"lines": [asked.line] if asked else [], "chain": chain_of(way), "detail": self._detail}

    # Asking channels.

    def searched(self, asked: Asked | None) -> Sequence[CondaChannel]:
        """The channels that count for a line."""
        if asked is not None and asked.spec.channel is not None:
            return [self.table.find(asked.spec.channel)]
        return self.plan.channels

    def names(self) -> Sequence[str]:
        """Every name that the channels have for the target. Raises `Refused`."""
        found = self._process.ask("names", channels=self.plan.sources, platforms=self.plan.platforms)
        names: Sequence[str] = found["names"]
        return names

    def query(self, channels: Iterable[CondaChannel], platforms: Sequence[str], name: str, spec: str) -> Records:
        """What channels have of a package, by version; `matches` in each says whether it fits. Raises `Refused`."""
        sources = [{"name": each.name, "urls": each.urls, "multiple": each.multiple} for each in channels]
        found = self._process.ask("query", channels=sources, platforms=platforms, name=name, spec=spec)
        records: Records = found["records"]
        return records

    # Trying edits.

    def solves(self, plan: Plan) -> Records | None:
        """The solution of another plan, if there is one and enough tries are left."""
        if self._left <= 0:
            return None
        self._left -= 1
        try:
            return plan.solve(self._process)
        except (Refused, CondaTimeout):
            return None

    def relaxed(self, lines: Iterable[Asked | None]) -> tuple[str | None, bool]:
        """The first of these lines that solves it without its bounds, as it should then be: a hint, and that it was tried."""
        for each in lines:
            if each is None or (each.spec.version is None and each.spec.build is None):
                continue
            loose = replace(each.spec, version=None, build=None, build_number=None)
            records = self.solves(self.with_spec(each, loose))
            version = next((found["version"] for found in records or () if found["name"] == loose.name), None)
            if version is not None:
                return f"write `{loose}={version}`", True
        return None, False

    def without_channel(self, asked: Asked | None) -> tuple[str | None, bool]:
        """As `relaxed`, for a line that names a channel which lacks what the others have."""
        if asked is None:
            return None, False
        free = replace(asked.spec, channel=None)
        if self.solves(self.with_spec(asked, free)) is None:
            return None, False
        return f"write `{free}`", True

    def with_spec(self, asked: Asked, spec: MatchSpec) -> Plan:
        """The plan with another spec for one line."""
        text = to_rattler(spec, f"{self.table.find(spec.channel).urls[0]}/" if spec.channel else None)
        changed = replace(asked, spec=spec, text=text)
        return replace(self.plan, asked=tuple(changed if each is asked else each for each in self.plan.asked))

    def with_channel(self, name: str, text: str, channel: CondaChannel) -> Plan:
        """The plan with a spec of one channel, in place of the user's of that name or besides."""
        spec = parse_match_spec(text)
        added = Asked(Requirement(text), spec, to_rattler(spec, f"{channel.urls[0]}/"), seed=True)
        kept = tuple(each for each in self.plan.asked if each.spec.name != name)
        return replace(self.plan, asked=(*kept, added))


def chain_of(way: Way) -> tuple[str, ...]:
    """What is asked for on the way, the user's own first."""
    return tuple(dict.fromkeys(spoken(each.text) for each in way.specs))


def first_version(spec: str) -> str | None:
    """The first version that a spec of rattler's names."""
    found = re.search(r"[ =<>~!](\d[\w.]*?)(?:\.\*)?(?:[,| \[]|$)", spec)
    return found[1] if found else None


def _same(asked: Asked, fact: Fact) -> bool:
    """Whether a fact is the user's spec, as far as the version tells."""
    return bool(asked.spec.version) and (asked.spec.version or "").lstrip("=") in fact.text
