"""Tokens, over a real store: secrets that are kept nowhere, limits that can't be widened."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from mlenv.core.access import Caller, NotAllowed, PrincipalNotFound, Role
from mlenv.core.scope import ScopeKey, ScopeKind
from mlenv.core.tokens import TokenExists, TokenNotFound
from mlenv.service.administration import Administration, NewScope
from mlenv.service.auditing import Auditing
from mlenv.service.site import Site, UnknownToken
from mlenv.service.tokens import LOGIN_LIFETIME, InvalidToken, NewToken, Tokens, TooMuch
from mlenv.store.sql_site import SqlSite
from mlenv.wiring.hosted import Hosted

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TEAM, OTHER = ScopeKey("team"), ScopeKey("other")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Iterator[Site]:
    with Hosted(tmp_path / "home") as hosted:
        yield Site(SqlSite(hosted.database), hosted.services, clock)


@pytest.fixture
def tokens(site: Site) -> Tokens:
    return Tokens(site)


@pytest.fixture
def boss(site: Site, tokens: Tokens) -> Caller:
    """The administrator, with two workspaces, and `ann`, who contributes to `team`."""
    secret = tokens.bootstrap()
    assert secret is not None
    caller, administration = Caller(site.authenticate(secret)), Administration(site)
    for name in (TEAM, OTHER):
        administration.create_scope(caller, NewScope(ScopeKind.WORKSPACE, name))
    administration.create_principal(caller, "ann")
    administration.set_role(caller, "ann", Role.CONTRIBUTOR, ScopeKind.WORKSPACE, TEAM)
    return caller


@pytest.fixture
def ann(site: Site, tokens: Tokens, boss: Caller) -> Caller:
    return Caller(site.authenticate(tokens.create(boss, NewToken("first", owner="ann"))[1]))


def test_a_secret_is_random_and_kept_nowhere(tokens: Tokens, boss: Caller, tmp_path: Path) -> None:
    _, one = tokens.create(boss, NewToken("one"))
    _, two = tokens.create(boss, NewToken("two"))
    assert one != two
    for secret in (one, two):
        assert re.fullmatch(r"mlenv_[A-Za-z0-9_-]{43}", secret)
    kept = b"".join(each.read_bytes() for each in (tmp_path / "home").rglob("*") if each.is_file())
    assert sha256(one.encode()).hexdigest().encode() in kept
    assert one.encode() not in kept
    assert one.removeprefix("mlenv_").encode() not in kept


def test_neither_secret_nor_hash_is_in_the_audit(site: Site, tokens: Tokens, boss: Caller) -> None:
    _, secret = tokens.create(boss, NewToken("one"))
    records = str([each.to_dict() for each in Auditing(site).newest(boss, limit=100)])
    assert "token.create" in records
    assert secret not in records
    assert sha256(secret.encode()).hexdigest() not in records


def test_a_token_expires(site: Site, tokens: Tokens, boss: Caller, clock: Clock) -> None:
    token, secret = tokens.create(boss, NewToken("short", timedelta(hours=1)))
    assert token.expires_at == NOW + timedelta(hours=1)
    clock.now += timedelta(minutes=59)
    assert site.authenticate(secret).token == token.id
    clock.now += timedelta(minutes=1)
    with pytest.raises(UnknownToken):
        site.authenticate(secret)


def test_a_token_lasts_90_days_unless_somebody_says_otherwise(tokens: Tokens, boss: Caller) -> None:
    assert tokens.create(boss, NewToken("usual"))[0].expires_at == NOW + timedelta(days=90)
    assert tokens.create(boss, NewToken("never", None))[0].expires_at is None


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=-1), timedelta(seconds=59), timedelta(days=9999)])
def test_lifetimes_that_make_no_sense(tokens: Tokens, boss: Caller, lifetime: timedelta) -> None:
    with pytest.raises(InvalidToken, match="it must last"):
        tokens.create(boss, NewToken("x", lifetime))


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\x1b[31m"])
def test_names_of_tokens_that_are_none(tokens: Tokens, boss: Caller, name: str) -> None:
    with pytest.raises(InvalidToken, match="printable"):
        tokens.create(boss, NewToken(name))


def test_a_revoked_token_is_worthless_at_once(site: Site, tokens: Tokens, ann: Caller) -> None:
    token, secret = tokens.create(ann, NewToken("second"))
    site.authenticate(secret)
    tokens.revoke(ann, token.id)
    with pytest.raises(UnknownToken):
        site.authenticate(secret)
    tokens.revoke(ann, token.id)
    assert [each.revoked_at for each in tokens.own(ann) if each.id == token.id] == [NOW]


def test_tokens_are_their_owner_s_business(tokens: Tokens, ann: Caller, boss: Caller) -> None:
    theirs, _ = tokens.create(boss, NewToken("mine"))
    assert {each.name for each in tokens.own(ann)} == {"first"}
    with pytest.raises(TokenNotFound):
        tokens.revoke(ann, theirs.id)
    with pytest.raises(TokenNotFound):
        tokens.revoke(ann, "0" * 32)
    for forbidden in (lambda: tokens.all(ann), lambda: tokens.create(ann, NewToken("x", owner="administrator"))):
        with pytest.raises(NotAllowed):
            forbidden()


def test_administrators_everywhere_look_after_all_tokens(site: Site, tokens: Tokens, ann: Caller, boss: Caller) -> None:
    assert {each.name for each in tokens.all(boss)} == {"bootstrap", "first"}
    (hers,) = tokens.all(boss, "ann")
    tokens.revoke(boss, hers.id)
    assert [each.revoked_at for each in tokens.all(boss, "ann")] == [NOW]
    with pytest.raises(PrincipalNotFound):
        tokens.all(boss, "nobody")
    with pytest.raises(TokenNotFound):
        tokens.revoke(boss, "0" * 32)


def test_a_token_is_good_where_its_owner_is(site: Site, tokens: Tokens, ann: Caller, boss: Caller) -> None:
    assert tokens.create(ann, NewToken("x", only=frozenset({TEAM})))[0].only == frozenset({TEAM})
    for caller, owner in ((ann, None), (boss, "ann")):
        with pytest.raises(TooMuch, match="for other: ann has no role there"):
            tokens.create(caller, NewToken("x", only=frozenset({TEAM, OTHER}), owner=owner))
    with pytest.raises(TooMuch):
        tokens.create(boss, NewToken("x", only=frozenset({ScopeKey("nowhere")})))
    for nothing in (frozenset[ScopeKey](), frozenset({ScopeKey("*")})):
        with pytest.raises(InvalidToken, match="name the workspaces"):
            tokens.create(boss, NewToken("x", only=nothing))


def test_a_limited_token_makes_no_wider_one(site: Site, tokens: Tokens, boss: Caller) -> None:
    _, secret = tokens.create(boss, NewToken("limited", only=frozenset({TEAM})))
    limited = Caller(site.authenticate(secret))
    assert tokens.create(limited, NewToken("child"))[0].only == frozenset({TEAM})
    with pytest.raises(TooMuch, match="the token that it is asked with"):
        tokens.create(limited, NewToken("wider", only=frozenset({TEAM, OTHER})))
    assert {each.name for each in tokens.own(limited)} == {"limited", "child"}
    wide = next(each for each in tokens.own(boss) if each.name == "bootstrap")
    with pytest.raises(TokenNotFound):
        tokens.revoke(limited, wide.id)
    with pytest.raises(NotAllowed):
        tokens.all(limited)
    with pytest.raises(NotAllowed):
        tokens.create(limited, NewToken("x", owner="ann"))
    with pytest.raises(NotAllowed):
        Administration(site).set_role(limited, "ann", Role.ADMINISTRATOR)


def test_a_ticket_is_good_once(site: Site, tokens: Tokens, boss: Caller) -> None:
    person = tokens.person("https://issuer.example.org 1", lambda: ["eve"], address="192.0.2.1", request="r")
    token, secret = tokens.login(person.id, "ticket", address="192.0.2.1", request="r")
    assert token.expires_at == NOW + LOGIN_LIFETIME
    assert site.authenticate(secret).name == "eve"
    with pytest.raises(TokenExists):
        tokens.login(person.id, "ticket", address="192.0.2.1", request="r")
    tokens.revoke(boss, token.id)
    with pytest.raises(TokenExists):
        tokens.login(person.id, "ticket", address="192.0.2.1", request="r")
    with pytest.raises(PrincipalNotFound):
        tokens.login("0" * 32, "ticket", address="192.0.2.1", request="r")


def test_a_lost_administrator_s_token_is_made_again(site: Site, tokens: Tokens, boss: Caller) -> None:
    administration = Administration(site)
    assert site.authenticate(tokens.recover()).name == "administrator"
    administration.set_role(boss, "ann", Role.ADMINISTRATOR)
    administration.set_role(boss, "administrator", None)
    assert site.authenticate(tokens.recover()).name == "ann"


def test_the_audit_is_whole_after_all_that(site: Site, tokens: Tokens, ann: Caller, boss: Caller) -> None:
    auditing = Auditing(site)
    assert list(auditing.faults(boss)) == []
    noted = auditing.head(boss)[1]
    tokens.create(ann, NewToken("later"))
    assert list(auditing.faults(boss, noted)) == []
    assert len(list(auditing.faults(boss, "0" * 63 + "1"))) == 1
    for forbidden in (lambda: auditing.newest(ann, limit=1), lambda: list(auditing.faults(ann))):
        with pytest.raises(NotAllowed):
            forbidden()
    with pytest.raises(NotAllowed):
        auditing.newest(ann, ScopeKind.WORKSPACE, TEAM, limit=1)
