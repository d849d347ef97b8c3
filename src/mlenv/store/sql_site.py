"""
A site in SQL: namespaces, people, tokens, roles, audit records and answers to idempotency keys.

Each method is one transaction; what it changes and the record of it are in the same.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec.structs import asdict

from mlenv.core.access import EVERYWHERE, LastAdministrator, Principal, PrincipalExists, PrincipalNotFound, Role
from mlenv.core.audit import AuditRecord, Author, Change
from mlenv.core.scope import Scope, ScopeExists, ScopeKey, ScopeKind, ScopeSettings, scope_key
from mlenv.core.spec import canonical_json
from mlenv.core.tokens import Token, TokenExists
from mlenv.faults import reach
from mlenv.store.audit import append, to_record
from mlenv.store.database import Database, Row, Run
from mlenv.store.rows import from_time, to_time

#: Above every sequence number: SQLite's and PostgreSQL's largest integer.
_TOP: Final = 2**63 - 1


class SqlSite:
    """A `service.site_interface.SiteStore` over a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Namespaces.

    def add_scope(self, scope: Scope, *, author: Author, now: datetime) -> None:
        """Register a namespace. Raises `ScopeExists`."""
        self._database.write(lambda run: _add_scope(run, scope, author, now))

    def scope(self, key: ScopeKey) -> Scope | None:
        """A namespace, or None."""
        return _scope(self._one("scope", key=key))

    def scope_at(self, subscription: str, group: str, name: str) -> Scope | None:
        """The workspace at an address on Azure's terms (subscription and group in any case), or None."""
        found = self.scope(scope_key(ScopeKind.WORKSPACE, name))
        if found is None or found.kind is not ScopeKind.WORKSPACE:
            return None
        given, actual = (subscription, group), (found.subscription, found.group)
        return found if [each.lower() for each in given] == [each.lower() for each in actual] else None

    def scope_by_id(self, id: str) -> Scope | None:
        """A namespace by its UUID, or None."""
        return _scope(self._one("scope_by_id", id=id))

    def scopes(self, kind: ScopeKind) -> list[Scope]:
        """All namespaces of a kind, by name."""
        found = self._database.read(lambda run: run("scopes", kind=kind.value))
        return [scope for row in found if (scope := _scope(row))]

    def scope_settings(self, key: ScopeKey) -> ScopeSettings:
        """What a namespace's administrators have set; nothing for one that is not there."""
        row = self._one("scope_settings", key=key)
        return _settings(row["settings"] if row is not None else None)

    def set_scope_settings(self, key: ScopeKey, settings: ScopeSettings, *, author: Author, now: datetime) -> None:
        """Set what a namespace's administrators may set. No error if there is none."""

        def work(run: Run) -> None:
            run("audit_head")
            rows = run("scope_settings", key=key)
            if not rows:
                return
            before, after = _settings(rows[0]["settings"]), asdict(settings)
            run("set_scope_settings", key=key, settings=canonical_json(after))
            append(run, author, key, Change("settings.set", str(key), asdict(before), after), now)

        self._database.write(work)

    # People and roles.

    def begin(
        self, administrator: Principal, workspace: Scope, token: Token, digest: str, *, author: Author, now: datetime
    ) -> bool:
        """Register the first administrator with a token, and the first workspace; False if there is anybody already."""

        def work(run: Run) -> bool:
            run("audit_head")
            if run("principals"):
                return False
            _add_principal(run, administrator, None, author, now)
            if not run("scope", key=workspace.key):
                _add_scope(run, workspace, author, now)
            _add_token(run, token, digest, author, now)
            reach("site.begun")
            return True

        return self._database.write(work)

    def add_principal(self, principal: Principal, *, subject: str | None, author: Author, now: datetime) -> None:
        """Register somebody, with roles. Raises `PrincipalExists` if the id, name or subject is taken."""
        self._database.write(lambda run: _add_principal(run, principal, subject, author, now))

    def principals(self) -> list[Principal]:
        """Everybody, by name."""
        people, grants = self._database.read(lambda run: (run("principals"), run("all_grants")))
        roles: dict[str, list[Row]] = {}
        for grant in grants:
            roles.setdefault(grant["principal"], []).append(grant)
        return [_principal(row, roles.get(row["id"], ())) for row in people]

    def principal(self, id: str) -> Principal | None:
        """Somebody by id, or None."""
        return self._somebody("principal", id=id)

    def principal_by_name(self, name: str) -> Principal | None:
        """Somebody by name, or None."""
        return self._somebody("principal_by_name", name=name)

    def principal_by_subject(self, subject: str) -> Principal | None:
        """Whoever logs in elsewhere as `issuer subject`, or None."""
        return self._somebody("principal_by_subject", subject=subject)

    def principal_of(self, token_digest: str, *, now: datetime) -> Principal | None:
        """Whose token it is, with `token` and `only` of it; None if it is unknown, expired or revoked."""

        def work(run: Run) -> Principal | None:
            if not (tokens := run("good_token", digest=token_digest, now=from_time(now))):
                return None
            token = _token(tokens[0])
            if not (people := run("principal", id=token.principal)):
                return None
            grants = run("grants", principal=token.principal)
            return _principal(people[0], grants, token=token.id, only=token.only)

        return self._database.read(work)

    def set_role(self, principal: str, scope: ScopeKey, role: Role | None, *, author: Author, now: datetime) -> None:
        """Give somebody a role in a namespace, or take it away. Raises `PrincipalNotFound`, `LastAdministrator`."""

        def work(run: Run) -> None:
            # Roles are changed one after the other, or two administrators might each remove the other.
            run("audit_head")
            if not (people := run("principal", id=principal)):
                raise PrincipalNotFound(principal)
            before = {row["scope"]: row["role"] for row in run("grants", principal=principal)}.get(scope)
            after = None if role is None else role.value
            if before == after:
                return
            if scope == EVERYWHERE and before == Role.ADMINISTRATOR:
                others = run("grants_in", scope=EVERYWHERE, role=Role.ADMINISTRATOR.value)
                if all(row["principal"] == principal for row in others):
                    raise LastAdministrator(people[0]["name"])
            run("delete_grant", principal=principal, scope=scope)
            if after is not None:
                run("insert_grant", principal=principal, scope=scope, role=after, created_at=from_time(now))
            change = Change("role.set", people[0]["name"], _role(before), _role(after))
            append(run, author, scope, change, now)

        self._database.write(work)

    # Tokens.

    def add_token(self, token: Token, digest: str, *, author: Author, now: datetime) -> None:
        """Register a token by the sha256 of its secret, in hex. Raises `TokenExists` if its id or digest is taken."""
        self._database.write(lambda run: _add_token(run, token, digest, author, now))

    def tokens(self, principal: str | None) -> list[Token]:
        """Somebody's tokens, or all, the newest first."""

        def work(run: Run) -> list[Row]:
            return run("tokens") if principal is None else run("tokens_of", principal=principal)

        return [_token(row) for row in self._database.read(work)]

    def revoke_token(self, id: str, *, author: Author, now: datetime) -> bool:
        """Make a token worthless. False if there is none of that id."""

        def work(run: Run) -> bool:
            if not (found := run("token_to_change", id=id)):
                return False
            if found[0]["revoked_at"] is None:
                run("revoke_token", the_id=id, revoked_at=from_time(now))
                token = _token(found[0])
                after = _told(token) | {"revoked_at": from_time(now)}
                append(run, author, EVERYWHERE, Change("token.revoke", id, _told(token), after), now)
            return True

        return self._database.write(work)

    # Audit.

    def audit(self, scope: ScopeKey | None, *, after: int = 0, limit: int) -> list[AuditRecord]:
        """Audit records in order, after a sequence number; of one namespace, or all."""
        return self._records("audit", scope, after=after, limit=limit)

    def newest_audit(self, scope: ScopeKey | None, *, before: int | None, limit: int) -> list[AuditRecord]:
        """Audit records, the newest first, before a sequence number; of one namespace, or all."""
        return self._records("newest_audit", scope, before=_TOP if before is None else before, limit=limit)

    def audit_head(self) -> tuple[int, str]:
        """See `service.site_interface.SiteStore`."""
        found = self._database.ask("audit_end")
        return (found[0]["sequence"], found[0]["hash"]) if found else (0, "")

    def _records(self, statement: str, scope: ScopeKey | None, **page: int) -> list[AuditRecord]:
        def work(run: Run) -> list[Row]:
            return run(statement, **page) if scope is None else run(f"{statement}_of", scope=scope, **page)

        return [to_record(row) for row in self._database.read(work)]

    # Answers to idempotency keys.

    def purge(self, *, before: datetime) -> None:
        """Forget answers to idempotency keys that are older."""
        self._database.write(lambda run: run("purge_replies", before=from_time(before)))

    def reply(self, principal: str, key: str) -> tuple[str, int, str] | None:
        """What was answered to an idempotency key: the digest of the request, the status, the body; or None."""
        found = self._one("reply", principal=principal, key=key)
        return (found["request"], found["status"], found["body"]) if found else None

    def add_reply(self, principal: str, key: str, request: str, status: int, body: str, *, now: datetime) -> None:
        """Remember an answer. The first one stays."""

        def work(run: Run) -> None:
            if not run("reply", principal=principal, key=key):
                time = from_time(now)
                run(
                    "insert_reply",
                    principal=principal,
                    key=key,
                    request=request,
                    status=status,
                    body=body,
                    created_at=time,
                )

        self._database.write(work)

    # Steps of the transactions above.

    def _one(self, statement: str, /, **parameters: str | int | None) -> Row | None:
        found = self._database.ask(statement, **parameters)
        return found[0] if found else None

    def _somebody(self, statement: str, /, **parameters: str) -> Principal | None:
        def work(run: Run) -> Principal | None:
            if not (found := run(statement, **parameters)):
                return None
            return _principal(found[0], run("grants", principal=found[0]["id"]))

        return self._database.read(work)


def _add_scope(run: Run, scope: Scope, author: Author, now: datetime) -> None:
    run("audit_head")
    if run("scope", key=scope.key) or run("scope_by_id", id=scope.id):
        raise ScopeExists(scope.kind, scope.name)
    run(
        "insert_scope",
        key=scope.key,
        kind=scope.kind.value,
        name=scope.name,
        id=scope.id,
        subscription=scope.subscription,
        resource_group=scope.group,
        location=scope.location,
        created_at=from_time(scope.created_at),
        settings=None,
    )
    state = {"id": scope.id, "subscription": scope.subscription, "group": scope.group, "location": scope.location}
    append(run, author, scope.key, Change(f"{scope.kind}.create", scope.name, None, state), now)


def _add_principal(run: Run, principal: Principal, subject: str | None, author: Author, now: datetime) -> None:
    # People are registered one after the other: nothing else keeps two from having one name.
    run("audit_head")
    taken = run("principal", id=principal.id) or run("principal_by_name", name=principal.name)
    if taken or (subject is not None and run("principal_by_subject", subject=subject)):
        raise PrincipalExists(principal.name)
    roles, time = {scope: role.value for scope, role in principal.roles.items()}, from_time(now)
    run("insert_principal", id=principal.id, name=principal.name, subject=subject, created_at=time)
    for scope, role in roles.items():
        run("insert_grant", principal=principal.id, scope=scope, role=role, created_at=time)
    state = {"id": principal.id, "subject": subject, "roles": roles}
    append(run, author, EVERYWHERE, Change("principal.create", principal.name, None, state), now)


def _add_token(run: Run, token: Token, digest: str, author: Author, now: datetime) -> None:
    # One after the other, as a token that is made of a ticket is to be made once.
    run("audit_head")
    if run("token", id=token.id) or run("token_by_digest", digest=digest):
        raise TokenExists(token.id)
    run(
        "insert_token",
        id=token.id,
        digest=digest,
        principal=token.principal,
        name=token.name,
        only=None if token.only is None else canonical_json(sorted(token.only)),
        created_at=from_time(token.created_at),
        expires_at=_optional(token.expires_at),
        revoked_at=_optional(token.revoked_at),
    )
    append(run, author, EVERYWHERE, Change("token.create", token.id, None, _told(token)), now)


def _scope(row: Row | None) -> Scope | None:
    if row is None:
        return None
    address = (row["subscription"], row["resource_group"], row["location"])
    return Scope(ScopeKind(row["kind"]), row["name"], row["id"], *address, to_time(row["created_at"]))


def _settings(text: str | None) -> ScopeSettings:
    document = json.loads(text) if text else {}
    return ScopeSettings(push_to=document.get("push_to"))


def _principal(
    row: Row, grants: Iterable[Row], *, token: str | None = None, only: frozenset[ScopeKey] | None = None
) -> Principal:
    roles = {ScopeKey(grant["scope"]): Role(grant["role"]) for grant in grants}
    return Principal(row["id"], row["name"], roles, token, only)


def _token(row: Row) -> Token:
    return Token(
        row["id"],
        row["principal"],
        row["name"],
        None if row["only"] is None else frozenset(ScopeKey(each) for each in json.loads(row["only"])),
        to_time(row["created_at"]),
        to_time(row["expires_at"]) if row["expires_at"] else None,
        to_time(row["revoked_at"]) if row["revoked_at"] else None,
    )


def _told(token: Token) -> dict[str, Any]:
    """A token, as audit records tell of it."""
    return {
        "principal": token.principal,
        "name": token.name,
        "only": None if token.only is None else sorted(token.only),
        "expires_at": _optional(token.expires_at),
        "revoked_at": _optional(token.revoked_at),
    }


def _role(role: str | None) -> Mapping[str, str] | None:
    return None if role is None else {"role": role}


def _optional(time: datetime | None) -> str | None:
    return None if time is None else from_time(time)
