"""Who we are to an index: environment variables, netrc and keyring, as uv looks there; and URLs without secrets."""

import importlib
import netrc
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from mlenv.core.spec import Index, Sources
from mlenv.resolve.failures import variable_name

_PORTS: Final = {"http": 80, "https": 443}

Realm = tuple[str, str, int | None]


def realm_of(url: str) -> Realm:
    """Scheme, host and port: what credentials hold for."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").lower(), port or _PORTS.get(parts.scheme)


def without_credentials(url: str) -> str:
    """The URL without user, password and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def redact(url: str) -> str:
    """The URL as it may be shown: also without its query, in which some services sign."""
    parts = urlsplit(without_credentials(url))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "…" if parts.query else "", ""))


def index_for(url: str, sources: Sources) -> Index | None:
    """The user's index that a URL belongs to: by the longest common address, or else by the host."""
    indexes = [*sources.extra, *([sources.default] if sources.default else [])]
    same = [each for each in indexes if realm_of(each.url) == realm_of(url)]
    return max(same, key=lambda each: _common(each.url, url), default=None)


def _common(one: str, other: str) -> int:
    """How many characters two addresses begin with alike."""
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(one))


def credentials_for(url: str, sources: Sources) -> tuple[str, str] | None:
    """
    User and password for a URL, or None: by the index's name, then netrc, then keyring.

    Looking into the keyring may ask the user something, so callers do it only once a server has said 401.
    """
    index = index_for(url, sources)
    if index is not None and index.name:
        prefix = f"UV_INDEX_{variable_name(index.name)}"
        user, password = os.environ.get(f"{prefix}_USERNAME"), os.environ.get(f"{prefix}_PASSWORD")
        if user or password:
            return user or "", password or ""
    return _from_netrc(url) or (_from_keyring(index.url if index else url) if index else None)


def _from_netrc(url: str) -> tuple[str, str] | None:
    place = os.environ.get("NETRC")
    paths = [Path(place)] if place else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in paths:
        try:
            found = netrc.netrc(str(path)).authenticators(realm_of(url)[1])
        except (OSError, netrc.NetrcParseError):
            continue
        if found:
            return found[0] or "", found[2] or ""
    return None


def _from_keyring(url: str) -> tuple[str, str] | None:
    try:
        keyring = importlib.import_module("keyring")
    except ImportError:
        return None
    for service in (url, realm_of(url)[1]):
        try:
            found = keyring.get_credential(service, None)
        except Exception:  # noqa: BLE001, S112 (a backend may raise anything: then there are no credentials)
            continue
        if found is not None:
            return found.username, found.password
    return None
