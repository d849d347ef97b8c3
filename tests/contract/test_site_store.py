"""What every `service.interface.SiteStore` must do: one suite over SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from mlenv.core.access import EVERYWHERE, LastAdministrator, Principal, PrincipalExists, PrincipalNotFound, Role
from mlenv.core.audit import GENESIS, Author, find_breaks
from mlenv.core.scope import Scope, ScopeExists, ScopeKey, ScopeKind
from mlenv.core.tokens import Token, TokenExists
from mlenv.service.site_interface import SiteStore
from mlenv.store.database import Database
from mlenv.store.sql_site import SqlSite

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
AUTHOR = Author("0", "root", "t0", "192.0.2.1", "r1")
TEAM, SHARED = ScopeKey("team"), ScopeKey("registry:shared")
ADA = Principal("1", "ada", {TEAM: Role.CONTRIBUTOR, SHARED: Role.READER})
SCOPE = Scope(ScopeKind.WORKSPACE, "team", "uuid-1", "Sub-1", "Group", "westeurope", NOW)


@pytest.fixture
def site(database: Database) -> SiteStore:
    return SqlSite(database)


def told(site: SiteStore) -> list[tuple[str, str, str]]:
    """The audit in short, which must be whole."""
    records = site.audit(None, limit=1000)
    assert list(find_breaks(records)) == []
    assert site.audit_head() == ((records[-1].sequence, records[-1].hash) if records else (0, GENESIS))
    assert all(each.author == AUTHOR for each in records)
    return [(each.scope, each.change.action, each.change.subject) for each in records]


def test_namespaces_are_found_by_every_name_they_have(site: SiteStore) -> None:
    site.add_scope(SCOPE, author=AUTHOR, now=NOW)
    registry = replace(SCOPE, kind=ScopeKind.REGISTRY, id="uuid-2")
    site.add_scope(registry, author=AUTHOR, now=NOW)
    site.add_scope(replace(SCOPE, name="Before", id="uuid-3"), author=AUTHOR, now=NOW)
    assert (site.scope(TEAM), site.scope(ScopeKey("registry:team"))) == (SCOPE, registry)
    assert site.scope(SHARED) is None
    assert site.scope_by_id("uuid-2") == registry
    assert site.scope_by_id("uuid-9") is None
    assert site.scope_at("sub-1", "GROUP", "team") == SCOPE
    for address in (("sub-2", "Group", "team"), ("Sub-1", "other", "team"), ("Sub-1", "Group", "none")):
        assert site.scope_at(*address) is None
    assert site.scope_at("Sub-1", "Group", "registry:team") is None
    assert [each.name for each in site.scopes(ScopeKind.WORKSPACE)] == ["Before", "team"]
    assert site.scopes(ScopeKind.REGISTRY) == [registry]
    assert told(site) == [
        ("team", "workspace.create", "team"),
        ("registry:team", "registry.create", "team"),
        ("Before", "workspace.create", "Before"),
    ]


def test_a_namespace_is_made_once(site: SiteStore) -> None:
    site.add_scope(SCOPE, author=AUTHOR, now=NOW)
    with pytest.raises(ScopeExists, match="workspace 'team'"):
        site.add_scope(replace(SCOPE, id="uuid-2", location="elsewhere"), author=AUTHOR, now=LATER)
    with pytest.raises(ScopeExists):
        site.add_scope(replace(SCOPE, name="other"), author=AUTHOR, now=LATER)
    assert site.scope(TEAM) == SCOPE
    assert len(told(site)) == 1


def test_people_are_found_by_every_name_they_have(site: SiteStore) -> None:
    site.add_principal(ADA, subject="https://login.example.org 42", author=AUTHOR, now=NOW)
    program = Principal("2", "Zuse")
    site.add_principal(program, subject=None, author=AUTHOR, now=NOW)
    site.add_principal(Principal("3", "a program"), subject=None, author=AUTHOR, now=NOW)
    assert site.principal("1") == site.principal_by_name("ada") == ADA
    assert site.principal_by_subject("https://login.example.org 42") == ADA
    assert (site.principal("9"), site.principal_by_name("bob"), site.principal_by_subject("")) == (None, None, None)
    assert site.principals() == [program, Principal("3", "a program"), ADA]
    assert told(site)[0] == ("*", "principal.create", "ada")


@pytest.mark.parametrize(
    ("other", "subject"), [(Principal("1", "bob"), None), (Principal("2", "ada"), None), (Principal("2", "bob"), "s")]
)
def test_nobody_takes_another_ones_name(site: SiteStore, other: Principal, subject: str | None) -> None:
    site.add_principal(ADA, subject="s", author=AUTHOR, now=NOW)
    with pytest.raises(PrincipalExists):
        site.add_principal(other, subject=subject, author=AUTHOR, now=NOW)
    assert site.principals() == [ADA]
    assert len(told(site)) == 1


def test_roles_are_given_changed_and_taken_away(site: SiteStore) -> None:
    site.add_principal(ADA, subject=None, author=AUTHOR, now=NOW)
    site.set_role("1", TEAM, Role.ADMINISTRATOR, author=AUTHOR, now=NOW)
    site.set_role("1", TEAM, Role.ADMINISTRATOR, author=AUTHOR, now=NOW)
    site.set_role("1", SHARED, None, author=AUTHOR, now=NOW)
    site.set_role("1", SHARED, None, author=AUTHOR, now=NOW)
    found = site.principal("1")
    assert found is not None
    assert found.roles == {TEAM: Role.ADMINISTRATOR}
    assert told(site)[1:] == [("team", "role.set", "ada"), ("registry:shared", "role.set", "ada")]
    given, taken = site.audit(None, after=1, limit=9)
    assert (given.change.before, given.change.after) == ({"role": "contributor"}, {"role": "administrator"})
    assert (taken.change.before, taken.change.after) == ({"role": "reader"}, None)
    with pytest.raises(PrincipalNotFound):
        site.set_role("9", TEAM, Role.READER, author=AUTHOR, now=NOW)


def test_the_last_administrator_stays_one(site: SiteStore) -> None:
    for id, name in (("1", "ada"), ("2", "bob")):
        site.add_principal(Principal(id, name, {EVERYWHERE: Role.ADMINISTRATOR}), subject=None, author=AUTHOR, now=NOW)
    site.set_role("1", EVERYWHERE, Role.READER, author=AUTHOR, now=NOW)
    for role in (None, Role.APPROVER):
        with pytest.raises(LastAdministrator, match="'bob'"):
            site.set_role("2", EVERYWHERE, role, author=AUTHOR, now=NOW)
    found = site.principal("2")
    assert found is not None
    assert found.roles == {EVERYWHERE: Role.ADMINISTRATOR}
    assert len(told(site)) == 3


def test_a_token_is_good_until_it_expires_or_is_revoked(site: SiteStore) -> None:
    site.add_principal(ADA, subject=None, author=AUTHOR, now=NOW)
    short = Token("t1", "1", "laptop", frozenset({TEAM}), NOW, LATER)
    long = Token("t2", "1", "server", None, LATER)
    site.add_token(short, "d1", author=AUTHOR, now=NOW)
    site.add_token(long, "d2", author=AUTHOR, now=NOW)
    assert site.principal_of("d1", now=NOW) == replace(ADA, token="t1", only=frozenset({TEAM}))
    assert site.principal_of("d1", now=LATER) is None
    assert site.principal_of("d2", now=LATER) == replace(ADA, token="t2")
    assert site.principal_of("d3", now=NOW) is None
    assert site.tokens("1") == site.tokens(None) == [long, short]
    assert site.tokens("2") == []
    assert site.revoke_token("t2", author=AUTHOR, now=LATER)
    assert site.revoke_token("t2", author=AUTHOR, now=LATER + timedelta(hours=1))
    assert not site.revoke_token("t3", author=AUTHOR, now=LATER)
    assert site.principal_of("d2", now=LATER) is None
    assert site.tokens("1")[0] == replace(long, revoked_at=LATER)
    assert [action for _, action, _ in told(site)[1:]] == ["token.create", "token.create", "token.revoke"]
    assert "d1" not in "".join(str(each.to_dict()) for each in site.audit(None, limit=9))


def test_a_token_is_registered_once(site: SiteStore) -> None:
    site.add_principal(ADA, subject=None, author=AUTHOR, now=NOW)
    site.add_token(Token("t1", "1", "laptop", None, NOW), "d1", author=AUTHOR, now=NOW)
    for id, digest in (("t1", "d2"), ("t2", "d1")):
        with pytest.raises(TokenExists):
            site.add_token(Token(id, "1", "other", None, NOW), digest, author=AUTHOR, now=NOW)
    assert len(site.tokens(None)) == 1


def test_a_token_of_nobody_is_worth_nothing(site: SiteStore) -> None:
    site.add_token(Token("t1", "9", "", None, NOW), "d1", author=AUTHOR, now=NOW)
    assert site.principal_of("d1", now=NOW) is None


def test_audit_is_read_in_pages_from_both_ends(site: SiteStore) -> None:
    for number in range(7):
        workspace = replace(SCOPE, name=f"w{number % 2}-{number}", id=str(number))
        site.add_scope(workspace, author=AUTHOR, now=NOW)
    site.add_principal(ADA, subject=None, author=AUTHOR, now=NOW)
    for role in (Role.READER, Role.APPROVER, None):
        site.set_role("1", ScopeKey("w0-0"), role, author=AUTHOR, now=NOW)
    assert [each.sequence for each in site.audit(None, limit=3)] == [1, 2, 3]
    assert [each.sequence for each in site.audit(None, after=3, limit=4)] == [4, 5, 6, 7]
    assert [each.sequence for each in site.audit(ScopeKey("w0-0"), limit=3)] == [1, 9, 10]
    assert [each.sequence for each in site.audit(ScopeKey("w0-0"), after=10, limit=3)] == [11]
    assert [each.sequence for each in site.newest_audit(None, before=None, limit=3)] == [11, 10, 9]
    assert [each.sequence for each in site.newest_audit(None, before=9, limit=2)] == [8, 7]
    assert [each.sequence for each in site.newest_audit(ScopeKey("w0-0"), before=11, limit=9)] == [10, 9, 1]
    assert len(told(site)) == 11


def test_the_first_answer_to_a_key_stays_until_it_is_purged(site: SiteStore) -> None:
    assert site.reply("1", "key") is None
    site.add_reply("1", "key", "digest", 201, '{"é": 1}', now=NOW)
    site.add_reply("1", "key", "other", 500, "", now=LATER)
    site.add_reply("2", "key", "theirs", 200, "", now=LATER)
    assert site.reply("1", "key") == ("digest", 201, '{"é": 1}')
    site.purge(before=NOW)
    assert site.reply("1", "key") is not None
    site.purge(before=LATER)
    assert (site.reply("1", "key"), site.reply("2", "key")) == (None, ("theirs", 200, ""))
