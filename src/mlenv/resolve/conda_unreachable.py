"""Channels that did not answer, or not so, in rattler's words: which one, and why."""

import re
from collections.abc import Iterable
from typing import Final

from mlenv.core.redact import redact
from mlenv.errors import MlenvError
from mlenv.resolve.conda_channels import CondaChannel
from mlenv.resolve.conda_failures import ChannelNotFound, ChannelRefused, ChannelUnreachable

_URL: Final = re.compile(r"(?:https?|file)://[^\s'()]+")
_STATUS: Final = re.compile(r"HTTP status (?:client|server) error \((?P<status>\d{3})")
_PARTS: Final = re.compile(r"/(?:[\w-]+/)?(?:repodata|current_repodata|shards/|repodata_shards)[\w./-]*$|/noarch/?$")


def refusing_url(text: str) -> str | None:
    """The address that wanted credentials, in a failure of rattler's."""
    return first_url(text) if _status(text) in (401, 403) else None


def first_url(text: str) -> str | None:
    """The first address in a text."""
    found = _URL.search(text)
    return found[0] if found else None


def channel_of(channels: Iterable[CondaChannel], url: str) -> CondaChannel | None:
    """The channel that an address belongs to."""
    plain = _PARTS.sub("", url)
    for channel in channels:
        if any(each == plain or url.startswith(f"{each}/") for each in channel.urls):
            return channel
    return None


def unreachable(channels: Iterable[CondaChannel], text: str) -> MlenvError:
    """The failure to raise for a `GatewayError` of rattler's."""
    url, number, detail = first_url(text), _status(text), redact(text)
    channel = channel_of(channels, url) if url else None
    where = redact(_PARTS.sub("", url.rstrip("/.,;"))) if url else "a channel"
    whose = f"{channel.name} ({where})" if channel is not None and "://" not in channel.name else where
    if number in (401, 403):
        return ChannelRefused(whose, number, detail=detail)
    if "no usable repodata cache" in text:
        hint = "leave `offline` out once, so that the channel is fetched"
        return ChannelUnreachable(whose, "nothing of it was fetched before", detail=detail, hint=hint)
    if "could not find subdir" in text:
        return ChannelNotFound(whose, detail=detail)
    if number is None and "error sending request" not in text and "timed out" not in text:
        hint = "look at the address: what answers there may be a login page"
        return ChannelUnreachable(whose, "what it sent is no list of packages", detail=detail, hint=hint)
    causes = [each.removeprefix("Caused by: ") for each in text.splitlines()[1:]]
    why = f"the server says {number}" if number else redact(causes[-1]) if causes else "it did not answer"
    return ChannelUnreachable(whose, why, detail=detail)


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found["status"]) if found else None
