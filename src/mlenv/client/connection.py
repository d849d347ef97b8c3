"""Which server is meant, with which token and authority: what is named, variables, and what `mlenv login` saved."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from mlenv.client.credentials import Login

#: Where a server is, for programs that name none; empty for no server.
SERVER_VARIABLE = "MLENV_SERVER"
TOKEN_VARIABLE = "MLENV_TOKEN"
AUTHORITY_VARIABLE = "MLENV_CA"
WORKSPACE_VARIABLE = "MLENV_WORKSPACE"
REGISTRY_VARIABLE = "MLENV_REGISTRY"
_OF_THEIR_SERVER = frozenset({TOKEN_VARIABLE, AUTHORITY_VARIABLE, WORKSPACE_VARIABLE, REGISTRY_VARIABLE})


class Connection(Struct, frozen=True):
    """
    How a server is reached.

    Attributes:
        server: Its address.
        token: What is shown to it, or None.
        authority: A PEM file with the authority its certificate must be of, or None for those of the machine.
        workspace, registry: The namespace that variables name, or None.
    """

    server: str
    token: str | None
    authority: str | None
    workspace: str | None = None
    registry: str | None = None

    def __repr__(self) -> str:
        return f"Connection({self.server!r})"


def find_connection(
    server: str | None = None,
    authority: str | None = None,
    token: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Connection | None:
    """
    The server that is meant: the one that is named, or `MLENV_SERVER`, or the default of the saved logins.

    Args:
        server: Its address; `""` for none at all; None for what variables and logins say.
        authority, token: What was named; None for `MLENV_CA` and `MLENV_TOKEN`, or what was saved with the login.

    Raises:
        InvalidServer: The address is none.
        CredentialsDamaged, CredentialsUnusable: What a login saved can't be read.
    """
    meant = environment.get(SERVER_VARIABLE)
    if server is None:
        server = meant
    if server == "":
        return None
    if meant and server != meant:
        # What the variables say is for their server: its token is shown to no other.
        environment = {key: value for key, value in environment.items() if key not in _OF_THEIR_SERVER}
    login = _saved(server, environment)
    if server is None:
        if login is None:
            return None
        server = login.server
    from mlenv.client.address import parse_server

    return Connection(
        parse_server(server),
        token or environment.get(TOKEN_VARIABLE) or (login.token if login else None),
        authority or environment.get(AUTHORITY_VARIABLE) or (login.ca if login else None),
        environment.get(WORKSPACE_VARIABLE) or (login.workspace if login else None),
        environment.get(REGISTRY_VARIABLE) or None,
    )


def _saved(server: str | None, environment: Mapping[str, str]) -> "Login | None":
    if not _is_anything_saved(environment):
        return None
    from mlenv.client.credentials import find_login

    return find_login(server, environment=environment)


def _is_anything_saved(environment: Mapping[str, str]) -> bool:
    """Whether there may be logins. Commands without a server should not wait for the imports of what reads them."""
    if configured := environment.get("MLENV_CONFIG_HOME"):
        return (Path(configured).expanduser() / "servers.json").exists()
    if sys.platform != "linux":
        return True
    # NOTE: where `platformdirs` has it on Linux (XDG Base Directory Specification, section 3).
    configured = environment.get("XDG_CONFIG_HOME", "").strip()
    return (Path(configured or Path.home() / ".config") / "mlenv" / "servers.json").exists()
