"""Writes of several threads in one transaction: what each of them sees of the others."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from mlenv.store.group_commit import GroupCommit
from mlenv.store.sqlite import SqliteWork, connect, in_savepoints


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "rows.db"
    found.touch()
    with closing(connect(found)) as connection:
        connection.execute("CREATE TABLE rows (name TEXT PRIMARY KEY)")
    return found


class Together:
    """Has several threads write while one that came first holds the writer's place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun = 0
        self.group: GroupCommit[SqliteWork] = GroupCommit(partial(in_savepoints, self._writing))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self.begun += 1
        with closing(connect(self.path)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    def run(self, *works: Callable[[sqlite3.Connection], object]) -> list[object]:
        """What each gave or raised."""
        entered, free = threading.Event(), threading.Event()

        def first(connection: sqlite3.Connection) -> None:
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
        with closing(connect(self.path)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM rows")}


def _insert(name: str) -> Callable[[sqlite3.Connection], str]:
    def work(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO rows VALUES (?)", (name,))
        return name

    return work


def test_what_waits_is_written_by_one_transaction(path: Path) -> None:
    together = Together(path)
    assert together.run(*map(_insert, "abcde")) == list("abcde")
    assert together.names() == set("abcde")
    assert together.begun == 2


def test_a_part_that_fails_takes_nothing_of_others_with_it(path: Path) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        _insert("lost")(connection)
        raise ValueError("no")

    together = Together(path)
    first, second, third, fourth = together.run(_insert("a"), fails, _insert("a"), _insert("b"))
    assert (first, fourth) == ("a", "b")
    assert isinstance(second, ValueError)
    assert "UNIQUE" in str(third)
    assert together.names() == {"a", "b"}


def test_a_transaction_that_the_database_ends_is_nobodys_success(path: Path) -> None:
    def ends(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise OSError("the disk is full")

    together = Together(path)
    assert [str(each) for each in together.run(_insert("a"), ends, _insert("b"))] == ["the disk is full"] * 3
    assert together.names() == set()


def test_a_commit_that_fails_is_everybodys_failure(path: Path) -> None:
    class Failing(Together):
        @contextmanager
        def _writing(self) -> Iterator[sqlite3.Connection]:
            with super()._writing() as connection:
                yield connection
                if self.begun > 1:
                    raise OSError("not written")

    together = Failing(path)
    assert [type(each) for each in together.run(_insert("a"), _insert("b"))] == [OSError, OSError]
    assert together.names() == set()
