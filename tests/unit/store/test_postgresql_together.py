"""What several threads write to PostgreSQL in one transaction, and what must not become part of one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import psycopg
import pytest
from support.postgres import Cluster

from mlenv.core.audit import Author, find_breaks
from mlenv.core.environment import Definition, EnvironmentVersion, View
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.refusals import VersionConflict
from mlenv.core.spec import Spec, WrittenSpec
from mlenv.store.database import Run
from mlenv.store.group_commit import Part
from mlenv.store.postgresql_database import PostgresqlDatabase
from mlenv.store.postgresql_pipeline import Statements
from mlenv.store.postgresql_together import Draft, write_together
from mlenv.store.server_opening import open_postgresql
from mlenv.store.sql import SqlRegistry
from mlenv.store.sql_site import SqlSite

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IRIS = EnvironmentName("iris")


@pytest.fixture
def url(postgres_cluster: Cluster) -> str:
    return postgres_cluster.migrated_database()


@pytest.fixture
def database(url: str) -> Iterator[PostgresqlDatabase]:
    database = open_postgresql(url)
    yield database
    database.close()


def registry(database: PostgresqlDatabase) -> SqlRegistry:
    return SqlRegistry(database, "team", author=Author("1", "ada"), audited=True)


def add(database: PostgresqlDatabase, name: str, image: str, version: str | None = None) -> EnvironmentVersion:
    given = Definition(EnvironmentName(name), Spec(image=image), None if version is None else VersionName(version))
    return registry(database).add_version(given, now=NOW)[0]


@contextmanager
def audit_held(url: str) -> Iterator[None]:
    """Another process is about to commit an audit record: who has something to commit waits for it."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT * FROM audit_head FOR UPDATE")
        yield


def at_once(database: PostgresqlDatabase, url: str, *works: Callable[[], object]) -> list[object]:
    """What each gave or raised: the first is being committed when the others come."""
    with ThreadPoolExecutor(len(works)) as threads:
        with audit_held(url):
            answers = [threads.submit(works[0])]
            wait_until(database._group._turn.locked)
            wait_until(lambda: database._group._left == [])
            for number, work in enumerate(works[1:], start=1):
                answers.append(threads.submit(work))
                wait_until(partial(_are_left, database, number))
        return [each.exception(30) or each.result() for each in answers]


def _are_left(database: PostgresqlDatabase, number: int) -> bool:
    return len(database._group._left) == number


def wait_until(reached: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(3000):
        if reached():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come to that")


def transactions(url: str) -> int:
    """How many have inserted the versions that are there."""
    with psycopg.connect(url) as connection:
        return len({xmin for (xmin,) in connection.execute("SELECT xmin::text FROM versions")})


def assert_chained(database: PostgresqlDatabase, count: int) -> None:
    site = SqlSite(database)
    records, head = site.audit(None, limit=99), site.audit_head()
    assert [each.sequence for each in records] == list(range(1, count + 1))
    assert list(find_breaks(records)) == []
    assert head == (count, records[-1].hash)


def test_what_waits_is_written_by_one_transaction(database: PostgresqlDatabase, url: str) -> None:
    names = ["first", "e", "d", "c", "b"]
    found = at_once(database, url, *(lambda name=name: add(database, name, "x").name for name in names))
    assert found == names
    assert transactions(url) == 2
    assert_chained(database, 5)


def test_two_of_one_environment_get_two_versions(database: PostgresqlDatabase, url: str) -> None:
    works = [("first", "x"), ("iris", "a"), ("iris", "b"), ("other", "x")]
    found = at_once(database, url, *(lambda work=work: add(database, *work).version for work in works))
    assert (found[0], found[3], sorted(map(str, found[1:3]))) == ("1", "1", ["1", "2"])
    assert transactions(url) == 3
    assert_chained(database, 4)


def test_one_that_is_overtaken_takes_nothing_of_others_with_it(database: PostgresqlDatabase, url: str) -> None:
    add(database, "iris", "a")
    with ThreadPoolExecutor(5) as threads, audit_held(url):
        first = threads.submit(add, database, "first", "x")
        wait_until(lambda: database._group._turn.locked() and not database._group._left)
        late = threads.submit(add, database, "iris", "c")
        wait_until(lambda: len(database._group._left) == 1)
        other = threads.submit(add, database, "other", "x")
        wait_until(partial(_are_left, database, 2))
        another = threads.submit(add, database, "another", "x")
        wait_until(partial(_are_left, database, 3))
        with psycopg.connect(url) as connection:
            # As another process does, but without a record, which it could not write just now.
            connection.execute(
                "UPDATE environments SET modified_at = '2027-01-01T00:00:00.000000+00:00' WHERE name = 'iris'"
            )
    assert [each.result(30).version for each in (first, late, other, another)] == ["1", "2", "1", "1"]
    # The first, then those two that were not overtaken, and the third with locks; and the one that was there.
    assert transactions(url) == 4
    assert_chained(database, 5)


def test_two_processes_lock_in_one_order() -> None:
    statements = Statements()

    def draft(name: str) -> Part[Draft]:
        made = Draft(lambda *_, **__: [], statements, name)
        for statement in ("insert_environment", "insert_audit", "update_audit_head"):
            made.run(statement, **dict.fromkeys(statements[statement].names, name))
        return Part(made)

    sent: list[tuple[bytes, ...]] = []
    write_together(
        lambda calls: sent.extend((each.key, *(value or b"" for value in values[:1])) for each, values in calls),
        [draft("b"), draft("a")],
    )
    environments = [(b"insert_environment", b"a"), (b"insert_environment", b"b")]
    records = [(b"insert_audit", b"a"), (b"update_audit_head",), (b"insert_audit", b"b"), (b"update_audit_head",)]
    # Where one had the end of the audit's chain before an environment, another that has the environment would wait for it.
    assert sent == environments + records


@pytest.fixture
def late(database: PostgresqlDatabase) -> Callable[[Callable[[], object]], EnvironmentVersion]:
    """Adds a version of an environment, to which something happens after it was read, and before anything is written."""

    def add_late(happens: Callable[[], object]) -> EnvironmentVersion:
        mine, definition = registry(database), Definition(IRIS, Spec(image="late"))
        runs: list[Run] = []

        def work(run: Run) -> EnvironmentVersion:
            answer, _ = mine._add(run, definition, WrittenSpec.of(definition.spec), NOW)
            runs.append(run)
            if len(runs) == 1:
                happens()
            return answer

        answer = database.write_together(work, key="team/iris")
        assert len(runs) == 2
        return answer

    return add_late


Late = Callable[[Callable[[], object]], EnvironmentVersion]


def test_a_version_that_comes_in_between_keeps_its_number(database: PostgresqlDatabase, late: Late) -> None:
    add(database, "iris", "a")
    assert late(lambda: add(database, "iris", "b")).version == "3"
    assert [each.version for each in registry(database).versions(IRIS, View.ALL, limit=9)] == ["3", "2", "1"]
    assert_chained(database, 3)


def test_an_environment_that_comes_in_between_stays(database: PostgresqlDatabase, late: Late) -> None:
    assert late(lambda: add(database, "iris", "b")).version == "2"
    assert_chained(database, 2)


def test_an_archival_in_between_is_not_undone_in_silence(database: PostgresqlDatabase, late: Late) -> None:
    add(database, "iris", "a")
    late(lambda: registry(database).set_archived(IRIS, True, now=NOW))
    # It is brought back for the new version, as it is where the archival came long before: the old one stays archived.
    assert [each.version for each in registry(database).versions(IRIS, View.ACTIVE, limit=9)] == ["2"]
    actions = [each.change.action for each in SqlSite(database).audit(None, limit=9)]
    assert actions == ["version.create", "environment.archive", "environment.restore", "version.create"]
    assert_chained(database, 4)


def test_the_same_content_once_more_and_a_conflict_are_answered_from_what_is_read(database: PostgresqlDatabase) -> None:
    add(database, "iris", "a")
    assert add(database, "iris", "a").version == "1"
    with pytest.raises(VersionConflict):
        add(database, "iris", "b", "1")
    assert_chained(database, 1)
