"""Who we are to an index: environment variables, netrc and keyring, as uv looks there."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mlenv.core.spec import Index, Sources
from mlenv.resolve.failures import variable_name

_PORTS: Final = {"http": 80, "https": 443}
#: Seconds for the keyring, which may be asking the user.
_KEYRING_TIMEOUT: Final = 120.0

Realm = tuple[str, str, int | None]


def realm_of(url: str) -> Realm:
    """Scheme, host and port: what credentials hold for."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").lower(), port or _PORTS.get(parts.scheme)


def index_for(url: str, sources: Sources) -> Index | None:
    """The user's index that a URL belongs to: by the longest common address, or else by the host."""
    indexes = [*sources.extra, *([sources.default] if sources.default else [])]
    same = [each for each in indexes if realm_of(each.url) == realm_of(url)]
    return max(same, key=lambda each: _common(each.url, url), default=None)


def _common(one: str, other: str) -> int:
    """How many characters two addresses begin with alike."""
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(one))


def credentials_for(url: str, sources: Sources, variables: Mapping[str, str]) -> tuple[str, str] | None:
    """
    User and password for a URL, or None: by the index's name, then netrc, then keyring.

    Looking into the keyring may ask the user something, so callers do it only once a server has said 401.
    """
    index = index_for(url, sources)
    if index is not None and index.name:
        prefix = f"UV_INDEX_{variable_name(index.name)}"
        user, password = variables.get(f"{prefix}_USERNAME"), variables.get(f"{prefix}_PASSWORD")
        if password or (user and find_keyring() is None):
            return user or "", password or ""
        if user:
            return _from_keyring(index.url, user)
    return _from_netrc(url) or (_from_keyring(index.url, None) if index else None)


def _from_netrc(url: str) -> tuple[str, str] | None:
    import netrc

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


def find_keyring() -> str | None:
    """The `keyring` command, by which uv asks, too."""
    return shutil.which("keyring")


def _from_keyring(url: str, user: str | None) -> tuple[str, str] | None:
    """Ask as uv does: for the index, then for its host; `--mode creds` where the user's name is to be told as well."""
    import subprocess

    command = find_keyring()
    if command is None:
        return None
    scheme, netloc = urlsplit(url)[:2]
    for service in (url, netloc, f"{scheme}://{netloc}"):
        arguments = [command, "get", service, *([user] if user else ["--mode", "creds"])]
        try:
            done = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_KEYRING_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        lines = done.stdout.splitlines()
        if done.returncode == 0 and len(lines) >= (1 if user else 2):
            return (user, lines[0]) if user else (lines[0], lines[1])
    return None
