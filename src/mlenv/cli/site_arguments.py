"""What the commands of a server's administration share: where something is, and how long it lasts."""

import argparse
import re
from datetime import timedelta
from typing import Final

from mlenv.cli.command import UsageError
from mlenv.core.scope import ScopeKey, ScopeKind, parse_scope_key

_LIFETIME: Final = re.compile(r"(\d{1,6})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def add_place(parser: argparse.ArgumentParser, *, everywhere: str | None = None) -> None:
    """`--workspace-name`, `--registry-name`, and `--everywhere` where that can be meant."""
    group = parser.add_mutually_exclusive_group(required=everywhere is not None)
    group.add_argument("-w", "--workspace-name", metavar="WORKSPACE", help="in this workspace")
    group.add_argument("--registry-name", metavar="REGISTRY", help="in this registry")
    if everywhere is not None:
        group.add_argument("--everywhere", action="store_true", help=everywhere)


def to_place(namespace: argparse.Namespace) -> ScopeKey | None:
    """The namespace that was named; None for all. Raises `InvalidScope`."""
    if namespace.workspace_name is not None:
        return parse_scope_key(namespace.workspace_name)
    if namespace.registry_name is not None:
        return parse_scope_key(f"{ScopeKind.REGISTRY}:{namespace.registry_name}")
    return None


def path_of(place: ScopeKey | None) -> str:
    """The path of a namespace in the native API; empty for the site."""
    if place is None:
        return ""
    kind, _, name = place.rpartition(":")
    return f"/registries/{name}" if kind else f"/workspaces/{name}"


def to_lifetime(text: str) -> timedelta | None:
    """`30d`, `12h`, `90m`, or None for `never`. Raises `UsageError`."""
    if text == "never":
        return None
    if not (match := _LIFETIME.fullmatch(text)):
        raise UsageError(f"--expires: not a time: {text!r}", "write it as 30d, 12h, 90m, or never")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
