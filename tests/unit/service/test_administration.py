"""Namespaces, principals and roles, over a real store: who may make and change them, and what is refused."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest

from mlenv.core.access import (
    EVERYWHERE,
    Caller,
    LastAdministrator,
    NotAllowed,
    Operation,
    PrincipalExists,
    PrincipalNotFound,
    Role,
)
from mlenv.core.scope import InvalidScope, ScopeExists, ScopeKey, ScopeKind
from mlenv.service.administration import Administration, InvalidPrincipalName, NewScope
from mlenv.service.site import REMEMBERED, ScopeNotFound, Site, UnknownToken
from mlenv.service.tokens import NewToken, Tokens
from mlenv.store.sql_site import SqlSite
from mlenv.wiring.hosted import Hosted

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


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
def boss(site: Site) -> Caller:
    secret = Tokens(site).bootstrap()
    assert secret is not None
    return Caller(site.authenticate(secret), "192.0.2.7", "request-1")


@pytest.fixture
def administration(site: Site, boss: Caller) -> Administration:
    made = Administration(site)
    made.create_scope(boss, NewScope(ScopeKind.WORKSPACE, "team"))
    return made


def _somebody(site: Site, boss: Caller, name: str, role: Role | None = None) -> Caller:
    """Somebody with a role in `team`, who shows a token of theirs."""
    administration = Administration(site)
    administration.create_principal(boss, name)
    if role is not None:
        administration.set_role(boss, name, role, ScopeKind.WORKSPACE, "team")
    _, secret = Tokens(site).create(boss, NewToken("test", owner=name))
    return Caller(site.authenticate(secret))


def test_a_new_site_has_one_administrator_and_one_workspace(site: Site, boss: Caller) -> None:
    assert boss.principal.roles == {EVERYWHERE: Role.ADMINISTRATOR}
    assert [each.name for each in Administration(site).scopes(boss, ScopeKind.WORKSPACE)] == ["default"]
    assert Tokens(site).bootstrap() is None


def test_two_first_starts_at_once_make_one_administrator(tmp_path: Path) -> None:
    barrier, secrets = Barrier(4), []

    def start() -> None:
        with Hosted(tmp_path / "home") as hosted:
            barrier.wait(30)
            secrets.append(Tokens(hosted.site).bootstrap())

    Hosted(tmp_path / "home").site.store.principals()
    threads = [Thread(target=start) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(each is None for each in secrets) == [False, True, True, True]
    with Hosted(tmp_path / "home") as hosted:
        assert len(hosted.site.store.principals()) == 1


def test_a_first_start_that_dies_half_way_leaves_a_site_that_can_be_started(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mlenv.service.tokens import Tokens; "
        "from mlenv.wiring.hosted import Hosted; Tokens(Hosted(Path(sys.argv[1])).site).bootstrap()"
    )
    environment = {**os.environ, "MLENV_FAULT": "site.begun"}
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    with Hosted(tmp_path) as hosted:
        assert hosted.site.store.principals() == []
        secret = Tokens(hosted.site).bootstrap()
        assert secret is not None
        assert hosted.site.authenticate(secret).roles == {EVERYWHERE: Role.ADMINISTRATOR}


@pytest.mark.parametrize("role", [None, *Role])
def test_only_administrators_everywhere_make_namespaces(
    site: Site, boss: Caller, administration: Administration, role: Role | None
) -> None:
    caller = _somebody(site, boss, "ann", role)
    with pytest.raises(NotAllowed, match=r"ann may not scope\.create everywhere"):
        administration.create_scope(caller, NewScope(ScopeKind.WORKSPACE, "other"))
    with pytest.raises(NotAllowed):
        administration.create_principal(caller, "other")
    with pytest.raises(NotAllowed):
        administration.principals(caller)


def test_names_that_differ_in_case_are_the_same(boss: Caller, administration: Administration) -> None:
    with pytest.raises(ScopeExists):
        administration.create_scope(boss, NewScope(ScopeKind.WORKSPACE, "TEAM"))
    made = administration.create_scope(boss, NewScope(ScopeKind.REGISTRY, "team"))
    assert made.key == "registry:team"


@pytest.mark.parametrize("name", ["", "*", "a/b", "registry:x", "..", "-x", "a" * 65, "é", "a\n", "a b", "a\0"])
def test_names_of_namespaces_that_are_none(boss: Caller, administration: Administration, name: str) -> None:
    with pytest.raises(InvalidScope):
        administration.create_scope(boss, NewScope(ScopeKind.WORKSPACE, name))


@pytest.mark.parametrize("name", ["", "a b", "-x", "a" * 101, "0" * 32, "é", "a\n", "*"])
def test_names_of_principals_that_are_none(boss: Caller, administration: Administration, name: str) -> None:
    with pytest.raises(InvalidPrincipalName):
        administration.create_principal(boss, name)


def test_a_name_is_somebody_s_alone(boss: Caller, administration: Administration) -> None:
    administration.create_principal(boss, "ann")
    with pytest.raises(PrincipalExists):
        administration.create_principal(boss, "ann")


def test_lists_hold_what_the_caller_may_see(site: Site, boss: Caller, administration: Administration) -> None:
    reader = _somebody(site, boss, "ann", Role.READER)
    stranger = _somebody(site, boss, "eve")
    assert [each.name for each in administration.scopes(boss, ScopeKind.WORKSPACE)] == ["default", "team"]
    assert [each.name for each in administration.scopes(reader, ScopeKind.WORKSPACE)] == ["team"]
    assert administration.scopes(stranger, ScopeKind.WORKSPACE) == []
    assert administration.scope(reader, ScopeKind.WORKSPACE, "team").name == "team"
    for hidden in ("default", "nowhere"):
        with pytest.raises(ScopeNotFound):
            administration.scope(reader, ScopeKind.WORKSPACE, hidden)


def test_administrators_of_a_namespace_give_roles_there_and_nowhere_else(
    site: Site, boss: Caller, administration: Administration
) -> None:
    chief = _somebody(site, boss, "ann", Role.ADMINISTRATOR)
    administration.create_principal(boss, "eve")
    administration.set_role(chief, "eve", Role.ADMINISTRATOR, ScopeKind.WORKSPACE, "team")
    assert {each.name: each.role for each in administration.grants(chief, ScopeKind.WORKSPACE, "team")} == {
        "administrator": Role.ADMINISTRATOR,
        "ann": Role.ADMINISTRATOR,
        "eve": Role.ADMINISTRATOR,
    }
    with pytest.raises(NotAllowed):
        administration.set_role(chief, "eve", Role.READER)
    with pytest.raises(NotAllowed):
        administration.set_role(chief, "ann", Role.ADMINISTRATOR)
    with pytest.raises(ScopeNotFound):
        administration.set_role(chief, "eve", Role.READER, ScopeKind.WORKSPACE, "default")
    with pytest.raises(PrincipalNotFound):
        administration.set_role(chief, "nobody", Role.READER, ScopeKind.WORKSPACE, "team")


@pytest.mark.parametrize("role", [Role.READER, Role.CONTRIBUTOR, Role.APPROVER])
def test_nobody_else_gives_roles(site: Site, boss: Caller, administration: Administration, role: Role) -> None:
    caller = _somebody(site, boss, "ann", role)
    with pytest.raises(NotAllowed):
        administration.set_role(caller, "ann", Role.ADMINISTRATOR, ScopeKind.WORKSPACE, "team")
    with pytest.raises(NotAllowed):
        administration.grants(caller, ScopeKind.WORKSPACE, "team")


def test_the_last_administrator_everywhere_stays(boss: Caller, administration: Administration) -> None:
    for role in (None, Role.READER):
        with pytest.raises(LastAdministrator):
            administration.set_role(boss, "administrator", role)
    other = administration.create_principal(boss, "ann")
    administration.set_role(boss, other.id, Role.ADMINISTRATOR)
    assert administration.set_role(boss, "administrator", None) is None


def test_two_administrators_do_not_remove_each_other_at_once(
    site: Site, boss: Caller, administration: Administration
) -> None:
    for name in ("ann", "eve"):
        administration.create_principal(boss, name)
        administration.set_role(boss, name, Role.ADMINISTRATOR)
    administration.set_role(boss, "administrator", None)
    barrier, refused = Barrier(2), []

    def remove(name: str) -> None:
        barrier.wait(30)
        try:
            administration.set_role(boss, name, None)
        except LastAdministrator:
            refused.append(name)

    threads = [Thread(target=remove, args=(name,)) for name in ("ann", "eve")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    left = [each.name for each in site.store.principals() if each.roles.get(EVERYWHERE)]
    assert len(refused) == 1
    assert left == refused


def test_a_role_that_was_taken_away_is_gone_at_once(site: Site, boss: Caller, administration: Administration) -> None:
    administration.create_principal(boss, "ann")
    administration.set_role(boss, "ann", Role.READER, ScopeKind.WORKSPACE, "team")
    _, secret = Tokens(site).create(boss, NewToken("test", owner="ann"))
    site.open(Caller(site.authenticate(secret)), Operation.ENVIRONMENT_READ, ScopeKind.WORKSPACE, "team")
    administration.set_role(boss, "ann", None, ScopeKind.WORKSPACE, "team")
    with pytest.raises(ScopeNotFound):
        site.open(Caller(site.authenticate(secret)), Operation.ENVIRONMENT_READ, ScopeKind.WORKSPACE, "team")


def test_another_process_knows_after_a_while_that_a_token_is_worthless(
    site: Site, boss: Caller, clock: Clock, tmp_path: Path
) -> None:
    token, secret = Tokens(site).create(boss, NewToken("test"))
    with Hosted(tmp_path / "home") as hosted:
        other = Site(SqlSite(hosted.database), hosted.services, clock)
        other.authenticate(secret)
        Tokens(site).revoke(boss, token.id)
        with pytest.raises(UnknownToken):
            site.authenticate(secret)
        assert other.authenticate(secret).token == token.id
        clock.now += REMEMBERED
        with pytest.raises(UnknownToken):
            other.authenticate(secret)


def test_a_clock_that_is_set_back_lets_nobody_in_for_longer(
    site: Site, boss: Caller, clock: Clock, tmp_path: Path
) -> None:
    token, secret = Tokens(site).create(boss, NewToken("test"))
    with Hosted(tmp_path / "home") as hosted:
        other = Site(SqlSite(hosted.database), hosted.services, clock)
        other.authenticate(secret)
        Tokens(site).revoke(boss, token.id)
        clock.now -= timedelta(days=1)
        with pytest.raises(UnknownToken):
            other.authenticate(secret)


def test_changes_name_who_and_from_where(site: Site, boss: Caller, administration: Administration) -> None:
    administration.create_principal(boss, "ann")
    administration.set_role(boss, "ann", Role.READER, ScopeKind.WORKSPACE, "team")
    (record,) = site.store.newest_audit(ScopeKey("team"), before=None, limit=1)
    assert (record.author.name, record.author.address, record.author.request) == (
        "administrator",
        "192.0.2.7",
        "request-1",
    )
    assert (record.change.action, record.change.subject) == ("role.set", "ann")
    assert (record.change.before, record.change.after) == (None, {"role": "reader"})


def test_what_changes_nothing_leaves_no_record(site: Site, boss: Caller, administration: Administration) -> None:
    administration.create_principal(boss, "ann")
    before = site.store.audit_head()
    administration.set_role(boss, "ann", None, ScopeKind.WORKSPACE, "team")
    assert site.store.audit_head() == before
