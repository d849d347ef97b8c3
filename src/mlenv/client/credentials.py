"""
What `mlenv login` saves: for each server a token, an authority, and a workspace; and which server is meant if none is named.

They are in `servers.json` in the user's configuration directory, which is for this user's eyes only. `MLENV_CONFIG_HOME`
names another directory.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from mlenv.client.address import parse_server
from mlenv.errors import InvalidInput, Unavailable
from mlenv.file_lock import FileLock

#: The variable that names the directory.
DIRECTORY_VARIABLE: Final = "MLENV_CONFIG_HOME"
_FILE: Final = "servers.json"
#: The size above which the file is not read, in bytes.
_LIMIT: Final = 1 << 20
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class CredentialsDamaged(InvalidInput):
    """The file of logins is not what `mlenv login` wrote."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"the saved logins can't be read: {file}: {why}")
        self.hint = "remove that file, and log in again with `mlenv login URL`"
        self.file = file


class CredentialsUnusable(Unavailable):
    """The file of logins can't be read or written."""

    def __init__(self, file: Path, error: OSError) -> None:
        super().__init__(f"the saved logins can't be kept in {file}: {error.strerror or error}")
        self.hint = f"set {DIRECTORY_VARIABLE} to a directory that you may write to"
        self.file = file


class Login(Struct, frozen=True):
    """
    A server that this user has logged in to.

    Attributes:
        server: Its address, as `server_key` writes it.
        token: What is shown to it.
        ca: A PEM file with the authority its certificate must be of, or None for those of the machine.
        workspace: The workspace that is meant if none is named, or None.
        own: The token was made by logging in, and is nobody else's; logging out makes it worthless.
    """

    server: str
    token: str
    ca: str | None = None
    workspace: str | None = None
    own: bool = False

    def __repr__(self) -> str:
        return f"Login({self.server!r})"


def server_key(server: str) -> str:
    """A server's address as the one that all its spellings have. Raises `mlenv.client.address.InvalidServer`."""
    parts = urlsplit(parse_server(server))
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def find_login(server: str | None = None, *, environment: Mapping[str, str] = os.environ) -> Login | None:
    """
    What was saved for a server, or for the one that was logged in to last; None if nothing was.

    Raises:
        InvalidServer: The address is none.
        CredentialsDamaged, CredentialsUnusable: What was saved can't be read.
    """
    file = _file(environment)
    document = _read(file)
    name = server_key(server) if server is not None else document.get("default")
    saved = document["servers"].get(name) if isinstance(name, str) else None
    return None if saved is None else _login(file, str(name), saved)


def save_login(login: Login, *, default: bool = True, environment: Mapping[str, str] = os.environ) -> None:
    """
    Keep a login.

    Args:
        default: Its server is the one that is meant from now on.

    Raises:
        CredentialsDamaged, CredentialsUnusable: It can't be kept.
    """
    name = server_key(login.server)
    with _changing(environment) as document:
        if default:
            document["default"] = name
        document["servers"][name] = {
            "token": login.token,
            "ca": login.ca,
            "workspace": login.workspace,
            "own": login.own,
        }


def remove_login(server: str, *, environment: Mapping[str, str] = os.environ) -> None:
    """
    Forget a login; no server is meant from now on if it was this.

    Raises:
        CredentialsDamaged, CredentialsUnusable: The rest can't be kept.
    """
    name = server_key(server)
    with _changing(environment) as document:
        document["servers"].pop(name, None)
        if document.get("default") == name:
            document["default"] = None


def _file(environment: Mapping[str, str]) -> Path:
    if configured := environment.get(DIRECTORY_VARIABLE):
        return Path(configured).expanduser().absolute() / _FILE
    from platformdirs import user_config_path

    return user_config_path("mlenv", appauthor=False) / _FILE


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {"default": None, "servers": {}}
    except OSError as error:
        raise CredentialsUnusable(file, error) from error
    if len(data) > _LIMIT:
        raise CredentialsDamaged(file, "it is too large")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        # NOTE: not chained, since the message of the cause may quote a token.
        raise CredentialsDamaged(file, "it is not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.setdefault("servers", {}), dict):
        raise CredentialsDamaged(file, "it has another form")
    return document


def _login(file: Path, server: str, saved: Any) -> Login:
    texts = [saved.get(key) for key in ("ca", "workspace")] if isinstance(saved, dict) else [0]
    if not all(each is None or isinstance(each, str) for each in texts) or not isinstance(saved.get("token"), str):
        raise CredentialsDamaged(file, f"what it has for {server} is no login")
    return Login(server, saved["token"], saved.get("ca"), saved.get("workspace"), saved.get("own") is True)


@contextmanager
def _changing(environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What is saved, to be changed; it is replaced as a whole, and other processes wait."""
    file = _file(environment)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            document = _read(file)
            yield document
            _replace(file, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise CredentialsUnusable(file, error) from error


def _replace(file: Path, text: str) -> None:
    # `mkstemp` makes files that only this user may read.
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
