"""
A site: many workspaces and registries behind one door, at which every call is authorised.

`Site.open` is that door, for every dialect. It gives the use cases of one namespace, for one caller and one operation;
what was opened to read can't write.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mlenv.core.access import EVERYWHERE, Caller, Operation, Principal, authorize
from mlenv.core.audit import Author
from mlenv.core.scope import Scope, ScopeKey, ScopeKind, scope_key
from mlenv.errors import NotAuthenticated, NotFound

if TYPE_CHECKING:
    from mlenv.service.interface import Clock
    from mlenv.service.services import Services
    from mlenv.service.site_interface import SiteStore

#: What secrets of tokens begin with, so that scanners find lost ones.
TOKEN_PREFIX: Final = "mlenv_"
#: How long a token that was found good is not looked up again. A revoked one is refused by this process at once, and
#: by others after this time.
REMEMBERED: Final = timedelta(seconds=5)


class UnknownToken(NotAuthenticated):
    """No token was shown, or one that nobody has."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


class ScopeNotFound(NotFound):
    """There is no such workspace or registry, or none that the caller may see."""

    def __init__(self, kind: ScopeKind, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r}, or none that you may see")
        self.hint = f"`mlenv {kind} list` tells which there are; `mlenv {kind} create {name}` makes one"
        self.kind, self.name = kind, name


class Known(Struct, frozen=True):
    """A token's principal, and until when it may be taken for good without asking again."""

    principal: Principal
    until: datetime


class Site:
    """The door to every namespace of a server."""

    def __init__(
        self,
        store: "SiteStore",
        services: "Callable[[Scope, Author | None], Services]",
        clock: "Clock",
    ) -> None:
        """
        Args:
            services: Makes the use cases of a namespace; with an author they may write.
        """
        self._store = store
        self._services = services
        self._clock = clock
        self._known: dict[str, Known] = {}
        # Counts what was forgotten, so that what was looked up before a change is not remembered after it.
        self._forgotten = 0
        # Namespaces stay as they were made.
        self._scopes: dict[ScopeKey, Scope] = {}

    @property
    def store(self) -> "SiteStore":
        """What the site knows of namespaces, people and tokens."""
        return self._store

    @property
    def clock(self) -> "Clock":
        """The time now, UTC."""
        return self._clock

    def authenticate(self, secret: str | None) -> Principal:
        """
        Who shows this token.

        Raises:
            UnknownToken: It is not shown, unknown, expired or revoked.
        """
        if not secret:
            raise UnknownToken("no token was shown")
        digest, now, forgotten = _digest(secret), self._clock(), self._forgotten
        known = self._remembered(digest, now)
        if known is None:
            principal = self._store.principal_of(digest, now=now)
            if principal is None:
                self._known.pop(digest, None)
                raise UnknownToken("the token is unknown, expired or revoked")
            if len(self._known) > 10_000:
                self._known.clear()
            known = Known(principal, now + REMEMBERED)
            if forgotten == self._forgotten:
                self._known[digest] = known
        return known.principal

    def recall(self, secret: str) -> Principal | None:
        """Who shows this token, if that was found out a moment ago; None if only the store can tell. Never waits."""
        known = self._remembered(_digest(secret), self._clock())
        return None if known is None else known.principal

    def is_at_hand(self, kind: ScopeKind, name: str) -> bool:
        """Whether `open` finds a namespace without asking the store."""
        return scope_key(kind, name) in self._scopes

    def _remembered(self, digest: str, now: datetime) -> Known | None:
        known = self._known.get(digest)
        # What was found before the clock was set back is not remembered for longer either.
        return known if known is not None and now < known.until <= now + REMEMBERED else None

    def forget(self) -> None:
        """Look every token up again: something about tokens or roles was changed here."""
        self._forgotten += 1
        self._known.clear()

    def allow(self, caller: Caller, operation: Operation) -> None:
        """
        Let an operation on the site as a whole pass. One on a namespace needs its role everywhere.

        Raises:
            NotAllowed: No rule allows it.
        """
        authorize(caller, operation, EVERYWHERE)

    def open(self, caller: Caller, operation: Operation, kind: ScopeKind, name: str) -> "Services":
        """The use cases of a namespace, for one operation of one caller. Raises as `enter`."""
        scope = self.enter(caller, operation, kind, name)
        author = None if operation.value.endswith(".read") else author_of(caller)
        return self._services(scope, author)

    def enter(self, caller: Caller, operation: Operation, kind: ScopeKind, name: str) -> Scope:
        """
        Let an operation on a namespace pass, and say which namespace it is.

        Raises:
            NotAllowed: The caller may see the namespace, but not do this.
            ScopeNotFound: There is none, or the caller may not know of it.
        """
        key = scope_key(kind, name)
        if caller.principal.role(key) is None:
            raise ScopeNotFound(kind, name)
        authorize(caller, operation, key)
        return self.scope(kind, name)

    def scope(self, kind: ScopeKind, name: str) -> Scope:
        """A namespace. Raises `ScopeNotFound`."""
        key = scope_key(kind, name)
        scope = self._scopes.get(key) or self._store.scope(key)
        if scope is None:
            raise ScopeNotFound(kind, name)
        self._scopes[key] = scope
        return scope

    def visible(self, caller: Caller, kind: ScopeKind) -> list[Scope]:
        """The namespaces of a kind that the caller may read, by name."""
        return [each for each in self._store.scopes(kind) if caller.principal.role(each.key) is not None]


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def author_of(caller: Caller) -> Author:
    """The caller, as audit records name them."""
    principal = caller.principal
    return Author(principal.id, principal.name, principal.token, caller.address, caller.request)
