"""From rattler's explanation to a failure that says whose line is to blame, and what edit would do."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mlenv.core.match_spec import parse_match_spec, to_rattler
from mlenv.core.redact import redact
from mlenv.core.spec import Requirement
from mlenv.errors import MlenvError
from mlenv.resolve.conda_channels import ChannelTable, CondaChannel, InvalidChannel
from mlenv.resolve.conda_explanation import CondaExplanation, Fact, Way, spoken
from mlenv.resolve.conda_failures import (
    ChannelNotFound,
    ChannelRefused,
    ChannelUnreachable,
    MissingVirtualPackage,
    NotForPlatform,
    PackageNotFound,
    ShadowedByChannel,
)
from mlenv.resolve.conda_process import CondaCrashed, CondaProcess, CondaTimeout, Refused
from mlenv.resolve.conda_request import Asked, CondaRequest, Plan
from mlenv.resolve.failures import (
    InvalidRequirement,
    NoSuchVersion,
    NotYetUploaded,
    ProjectNotFound,
    ResolutionFailed,
    VersionConflict,
)
from mlenv.resolve.renames import RENAMES

#: Where a package that is not for the target is looked for, besides.
_PLATFORMS: Final = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64", "noarch")
#: Solutions that looking for an edit may cost.
_TRIES: Final = 8
_URL: Final = re.compile(r"(?:https?|file)://[^\s'()]+")
_STATUS: Final = re.compile(r"HTTP status (?:client|server) error \((?P<status>\d{3})")
_PARTS: Final = re.compile(r"/(?:[\w-]+/)?(?:repodata|current_repodata|shards/|repodata_shards)[\w./-]*$|/noarch/?$")

Records = Sequence[Mapping[str, Any]]


def refusing_url(text: str) -> str | None:
    """The address that wanted credentials, in a failure of rattler's."""
    status = _STATUS.search(text)
    if status is None or status["status"] not in ("401", "403"):
        return None
    found = _URL.search(text)
    return found[0] if found else None


class Diagnosis:
    """
    Finds out why there was no solution, by reading what rattler says, asking channels, and trying edits.

    Args:
        process: Where it was tried, with the same channels.
        plan: What was tried.
        request: What it came from.
        table: The settings' channels.
        offline: Whether channels could not be asked.
    """

    def __init__(
        self, process: CondaProcess, plan: Plan, request: CondaRequest, table: ChannelTable, *, offline: bool
    ) -> None:
        self._process, self._plan, self._request, self._table = process, plan, request, table
        self._offline = offline
        self._left = _TRIES

    def failure(self, refused: Refused) -> MlenvError:
        """The failure to raise for what rattler said. Raises `CondaTimeout`, `CondaCrashed`."""
        if refused.kind == "GatewayError":
            return self._outside(refused.text)
        if refused.kind != "SolverError":
            return self._unread(refused) or CondaCrashed(f"failed: {redact(refused.text)[:500]}", refused.kind)
        told = CondaExplanation(refused.text)
        detail = redact(told.detail)
        try:
            # (1) What is not there, or not for this target; (2) what exclude each other; (3) what does not count.
            for way in told.missing:
                if found := self._missing(way, detail):
                    return found
            if told.clash is not None:
                return self._conflict(*told.clash, detail)
            if told.excluded:
                return self._excluded(told.excluded, detail)
        except Refused as unanswered:
            if unanswered.kind == "GatewayError":
                return self._outside(unanswered.text)
        lines = [each.line for each in self._plan.asked if not each.seed]
        start = f"{lines[0]}: " if len(lines) == 1 else ""
        return VersionConflict(f"{start}these conda packages have no solution", lines=lines, detail=detail)

    def _unread(self, refused: Refused) -> MlenvError | None:
        """A line that rattler can't read, though it looked sound: each is tried alone."""
        if refused.kind != "InvalidMatchSpecError":
            return None
        for each in self._plan.asked:
            try:
                self._process.ask("spell", specs=[each.text])
            except Refused as error:
                return InvalidRequirement(each.line, redact(error.text.splitlines()[0])[:300])
        return None

    def _outside(self, text: str) -> MlenvError:
        found = _URL.search(text)
        channel = self._channel_of(found[0]) if found else None
        where = redact(_PARTS.sub("", found[0].rstrip("/.,;"))) if found else "a channel"
        whose = f"{channel.name} ({where})" if channel is not None and "://" not in channel.name else where
        status = _STATUS.search(text)
        number = int(status["status"]) if status else None
        detail = redact(text)
        if number in (401, 403):
            return ChannelRefused(whose, number, detail=detail)
        if "no usable repodata cache" in text:
            hint = "leave `offline` out once, so that the channel is fetched"
            return ChannelUnreachable(whose, "nothing of it was fetched before", detail=detail, hint=hint)
        if "could not find subdir" in text:
            return ChannelNotFound(whose, "there is no such channel", detail=detail)
        if number is None and "error sending request" not in text and "timed out" not in text:
            hint = "look at the address: what answers there may be a login page"
            return ChannelUnreachable(whose, "what it sent is no list of packages", detail=detail, hint=hint)
        causes = [each.removeprefix("Caused by: ") for each in text.splitlines()[1:]]
        why = f"the server says {number}" if number else redact(causes[-1]) if causes else "it did not answer"
        return ChannelUnreachable(whose, why, detail=detail)

    def _channel_of(self, url: str) -> CondaChannel | None:
        plain = _PARTS.sub("", url)
        for channel in self._plan.channels:
            if any(each == plain or url.startswith(f"{each}/") for each in channel.urls):
                return channel
        return None

    # What is not there.

    def _missing(self, way: Way, detail: str) -> ResolutionFailed | None:
        name, spec = way.last.name, way.last.text
        if name.startswith("__"):
            return self._virtual(way, detail)
        asked = self._asked(way)
        searched = self._searched(asked)
        records = self._query(searched, self._plan.platforms, name, spec)
        if any(each["matches"] for each in records):
            return self._too_late(way, detail)
        others = tuple(each for each in _PLATFORMS if each not in self._plan.platforms)
        if not self._offline:
            foreign = self._query(searched, others, name, spec)
            there = [each for each in foreign if each["matches"]] or (foreign if not records else [])
            if there:
                return self._other_platform(way, there, detail)
        return self._no_version(way, records, detail) if records else self._unknown(way, asked, detail)

    def _virtual(self, way: Way, detail: str) -> MissingVirtualPackage:
        name = way.last.name
        offered = next((version for known, version, _ in self._plan.virtual if known == name), None)
        wanted = spoken(way.last.text)
        why = f"the target has {name} {offered}" if offered else f"the target has no {name}"
        hint = f"take a version that does without `{wanted}`, or another base image"
        verified = False
        if name == "__cuda":
            version = _first_version(way.last.text) or "12.4"
            hint = f"write `cuda: {version}` into the environment file, if the machines that run it have such a driver"
            others = [each for each in self._plan.virtual if each[0] != name]
            verified = self._solves(replace(self._plan, virtual=(*others, (name, version, "0")))) is not None
        elif name == "__glibc":
            hint = f"take a base image whose glibc is as new, or a version that does without `{wanted}`"
        failure = MissingVirtualPackage(
            self._message(way, why), **self._facts(way, detail), hint=hint, verified=verified
        )
        failure.project, failure.offered = name, offered
        return failure

    def _unknown(self, way: Way, asked: Asked | None, detail: str) -> PackageNotFound:
        name = way.last.name
        near = self._near(name)
        elsewhere = self._elsewhere(name)
        named = ", ".join(dict.fromkeys(each.name for each in self._searched(asked)))
        hint = f"check the spelling of `{name}`; `channels:` may lack the channel that has it"
        verified = False
        if elsewhere:
            hint = f"add `{elsewhere[0]}` to `channels:`, which has it"
        elif near:
            hint = f"did you mean {_or(near)}?"
            if asked is not None and len(way.facts) == 1:
                verified = self._solves(self._swapped(asked, near[0])) is not None
                hint = f"write `{near[0]}`" if verified else hint
        failure = PackageNotFound(
            self._message(way, f"there is no package `{name}` in {named}"),
            **self._facts(way, detail),
            hint=hint,
            verified=verified,
        )
        failure.project, failure.near, failure.elsewhere = name, near, elsewhere
        failure.renamed_to = near[0] if verified else None
        return failure

    def _searched(self, asked: Asked | None) -> Sequence[CondaChannel]:
        if asked is not None and asked.spec.channel is not None:
            return [self._table.find(asked.spec.channel)]
        return self._plan.channels

    def _near(self, name: str) -> tuple[str, ...]:
        names = self._process.ask("names", channels=self._plan.sources, platforms=self._plan.platforms)["names"]
        known = [old for old, (new, _) in RENAMES.items() if new == name and old in names]
        new = RENAMES.get(name, ("",))[0]
        like = [each for each in names if abs(len(each) - len(name)) <= 3 and each[:1] == name[:1]]
        close = difflib.get_close_matches(name, like, n=3, cutoff=0.75)
        return tuple(dict.fromkeys([*([new] if new in names else []), *known, *close]))[:3]

    def _elsewhere(self, name: str) -> tuple[str, ...]:
        """Channels of the user's own settings that have a package. Others are not asked: names may be confidential."""
        if self._offline:
            return ()
        asked = {url for each in self._plan.channels for url in each.urls}
        found = []
        for word in self._table.known:
            try:
                channel = self._table.find(word)
                if not asked.issuperset(channel.urls) and self._query([channel], self._plan.platforms, name, ""):
                    found.append(word)
            except (Refused, InvalidChannel):
                continue
        return tuple(found)

    def _no_version(self, way: Way, records: Records, detail: str) -> NoSuchVersion:
        name, wanted = way.last.name, spoken(way.last.text)
        version = _first_version(way.last.text)
        same: list[str] = []
        asked = self._asked(way)
        if asked is not None and asked.spec.build is not None and version is not None:
            of_version = self._query(self._searched(asked), self._plan.platforms, name, f"{name}=={version}")
            same = [each["build"] for each in of_version if each["matches"]]
        near = tuple(dict.fromkeys(each["version"] for each in records))
        if same:
            what = f"{name} {version} has no such build; there is {', '.join(same[-3:])}"
        else:
            what = (
                f"there is no `{wanted}` for {self._plan.platforms[0]}; there is {', '.join(_nearest(near, version))}"
            )
        hint, verified = self._relaxed([asked] if asked else [])
        message = self._message(way, what)
        failure = NoSuchVersion(message, **self._facts(way, detail), hint=hint, verified=verified)
        failure.project, failure.nearest = name, _nearest(near, version)
        return failure

    def _other_platform(self, way: Way, records: Records, detail: str) -> NotForPlatform:
        platforms = tuple(sorted({each["subdir"] for each in records}))
        wanted = spoken(way.last.text)
        hint, verified = self._relaxed([asked] if (asked := self._asked(way)) else [])
        what = f"`{wanted}` was never made for {self._plan.platforms[0]}, only for {', '.join(platforms)}"
        failure = NotForPlatform(
            self._message(way, what),
            **self._facts(way, detail),
            hint=hint or "leave it out, or take another package that does the same",
            verified=verified,
        )
        failure.project, failure.platforms = way.last.name, platforms
        return failure

    # What does not count.

    def _excluded(self, ways: Sequence[Way], detail: str) -> ResolutionFailed:
        late = next((each for each in ways if "cutoff date" in each.last.why or "no timestamp" in each.last.why), None)
        if late is not None and (found := self._too_late(late, detail)):
            return found
        way = ways[0]
        if "channel priority" in way.last.why:
            return self._shadowed(way, detail)
        wanted = spoken(way.specs[-1].text)
        if "not in requested channel" in way.last.why:
            asked = self._asked(way)
            channel = asked.spec.channel if asked and asked.spec.channel else "that channel"
            hint, verified = self._without_channel(asked)
            failure: ResolutionFailed = ProjectNotFound(
                self._message(way, f"{channel} has no `{wanted}`"),
                **self._facts(way, detail),
                hint=hint,
                verified=verified,
            )
            return failure
        what = f"no package for `{wanted}` can be taken: {redact(way.last.why)[:300]}"
        return ResolutionFailed(self._message(way, what), **self._facts(way, detail))

    def _too_late(self, way: Way, detail: str) -> ResolutionFailed | None:
        """For what came after the day; None where no day was given."""
        if self._plan.as_of is None:
            return None
        wanted = spoken(way.specs[-1].text)
        day = self._plan.as_of[:10]
        hint, verified = self._relaxed([asked] if (asked := self._asked(way)) else [])
        what = f"nothing that fits `{wanted}` was there by {day}"
        if "no timestamp" in way.last.why:
            what = f"the channel does not say when `{wanted}` came, so nothing of it counts for {day}"
        failure = NotYetUploaded(
            self._message(way, what),
            **self._facts(way, detail),
            hint=hint or "take a later day, or an earlier version",
            verified=verified,
        )
        failure.project = way.last.name
        return failure

    def _shadowed(self, way: Way, detail: str) -> ShadowedByChannel:
        found = _URL.search(way.last.why)
        channel = self._channel_of(found[0].rstrip("/") + "/") if found else None
        name = channel.name if channel else redact(found[0]) if found else "another channel"
        spec = way.specs[-1]
        first = next(
            (
                each.name
                for each in self._plan.channels
                if each != channel and self._query([each], self._plan.platforms, spec.name, "")
            ),
            "an earlier channel",
        )
        what = (
            f"only {name} has `{spoken(spec.text)}`, and {first}, which comes first, has other versions of {spec.name}"
        )
        wanted = parse_match_spec(spoken(spec.text))
        text = f"{name}::{spoken(spec.text)}" if channel and not wanted.channel else None
        verified = False
        if text is not None and channel is not None:
            verified = self._solves(self._with_spec(spec.name, text, channel)) is not None
        hint = f"write `{text}`" if verified else f"put {name} first in `channels:`, or take a version that {first} has"
        failure = ShadowedByChannel(self._message(way, what), **self._facts(way, detail), hint=hint, verified=verified)
        failure.project, failure.channel = spec.name, name
        return failure

    # What excludes each other.

    def _conflict(self, one: Way, other: Way, detail: str) -> VersionConflict:
        lines = [each.line for way in (other, one) if (each := self._asked(way)) is not None]
        asked = [each for way in (other, one) if (each := self._asked(way)) is not None]
        hint, verified = self._relaxed(asked)
        start = f"{lines[0]}: " if lines else ""
        what = f"{other.said}, but {one.said}"
        if len(one.specs) == len(other.specs) == 1:
            what = f"{spoken(other.specs[-1].text)} and {spoken(one.specs[-1].text)} exclude each other"
        failure = VersionConflict(
            f"{start}{what}",
            lines=tuple(dict.fromkeys(lines)),
            chain=(*_chain(other), *_chain(one)),
            detail=detail,
            hint=hint or "relax one of these lines",
            verified=verified,
        )
        failure.project = other.last.name
        return failure

    # What every failure says.

    def _asked(self, way: Way) -> Asked | None:
        """The user's line that a way begins with; None for what conda itself adds."""
        name = way.facts[0].name
        own = [each for each in self._plan.asked if each.spec.name == name and not each.seed]
        return next((each for each in own if _same(each, way.facts[0])), own[0] if own else None)

    def _facts(self, way: Way, detail: str) -> dict[str, Any]:
        asked = self._asked(way)
        return {"lines": [asked.line] if asked else [], "chain": _chain(way), "detail": detail}

    def _message(self, way: Way, what: str) -> str:
        asked = self._asked(way)
        start = f"{asked.line}: " if asked else ""
        through = " → ".join(_chain(way)[1:])
        return f"{start}needs {through}: {what}" if through and start else f"{start}{what}"

    # Asking and trying.

    def _query(self, channels: Iterable[CondaChannel], platforms: Sequence[str], name: str, spec: str) -> Records:
        sources = [{"name": each.name, "urls": each.urls, "multiple": each.multiple} for each in channels]
        found = self._process.ask("query", channels=sources, platforms=platforms, name=name, spec=spec)
        records: Records = found["records"]
        return records

    def _solves(self, plan: Plan) -> Records | None:
        """The solution of another plan, if there is one and enough tries are left."""
        if self._left <= 0:
            return None
        self._left -= 1
        try:
            return plan.solve(self._process)
        except (Refused, CondaTimeout):
            return None

    def _relaxed(self, lines: Iterable[Asked]) -> tuple[str | None, bool]:
        """The first of these lines that solves it without its bounds, as it should then be: a hint, and that it was tried."""
        for each in lines:
            spec = each.spec
            if each.spec.version is None and each.spec.build is None:
                continue
            loose = replace(spec, version=None, build=None, build_number=None)
            records = self._solves(self._with(each, self._text(loose)))
            version = next((found["version"] for found in records or () if found["name"] == spec.name), None)
            if version is not None:
                return f"write `{replace(loose, version=None)}={version}`", True
        return None, False

    def _without_channel(self, asked: Asked | None) -> tuple[str | None, bool]:
        if asked is None:
            return None, False
        free = replace(asked.spec, channel=None)
        if self._solves(self._with(asked, self._text(free))) is None:
            return None, False
        return f"write `{free}`", True

    def _text(self, spec: Any) -> str:
        return to_rattler(spec, f"{self._table.find(spec.channel).urls[0]}/" if spec.channel else None)

    def _with(self, asked: Asked, text: str) -> Plan:
        """The plan with another text for one line."""
        return replace(
            self._plan, asked=tuple(replace(each, text=text) if each is asked else each for each in self._plan.asked)
        )

    def _with_spec(self, name: str, text: str, channel: CondaChannel) -> Plan:
        """The plan with one spec of a channel, in place of the user's of that name or besides."""
        spec = parse_match_spec(text)
        added = Asked(Requirement(text), spec, to_rattler(spec, f"{channel.urls[0]}/"), seed=True)
        kept = tuple(each for each in self._plan.asked if each.spec.name != name)
        return replace(self._plan, asked=(*kept, added))

    def _swapped(self, asked: Asked, name: str) -> Plan:
        spec = replace(asked.spec, name=name)
        return replace(
            self._plan,
            asked=tuple(
                replace(each, spec=spec, text=self._text(spec)) if each is asked else each for each in self._plan.asked
            ),
        )


def _same(asked: Asked, fact: Fact) -> bool:
    """Whether a fact is the user's spec, as far as the version tells."""
    return bool(asked.spec.version) and (asked.spec.version or "").lstrip("=") in fact.text


def _chain(way: Way) -> tuple[str, ...]:
    """What is asked for on the way, the user's own first."""
    return tuple(dict.fromkeys(spoken(each.text) for each in way.specs))


def _first_version(spec: str) -> str | None:
    found = re.search(r"[ =<>~!](\d[\w.]*?)(?:\.\*)?(?:[,| \[]|$)", spec)
    return found[1] if found else None


def _nearest(versions: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    """At most five of the versions, in order: those that begin like what was asked for, or else the newest."""
    if wanted is not None:
        parts = wanted.split(".")
        for count in range(len(parts) - 1, 0, -1):
            start = ".".join(parts[:count])
            if like := [each for each in versions if each == start or each.startswith(f"{start}.")]:
                return tuple(like[-5:])
    return tuple(versions[-5:])


def _or(names: Sequence[str]) -> str:
    quoted = [f"`{each}`" for each in names]
    return " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
