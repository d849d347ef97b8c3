"""
Who may do what: roles, operations, and the one table that joins them.

Nothing is allowed that the table does not allow. An operation on a namespace needs a role there; an operation on the
whole site needs the role everywhere (`EVERYWHERE`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct, field

from mlenv.core.scope import ScopeKey
from mlenv.errors import Conflict, Forbidden, NotFound

#: In place of a namespace: all of them, and the site itself.
EVERYWHERE: Final = ScopeKey("*")


class Role(StrEnum):
    """What somebody is in a namespace. Each may do all that the ones before may."""

    READER = "reader"
    CONTRIBUTOR = "contributor"
    APPROVER = "approver"
    ADMINISTRATOR = "administrator"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what the other may."""
        return _RANKS[self] >= _RANKS[other]


_RANKS: Final = {role: rank for rank, role in enumerate(Role)}


class Operation(StrEnum):
    """What can be done. Every route of every dialect does one of these."""

    ENVIRONMENT_READ = "environment.read"
    ENVIRONMENT_WRITE = "environment.write"
    LABEL_SET = "label.set"
    LOCK_WRITE = "lock.write"
    BUILD_READ = "build.read"
    BUILD_WRITE = "build.write"
    USE_WRITE = "use.write"
    BLOB_READ = "blob.read"
    BLOB_WRITE = "blob.write"
    ASSET_READ = "asset.read"
    ASSET_WRITE = "asset.write"
    JOB_READ = "job.read"
    JOB_WRITE = "job.write"
    SECRET_READ = "secret.read"
    SHARE = "share"
    SCOPE_READ = "scope.read"
    SCOPE_WRITE = "scope.write"
    GRANT_READ = "grant.read"
    GRANT_WRITE = "grant.write"
    AUDIT_READ = "audit.read"
    SCOPE_CREATE = "scope.create"
    SCOPE_LIST = "scope.list"
    TOKEN_OWN = "token.own"
    TOKEN_ANY = "token.any"


#: The least role for each operation on a namespace, or on the site for those of `ON_SITE`.
RULES: Final[Mapping[Operation, Role]] = {
    Operation.ENVIRONMENT_READ: Role.READER,
    Operation.ENVIRONMENT_WRITE: Role.CONTRIBUTOR,
    Operation.LABEL_SET: Role.CONTRIBUTOR,
    Operation.LOCK_WRITE: Role.CONTRIBUTOR,
    Operation.BUILD_READ: Role.READER,
    Operation.BUILD_WRITE: Role.CONTRIBUTOR,
    Operation.USE_WRITE: Role.READER,
    Operation.BLOB_READ: Role.READER,
    Operation.BLOB_WRITE: Role.CONTRIBUTOR,
    Operation.ASSET_READ: Role.READER,
    Operation.ASSET_WRITE: Role.CONTRIBUTOR,
    Operation.JOB_READ: Role.READER,
    Operation.JOB_WRITE: Role.CONTRIBUTOR,
    Operation.SECRET_READ: Role.CONTRIBUTOR,
    Operation.SHARE: Role.CONTRIBUTOR,
    Operation.SCOPE_READ: Role.READER,
    Operation.SCOPE_WRITE: Role.ADMINISTRATOR,
    Operation.GRANT_READ: Role.ADMINISTRATOR,
    Operation.GRANT_WRITE: Role.ADMINISTRATOR,
    Operation.AUDIT_READ: Role.ADMINISTRATOR,
    Operation.SCOPE_CREATE: Role.ADMINISTRATOR,
    Operation.TOKEN_ANY: Role.ADMINISTRATOR,
}
#: Operations on the site as a whole, which need their role everywhere.
ON_SITE: Final = frozenset({Operation.SCOPE_CREATE, Operation.TOKEN_ANY})
#: What everybody may who is known at all. Lists hold what the caller may see; tokens are the caller's own.
FOR_ANYBODY_KNOWN: Final = frozenset({Operation.SCOPE_LIST, Operation.TOKEN_OWN})


class NotAllowed(Forbidden):
    """Somebody known asked for what their role does not allow."""

    def __init__(self, caller: str, operation: Operation, scope: str, needed: Role | None) -> None:
        where = "everywhere" if scope == EVERYWHERE else f"in {scope}"
        super().__init__(f"{caller} may not {operation} {where}: it needs the role {needed or 'of nobody'}")
        self.operation, self.scope, self.needed = operation, scope, needed
        self.hint = "ask an administrator for that role, or use another token"


class PrincipalExists(Conflict):
    """Somebody has that name, id or subject already."""

    hint = "choose another name; `mlenv principal list` tells which there are"

    def __init__(self, name: str) -> None:
        super().__init__(f"somebody is called {name!r} already")
        self.name = name


class PrincipalNotFound(NotFound):
    """Nobody has that name or id."""

    hint = "`mlenv principal list` tells who there is; `mlenv principal create NAME` makes one for a program"

    def __init__(self, name: str) -> None:
        super().__init__(f"nobody is called {name!r}")
        self.name = name


class LastAdministrator(Conflict):
    """The role of the only administrator everywhere was to be taken away; nobody could give it back."""

    hint = "make somebody else administrator everywhere first: `mlenv role set NAME administrator --everywhere`"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is the last administrator everywhere")
        self.name = name


class Principal(Struct, frozen=True):
    """
    Somebody known: a person, or a program with a token.

    Attributes:
        id: Opaque and lasting.
        name: For people to read; in audit records.
        roles: By namespace; `EVERYWHERE` for all.
        token: The id of the token that was shown, or None.
        only: Where this token may be used at all; None for wherever the principal may.
    """

    id: str
    name: str
    roles: Mapping[ScopeKey, Role] = field(default_factory=dict)
    token: str | None = None
    only: frozenset[ScopeKey] | None = None

    def role(self, scope: ScopeKey) -> Role | None:
        """The strongest role there, or None."""
        if self.only is not None and scope not in self.only:
            return None
        found = [role for each in (scope, EVERYWHERE) if (role := self.roles.get(each)) is not None]
        return max(found, key=_RANKS.__getitem__, default=None)


class Caller(Struct, frozen=True):
    """
    Who asks, and from where.

    Attributes:
        principal: Who.
        address: The network address that the request came from.
        request: The request's id, as logs have it.
    """

    principal: Principal
    address: str = ""
    request: str = ""


def authorize(caller: Caller, operation: Operation, scope: ScopeKey) -> None:
    """
    Let an operation pass, or not.

    Args:
        scope: The namespace; `EVERYWHERE` for operations of `ON_SITE`.

    Raises:
        NotAllowed: No rule allows it.
    """
    if operation in FOR_ANYBODY_KNOWN:
        return
    where = EVERYWHERE if operation in ON_SITE else scope
    needed = RULES.get(operation)
    role = caller.principal.role(where)
    if needed is None or role is None or not role.includes(needed):
        raise NotAllowed(caller.principal.name, operation, where, needed)
