"""Namespaces, tokens, principals, roles and audit records as JSON; see `mlenv.api.wire`."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, JsonValue

from mlenv.api.wire import Answer, Wire
from mlenv.core.access import Principal, Role
from mlenv.core.audit import AuditRecord
from mlenv.core.scope import (
    DEFAULT_GROUP,
    DEFAULT_LOCATION,
    DEFAULT_SUBSCRIPTION,
    Scope,
    ScopeKey,
    ScopeKind,
    ScopeSettings,
    parse_scope_key,
)
from mlenv.core.tokens import Token

WordText = Annotated[str, Field(min_length=1, max_length=100)]
#: A namespace as roles and tokens have it: `team`, `registry:shared`.
ScopeText = Annotated[str, Field(min_length=1, max_length=100)]
#: Most namespaces that a token can be limited to.
_MOST_SCOPES = 1000


class ScopeBody(Wire):
    """A workspace or registry to be made."""

    name: WordText
    subscription: WordText = Field(DEFAULT_SUBSCRIPTION, description="With the next, its address on Azure's terms.")
    resource_group: WordText = DEFAULT_GROUP
    location: WordText = DEFAULT_LOCATION


class ScopeAnswer(Answer):
    """A workspace or registry."""

    kind: ScopeKind = Field(strict=False)
    name: str
    id: str
    subscription: str
    resource_group: str
    location: str
    created_at: AwareDatetime

    def to_core(self) -> Scope:
        """The namespace."""
        return Scope(
            self.kind, self.name, self.id, self.subscription, self.resource_group, self.location, self.created_at
        )


class SettingsBody(Wire):
    """What is set for a workspace or registry."""

    push_to: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None, description="`REGISTRY/PREFIX`, where every image that is built is pushed to; null for nowhere."
    )

    def to_core(self) -> ScopeSettings:
        """The settings, unchecked."""
        return ScopeSettings(self.push_to)


class SettingsAnswer(Answer):
    """What is set for a workspace or registry."""

    push_to: str | None


class ScopePage(Answer):
    """Workspaces or registries by name."""

    value: list[ScopeAnswer]
    next: str | None


class TokenBody(Wire):
    """A token to be made."""

    name: WordText = Field(description="What it is for.")
    expires_in: Annotated[int, Field(ge=60, le=3660 * 86_400)] | None = Field(
        90 * 86_400, description="Seconds that it lasts; null for until it is revoked."
    )
    only: Annotated[list[ScopeText], Field(min_length=1, max_length=_MOST_SCOPES)] | None = Field(
        None, description="Where it is good: `team`, `registry:shared`; null for wherever its owner may."
    )
    owner: WordText | None = Field(None, description="Whose it is, by name or id; null for one's own.")

    def to_only(self) -> frozenset[ScopeKey] | None:
        """Where it is good. Raises `InvalidScope`."""
        return None if self.only is None else frozenset(map(parse_scope_key, self.only))

    def to_lifetime(self) -> timedelta | None:
        """How long it lasts."""
        return None if self.expires_in is None else timedelta(seconds=self.expires_in)


class TokenAnswer(Answer):
    """A token, without its secret."""

    id: str
    principal: str
    name: str
    only: list[str] | None
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None


class NewTokenAnswer(TokenAnswer):
    """A token that was just made, with its secret, which is never told again."""

    secret: str


class TokenPage(Answer):
    """Tokens, the newest first."""

    value: list[TokenAnswer]
    next: str | None


class PrincipalBody(Wire):
    """A program, or a person who does not log in elsewhere, to be registered."""

    name: WordText


class PrincipalAnswer(Answer):
    """Somebody, with their roles by namespace; `*` stands for all."""

    id: str
    name: str
    roles: dict[str, Role] = Field(strict=False)


class WhoAnswer(PrincipalAnswer):
    """Who asks, and with which token."""

    token: str | None
    only: list[str] | None


class PrincipalPage(Answer):
    """Principals by name."""

    value: list[PrincipalAnswer]
    next: str | None


class RoleBody(Wire):
    """A role to be given."""

    role: Role = Field(strict=False)


class GrantAnswer(Answer):
    """A role that somebody has; the scope `*` stands for all namespaces."""

    principal: str
    name: str
    scope: str
    role: Role = Field(strict=False)


class GrantPage(Answer):
    """Roles by their owners' names."""

    value: list[GrantAnswer]
    next: str | None


class AuditAnswer(Answer):
    """One change, in the chain."""

    sequence: int
    at: AwareDatetime
    who: str
    principal: str
    token: str | None
    from_: str = Field(alias="from")
    request: str
    scope: str
    action: str
    subject: str
    before: JsonValue
    after: JsonValue
    previous: str
    hash: str


class AuditPage(Answer):
    """Audit records."""

    value: list[AuditAnswer]
    next: str | None


class AuditHeadAnswer(Answer):
    """What the audit chain ends with. Note it elsewhere, to find out later whether records were removed from the end."""

    sequence: int
    hash: str


class LoginBody(Wire):
    """What a command line shows for a token, after a person has logged in with a browser."""

    code: Annotated[str, Field(min_length=1, max_length=4096)]
    verifier: Annotated[str, Field(min_length=43, max_length=128)] = Field(description="As of RFC 7636, section 4.1.")


class LoginAnswer(Answer):
    """Whether people can log in with a browser."""

    oidc: bool
    issuer: str | None


def scope_document(scope: Scope) -> dict[str, Any]:
    """A workspace or registry."""
    return {
        "kind": scope.kind.value,
        "name": scope.name,
        "id": scope.id,
        "subscription": scope.subscription,
        "resource_group": scope.group,
        "location": scope.location,
        "created_at": scope.created_at,
    }


def token_document(token: Token) -> dict[str, Any]:
    """A token, without its secret."""
    return {
        "id": token.id,
        "principal": token.principal,
        "name": token.name,
        "only": None if token.only is None else sorted(token.only),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }


def principal_document(principal: Principal) -> dict[str, Any]:
    """Somebody, with their roles."""
    return {"id": principal.id, "name": principal.name, "roles": dict(principal.roles)}


def who_document(principal: Principal) -> dict[str, Any]:
    """Somebody, with the token that they show; of their roles, those that hold with it."""
    only = principal.only
    document = principal_document(principal)
    if only is not None:
        document["roles"] = {key: role for key in sorted(only) if (role := principal.role(key)) is not None}
    return document | {"token": principal.token, "only": None if only is None else sorted(only)}


def grant_document(principal: str, name: str, scope: ScopeKey, role: Role) -> dict[str, Any]:
    """A role that somebody has."""
    return {"principal": principal, "name": name, "scope": scope, "role": role.value}


def audit_document(record: AuditRecord) -> dict[str, Any]:
    """One change."""
    return record.to_dict()
