"""`mlenv role set|remove|list` and `mlenv principal create|list`: who may do what on a server."""

import argparse
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.printer import Column, Output
from mlenv.cli.site_arguments import add_place, path_of, to_place
from mlenv.core.access import Role
from mlenv.core.scope import ScopeKey

_COLUMNS: Final = (
    Column("Name", "name"),
    Column("Role", "role"),
    Column("Scope", "scope"),
    Column("Principal", "principal"),
)
_PEOPLE: Final = (Column("Name", "name"), Column("Roles", "roles"), Column("Id", "id"))


class SetRole(Struct, frozen=True):
    """Whose role, where, and which; None takes it away."""

    principal: str
    role: Role | None
    place: ScopeKey | None


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("principal", metavar="PRINCIPAL", help="whose, by name or id")
    parser.add_argument("role", metavar="ROLE", help="reader, contributor, approver or administrator")
    add_place(parser, everywhere="in every workspace and registry, and on the server itself")


def _set_settings(namespace: argparse.Namespace) -> SetRole:
    try:
        role = Role(namespace.role)
    except ValueError:
        raise UsageError(f"no role is called {namespace.role!r}", f"use {', '.join(Role)}") from None
    return SetRole(namespace.principal, role, to_place(namespace))


def _remove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("principal", metavar="PRINCIPAL", help="whose, by name or id")
    add_place(parser, everywhere="what they are everywhere; roles in single workspaces and registries stay")


def _remove_settings(namespace: argparse.Namespace) -> SetRole:
    return SetRole(namespace.principal, None, to_place(namespace))


def _set(settings: SetRole, context: Context) -> int:
    path = f"{path_of(settings.place)}/grants/{quote(settings.principal, safe='')}"
    where = "everywhere" if settings.place is None else f"in {settings.place}"
    if settings.role is None:
        context.http.request("DELETE", path)
        context.printer.say(f"{settings.principal} has no role {where} any more")
    else:
        context.http.request("PUT", path, json={"role": settings.role.value})
        context.printer.say(f"{settings.principal} is {settings.role} {where} now")
    return ExitStatus.DONE


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    add_place(parser)


def _list(place: ScopeKey | None, context: Context) -> int:
    context.printer.data(list(context.http.pages(f"{path_of(place)}/grants")), _COLUMNS)
    return ExitStatus.DONE


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what it is called, such as ci")


def _create_settings(namespace: argparse.Namespace) -> str:
    return str(namespace.name)


def _create(name: str, context: Context) -> int:
    context.printer.data(context.http.request("POST", "/principals", json={"name": name}), _PEOPLE)
    context.printer.say(
        f"give it a role with `mlenv role set {name} …`, a token with `mlenv token create --for {name} …`"
    )
    return ExitStatus.DONE


def _people_arguments(_: argparse.ArgumentParser) -> None:
    pass


def _people_settings(_: argparse.Namespace) -> None:
    return None


def _people(_: None, context: Context) -> int:
    context.printer.data(list(context.http.pages("/principals")), _PEOPLE)
    return ExitStatus.DONE


set_role: Final = Verb(_set_arguments, _set_settings, _set)
remove: Final = Verb(_remove_arguments, _remove_settings, _set)
list_all: Final = Verb(_list_arguments, to_place, _list, Output.TABLE)
create_principal: Final = Verb(_create_arguments, _create_settings, _create)
list_principals: Final = Verb(_people_arguments, _people_settings, _people, Output.TABLE)
