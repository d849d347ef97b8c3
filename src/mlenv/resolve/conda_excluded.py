"""What is there, and does not count: it came too late, or stands in another channel; and what excludes each other."""

from collections.abc import Sequence

from mlenv.core.match_spec import parse_match_spec
from mlenv.core.redact import redact
from mlenv.resolve.conda_explanation import Way, spoken
from mlenv.resolve.conda_failures import ShadowedByChannel
from mlenv.resolve.conda_inquiry import Inquiry, chain_of
from mlenv.resolve.conda_unreachable import channel_of, first_url
from mlenv.resolve.failures import NotYetUploaded, ProjectNotFound, ResolutionFailed, VersionConflict


def excluded(inquiry: Inquiry, ways: Sequence[Way]) -> ResolutionFailed:
    """The failure for ways that lead to packages which do not count. Raises `Refused`."""
    late = next((each for each in ways if "cutoff date" in each.last.why or "no timestamp" in each.last.why), None)
    if late is not None and (found := too_late(inquiry, late)):
        return found
    way = ways[0]
    if "channel priority" in way.last.why:
        return _shadowed(inquiry, way)
    wanted = spoken(way.specs[-1].text)
    if "not in requested channel" in way.last.why:
        asked = inquiry.asked(way)
        channel = asked.spec.channel if asked and asked.spec.channel else "that channel"
        hint, verified = inquiry.without_channel(asked)
        message = inquiry.message(way, f"{channel} has no `{wanted}`")
        return ProjectNotFound(message, **inquiry.facts(way), hint=hint, verified=verified)
    what = f"no package for `{wanted}` can be taken: {redact(way.last.why)[:300]}"
    return ResolutionFailed(inquiry.message(way, what), **inquiry.facts(way))


def too_late(inquiry: Inquiry, way: Way) -> ResolutionFailed | None:
    """The failure for what came after the day; None where no day was given."""
    if inquiry.plan.as_of is None:
        return None
    wanted = spoken(way.specs[-1].text)
    day = inquiry.plan.as_of[:10]
    hint, verified = inquiry.relaxed([inquiry.asked(way)])
    what = f"nothing that fits `{wanted}` was there by {day}"
    if "no timestamp" in way.last.why:
        what = f"the channel does not say when `{wanted}` came, so nothing of it counts for {day}"
    failure = NotYetUploaded(
        inquiry.message(way, what),
        **inquiry.facts(way),
        hint=hint or "take a later day, or an earlier version",
        verified=verified,
    )
    failure.project = way.last.name
    return failure


def _shadowed(inquiry: Inquiry, way: Way) -> ShadowedByChannel:
    plan, spec = inquiry.plan, way.specs[-1]
    url = first_url(way.last.why)
    channel = channel_of(plan.channels, url.rstrip("/") + "/") if url else None
    name = channel.name if channel else redact(url) if url else "another channel"
    has_it = (
        each.name for each in plan.channels if each != channel and inquiry.query([each], plan.platforms, spec.name, "")
    )
    first = next(has_it, "an earlier channel")
    wanted = spoken(spec.text)
    text = f"{name}::{wanted}" if channel and not parse_match_spec(wanted).channel else None
    verified = False
    if text is not None and channel is not None:
        verified = inquiry.solves(inquiry.with_channel(spec.name, text, channel)) is not None
    hint = f"write `{text}`" if verified else f"put {name} first in `channels:`, or take a version that {first} has"
    what = f"only {name} has `{wanted}`, and {first}, which comes first, has other versions of {spec.name}"
    failure = ShadowedByChannel(inquiry.message(way, what), **inquiry.facts(way), hint=hint, verified=verified)
    failure.project, failure.channel = spec.name, name
    return failure


def conflict(inquiry: Inquiry, one: Way, other: Way) -> VersionConflict:
    """The failure for two ways to a package of which no version does for both, the second being the one to blame."""
    asked = [each for way in (other, one) if (each := inquiry.asked(way)) is not None]
    lines = tuple(dict.fromkeys(each.line for each in asked))
    hint, verified = inquiry.relaxed(asked)
    what = f"{other.said}, but {one.said}"
    if len(one.specs) == len(other.specs) == 1:
        what = f"{spoken(other.specs[-1].text)} and {spoken(one.specs[-1].text)} exclude each other"
    facts = inquiry.facts(other) | {"lines": lines, "chain": (*chain_of(other), *chain_of(one))}
    start = f"{lines[0]}: " if lines else ""
    failure = VersionConflict(f"{start}{what}", **facts, hint=hint or "relax one of these lines", verified=verified)
    failure.project = other.last.name
    return failure
