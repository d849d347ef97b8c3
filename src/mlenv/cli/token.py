"""`mlenv token create|list|revoke`: what programs and people show to a server."""

import argparse
from datetime import timedelta
from typing import Final

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.printer import Column, Output
from mlenv.cli.site_arguments import to_lifetime
from mlenv.core.scope import ScopeKey, ScopeKind, parse_scope_key

_COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name"),
    Column("Principal", "principal"),
    Column("Only", "only"),
    Column("CreatedAt", "created_at"),
    Column("ExpiresAt", "expires_at"),
    Column("RevokedAt", "revoked_at"),
)


class Create(Struct, frozen=True):
    """A token to be made: what for, for how long, whose, and where it is good."""

    name: str
    lifetime: timedelta | None
    owner: str | None
    only: tuple[ScopeKey, ...]


class ListAll(Struct, frozen=True):
    """Whose tokens: one's own, everybody's, or somebody's."""

    everybody: bool
    owner: str | None


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what it is for, such as ci")
    parser.add_argument(
        "--expires", metavar="TIME", default="90d", help="30d, 12h, 90m, or never (default: 90d)"
    )  # fmt: skip
    parser.add_argument("--for", dest="owner", metavar="PRINCIPAL", help="whose it is to be (default: yours)")
    parser.add_argument(
        "-w", "--workspace-name", metavar="WORKSPACE", action="append", default=[], help="good in this workspace only"
    )
    parser.add_argument(
        "--registry-name", metavar="REGISTRY", action="append", default=[], help="good in this registry only"
    )


def _create_settings(namespace: argparse.Namespace) -> Create:
    workspaces = [parse_scope_key(each) for each in namespace.workspace_name]
    registries = [parse_scope_key(f"{ScopeKind.REGISTRY}:{each}") for each in namespace.registry_name]
    # They say where the token is good, not which workspace the command works with.
    namespace.workspace_name = namespace.registry_name = None
    return Create(
        namespace.name, to_lifetime(namespace.expires), namespace.owner, tuple(dict.fromkeys(workspaces + registries))
    )


def _create(settings: Create, context: Context) -> int:
    body = {
        "name": settings.name,
        "expires_in": None if settings.lifetime is None else int(settings.lifetime.total_seconds()),
        "owner": settings.owner,
        "only": list(settings.only) or None,
    }
    context.printer.data(context.http.request("POST", "/tokens", json=body), (Column("Secret", "secret"),))
    context.printer.say("the secret is shown this once; keep it where only those who need it can read it")
    return ExitStatus.DONE


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="everybody's tokens")
    parser.add_argument("--for", dest="owner", metavar="PRINCIPAL", help="somebody's tokens")


def _list_settings(namespace: argparse.Namespace) -> ListAll:
    if namespace.all and namespace.owner:
        raise UsageError("--all and --for contradict each other", "give one of them")
    return ListAll(namespace.all or namespace.owner is not None, namespace.owner)


def _list(settings: ListAll, context: Context) -> int:
    path = "/all-tokens" if settings.everybody else "/tokens"
    context.printer.data(list(context.http.pages(path, params={"owner": settings.owner})), _COLUMNS)
    return ExitStatus.DONE


def _revoke_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the token's id, as `mlenv token list` shows it")


def _revoke_settings(namespace: argparse.Namespace) -> str:
    return str(namespace.id)


def _revoke(id: str, context: Context) -> int:
    from urllib.parse import quote

    context.http.request("DELETE", f"/tokens/{quote(id, safe='')}")
    context.printer.say(f"the token {id} is worthless now")
    return ExitStatus.DONE


create: Final = Verb(_create_arguments, _create_settings, _create)
list_all: Final = Verb(_list_arguments, _list_settings, _list, Output.TABLE)
revoke: Final = Verb(_revoke_arguments, _revoke_settings, _revoke)
