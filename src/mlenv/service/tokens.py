"""
Use cases of API tokens: making them, telling of them, making them worthless.

A secret is shown once, when it is made; what is kept is its sha256. A token can do no more than its owner, and one that
is limited to some namespaces can only make others with the same limits, or narrower.
"""

import secrets
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from msgspec import Struct

from mlenv.core.access import (
    EVERYWHERE,
    Caller,
    NotAllowed,
    Operation,
    Principal,
    PrincipalExists,
    PrincipalNotFound,
    Role,
)
from mlenv.core.audit import Author
from mlenv.core.scope import (
    DEFAULT_GROUP,
    DEFAULT_LOCATION,
    DEFAULT_SUBSCRIPTION,
    DEFAULT_WORKSPACE,
    Scope,
    ScopeKey,
    ScopeKind,
)
from mlenv.core.tokens import Token, TokenExists, TokenNotFound
from mlenv.errors import Forbidden, InvalidInput
from mlenv.service.administration import find_principal
from mlenv.service.site import TOKEN_PREFIX, Site, author_of

#: How long a token lasts if nobody says, and how long and short it can be told to.
DEFAULT_LIFETIME: Final = timedelta(days=90)
SHORTEST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(days=3660)
#: How long what a person gets by logging in elsewhere lasts.
LOGIN_LIFETIME: Final = timedelta(hours=12)
#: The id of the first principal. That it is always the same keeps two first starts at once from making two.
_FIRST: Final = uuid.UUID(int=1).hex
_NAME_LIMIT: Final = 100


class InvalidToken(InvalidInput):
    """A token was asked for that can't be made so."""

    def __init__(self, why: str) -> None:
        super().__init__(f"can't make such a token: {why}")


class TooMuch(Forbidden):
    """A token was asked for that would do more than its owner, or the token that it is asked with, may."""

    hint = "leave the namespace out, or ask an administrator for a role there first"

    def __init__(self, scope: ScopeKey, who: str) -> None:
        super().__init__(f"can't make a token for {scope}: {who} has no role there")
        self.scope = scope


class NewToken(Struct, frozen=True):
    """
    A token to be made.

    Attributes:
        name: What it is for.
        lifetime: How long it lasts; None for until it is revoked.
        only: Where it may be used; None for wherever its owner may, or the token that it is asked with.
        owner: The id or name of whose it is to be; None for the caller's own.
    """

    name: str
    lifetime: timedelta | None = DEFAULT_LIFETIME
    only: frozenset[ScopeKey] | None = None
    owner: str | None = None


class Tokens:
    """Makes tokens, tells of them, and makes them worthless."""

    def __init__(
        self,
        site: Site,
        *,
        new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._site = site
        self._new_uuid = new_uuid
        self._random_bytes = random_bytes

    def create(self, caller: Caller, wanted: NewToken) -> tuple[Token, str]:
        """
        Make a token.

        Returns:
            The token, and its secret, which is kept nowhere.

        Raises:
            NotAllowed: It is to be somebody else's, and the caller is not administrator everywhere.
            PrincipalNotFound: There is no such owner.
            TooMuch: It would be good where its owner, or the token that it is asked with, is not.
            InvalidToken: Its name or lifetime can't be.
        """
        self._site.allow(caller, Operation.TOKEN_OWN)
        owner = caller.principal
        if wanted.owner is not None and wanted.owner not in {owner.id, owner.name}:
            self._site.allow(caller, Operation.TOKEN_ANY)
            owner = find_principal(self._site, wanted.owner)
        only = self._limits(caller, owner, wanted.only)
        if wanted.lifetime is not None and not SHORTEST <= wanted.lifetime <= LONGEST:
            raise InvalidToken(f"it must last from {SHORTEST} to {LONGEST}, or until it is revoked")
        return self._add(self._new_uuid().hex, owner, wanted.name, only, wanted.lifetime, author_of(caller))

    def own(self, caller: Caller) -> list[Token]:
        """
        The caller's tokens, the newest first.

        With a token that is limited to some namespaces, only those that are limited as much.
        """
        self._site.allow(caller, Operation.TOKEN_OWN)
        return [each for each in self._site.store.tokens(caller.principal.id) if _within(each, caller)]

    def all(self, caller: Caller, owner: str | None = None) -> list[Token]:
        """
        Everybody's tokens, or somebody's, the newest first.

        Raises:
            NotAllowed: The caller is not administrator everywhere.
            PrincipalNotFound: There is nobody of that id or name.
        """
        self._site.allow(caller, Operation.TOKEN_ANY)
        return self._site.store.tokens(None if owner is None else find_principal(self._site, owner).id)

    def revoke(self, caller: Caller, id: str) -> None:
        """
        Make a token worthless; one that is so already stays so.

        Raises:
            TokenNotFound: There is none of that id, or it is somebody else's and the caller not administrator
                everywhere.
        """
        if not any(each.id == id for each in self.own(caller)):
            try:
                self._site.allow(caller, Operation.TOKEN_ANY)
            except NotAllowed:
                raise TokenNotFound(id) from None
        if not self._site.store.revoke_token(id, author=author_of(caller), now=self._site.clock()):
            raise TokenNotFound(id)
        self._site.forget()

    # What nobody is known for yet.

    def bootstrap(self) -> str | None:
        """
        Make the first administrator and the first workspace, if there is nobody yet.

        Returns:
            The secret of the administrator's token; None if there was somebody, or another process was first.
        """
        store, now = self._site.store, self._site.clock()
        if store.principals():
            return None
        server = Author("server", "server")
        administrator = Principal(_FIRST, "administrator", {EVERYWHERE: Role.ADMINISTRATOR})
        place = (DEFAULT_SUBSCRIPTION, DEFAULT_GROUP, DEFAULT_LOCATION)
        workspace = Scope(ScopeKind.WORKSPACE, DEFAULT_WORKSPACE, str(self._new_uuid()), *place, now)
        secret = self._new_secret()
        token = Token(self._new_uuid().hex, administrator.id, "bootstrap", None, now)
        new = store.begin(administrator, workspace, token, _digest(secret), author=server, now=now)
        return secret if new else None

    def recover(self) -> str:
        """
        Make a token, good for a day, for an administrator everywhere. For whoever may read the database anyway.

        Raises:
            PrincipalNotFound: There is none.
        """
        people = [each for each in self._site.store.principals() if each.role(EVERYWHERE) is Role.ADMINISTRATOR]
        if not people:
            raise PrincipalNotFound("administrator")
        # The first one, if they still are one.
        owner = next((each for each in people if each.id == _FIRST), people[0])
        server = Author("server", "server")
        return self._add(self._new_uuid().hex, owner, "recovered", None, timedelta(days=1), server)[1]

    def person(self, subject: str, names: Callable[[], list[str]], *, address: str, request: str) -> Principal:
        """
        Whoever logged in elsewhere as `issuer subject`. On their first visit they become known, without a role.

        Args:
            names: What they may be called, the best first, if they are new; one that is taken gets a number.
        """
        store = self._site.store
        for name in ("", *_candidates(names())):
            found = store.principal_by_subject(subject)
            if found is not None:
                return found
            if not name or store.principal_by_name(name) is not None:
                continue
            principal = Principal(self._new_uuid().hex, name)
            author = Author(principal.id, name, None, address, request)
            try:
                store.add_principal(principal, subject=subject, author=author, now=self._site.clock())
            except PrincipalExists:
                continue
            return principal
        raise PrincipalExists(subject)

    def login(self, principal: str, ticket: str, *, address: str, request: str) -> tuple[Token, str]:
        """
        Make a token for somebody who has just logged in elsewhere.

        Args:
            principal: Their id.
            ticket: What names this login; good once.

        Raises:
            PrincipalNotFound: There is nobody of that id.
            TokenExists: The ticket was used before.
        """
        owner = find_principal(self._site, principal)
        # The token's id comes from the ticket. That ids are unique is what makes it good once, on any server.
        id = sha256(f"login {ticket}".encode()).hexdigest()[:32]
        if any(each.id == id for each in self._site.store.tokens(owner.id)):
            raise TokenExists(id)
        author = Author(owner.id, owner.name, None, address, request)
        return self._add(id, owner, "login", None, LOGIN_LIFETIME, author)

    def _limits(self, caller: Caller, owner: Principal, only: frozenset[ScopeKey] | None) -> frozenset[ScopeKey] | None:
        """Where a token is to be good. Raises `TooMuch`, `InvalidToken`."""
        own = caller.principal.only
        if only is None:
            return own
        if not only or EVERYWHERE in only:
            raise InvalidToken("name the workspaces and registries that it is for, or none")
        for scope in sorted(only):
            if own is not None and scope not in own:
                raise TooMuch(scope, "the token that it is asked with")
            if owner.role(scope) is None or self._site.store.scope(scope) is None:
                raise TooMuch(scope, owner.name)
        return only

    def _add(
        self,
        id: str,
        owner: Principal,
        name: str,
        only: frozenset[ScopeKey] | None,
        lifetime: timedelta | None,
        author: Author,
    ) -> tuple[Token, str]:
        if not name or len(name) > _NAME_LIMIT or not name.isprintable():
            raise InvalidToken(f"its name must have 1 to {_NAME_LIMIT} printable characters")
        now = self._site.clock()
        secret = self._new_secret()
        token = Token(id, owner.id, name, only, now, _after(now, lifetime))
        self._site.store.add_token(token, _digest(secret), author=author, now=now)
        return token, secret

    def _new_secret(self) -> str:
        return TOKEN_PREFIX + urlsafe_b64encode(self._random_bytes(32)).rstrip(b"=").decode()


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _after(now: datetime, lifetime: timedelta | None) -> datetime | None:
    return None if lifetime is None else now + lifetime


def _within(token: Token, caller: Caller) -> bool:
    """Whether a token is limited at least as much as the one that the caller shows."""
    own = caller.principal.only
    return own is None or (token.only is not None and token.only <= own)


def _candidates(names: list[str]) -> list[str]:
    """Each name, and then the first of them with numbers."""
    first = names[0] if names else "person"
    return [*names, *(f"{first[:90]}-{number}" for number in range(2, 1000))]
