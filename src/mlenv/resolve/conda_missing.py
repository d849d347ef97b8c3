"""What nothing was found for: a package, a version of it, a platform, or what the target itself should offer."""

import difflib
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from mlenv.resolve.conda_channels import InvalidChannel
from mlenv.resolve.conda_excluded import too_late
from mlenv.resolve.conda_explanation import Way, spoken
from mlenv.resolve.conda_failures import MissingVirtualPackage, NotForPlatform, PackageNotFound
from mlenv.resolve.conda_inquiry import Inquiry, Records, first_version
from mlenv.resolve.conda_process import Refused
from mlenv.resolve.conda_request import Asked
from mlenv.resolve.failures import NoSuchVersion, ResolutionFailed
from mlenv.resolve.renames import RENAMES

#: Where a package that is not for the target is looked for, besides.
_PLATFORMS: Final = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64", "noarch")


def missing(inquiry: Inquiry, way: Way) -> ResolutionFailed | None:
    """The failure for a way that leads to nothing; None if nothing is missing there. Raises `Refused`."""
    name, spec = way.last.name, way.last.text
    if name.startswith("__"):
        return _virtual(inquiry, way)
    plan, asked = inquiry.plan, inquiry.asked(way)
    searched = inquiry.searched(asked)
    records = inquiry.query(searched, plan.platforms, name, spec)
    if any(each["matches"] for each in records):
        return too_late(inquiry, way)
    others = tuple(each for each in _PLATFORMS if each not in plan.platforms)
    if not inquiry.offline:
        foreign = inquiry.query(searched, others, name, spec)
        there = [each for each in foreign if each["matches"]] or (foreign if not records else [])
        if there:
            return _other_platform(inquiry, way, there)
    return _no_version(inquiry, way, records) if records else _unknown(inquiry, way, asked)


def _virtual(inquiry: Inquiry, way: Way) -> MissingVirtualPackage:
    name, plan = way.last.name, inquiry.plan
    offered = next((version for known, version, _ in plan.virtual if known == name), None)
    wanted = spoken(way.last.text)
    why = f"the target has {name} {offered}" if offered else f"the target has no {name}"
    hint = f"take a version that does without `{wanted}`, or another base image"
    verified = False
    if name == "__cuda":
        version = first_version(way.last.text) or "12.4"
        hint = f"write `cuda: {version}` into the environment file, if the machines that run it have such a driver"
        others = [each for each in plan.virtual if each[0] != name]
        verified = inquiry.solves(replace(plan, virtual=(*others, (name, version, "0")))) is not None
    elif name == "__glibc":
        hint = f"take a base image whose glibc is as new, or a version that does without `{wanted}`"
    failure = MissingVirtualPackage(inquiry.message(way, why), **inquiry.facts(way), hint=hint, verified=verified)
    failure.project, failure.offered = name, offered
    return failure


def _unknown(inquiry: Inquiry, way: Way, asked: Asked | None) -> PackageNotFound:
    name = way.last.name
    near = _near(inquiry, name)
    elsewhere = _elsewhere(inquiry, name)
    named = ", ".join(dict.fromkeys(each.name for each in inquiry.searched(asked)))
    hint = f"check the spelling of `{name}`; `channels:` may lack the channel that has it"
    verified = False
    if elsewhere:
        hint = f"add `{elsewhere[0]}` to `channels:`, which has it"
    elif near:
        hint = f"did you mean {_or(near)}?"
        if asked is not None and len(way.facts) == 1:
            swapped = inquiry.with_spec(asked, replace(asked.spec, name=near[0]))
            verified = inquiry.solves(swapped) is not None
            hint = f"write `{near[0]}`" if verified else hint
    failure = PackageNotFound(
        inquiry.message(way, f"there is no package `{name}` in {named}"),
        **inquiry.facts(way),
        hint=hint,
        verified=verified,
    )
    failure.project, failure.near, failure.elsewhere = name, near, elsewhere
    failure.renamed_to = near[0] if verified else None
    return failure


def _near(inquiry: Inquiry, name: str) -> tuple[str, ...]:
    names = inquiry.names()
    known = [old for old, (new, _) in RENAMES.items() if new == name and old in names]
    new = RENAMES.get(name, ("",))[0]
    like = [each for each in names if abs(len(each) - len(name)) <= 3 and each[:1] == name[:1]]
    close = difflib.get_close_matches(name, like, n=3, cutoff=0.75)
    return tuple(dict.fromkeys([*([new] if new in names else []), *known, *close]))[:3]


def _elsewhere(inquiry: Inquiry, name: str) -> tuple[str, ...]:
    """Channels of the user's own settings that have a package. Others are not asked: names may be confidential."""
    if inquiry.offline:
        return ()
    plan, table = inquiry.plan, inquiry.table
    asked = {url for each in plan.channels for url in each.urls}
    found = []
    for word in table.known:
        try:
            channel = table.find(word)
            if not asked.issuperset(channel.urls) and inquiry.query([channel], plan.platforms, name, ""):
                found.append(word)
        except (Refused, InvalidChannel):
            continue
    return tuple(found)


def _no_version(inquiry: Inquiry, way: Way, records: Records) -> NoSuchVersion:
    name, wanted = way.last.name, spoken(way.last.text)
    version, platforms = first_version(way.last.text), inquiry.plan.platforms
    same: list[str] = []
    asked = inquiry.asked(way)
    if asked is not None and asked.spec.build is not None and version is not None:
        of_version = inquiry.query(inquiry.searched(asked), platforms, name, f"{name}=={version}")
        same = [each["build"] for each in of_version if each["matches"]]
    nearest = _nearest(tuple(dict.fromkeys(each["version"] for each in records)), version)
    what = f"there is no `{wanted}` for {platforms[0]}; there is {', '.join(nearest)}"
    if same:
        what = f"{name} {version} has no such build; there is {', '.join(same[-3:])}"
    hint, verified = inquiry.relaxed([asked])
    failure = NoSuchVersion(inquiry.message(way, what), **inquiry.facts(way), hint=hint, verified=verified)
    failure.project, failure.nearest = name, nearest
    return failure


def _other_platform(inquiry: Inquiry, way: Way, records: Records) -> NotForPlatform:
    platforms = tuple(sorted({each["subdir"] for each in records}))
    hint, verified = inquiry.relaxed([inquiry.asked(way)])
    made = f"was never made for {inquiry.plan.platforms[0]}, only for {', '.join(platforms)}"
    failure = NotForPlatform(
        inquiry.message(way, f"`{spoken(way.last.text)}` {made}"),
        **inquiry.facts(way),
        hint=hint or "leave it out, or take another package that does the same",
        verified=verified,
    )
    failure.project, failure.platforms = way.last.name, platforms
    return failure


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
