"""
Who we are to a channel: what stood in addresses, rattler's credential file, netrc, and the keyring.

The file is pixi's and micromamba's too (rattler's `authentication_storage`): hosts, and what each takes.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mlenv.core.redact import redact
from mlenv.core.spec import PUBLIC, Index, Sources
from mlenv.errors import InvalidInput
from mlenv.resolve.conda_channels import ChannelTable, Secret, is_below
from mlenv.resolve.credentials import credentials_for

_LIMIT: Final = 1 << 20


class InvalidCredentialFile(InvalidInput):
    """A file with credentials that can't be understood. What it holds is not shown."""

    hint = "make it anew with `rattler auth login` or `pixi auth login`, or unset RATTLER_AUTH_FILE"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


class ChannelAccess:
    """
    What is sent where, for one set of channels.

    Args:
        table: Channels, their mirrors, and the credentials of their addresses.
        stored: Credentials by host: what `read_stored` gave.
        own: Whether netrc and keyring count: they are those of the user of this process, which a server does not lend.
    """

    def __init__(self, table: ChannelTable, stored: Mapping[str, Mapping[str, Any]], *, own: bool = True) -> None:
        self._table, self._stored, self._own = table, stored, own
        self._keyring: dict[str, Secret] = {}

    def secret_for(self, url: str) -> Secret | None:
        """The credentials for an address, without asking the keyring."""
        own = [each for each in self._table.secrets if is_below(url, each.url)]
        if own:
            return max(own, key=lambda each: len(each.url))
        return _stored(url, self._stored) or self._from_netrc(url) or self._keyring.get(_origin(url))

    def ask_keyring(self, url: str) -> bool:
        """Look into the keyring, which may ask the user; whether it has something new."""
        origin = _origin(url)
        if not self._own or origin in self._keyring or self.secret_for(url) is not None:
            return False
        found = credentials_for(url, Sources(default=Index(origin)), {})
        if found is None:
            return False
        self._keyring[origin] = Secret(origin, *found)
        return True

    def mirrored(self, url: str) -> list[str]:
        """Where a file is asked for, in order: at the mirrors of its channel, or where it is. Without credentials."""
        start = max((each for each in self._table.mirrors if is_below(url, each)), key=len, default=None)
        return [url] if start is None else [each + url[len(start) :] for each in self._table.mirrors[start]]

    def places(self, url: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        """As `mirrored`, each with what lets us in: in the address, or in headers."""
        for each in self.mirrored(url):
            secret = self.secret_for(each)
            header = secret.authorization if secret else None
            yield (secret.address(each) if secret else each), ({"Authorization": header} if header else {})

    @property
    def own_places(self) -> tuple[str, ...]:
        """Where files of the machine's own channels may come from (`ChannelTable.places`)."""
        return self._table.places

    def shown(self, place: str, url: str) -> str:
        """The address that is told of where a file was asked for: a server does not tell its mirrors."""
        return redact(place if self._own else url)

    def plain(self, text: str, urls: Iterable[str]) -> str:
        """A text that a failure has of channels, without tokens in paths; and without mirrors, if it is a server's."""
        found = {}
        for url in urls:
            for place, (address, _) in zip(self.mirrored(url), self.places(url), strict=True):
                found[address] = place if self._own else url
        for address in sorted(found, key=len, reverse=True):
            text = text.replace(address, found[address])
        return text

    def mirrors(self, urls: Iterable[str]) -> dict[str, list[str]]:
        """By channel address, where it is asked for instead: its mirrors, or itself with its token."""
        found = {url: [address for address, _ in self.places(url)] for url in urls}
        return {f"{url}/": [f"{each}/" for each in given] for url, given in found.items() if given != [url]}

    def headers(self, urls: Iterable[str]) -> list[tuple[str, str, str]]:
        """Host, path and the `Authorization` that is sent below it, the longest path first."""
        found = set()
        for url in urls:
            for address, header in self.places(url):
                if header:
                    parts = urlsplit(address)
                    found.add((parts.hostname or "", parts.path, header["Authorization"]))
        return sorted(found, key=lambda each: (-len(each[1]), each))

    def _from_netrc(self, url: str) -> Secret | None:
        found = credentials_for(url, PUBLIC, {}) if self._own else None
        return None if found is None else Secret(_origin(url), *found)


def read_stored(environment: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    """
    The file of `RATTLER_AUTH_FILE`, or else `~/.rattler/credentials.json`, if there is one.

    Raises:
        InvalidCredentialFile: It can't be understood.
    """
    named = environment.get("RATTLER_AUTH_FILE")
    home = environment.get("HOME") or os.path.expanduser("~")
    path = Path(named) if named else Path(home) / ".rattler" / "credentials.json"
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        if not named and isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
            return {}
        raise InvalidCredentialFile(path, error.strerror or "can't be read") from error
    try:
        document = json.loads(data) if len(data) <= _LIMIT else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not all(isinstance(each, dict) for each in document.values()):
        raise InvalidCredentialFile(path, "not hosts with their credentials, as JSON")
    return document


def _stored(url: str, stored: Mapping[str, Mapping[str, Any]]) -> Secret | None:
    """By the host, then by `*.` and the domains it is in, the nearest first."""
    host = (urlsplit(url).hostname or "").lower()
    labels = host.split(".")
    for key in (host, *(f"*.{'.'.join(labels[at:])}" for at in range(len(labels)))):
        if entry := stored.get(key):
            return _secret(_origin(url), entry)
    return None


def _secret(origin: str, entry: Mapping[str, Any]) -> Secret | None:
    match entry:
        case {"CondaToken": str(token)}:
            return Secret(origin, token=token, at=origin)
        case {"BearerToken": str(token)}:
            return Secret(origin, bearer=token)
        case {"BasicHTTP": {"username": str(user), "password": str(password)}}:
            return Secret(origin, user, password)
    return None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
