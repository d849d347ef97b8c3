"""Reads that wait for PostgreSQL in an event loop: side by side, over connections that are lost, after a request was cancelled."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from support.postgres import Cluster

from mlenv.core.audit import Author
from mlenv.core.environment import Definition, View
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.refusals import EnvironmentNotFound, VersionNotFound
from mlenv.core.spec import Spec
from mlenv.store import postgresql_database, postgresql_loop
from mlenv.store.database import Row, Run, StoreBusy, StoreUnreachable, UnstorableValue
from mlenv.store.postgresql_database import PostgresqlDatabase
from mlenv.store.postgresql_loop import MOST, LoopConnection
from mlenv.store.postgresql_pipeline import statement
from mlenv.store.server_opening import open_postgresql
from mlenv.store.sql import SqlRegistry

T = TypeVar("T")

IRIS = EnvironmentName("iris")
#: Waits for whoever holds `HELD`.
STUCK = "SELECT pg_advisory_lock_shared(1), pg_backend_pid() AS pid"
HELD = "SELECT pg_advisory_lock(1)"


@pytest.fixture
def database(postgres_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresqlDatabase]:
    statements = {"stuck": STUCK, "pid": "SELECT pg_backend_pid() AS pid", "wrong": "SELECT 1/0 AS wrong"}
    for name, text in statements.items():
        monkeypatch.setitem(postgresql_database._STATEMENTS, name, statement(name, text))
    database = open_postgresql(postgres_cluster.migrated_database())
    yield database
    database.close()


@pytest.fixture
def registry(database: PostgresqlDatabase) -> SqlRegistry:
    registry = SqlRegistry(database, "team", author=Author("1", "ada"), audited=True)
    for image in ("a", "b"):
        registry.add_version(Definition(IRIS, Spec(image=image)), now=datetime(2026, 3, 1, tzinfo=UTC))
    return registry


def in_loop(work: Callable[[], Awaitable[T]]) -> T:
    """What comes of it in an event loop, within a time."""

    async def limited() -> T:
        async with asyncio.timeout(30):
            return await work()

    return asyncio.run(limited())


def connect(database: PostgresqlDatabase) -> "Awaitable[psycopg.AsyncConnection[Any]]":
    """A connection besides those of the pool."""
    place: dict[str, Any] = database.url.translate_connect_args(username="user", database="dbname")
    return psycopg.AsyncConnection.connect(**place, autocommit=True)


@asynccontextmanager
async def holding(database: PostgresqlDatabase) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Statements that say `STUCK` wait until what this gives is called, or to its end."""
    async with await connect(database) as holder:
        await holder.execute(HELD)

        async def let_go() -> None:
            await holder.execute("SELECT pg_advisory_unlock_all()")

        yield let_go
        await let_go()


def ask(database: PostgresqlDatabase, statement: str, /, **parameters: str | int) -> "asyncio.Task[list[Row]]":
    return asyncio.create_task(database.in_loop(database.ask, statement, **parameters))


async def stuck(database: PostgresqlDatabase, count: int) -> None:
    """Wait until so many statements wait in the database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE query = %s AND wait_event_type = 'Lock'"
    async with await connect(database) as connection:
        while (await (await connection.execute(query, [STUCK])).fetchone()) != (count,):
            await asyncio.sleep(0.01)


async def terminate(database: PostgresqlDatabase, pids: set[int]) -> None:
    """End connections from the database's side."""
    async with await connect(database) as connection:
        for pid in pids:
            await connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def test_what_is_read_is_what_a_thread_reads(database: PostgresqlDatabase, registry: SqlRegistry) -> None:
    calls: list[Callable[[], object]] = [
        lambda: registry.versions(IRIS, View.ACTIVE, limit=9),
        lambda: registry.versions(IRIS, View.ACTIVE, limit=9, after="2"),
        lambda: registry.version(IRIS, VersionName("1")),
        lambda: registry.environments(View.ALL, limit=9),
    ]
    wrong: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: registry.version(IRIS, VersionName("7")), VersionNotFound),
        (lambda: registry.environment(EnvironmentName("irish")), EnvironmentNotFound),
        (lambda: database.ask("environment", workspace="team", name="a\0b"), UnstorableValue),
        (lambda: database.ask("wrong"), UnstorableValue),
    ]

    async def work() -> list[object]:
        found = [await database.in_loop(each) for each in calls]
        for each, error in wrong:
            with pytest.raises(error):
                await database.in_loop(each)
        # What failed leaves its connection good.
        assert await database.in_loop(calls[0]) == found[0]
        return found

    assert in_loop(work) == [each() for each in calls]


def test_the_loop_goes_on_while_the_database_is_waited_for(database: PostgresqlDatabase, registry: SqlRegistry) -> None:
    async def work() -> None:
        async with holding(database) as let_go:
            waiting = [ask(database, "stuck") for _ in range(MOST - 1)]
            await stuck(database, MOST - 1)
            found = await database.in_loop(registry.versions, IRIS, View.ACTIVE, limit=1)
            assert found[0].version == "2"
            assert not any(each.done() for each in waiting)
            await let_go()
            pids = {(await each)[0]["pid"] for each in waiting}
            assert len(pids) == MOST - 1

    in_loop(work)


def test_more_than_there_are_places_wait_for_their_turn(database: PostgresqlDatabase) -> None:
    async def work() -> None:
        async with holding(database) as let_go:
            waiting = [ask(database, "stuck") for _ in range(3 * MOST)]
            await stuck(database, MOST)
            # Threads have connections of their own.
            assert await asyncio.to_thread(database.ask, "pid")
            await let_go()
            pids = {(await each)[0]["pid"] for each in waiting}
        assert len(pids) <= MOST

    in_loop(work)


def test_the_connection_that_was_used_last_is_used_again(database: PostgresqlDatabase) -> None:
    async def work() -> set[int]:
        return {(await ask(database, "pid"))[0]["pid"] for _ in range(20)}

    assert len(in_loop(work)) == 1


def test_connections_that_are_lost_are_not_used_again(database: PostgresqlDatabase) -> None:
    async def work() -> None:
        async with holding(database) as let_go:
            waiting = [ask(database, "stuck") for _ in range(3)]
            await stuck(database, 3)
            await let_go()
            before = {(await each)[0]["pid"] for each in waiting}
        # All of them wait to be used when they are ended.
        assert len(before) == 3
        await terminate(database, before)
        after = {(await each)[0]["pid"] for each in [ask(database, "pid") for _ in range(5)]}
        assert not before & after

    in_loop(work)


def test_a_read_whose_connection_is_lost_is_made_once_more(database: PostgresqlDatabase) -> None:
    async def work() -> None:
        async with holding(database) as let_go:
            own = (await ask(database, "pid"))[0]["pid"]
            waiting = ask(database, "stuck")
            await stuck(database, 1)
            await terminate(database, {own})
            await stuck(database, 1)
            assert not waiting.done()
            await let_go()
            assert (await waiting)[0]["pid"] != own

    in_loop(work)


def test_who_is_cancelled_takes_no_place_with_them(database: PostgresqlDatabase) -> None:
    async def work() -> None:
        async with holding(database):
            waiting = [ask(database, "stuck") for _ in range(MOST)]
            await stuck(database, MOST)
            late = ask(database, "pid")
            for each in waiting:
                each.cancel()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(each) for each in ended} == {asyncio.CancelledError}
            assert await late
            assert len(await asyncio.gather(*(ask(database, "pid") for _ in range(2 * MOST)))) == 2 * MOST

    in_loop(work)


def test_what_a_read_has_begun_is_taken_back(database: PostgresqlDatabase) -> None:
    def leaving(run: Run) -> None:
        run("pid")
        raise KeyError

    async def work() -> int:
        with pytest.raises(KeyError):
            await database.in_loop(database.read, leaving)
        places = database._in_loops._of_loop()
        connection = places.queue.get_nowait()
        assert isinstance(connection, LoopConnection)
        places.give(connection)
        driver: Any = connection.pooled.driver_connection
        return int(driver.pgconn.transaction_status)

    assert in_loop(work) == TransactionStatus.IDLE


def test_much_is_sent_in_pieces(database: PostgresqlDatabase) -> None:
    """More than the system takes at once: the socket is waited for before there is an answer."""

    async def work() -> list[Row]:
        name = "x" * (8 << 20)
        await ask(database, "pid")
        return await ask(database, "environment", workspace="team", name=name)

    assert in_loop(work) == []


def test_connections_go_back_to_the_pool(database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = database._engine.pool

    async def used_and_left() -> None:
        await asyncio.gather(*(ask(database, "pid") for _ in range(4)))
        assert pool.checkedout()
        while pool.checkedout():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(postgresql_loop, "KEPT", 0.05)
    in_loop(used_and_left)
    # Those of a loop that has ended are closed with the database.
    monkeypatch.setattr(postgresql_loop, "KEPT", 60.0)
    in_loop(lambda: ask(database, "pid"))
    assert pool.checkedout() == 1
    database.close()
    assert pool.checkedout() == 0


def test_who_gets_no_connection_is_told(database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = database._engine.pool
    pool._timeout = 0.01
    taken = [pool.connect() for _ in range(20)]

    async def work() -> None:
        for _ in range(2 * MOST):
            with pytest.raises(StoreBusy, match="busy"):
                await ask(database, "pid")
        for each in taken:
            each.close()
        assert await ask(database, "pid")

    in_loop(work)


def test_who_waits_too_long_for_a_place_is_told(database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_loop, "POOL_TIMEOUT", 0.01)

    async def work() -> None:
        async with holding(database) as let_go:
            waiting = [ask(database, "stuck") for _ in range(MOST)]
            await stuck(database, MOST)
            with pytest.raises(StoreBusy, match="busy"):
                await ask(database, "pid")
            await let_go()
            await asyncio.gather(*waiting)
        assert await ask(database, "pid")

    in_loop(work)


def test_a_database_that_is_gone_is_told(postgres_cluster: Cluster) -> None:
    database = open_postgresql(postgres_cluster.migrated_database())

    async def work() -> None:
        await ask(database, "environment", workspace="team", name="iris")
        await asyncio.to_thread(postgres_cluster.execute, f'DROP DATABASE "{database.url.database}" WITH (FORCE)')
        with pytest.raises(StoreUnreachable):
            await ask(database, "environment", workspace="team", name="iris")

    in_loop(work)
    database.close()
