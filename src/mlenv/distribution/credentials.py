"""
Who we are to a registry, as docker and podman keep it (docker's `config.json`, containers-auth.json(5)).

    {"auths": {"host": {"auth": "<base64 of user:password>", "identitytoken": "…"}},
     "credsStore": "pass", "credHelpers": {"host": "name"}}
"""

import base64
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from mlenv.distribution.names import HUB
from mlenv.errors import InvalidInput, Unavailable

_LIMIT: Final = 4 << 20
#: Seconds in which a credential helper must answer.
HELPER_TIMEOUT: Final = 30.0
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
#: Docker Hub's entry has this key, for reasons of history.
_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", HUB, "registry-1.docker.io")
#: What helpers print when they know nothing (docker-credential-helpers, `errCredentialsNotFound`).
_UNKNOWN: Final = "credentials not found"


class UnreadableCredentials(InvalidInput):
    """A file with credentials that is not what it should be. Its content is in no message."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} can't be used for credentials: {why}")
        self.path = path


class HelperFailed(Unavailable):
    """A credential helper gave no answer."""

    def __init__(self, program: str, host: str, why: str) -> None:
        super().__init__(f"{program} gives no credentials for {host}: {why}")
        self.program, self.host = program, host


class Login(Struct, frozen=True):
    """
    An account. Its secrets are in no representation.

    Attributes:
        user, password: For basic authentication, and for asking for tokens.
        identity: A refresh token, which takes the place of the password (docker's `identitytoken`), or None.
    """

    user: str
    password: str
    identity: str | None = None

    def __repr__(self) -> str:
        return f"Login({self.user!r})"

    @property
    def basic(self) -> str:
        """The header of basic authentication (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class Credentials:
    """The accounts of this user. Files are read when they are first needed."""

    def __init__(self, files: tuple[Path, ...] = (), *, timeout: float = HELPER_TIMEOUT) -> None:
        """
        Args:
            files: The first that knows a registry counts; those that are not there are passed over.
            timeout: Seconds in which a helper must answer.
        """
        self._files, self._timeout = files, timeout
        self._read: list[Mapping[str, Any]] | None = None

    def find(self, host: str, repository: str = "") -> Login | None:
        """
        The account for a repository of a registry, or None.

        Raises:
            UnreadableCredentials: A file is damaged.
            HelperFailed: A helper is named and does not work.
        """
        keys = _HUB_KEYS if host in _HUB_KEYS else (host,)
        below = list(_below(HUB if host in _HUB_KEYS else host, repository))
        for document in self._documents():
            for key in (*below, *keys):
                if (login := self._in(document, key)) is not None:
                    return login
            store = document.get("credsStore")
            if isinstance(store, str) and store and (login := self._ask(store, keys[0])) is not None:
                return login
        return None

    def _documents(self) -> list[Mapping[str, Any]]:
        if self._read is None:
            self._read = [_read(path) for path in self._files if path.is_file()]
        return self._read

    def _in(self, document: Mapping[str, Any], key: str) -> Login | None:
        """What one file says of one key: a helper of its own, or an entry."""
        helpers = document.get("credHelpers")
        helper = helpers.get(key) if isinstance(helpers, dict) else None
        if isinstance(helper, str) and helper:
            return self._ask(helper, key)
        auths = document.get("auths")
        entries = auths if isinstance(auths, dict) else {}
        entry = entries.get(key)
        if not isinstance(entry, dict):
            entry = next((value for name, value in entries.items() if _plain(name) == key), None)
        return _login(entry) if isinstance(entry, dict) else None

    def _ask(self, helper: str, key: str) -> Login | None:
        """`docker-credential-NAME get` (docker-credential-helpers, README, "Development")."""
        program = f"docker-credential-{helper}"
        if not _HELPER.fullmatch(helper):
            raise HelperFailed(repr(program), key, "that is no name of a program")
        try:
            done = subprocess.run(
                [program, "get"], input=key.encode(), capture_output=True, timeout=self._timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise HelperFailed(program, key, f"no answer within {self._timeout:g} s") from error
        except OSError as error:
            raise HelperFailed(program, key, error.strerror or "it can't be started") from error
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace")
            if _UNKNOWN in said:
                return None
            raise HelperFailed(program, key, f"it ended with {done.returncode}")
        try:
            document = json.loads(done.stdout[:_LIMIT])
            user, secret = document["Username"], document["Secret"]
            if not isinstance(user, str) or not isinstance(secret, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            # Without its cause, which would quote what the helper said.
            raise HelperFailed(program, key, "its answer is not what it should be") from None
        return Login("", "", secret) if user == "<token>" else Login(user, secret)


class OneLogin(Credentials):
    """One account, or none, for the one registry that is to be asked; no file is read."""

    def __init__(self, login: Login | None) -> None:
        super().__init__()
        self._login = login

    def find(self, host: str, repository: str = "") -> Login | None:
        """That account."""
        return self._login


def credential_files(variables: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where docker and podman keep accounts, in the order in which they are asked."""
    if named := variables.get("REGISTRY_AUTH_FILE"):
        return (Path(named),)
    found = []
    if runtime := variables.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime) / "containers" / "auth.json")
    configuration = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
    docker = Path(variables.get("DOCKER_CONFIG") or home / ".docker")
    return (*found, configuration / "containers" / "auth.json", docker / "config.json")


def _below(host: str, repository: str) -> Iterator[str]:
    """The keys of namespaces, the longest first: `host/a/b`, `host/a` (containers-auth.json(5))."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), 0, -1):
        yield "/".join([host, *parts[:count]])


def _plain(key: str) -> str:
    """An old entry's key, such as `https://host/v1/`, without scheme and path."""
    if "://" not in key:
        return key
    return key.partition("://")[2].partition("/")[0]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
        document = json.loads(data) if len(data) <= _LIMIT else None
    except OSError as error:
        raise UnreadableCredentials(path, error.strerror or "it can't be read") from error
    except (ValueError, RecursionError):
        raise UnreadableCredentials(path, "it is not JSON") from None
    if not isinstance(document, dict):
        raise UnreadableCredentials(path, f"it is no JSON object of at most {_LIMIT} bytes")
    return document


def _login(entry: Mapping[str, Any]) -> Login | None:
    """An entry of `auths`; None for one that holds nothing, as docker leaves them beside `credsStore`."""
    identity = entry.get("identitytoken")
    identity = identity if isinstance(identity, str) and identity else None
    auth = entry.get("auth")
    user, password = entry.get("username"), entry.get("password")
    if isinstance(auth, str) and auth:
        try:
            user, _, password = base64.b64decode(auth, validate=True).decode().rstrip("\0").partition(":")
        except ValueError:
            return None
    if isinstance(user, str) and isinstance(password, str) and user:
        return Login(user, password, identity)
    return Login("", "", identity) if identity else None
