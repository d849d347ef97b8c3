"""What a server's site asks of its store."""

from datetime import datetime
from typing import Protocol

from mlenv.core.access import Principal, Role
from mlenv.core.audit import AuditRecord, Author
from mlenv.core.scope import Scope, ScopeKey, ScopeKind, ScopeSettings
from mlenv.core.tokens import Token


class SiteStore(Protocol):
    """Rows of a site as a whole: namespaces, people, tokens, roles, audit. Every change is one transaction with its record."""

    def add_scope(self, scope: Scope, *, author: Author, now: datetime) -> None:
        """Register a namespace. Raises `core.scope.ScopeExists`."""

    def scope(self, key: ScopeKey) -> Scope | None:
        """A namespace, or None."""

    def scope_at(self, subscription: str, group: str, name: str) -> Scope | None:
        """The workspace at an address on Azure's terms (subscription and group in any case), or None."""

    def scope_by_id(self, id: str) -> Scope | None:
        """A namespace by its UUID, or None."""

    def scopes(self, kind: ScopeKind) -> list[Scope]:
        """All namespaces of a kind, by name."""

    def scope_settings(self, key: ScopeKey) -> ScopeSettings:
        """What a namespace's administrators have set; nothing for one that is not there."""

    def set_scope_settings(self, key: ScopeKey, settings: ScopeSettings, *, author: Author, now: datetime) -> None:
        """Set it. No error if there is no such namespace."""

    def add_principal(self, principal: Principal, *, subject: str | None, author: Author, now: datetime) -> None:
        """Register somebody, with roles. Raises `core.access.PrincipalExists` if the id, name or subject is taken."""

    def begin(
        self, administrator: Principal, workspace: Scope, token: Token, digest: str, *, author: Author, now: datetime
    ) -> bool:
        """
        Register the first administrator with a token, and the first workspace if it is not there: all of it, or nothing.

        Returns:
            False, and nothing is done, if there is anybody already.
        """

    def principals(self) -> list[Principal]:
        """Everybody, by name."""

    def principal(self, id: str) -> Principal | None:
        """Somebody by id, or None."""

    def principal_by_name(self, name: str) -> Principal | None:
        """Somebody by name, or None."""

    def principal_by_subject(self, subject: str) -> Principal | None:
        """Whoever logs in elsewhere as `issuer subject`, or None."""

    def principal_of(self, token_digest: str, *, now: datetime) -> Principal | None:
        """Whose token it is, with `token` and `only` of it; None if it is unknown, expired or revoked."""

    def set_role(self, principal: str, scope: ScopeKey, role: Role | None, *, author: Author, now: datetime) -> None:
        """
        Give somebody a role in a namespace, or take it away.

        Raises:
            PrincipalNotFound: There is nobody of that id.
            LastAdministrator: Nobody would be administrator everywhere any more. Safe under several processes.
        """

    def add_token(self, token: Token, digest: str, *, author: Author, now: datetime) -> None:
        """Register a token by the sha256 of its secret, in hex. Raises `core.tokens.TokenExists` if its id is taken."""

    def tokens(self, principal: str | None) -> list[Token]:
        """Somebody's tokens, or all, the newest first."""

    def revoke_token(self, id: str, *, author: Author, now: datetime) -> bool:
        """Make a token worthless. False if there is none of that id."""

    def audit(self, scope: ScopeKey | None, *, after: int = 0, limit: int) -> list[AuditRecord]:
        """Audit records in order, after a sequence number; of one namespace, or all."""

    def newest_audit(self, scope: ScopeKey | None, *, before: int | None, limit: int) -> list[AuditRecord]:
        """Audit records, the newest first, before a sequence number; of one namespace, or all."""

    def audit_head(self) -> tuple[int, str]:
        """
        The sequence number and the hash that the chain ends with: 0 and `GENESIS` if there is no record, and 0 and "" if
        somebody removed its end.
        """

    def purge(self, *, before: datetime) -> None:
        """Forget answers to idempotency keys that are older."""

    def reply(self, principal: str, key: str) -> tuple[str, int, str] | None:
        """What was answered to an idempotency key: the digest of the request, the status, the body; or None."""

    def add_reply(self, principal: str, key: str, request: str, status: int, body: str, *, now: datetime) -> None:
        """Remember an answer. The first one stays."""
