"""Writes of several threads in one transaction: what each of them sees of the others."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from mlenv.store.alchemy import sqlite_engine, writing
from mlenv.store.group_commit import GroupCommit


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    found = sqlite_engine(tmp_path / "rows.db")
    with writing(found) as connection:
        connection.exec_driver_sql("CREATE TABLE rows (name TEXT PRIMARY KEY)")
    yield found
    found.dispose()


class Together:
    """Has several threads write while one that came first holds the writer's place."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.begun = 0
        self.group = GroupCommit(self._writing)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self.begun += 1
        with writing(self.engine) as connection:
            yield connection

    def run(self, *works: Callable[[Connection], object]) -> list[object]:
        """What each gave or raised."""
        entered, free = threading.Event(), threading.Event()

        def first(connection: Connection) -> None:
            entered.set()
            assert free.wait(30)

        answers: list[object] = [None] * len(works)

        def write(number: int) -> None:
            try:
                answers[number] = self.group.run(works[number])
            except Exception as error:  # noqa: BLE001 - it is what is looked at
                answers[number] = error

        holder = threading.Thread(target=self.group.run, args=(first,))
        holder.start()
        assert entered.wait(30)
        threads = [threading.Thread(target=write, args=(number,)) for number in range(len(works))]
        for number, thread in enumerate(threads, start=1):
            thread.start()
            self._wait_for(number)
        free.set()
        for thread in [holder, *threads]:
            thread.join(30)
            assert not thread.is_alive()
        return answers

    def _wait_for(self, count: int) -> None:
        tick = threading.Event()
        for _ in range(3000):
            if len(self.group._left) == count:
                return
            tick.wait(0.01)
        raise AssertionError("a thread did not come to write")

    def names(self) -> set[str]:
        with self.engine.connect() as connection:
            return {name for (name,) in connection.exec_driver_sql("SELECT name FROM rows")}


def _insert(name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        connection.exec_driver_sql("INSERT INTO rows VALUES (?)", (name,))
        return name

    return work


def test_what_waits_is_written_by_one_transaction(engine: Engine) -> None:
    together = Together(engine)
    assert together.run(*map(_insert, "abcde")) == list("abcde")
    assert together.names() == set("abcde")
    assert together.begun == 2


def test_a_part_that_fails_takes_nothing_of_others_with_it(engine: Engine) -> None:
    def fails(connection: Connection) -> None:
        _insert("lost")(connection)
        raise ValueError("no")

    together = Together(engine)
    first, second, third, fourth = together.run(_insert("a"), fails, _insert("a"), _insert("b"))
    assert (first, fourth) == ("a", "b")
    assert isinstance(second, ValueError)
    assert "UNIQUE" in str(third)
    assert together.names() == {"a", "b"}


def test_a_transaction_that_the_database_ends_is_nobodys_success(engine: Engine) -> None:
    def ends(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("ROLLBACK")
        raise OSError("the disk is full")

    together = Together(engine)
    assert [str(each) for each in together.run(_insert("a"), ends, _insert("b"))] == ["the disk is full"] * 3
    assert together.names() == set()


def test_a_commit_that_fails_is_everybodys_failure(engine: Engine) -> None:
    class Failing(Together):
        @contextmanager
        def _writing(self) -> Iterator[Connection]:
            with super()._writing() as connection:
                yield connection
                if self.begun > 1:
                    raise OSError("not written")

    together = Failing(engine)
    assert [type(each) for each in together.run(_insert("a"), _insert("b"))] == [OSError, OSError]
    assert together.names() == set()
