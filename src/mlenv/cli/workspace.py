"""`mlenv workspace create|list|show|update`: a server's workspaces. `registry.py` has the same for registries."""

import argparse
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.printer import Column, Output
from mlenv.core.scope import (
    DEFAULT_GROUP,
    DEFAULT_LOCATION,
    DEFAULT_SUBSCRIPTION,
    ScopeKind,
    parse_group,
    parse_location,
    parse_scope_name,
    parse_subscription,
)

_COLUMNS: Final = (
    Column("Name", "name"),
    Column("Subscription", "subscription"),
    Column("ResourceGroup", "resource_group"),
    Column("Location", "location"),
    Column("CreatedAt", "created_at"),
)
#: Where the namespaces of a kind are in the native API.
_PATHS: Final = {ScopeKind.WORKSPACE: "/workspaces", ScopeKind.REGISTRY: "/registries"}


class Create(Struct, frozen=True):
    """What is made, and its address on Azure's terms."""

    name: str
    subscription: str
    group: str
    location: str


class Update(Struct, frozen=True):
    """What is set for which one."""

    name: str
    push_to: str


class ListAll(Struct, frozen=True):
    """How many are listed at most; None for all."""

    limit: int | None


def verbs(kind: ScopeKind) -> tuple[Verb[Create], Verb[ListAll], Verb[str]]:
    """`create`, `list` and `show` for namespaces of a kind."""
    path = _PATHS[kind]

    def create(settings: Create, context: Context) -> int:
        body = {
            "name": settings.name,
            "subscription": settings.subscription,
            "resource_group": settings.group,
            "location": settings.location,
        }
        context.printer.data(context.http.request("POST", path, json=body), _COLUMNS)
        return ExitStatus.DONE

    def list_all(settings: ListAll, context: Context) -> int:
        found = list(context.http.pages(path, limit=settings.limit))
        context.printer.data(found, _COLUMNS)
        if not found:
            context.printer.say(f"there is no {kind} that you may see")
        return ExitStatus.DONE

    def show(name: str, context: Context) -> int:
        context.printer.data(context.http.request("GET", f"{path}/{name}"), _COLUMNS)
        return ExitStatus.DONE

    return (
        Verb(_create_arguments(kind), _create_settings, create),
        Verb(_list_arguments, _list_settings, list_all, Output.TABLE),
        Verb(_show_arguments(kind), _name, show),
    )


def update_verb(kind: ScopeKind) -> Verb[Update]:
    """`update` for namespaces of a kind."""
    path = _PATHS[kind]

    def update(settings: Update, context: Context) -> int:
        place = f"{path}/{settings.name}/settings"
        context.printer.data(context.http.request("PUT", place, json={"push_to": settings.push_to or None}))
        return ExitStatus.DONE

    return Verb(_update_arguments(kind), _update_settings, update)


def _update_arguments(kind: ScopeKind) -> Callable[[argparse.ArgumentParser], Any]:
    def add(parser: argparse.ArgumentParser) -> None:
        _add_name(parser, kind)
        parser.add_argument(
            "--push-to",
            metavar="REGISTRY/PREFIX",
            required=True,
            help="push every image that is built to REGISTRY/PREFIX/ENVIRONMENT:VERSION; '' for nowhere",
        )

    return add


def _update_settings(namespace: argparse.Namespace) -> Update:
    return Update(_name(namespace), namespace.push_to)


def _create_arguments(kind: ScopeKind) -> Callable[[argparse.ArgumentParser], Any]:
    def add(parser: argparse.ArgumentParser) -> None:
        _add_name(parser, kind)
        group = parser.add_argument_group("its address for Azure's clients")
        group.add_argument(
            "--subscription", metavar="ID", default=DEFAULT_SUBSCRIPTION, help=f"default: {DEFAULT_SUBSCRIPTION}"
        )
        group.add_argument(
            "-g", "--resource-group", metavar="GROUP", default=DEFAULT_GROUP, help=f"default: {DEFAULT_GROUP}"
        )
        group.add_argument(
            "-l", "--location", metavar="LOCATION", default=DEFAULT_LOCATION, help=f"default: {DEFAULT_LOCATION}"
        )

    return add


def _create_settings(namespace: argparse.Namespace) -> Create:
    return Create(
        _name(namespace),
        parse_subscription(namespace.subscription),
        parse_group(namespace.resource_group),
        parse_location(namespace.location),
    )


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-results", "-r", metavar="COUNT", type=int, help="list at most so many")


def _list_settings(namespace: argparse.Namespace) -> ListAll:
    if namespace.max_results is not None and namespace.max_results < 1:
        raise UsageError("--max-results must be 1 or more")
    return ListAll(namespace.max_results)


def _show_arguments(kind: ScopeKind) -> Callable[[argparse.ArgumentParser], Any]:
    return lambda parser: _add_name(parser, kind)


def _add_name(parser: argparse.ArgumentParser, kind: ScopeKind) -> None:
    parser.add_argument("text", nargs="?", metavar="NAME", help=f"the {kind}'s name")
    parser.add_argument("-n", "--name", metavar="NAME", help="the same, by Azure's flag")


def _name(namespace: argparse.Namespace) -> str:
    """The name that was given. Raises `UsageError`, `InvalidScope`."""
    given = [each for each in (namespace.text, namespace.name) if each is not None]
    if len(given) != 1:
        raise UsageError("which one? give one name", "write NAME, or use --name")
    return parse_scope_name(given[0])


create, list_all, show = verbs(ScopeKind.WORKSPACE)
update = update_verb(ScopeKind.WORKSPACE)
