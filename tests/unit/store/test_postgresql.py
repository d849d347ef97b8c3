"""PostgreSQL as it fails: addresses, refusals, timeouts, transactions that overtake each other, a server that restarts."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from support.postgres import Cluster, new_cluster, remove_cluster

from mlenv.core.audit import Author
from mlenv.core.environment import Definition, View
from mlenv.core.reference import EnvironmentName
from mlenv.core.spec import Spec, WrittenSpec
from mlenv.errors import MlenvError
from mlenv.store import postgresql, postgresql_database
from mlenv.store.database import (
    Row,
    Run,
    StoreBusy,
    StoreCrowded,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnusable,
    UnstorableValue,
)
from mlenv.store.postgresql import InvalidDatabase
from mlenv.store.postgresql_database import PostgresqlDatabase
from mlenv.store.postgresql_pipeline import exchange
from mlenv.store.server_opening import open_database, open_postgresql
from mlenv.store.sql import SqlRegistry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IRIS = EnvironmentName("iris")
NEW_ROW: dict[str, str | int | None] = {
    "workspace": "team",
    "name": "iris",
    "archived": 0,
    "latest_version": None,
    "next_version": "1",
    "last_sequence": 0,
    "created_at": "x",
    "modified_at": "x",
}
SECRETS = ("correct", "battery", "hunter2")


@pytest.fixture
def database(postgres_cluster: Cluster, tmp_path: Path) -> Iterator[PostgresqlDatabase]:
    database = open_postgresql(postgres_cluster.migrated_database())
    yield database
    database.close()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """One that a test may stop."""
    cluster = new_cluster(max_connections="8", superuser_reserved_connections="0", synchronous_commit="on")
    yield cluster
    remove_cluster(cluster)


def registry(database: PostgresqlDatabase) -> SqlRegistry:
    return SqlRegistry(database, "team", author=Author("1", "ada"), audited=True)


def add(database: PostgresqlDatabase, image: str) -> None:
    registry(database).add_version(Definition(IRIS, Spec(image=image)), now=NOW)


def images(database: PostgresqlDatabase) -> list[str | None]:
    return [each.spec.image for each in registry(database).versions(IRIS, View.ALL, limit=99)]


def execute(database: PostgresqlDatabase, statement: str) -> None:
    with database._engine.connect() as connection, connection.begin():
        connection.execute(text(statement))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "can't be read"),
        ("hunter2", "can't be read"),
        ("postgresql://ada:hunter2@host:hunter2/x", "can't be read"),
        ("mysql://ada:hunter2@127.0.0.1/x", "begins with 'mysql'"),
        ("postgresql+asyncpg://ada:hunter2@127.0.0.1/x", "begins with 'postgresql"),
        ("sqlite://", "PATH of a file"),
        ("sqlite:///:memory:", "PATH of a file"),
    ],
)
def test_what_is_no_address_is_refused(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDatabase, match=message) as caught:
        open_database(url, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def wrong_password(cluster: Cluster) -> str:
    return cluster.url("postgres").replace("battery", "hunter2")


def no_such_user(cluster: Cluster) -> str:
    return cluster.url("postgres").replace("//mlenv:", "//nobody:")


def no_such_database(cluster: Cluster) -> str:
    return cluster.url("nowhere")


def no_such_parameter(cluster: Cluster) -> str:
    return cluster.url("postgres") + "?password_hunter2=1"


@pytest.mark.parametrize("make", [wrong_password, no_such_user, no_such_database])
def test_a_server_that_lets_nobody_in_is_told_without_the_password(
    postgres_cluster: Cluster, make: Callable[[Cluster], str], tmp_path: Path
) -> None:
    with pytest.raises(StoreUnreachable, match=f"127.0.0.1:{postgres_cluster.port}") as caught:
        open_postgresql(make(postgres_cluster))
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert caught.value.hint is not None


def test_a_parameter_that_does_not_exist_is_told(postgres_cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(MlenvError, match="invalid connection option"):
        open_postgresql(no_such_parameter(postgres_cluster))


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match=r"127\.0\.0\.1:1"):
        open_postgresql("postgresql://ada:hunter2@127.0.0.1:1/x")


def test_another_encoding_is_refused(postgres_cluster: Cluster, tmp_path: Path) -> None:
    postgres_cluster.execute(
        "CREATE DATABASE latin ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER libc"
    )
    with pytest.raises(StoreUnusable, match="encoding is SQL_ASCII, expected UTF8"):
        open_postgresql(postgres_cluster.url("latin"))


def test_a_database_that_may_only_be_read_is_told(database: PostgresqlDatabase) -> None:
    add(database, "a")
    execute(database, f"ALTER DATABASE {database.url.database} SET default_transaction_read_only = on")
    database.close()
    with pytest.raises(StoreReadOnly, match="read-only"):
        add(database, "b")
    assert images(database) == ["a"]


def test_tables_that_may_not_be_used_are_told(postgres_cluster: Cluster, tmp_path: Path) -> None:
    url = postgres_cluster.migrated_database()
    postgres_cluster.execute("DROP ROLE IF EXISTS guest")
    postgres_cluster.execute("CREATE ROLE guest LOGIN PASSWORD 'hunter2'")
    guest = f"postgresql://guest:hunter2@{url.partition('@')[2]}"
    with pytest.raises(StoreUnusable, match="permission denied") as caught:
        open_postgresql(guest)
    assert caught.value.hint is not None
    assert "own log" in caught.value.hint


def test_who_waits_too_long_for_a_lock_is_told(database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    add(database, "a")
    execute(database, f"ALTER DATABASE {database.url.database} SET lock_timeout = '50ms'")
    monkeypatch.setattr(postgresql, "_OPTIONS", "")
    impatient = PostgresqlDatabase(database.url)

    def holding(run: Run) -> StoreBusy:
        run("audit_head")
        with pytest.raises(StoreBusy) as caught:
            add(impatient, "b")
        return caught.value

    busy = database.write(holding)
    assert busy.hint is not None
    assert "pg_stat_activity" in busy.hint
    add(impatient, "c")
    assert images(database) == ["c", "a"]
    impatient.close()


def test_limits_of_waiting_are_set(database: PostgresqlDatabase) -> None:
    with database._engine.connect() as connection:
        found = {
            name: connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        }
    assert found == {"statement_timeout": "30s", "lock_timeout": "15s", "idle_in_transaction_session_timeout": "1min"}


def test_a_deadlock_is_tried_again(database: PostgresqlDatabase) -> None:
    for name in ("a", "b"):
        registry(database).add_version(Definition(EnvironmentName(name), Spec(image="x")), now=NOW)
    meeting = threading.Barrier(2, timeout=20)
    attempts: list[str] = []

    def lock(first: str, second: str) -> Callable[[Run], str]:
        def work(run: Run) -> str:
            run("environment_to_change", workspace="team", name=first)
            attempts.append(first)
            if len(attempts) <= 2:
                meeting.wait()
            run("environment_to_change", workspace="team", name=second)
            return first

        return work

    answers: list[str] = []
    orders = [("a", "b"), ("b", "a")]
    threads = [threading.Thread(target=lambda o=each: answers.append(database.write(lock(*o)))) for each in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(answers) == ["a", "b"]
    assert len(attempts) == 3


def test_a_read_sees_one_state_and_writes_nothing(database: PostgresqlDatabase) -> None:
    add(database, "a")

    def work(run: Run) -> tuple[int, int]:
        before = len(run("newest_versions", workspace="team", name="iris", limit=9))
        add(database, "b")
        return before, len(run("newest_versions", workspace="team", name="iris", limit=9))

    assert database.read(work) == (1, 1)
    assert images(database) == ["b", "a"]
    with pytest.raises(StoreReadOnly):
        database.read(lambda run: run("delete_layer", key="x"))


@pytest.mark.parametrize(("further", "messages"), [(False, 2), (True, 3)])
def test_a_version_is_registered_in_few_messages(
    database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch, further: bool, messages: int
) -> None:
    if further:
        add(database, "a")
    sent: list[int] = []

    def counting(connection: Any, prepared: set[bytes], calls: Sequence[Any], **options: Any) -> list[Row]:
        sent.append(len(calls))
        return exchange(connection, prepared, calls, **options)

    monkeypatch.setattr(postgresql_database, "exchange", counting)
    add(database, "b")
    assert len(sent) == messages
    # Once the end of the audit's chain is locked, nothing waits for this process.
    assert sent[-1] >= 6


def test_a_statement_that_fails_leaves_its_connection_good(database: PostgresqlDatabase) -> None:
    def too_large(run: Run) -> None:
        run("insert_environment", **NEW_ROW | {"last_sequence": 2**70})
        run("environment", workspace="team", name="iris")

    with pytest.raises(UnstorableValue):
        database.write(too_large)
    # The next one has the same connection, on which nothing after the fault was prepared.
    assert database.ask("environment", workspace="team", name="iris") == []
    add(database, "a")
    assert images(database) == ["a"]


def test_what_was_not_committed_is_taken_back(database: PostgresqlDatabase) -> None:
    def work(run: Run) -> None:
        run("insert_environment", **NEW_ROW)
        assert run("environment", workspace="team", name="iris")
        raise KeyError

    with pytest.raises(KeyError):
        database.write(work)
    assert database.ask("environment", workspace="team", name="iris") == []


def test_a_server_that_was_started_anew_is_found_again(own_cluster: Cluster, tmp_path: Path) -> None:
    database = open_postgresql(own_cluster.empty_database())
    add(database, "a")
    own_cluster.stop("immediate")
    with pytest.raises(StoreUnreachable):
        images(database)
    with pytest.raises(StoreUnreachable):
        add(database, "b")
    with pytest.raises(StoreUnreachable):
        database.ping()
    own_cluster.start()
    database.ping()
    add(database, "c")
    assert images(database) == ["c", "a"]
    database.close()


def test_a_server_that_stops_in_a_transaction_keeps_none_of_it(own_cluster: Cluster, tmp_path: Path) -> None:
    database = open_postgresql(own_cluster.empty_database())
    add(database, "a")

    def work(run: Run) -> None:
        spec = Spec(image="b")
        registry(database)._add(run, Definition(IRIS, spec), WrittenSpec.of(spec), NOW)
        own_cluster.stop("immediate")

    with pytest.raises(StoreUnreachable):
        database.write(work)
    own_cluster.start()
    assert images(database) == ["a"]
    add(database, "c")
    assert images(database) == ["c", "a"]
    database.close()


def test_too_many_connections_are_told(own_cluster: Cluster, tmp_path: Path) -> None:
    url = own_cluster.empty_database()
    open_postgresql(url).close()
    databases = [open_postgresql(url) for _ in range(2)]
    release, ready = threading.Event(), threading.Semaphore(0)

    def hold(run: Run) -> None:
        run("audit_end")
        ready.release()
        assert release.wait(60)

    threads = [threading.Thread(target=databases[0].read, args=(hold,)) for _ in range(8)]
    for thread in threads[:7]:
        thread.start()
        assert ready.acquire(timeout=20)
    with pytest.raises(StoreCrowded, match="no more connections"):
        # One connection of the other database is kept in its pool, and so is taken.
        databases[1].read(lambda run: databases[1].read(lambda run: run("audit_end")))
    release.set()
    for thread in threads[:7]:
        thread.join(timeout=20)
    deadline = time.monotonic() + 20
    assert databases[1].read(lambda run: run("audit_end"))[0]["sequence"] == 0
    assert time.monotonic() < deadline
    for database in databases:
        database.close()


def test_a_full_disk_is_told(database: PostgresqlDatabase) -> None:
    error = psycopg.errors.DiskFull("could not extend file: No space left on device\nHINT: correct horse")
    found = postgresql.meaning(error, database.url)
    assert isinstance(found, StoreFull)
    assert (found.where, "horse" in str(found)) == (database.where, False)
