"""Workspaces and registries: the namespaces that environments live in."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

from msgspec import Struct

from mlenv.core.reference import Workspace
from mlenv.errors import Conflict, InvalidInput

#: How a namespace's rows are marked: a workspace's name, or `registry:NAME`. No name has a colon.
ScopeKey = NewType("ScopeKey", str)

#: The workspace that an embedded store has, and a server begins with.
DEFAULT_WORKSPACE: Final = "default"
DEFAULT_SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000000"
DEFAULT_GROUP: Final = "local"
DEFAULT_LOCATION: Final = "local"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
#: Azure's rules for resource groups; subscriptions are UUIDs there, and any word here.
_SUBSCRIPTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_GROUP: Final = re.compile(r"[A-Za-z0-9_(][A-Za-z0-9_().-]{0,88}(?<!\.)")
_LOCATION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class ScopeKind(StrEnum):
    """What a namespace is: a team's own, or shared by many teams."""

    WORKSPACE = "workspace"
    REGISTRY = "registry"


def scope_key(kind: ScopeKind, name: str) -> ScopeKey:
    """How rows of a namespace are marked."""
    return ScopeKey(name if kind is ScopeKind.WORKSPACE else f"{kind}:{name}")


class InvalidScope(InvalidInput):
    """A workspace, a registry, or a part of its address, that is called what it can't be."""

    hint = "use 1 to 64 letters, digits, `-` and `_`, beginning with a letter or digit"

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"not {what}: {text!r}")
        self.what, self.text = what, text


class ScopeExists(Conflict):
    """A namespace of that kind and name is there already."""

    hint = "choose another name"

    def __init__(self, kind: ScopeKind, name: str) -> None:
        super().__init__(f"there is a {kind} {name!r} already")
        self.kind, self.name = kind, name


class Scope(Struct, frozen=True):
    """
    A workspace or a registry.

    Attributes:
        kind, name: The name is unique among those of its kind.
        id: A UUID, for Azure's clients (`workspaceId`).
        subscription, group: With the name, its address on Azure's terms.
        location: A region's name, which Azure's clients ask for.
        created_at: UTC.
    """

    kind: ScopeKind
    name: str
    id: str
    subscription: str
    group: str
    location: str
    created_at: datetime

    @property
    def key(self) -> ScopeKey:
        """How its rows are marked."""
        return scope_key(self.kind, self.name)

    @property
    def address(self) -> Workspace:
        """A workspace's address on Azure's terms."""
        return Workspace(self.subscription, self.group, self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


class ScopeSettings(Struct, frozen=True):
    """
    What a namespace's administrators have set.

    Attributes:
        push_to: `REGISTRY/PREFIX`: every image that is built is pushed to `REGISTRY/PREFIX/ENVIRONMENT:VERSION`; None for
            no such place.
    """

    push_to: str | None = None


def parse_scope_name(text: str) -> str:
    """Check the name of a workspace or registry. Raises `InvalidScope`."""
    return _checked(_NAME, "a name of a workspace or registry", text)


def parse_scope_key(text: str) -> ScopeKey:
    """Check how a namespace is written in roles and tokens: `team`, `registry:shared`. Raises `InvalidScope`."""
    kind, colon, name = text.rpartition(":")
    if colon and kind != ScopeKind.REGISTRY:
        raise InvalidScope("a workspace NAME or registry:NAME", text)
    return scope_key(ScopeKind.REGISTRY if colon else ScopeKind.WORKSPACE, parse_scope_name(name))


def parse_subscription(text: str) -> str:
    """Check a subscription. Raises `InvalidScope`."""
    return _checked(_SUBSCRIPTION, "a subscription", text)


def parse_group(text: str) -> str:
    """Check a resource group. Raises `InvalidScope`."""
    return _checked(_GROUP, "a resource group", text)


def parse_location(text: str) -> str:
    """Check a location. Raises `InvalidScope`."""
    return _checked(_LOCATION, "a location in lowercase", text)


def _checked(pattern: re.Pattern[str], what: str, text: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidScope(what, text)
    return text
