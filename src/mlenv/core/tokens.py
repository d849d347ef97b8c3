"""API tokens, as they are remembered: never the secret."""

from datetime import datetime

from msgspec import Struct

from mlenv.core.scope import ScopeKey
from mlenv.errors import Conflict, NotFound


class TokenExists(Conflict):
    """A token of that id or secret is there already."""

    def __init__(self, id: str) -> None:
        super().__init__(f"there is a token {id} already")
        self.id = id


class TokenNotFound(NotFound):
    """There is no such token, or none that the caller may see."""

    hint = "`mlenv token list` tells which there are"

    def __init__(self, id: str) -> None:
        super().__init__(f"there is no token {id!r}, or none that you may see")
        self.id = id


class Token(Struct, frozen=True):
    """
    A token that somebody may show.

    Attributes:
        id: Opaque; names it in lists and audit records.
        principal: The id of whose it is.
        name: What it is for, in its owner's words.
        only: Where it may be used; None for wherever its owner may.
        created_at, expires_at, revoked_at: UTC. A token without `expires_at` lasts until it is revoked.
    """

    id: str
    principal: str
    name: str
    only: frozenset[ScopeKey] | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
