"""
Conda channels: from the names that people write to addresses, by conda's rules (`conda/models/channel.py`).

Credentials that stand in addresses are taken out, and kept apart.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from msgspec import Struct

from mlenv.core.match_spec import SUBDIRS
from mlenv.core.redact import redact
from mlenv.errors import InvalidInput
from mlenv.resolve.condarc import CondaSettings

#: What `defaults` means where no `default_channels` says otherwise, and one more name of conda's own, on the host below.
_DEFAULTS: Final = ("pkgs/main", "pkgs/r")
_BUILT_IN: Final = ("pkgs/pro",)
DEFAULTS: Final = "defaults"
NODEFAULTS: Final = "nodefaults"
_NAME: Final = re.compile(r"[\w.+~-]+(?:/[\w.+~-]+)*")
_TOKEN: Final = re.compile(r"(?P<before>/(?:.*?/)?)t/(?P<token>[^/]+)(?P<after>/.*|$)")


def vendor_host(alias: str) -> str:
    """
    Where conda's own vendor keeps the channels that `defaults` stands for (`conda/base/constants.py`, `DEFAULT_CHANNELS`).

    Args:
        alias: Below which channels are that are only named, as the solver has it: on a host of the same vendor's.
    """
    return re.sub(r"//conda\.(\w+)\.org$", r"//repo.\1.com", alias.rstrip("/"))


class InvalidChannel(InvalidInput):
    """Text that should name a channel, and does not."""

    hint = "write `conda-forge`, or an address such as `https://conda.example.org/channel`"

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"not a conda channel: {redact(text)[:200]!r}: {why}")
        self.why = why


class Secret(Struct, frozen=True):
    """
    How to be let in at a channel.

    Attributes:
        url: Below which address it holds.
        user, password: Of basic authentication.
        bearer: A token for the `Authorization` header.
        token: A token that stands in the path, as `/t/TOKEN`.
        at: The address behind which that stands.
    """

    url: str
    user: str = ""
    password: str = ""
    bearer: str = ""
    token: str = ""
    at: str = ""

    def __repr__(self) -> str:
        return f"Secret({self.url!r})"

    @property
    def authorization(self) -> str | None:
        """The header, or None."""
        if self.bearer:
            return f"Bearer {self.bearer}"
        if not self.user and not self.password:
            return None
        import base64

        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def address(self, url: str) -> str:
        """A URL as it is asked for: with the token in it, if there is one."""
        if not self.token or not is_below(url, self.at):
            return url
        return f"{self.at}/t/{self.token}{url[len(self.at) :]}"


class CondaChannel(Struct, frozen=True):
    """
    A channel.

    Attributes:
        name: As it was written, without credentials; what a name for several channels is called by.
        urls: Its address, or those of the channels that it stands for: without credentials and last slash.
        multiple: Whether it is a name for several channels, which then have the same priority.
    """

    name: str
    urls: tuple[str, ...]
    multiple: bool = False


class ChannelTable:
    """
    Channels by name.

    Args:
        settings: conda's.
        alias: Below which channels are that are only named, where the settings do not say.

    Attributes:
        secrets: What stood in addresses; it grows with what is resolved.
    """

    def __init__(self, settings: CondaSettings, alias: str) -> None:
        self.secrets: list[Secret] = []
        self._alias = self._clean(settings.channel_alias or alias)
        self._migrated = [self._clean(each) for each in settings.migrated_channel_aliases]
        own = (*(settings.channels or ()), *settings.custom_multichannels, *settings.custom_channels)
        self._known = tuple(dict.fromkeys(self._clean(each) if "://" in each else each for each in own))
        self._channels = settings.channels if settings.channels is not None else (DEFAULTS,)
        vendor = vendor_host(alias)
        defaults = settings.default_channels or tuple(f"{vendor}/{each}" for each in _DEFAULTS)
        several = {**settings.custom_multichannels, DEFAULTS: defaults}
        self._several = {name: tuple(map(self._simple, urls)) for name, urls in several.items()}
        self._custom = {name: f"{vendor}/{name}" for name in _BUILT_IN}
        # What `defaults` stands for is known by its own name, `pkgs/main`, as well.
        members = [url for urls in self._several.values() for url in urls if not url.startswith("file:")]
        self._custom |= {_path(url): url for url in members if not is_below(url, self._alias) and _path(url)}
        for name, each in settings.custom_channels.items():
            # The credentials hold for the channel, not for all that is beside it.
            self._custom[name.strip("/")] = self._simple(f"{each.rstrip('/')}/{name.strip('/')}")
        self._mirrors = {
            self.find(name).urls[0] if "://" not in name else self._clean(name): tuple(map(self._clean, urls))
            for name, urls in settings.mirrored_channels.items()
        }

    @property
    def mirrors(self) -> dict[str, tuple[str, ...]]:
        """Where files below an address are fetched instead, in order."""
        return dict(self._mirrors)

    @property
    def known(self) -> tuple[str, ...]:
        """Channels that somebody put into the settings, wherever, by name or by address without credentials."""
        return self._known

    @property
    def own(self) -> tuple[str, ...]:
        """
        Addresses that are the machine's own: what its settings name, below what channels are that are only named, and
        what `defaults` stands for. A channel below one of these is one of them.
        """
        named = [url for word in self._channels if word != NODEFAULTS for url in self.find(word).urls]
        several = [url for urls in self._several.values() for url in urls]
        return tuple(dict.fromkeys((self._alias, *named, *several, *self._custom.values())))

    @property
    def places(self) -> tuple[str, ...]:
        """Where files of the machine's own channels may come from: there, or from their mirrors."""
        return tuple(dict.fromkeys((*self.own, *(each for urls in self._mirrors.values() for each in urls))))

    def find(self, text: str) -> CondaChannel:
        """
        The channel of a name or address.

        Raises:
            InvalidChannel: It is neither.
        """
        text = text.strip()
        if "://" in text or text.startswith("/"):
            return CondaChannel(*self._named(text if "://" in text else f"file://{text}"))
        name = _without_subdir(text.strip("/"))
        if not _NAME.fullmatch(name) or any(part in {".", ".."} for part in name.split("/")):
            raise InvalidChannel(text, "neither a name nor an address")
        if name in self._several:
            return CondaChannel(name, self._several[name], multiple=True)
        parts = name.split("/")
        for count in range(len(parts), 0, -1):
            start = "/".join(parts[:count])
            if start in self._custom:
                return CondaChannel(name, ("/".join((self._custom[start], *parts[count:])),))
        return CondaChannel(name, (f"{self._alias}/{name}",))

    def order(self, asked: Iterable[str], more: Iterable[str] = ()) -> tuple[CondaChannel, ...]:
        """
        What is searched for a file, best first: its channels; those of the settings, unless it says `nodefaults`; and
        those that only single packages name. An address is searched once.

        Args:
            asked: The file's channels.
            more: Channels of packages, `channel::package`.

        Raises:
            InvalidChannel: One is no channel.
        """
        names = list(asked)
        wanted = [each for each in names if each != NODEFAULTS]
        if NODEFAULTS not in names:
            wanted += [each for each in self._channels if each != NODEFAULTS]
        seen: set[str] = set()
        found = []
        for channel in map(self.find, (*wanted, *more)):
            urls = tuple(each for each in channel.urls if each not in seen)
            seen.update(urls)
            if urls:
                found.append(CondaChannel(channel.name, urls, channel.multiple))
        return tuple(found)

    def _named(self, url: str) -> tuple[str, tuple[str, ...]]:
        clean = self._clean(url)
        for old in self._migrated:
            if is_below(clean, old) and clean != old:
                clean = self._alias + clean[len(old) :]
        return clean, (clean,)

    def _simple(self, text: str) -> str:
        """A member of a name for several: an address, or what is below the alias."""
        return self._clean(text) if "://" in text else f"{self._alias}/{text.strip('/')}"

    def _clean(self, url: str) -> str:
        clean, secret = split_secret(url)
        if secret is not None and secret not in self.secrets:
            self.secrets.append(secret)
        return clean


def split_secret(url: str) -> tuple[str, Secret | None]:
    """
    The address of a channel without credentials, subdirectory and last slash, and its credentials.

    Raises:
        InvalidChannel: It is no address.
    """
    try:
        parts = urlsplit(url)
        user, password, port = unquote(parts.username or ""), unquote(parts.password or ""), parts.port
    except ValueError as error:
        raise InvalidChannel(url, str(error)) from error
    place = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    local = parts.scheme == "file" and place in ("", "localhost") and parts.path.startswith("/")
    if not local and (parts.scheme not in ("http", "https") or not place):
        raise InvalidChannel(url, "its address does not begin with https://, http:// or file:///")
    if parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\\\"'<>|^`{}]", url):
        raise InvalidChannel(url, "its address has more than a path")
    host = place + (f":{port}" if port is not None else "")
    path, token, at = parts.path, "", ""
    if not local and (match := _TOKEN.fullmatch(path)):
        path, token = match["before"].rstrip("/") + match["after"], match["token"]
        at = urlunsplit((parts.scheme, host, match["before"].rstrip("/"), "", ""))
    path = _without_subdir(re.sub(r"/{2,}", "/", path).rstrip("/"))
    if _climbs(path):
        raise InvalidChannel(url, "its path leads upwards")
    clean = urlunsplit((parts.scheme, host, path, "", "")) if not local else f"file://{path}"
    secret = Secret(clean, user, password, token=token, at=at)
    return clean, secret if user or password or token else None


def is_below(url: str, start: str) -> bool:
    """Whether an address is another, or below it. One that climbs up again (`..`) is below none."""
    start = start.rstrip("/")
    return url == start or (url.startswith(f"{start}/") and not _climbs(url))


def _climbs(url: str) -> bool:
    return any(part in {".", ".."} for part in unquote(url.partition("?")[0]).replace("\\", "/").split("/"))


def _without_subdir(path: str) -> str:
    before, _, last = path.rpartition("/")
    return before if before and last in SUBDIRS else path


def _path(url: str) -> str:
    return urlsplit(url).path.strip("/")


def addresses(channels: Iterable[CondaChannel]) -> Iterator[str]:
    """Every address of channels."""
    for each in channels:
        yield from each.urls
