"""`mlenv login|logout|whoami`: which server is meant, and who asks there."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.printer import Column
from mlenv.errors import Forbidden, InvalidInput, NotAuthenticated, Unavailable

if TYPE_CHECKING:
    from mlenv.client.http import Http

_COLUMNS: Final = (
    Column("Server", "server"),
    Column("Name", "name"),
    Column("Roles", "roles"),
    Column("Workspace", "workspace"),
)
#: More than any token has, in characters.
_TOKEN_LIMIT: Final = 10_000
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


class TokenNeeded(Forbidden):
    """The server has no login with a browser, and no token was given."""

    hint = "give one: `mlenv login URL --token -` reads it from the standard input"

    def __init__(self, server: str) -> None:
        super().__init__(f"a token is needed to log in to {server}")
        self.server = server


class TokenRefused(NotAuthenticated):
    """The server does not know the token."""

    hint = "see that it was copied whole, and has not expired; nothing was saved"

    def __init__(self, server: str, why: str) -> None:
        super().__init__(f"{server} does not take this token: {why}")
        self.server = server


class NotLoggedInThere(InvalidInput):
    """There is no login to forget."""

    def __init__(self, server: str | None) -> None:
        super().__init__(f"you are not logged in to {server}" if server else "you are not logged in anywhere")


class LogIn(Struct, frozen=True):
    """
    Where to log in, with which token (`-` for the standard input), whether to open a browser, and whether commands mean
    that server from now on.
    """

    server: str
    token: str | None
    browser: bool
    default: bool = True


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="the server's address, such as https://mlenv.example.org:8443")
    parser.add_argument(
        "--token", metavar="TOKEN", help="a token; - reads it from the standard input, which nobody else sees"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address to open, and open no browser")
    parser.add_argument(
        "--no-default",
        action="store_true",
        help="keep the login for --server URL; commands mean what they meant before",
    )
    parser.add_argument(
        "-w", "--workspace-name", metavar="WORKSPACE", help="the workspace that is meant from now on if none is named"
    )


def _login_settings(namespace: argparse.Namespace) -> LogIn:
    if namespace.token == "":
        raise UsageError("--token is empty", "write `--token -` to have it read from the standard input")
    return LogIn(namespace.url, namespace.token, not namespace.no_browser, not namespace.no_default)


def _login(settings: LogIn, context: Context) -> int:
    from mlenv.client.credentials import Login, save_login, server_key
    from mlenv.client.http import Http

    server = server_key(settings.server)
    parts = urlsplit(server)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        context.printer.warn(f"{server} is not encrypted: everybody between here and there can read the token")
    authority = _authority(context)
    token, own = _token(settings), False
    if token is None:
        with Http(server, None, authority) as http:
            token, own = _browser_token(http, settings, context), True
    with Http(server, token, authority) as http:
        try:
            who = http.request("GET", "/whoami")
            if context.where.workspace is not None:
                http.request("GET", f"/workspaces/{quote(context.where.workspace, safe='')}")
        except NotAuthenticated as error:
            raise TokenRefused(server, str(error)) from error
    save_login(Login(server, token, authority, context.where.workspace, own), default=settings.default)
    context.printer.data(_document(server, context.where.workspace, who), _COLUMNS)
    context.printer.say(f"logged in to {server} as {who['name']}")
    return ExitStatus.DONE


def _authority(context: Context) -> str | None:
    """The file of the authority, as every later command finds it."""
    named = context.where.authority or os.environ.get("MLENV_CA")
    return str(Path(named).expanduser().absolute()) if named else None


def _token(settings: LogIn) -> str | None:
    """The token that was given. Raises `InvalidToken`."""
    from mlenv.client.address import parse_token

    text = settings.token if settings.token is not None else os.environ.get("MLENV_TOKEN") or None
    if text == "-":
        text = sys.stdin.read(_TOKEN_LIMIT)
    return None if text is None else parse_token(text)


def _browser_token(http: "Http", settings: LogIn, context: Context) -> str:
    """Let somebody log in with their browser. Raises `TokenNeeded` where that can't be."""
    if not http.request("GET", "/login").get("oidc"):
        raise TokenNeeded(http.server)
    from mlenv.cli.browser_login import log_in

    def tell(url: str) -> None:
        context.printer.say("open this address in a browser on this machine:")
        context.printer.say(url)
        if settings.browser:
            import webbrowser

            webbrowser.open(url)

    return log_in(http, tell)


def _document(server: str, workspace: str | None, who: dict[str, Any]) -> dict[str, Any]:
    return {"server": server, "workspace": workspace, **who}


def _logout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", nargs="?", help="the server (default: the one that is logged in to)")


def _logout_settings(namespace: argparse.Namespace) -> str | None:
    return None if namespace.url is None else str(namespace.url)


def _logout(url: str | None, context: Context) -> int:
    from mlenv.client.credentials import find_login, remove_login

    server = url or context.where.server or None
    login = find_login(server)
    if login is None:
        raise NotLoggedInThere(server)
    remove_login(login.server)
    if login.own:
        _revoke(login.server, login.token, login.ca, context)
    context.printer.say(f"logged out of {login.server}")
    return ExitStatus.DONE


def _revoke(server: str, token: str, authority: str | None, context: Context) -> None:
    """Make the token worthless that a login was given. That can wait until it expires if the server can't be reached."""
    from mlenv.client.http import Http

    try:
        with Http(server, token, authority) as http:
            http.request("DELETE", f"/tokens/{http.request('GET', '/whoami')['token']}")
    except NotAuthenticated:
        return
    except (Unavailable, InvalidInput) as error:
        context.printer.warn(f"the token stays good until it expires: {error}")


def _nothing(_: argparse.ArgumentParser) -> None:
    pass


def _no_settings(_: argparse.Namespace) -> None:
    return None


def _whoami(_: None, context: Context) -> int:
    http = context.http
    workspace = context.connection.workspace if context.connection else None
    context.printer.data(_document(http.server, workspace, http.request("GET", "/whoami")), _COLUMNS)
    return ExitStatus.DONE


login: Final = Verb(_login_arguments, _login_settings, _login)
logout: Final = Verb(_logout_arguments, _logout_settings, _logout)
whoami: Final = Verb(_nothing, _no_settings, _whoami)
