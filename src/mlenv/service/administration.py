"""
Use cases of the site as a whole: namespaces, and who has which role in them. Tokens are in `tokens.py`.

Each one is authorised by the site's door for the caller who asks; see `mlenv.service.site`.
"""

import re
import uuid
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from mlenv.core.access import EVERYWHERE, Caller, Operation, Principal, PrincipalExists, PrincipalNotFound, Role
from mlenv.core.scope import (
    DEFAULT_GROUP,
    DEFAULT_LOCATION,
    DEFAULT_SUBSCRIPTION,
    Scope,
    ScopeExists,
    ScopeKey,
    ScopeKind,
    ScopeSettings,
    parse_group,
    parse_location,
    parse_scope_name,
    parse_subscription,
)
from mlenv.errors import InvalidInput
from mlenv.service.site import Site, author_of

_PRINCIPAL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,99}")
#: What ids of principals look like. No name does, so that one can stand for the other.
_PRINCIPAL_ID: Final = re.compile(r"[0-9a-f]{32}")


class InvalidPrincipalName(InvalidInput):
    """A name of somebody with characters or a length that it can't have."""

    hint = "use 1 to 100 letters, digits and `_.@+-`, beginning with a letter or digit"

    def __init__(self, text: str) -> None:
        super().__init__(f"not a name of somebody: {text!r}")
        self.text = text


class Grant(Struct, frozen=True):
    """A role that somebody has in a namespace; `EVERYWHERE` stands for all."""

    principal: str
    name: str
    scope: ScopeKey
    role: Role


class NewScope(Struct, frozen=True):
    """A workspace or registry to be made, at an address on Azure's terms. What is not said is what this server has."""

    kind: ScopeKind
    name: str
    subscription: str = DEFAULT_SUBSCRIPTION
    group: str = DEFAULT_GROUP
    location: str = DEFAULT_LOCATION


class Administration:
    """Makes and finds namespaces and principals, and gives roles."""

    def __init__(self, site: Site, *, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._site = site
        self._new_uuid = new_uuid

    # Workspaces and registries.

    def create_scope(self, caller: Caller, wanted: NewScope) -> Scope:
        """
        Make a workspace or registry.

        Raises:
            NotAllowed: The caller is not administrator everywhere.
            InvalidScope: Its name, or a part of its address, is none.
            ScopeExists: There is one of that name, in whatever case.
        """
        self._site.allow(caller, Operation.SCOPE_CREATE)
        now = self._site.clock()
        scope = Scope(
            wanted.kind,
            parse_scope_name(wanted.name),
            str(self._new_uuid()),
            parse_subscription(wanted.subscription),
            parse_group(wanted.group),
            parse_location(wanted.location),
            now,
        )
        # Azure takes names that differ in case for the same; so would people.
        if any(each.name.lower() == scope.name.lower() for each in self._site.store.scopes(scope.kind)):
            raise ScopeExists(scope.kind, scope.name)
        self._site.store.add_scope(scope, author=author_of(caller), now=now)
        return scope

    def scopes(self, caller: Caller, kind: ScopeKind) -> list[Scope]:
        """The namespaces of a kind that the caller may read, by name. Raises `NotAllowed`."""
        self._site.allow(caller, Operation.SCOPE_LIST)
        return self._site.visible(caller, kind)

    def scope(self, caller: Caller, kind: ScopeKind, name: str) -> Scope:
        """One namespace. Raises as `Site.enter`."""
        return self._site.enter(caller, Operation.SCOPE_READ, kind, name)

    def settings(self, caller: Caller, kind: ScopeKind, name: str) -> ScopeSettings:
        """What is set for a namespace. Raises as `Site.enter`."""
        return self._site.store.scope_settings(self._site.enter(caller, Operation.SCOPE_READ, kind, name).key)

    def set_settings(self, caller: Caller, kind: ScopeKind, name: str, settings: ScopeSettings) -> ScopeSettings:
        """
        Set what administrators of a namespace may set.

        Raises:
            NotAllowed, ScopeNotFound: As `Site.enter`.
            InvalidRemoteName: Images can't be pushed there.
        """
        from mlenv.distribution.names import InvalidRemoteName, RemoteName

        scope = self._site.enter(caller, Operation.SCOPE_WRITE, kind, name)
        if settings.push_to is not None:
            target = RemoteName.parse(settings.push_to)
            if target.tag is not None or target.digest is not None:
                raise InvalidRemoteName(settings.push_to, "it has a tag, which is that of each version")
            settings = ScopeSettings(push_to=str(target))
        store = self._site.store
        store.set_scope_settings(scope.key, settings, author=author_of(caller), now=self._site.clock())
        return settings

    # People and programs.

    def create_principal(self, caller: Caller, name: str) -> Principal:
        """
        Register a program, or a person who does not log in elsewhere. They have no role yet.

        Raises:
            NotAllowed: The caller is not administrator everywhere.
            InvalidPrincipalName: That is no name.
            PrincipalExists: Somebody is called that already.
        """
        self._site.allow(caller, Operation.GRANT_WRITE)
        principal = Principal(self._new_uuid().hex, parse_principal_name(name))
        if self._site.store.principal_by_name(name) is not None:
            raise PrincipalExists(name)
        self._site.store.add_principal(principal, subject=None, author=author_of(caller), now=self._site.clock())
        return principal

    def principals(self, caller: Caller) -> list[Principal]:
        """Everybody, by name. Raises `NotAllowed`."""
        self._site.allow(caller, Operation.GRANT_READ)
        return self._site.store.principals()

    # Roles.

    def grants(self, caller: Caller, kind: ScopeKind | None = None, name: str = "") -> list[Grant]:
        """
        Who has a role, by name: in one namespace (roles everywhere hold there, too), or, without `kind`, everywhere.

        Raises:
            NotAllowed, ScopeNotFound: As `Site.enter`; without `kind`, as `Site.allow`.
        """
        scope = self._where(caller, Operation.GRANT_READ, kind, name)
        return [
            Grant(each.id, each.name, where, role)
            for each in self._site.store.principals()
            for where in dict.fromkeys((scope, EVERYWHERE))
            if (role := each.roles.get(where)) is not None
        ]

    def set_role(
        self, caller: Caller, principal: str, role: Role | None, kind: ScopeKind | None = None, name: str = ""
    ) -> Grant | None:
        """
        Give somebody a role in a namespace, or, without `kind`, everywhere; or take it away.

        Args:
            principal: Their id or name.
            role: None takes away what they have there.

        Returns:
            What they have now.

        Raises:
            NotAllowed, ScopeNotFound: As `Site.enter`; without `kind`, as `Site.allow`.
            PrincipalNotFound: There is nobody of that name.
            LastAdministrator: Nobody would be administrator everywhere any more.
        """
        scope = self._where(caller, Operation.GRANT_WRITE, kind, name)
        found = self._somebody(principal)
        if found.roles.get(scope) is not role:
            self._site.store.set_role(found.id, scope, role, author=author_of(caller), now=self._site.clock())
            self._site.forget()
        return None if role is None else Grant(found.id, found.name, scope, role)

    def _where(self, caller: Caller, operation: Operation, kind: ScopeKind | None, name: str) -> ScopeKey:
        if kind is not None:
            return self._site.enter(caller, operation, kind, name).key
        self._site.allow(caller, operation)
        return EVERYWHERE

    def _somebody(self, text: str) -> Principal:
        return find_principal(self._site, text)


def find_principal(site: Site, text: str) -> Principal:
    """Somebody by id or name. Raises `PrincipalNotFound`."""
    found = site.store.principal(text) if _PRINCIPAL_ID.fullmatch(text) else site.store.principal_by_name(text)
    if found is None:
        raise PrincipalNotFound(text)
    return found


def parse_principal_name(text: str) -> str:
    """Check a name of somebody. Raises `InvalidPrincipalName`."""
    if not is_principal_name(text):
        raise InvalidPrincipalName(text)
    return text


def is_principal_name(text: str) -> bool:
    """Whether somebody can be called that."""
    return bool(_PRINCIPAL_NAME.fullmatch(text)) and not _PRINCIPAL_ID.fullmatch(text)
