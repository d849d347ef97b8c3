"""Migrations of SQLite and PostgreSQL: they lead to the tables, and the program before goes on working."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text
from support.postgres import Cluster

from mlenv.store.database import StoreNewer
from mlenv.store.migrate import sqlite_engine, upgrade_over
from mlenv.store.opening import HEAD
from mlenv.store.postgresql import parse_url, postgresql_engine
from mlenv.store.server_opening import open_database
from mlenv.store.sql_site import SqlSite
from mlenv.store.tables import metadata

#: The statements of the program that knew the migration 0001, by name.
OLD: dict[str, str] = {
    # As SQLAlchemy writes it for PostgreSQL, where it is a word of SQL.
    name: re.sub(r"(?<![:.])\buser\b", '"user"', statement)
    for name, statement in json.loads((Path(__file__).parent / "data" / "statements_0001.json").read_text()).items()
}

NUMBERS = {"archived", "sequence", "last_sequence", "size", "exit_code", "limit", "before", "lowest", "highest"}


@dataclass(frozen=True)
class Empty:
    """A database without tables."""

    url: str
    engine: Engine
    home: Path

    def migrate(self, revision: str) -> None:
        with self.engine.begin() as connection:
            upgrade_over(connection, revision)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Empty]:
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        url = cluster.empty_database()
        engine = postgresql_engine(parse_url(url))
    else:
        url = f"sqlite:///{tmp_path / 'mlenv.db'}"
        engine = sqlite_engine(tmp_path / "mlenv.db")
    yield Empty(url, engine, tmp_path)
    engine.dispose()


def test_migrations_lead_to_the_tables(empty: Empty) -> None:
    open_database(empty.url, empty.home).close()
    with empty.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_an_audit_chain_begins_with_the_migration(empty: Empty) -> None:
    empty.migrate("0001")
    database = open_database(empty.url, empty.home)
    assert SqlSite(database).audit_head() == (0, "0" * 64)
    database.close()


def parameters(statement: str) -> dict[str, str | int]:
    """A value for each parameter, such that all statements are of the same rows."""
    values: dict[str, str | int] = {}
    for name in set(re.findall(r":(\w+)", statement)):
        bare = name.removeprefix("the_")
        values[name] = "x"
        if name.startswith("after"):
            values[name] = ""
        elif bare in NUMBERS:
            values[name] = {"limit": 9, "before": 9, "lowest": 0}.get(bare, 1)
    return values


def run(connection: Connection, name: str) -> list[Any]:
    result = connection.execute(text(OLD[name]), parameters(OLD[name]))
    return list(result) if result.returns_rows else []


#: In the order in which rows need each other.
INSERTS = ["environment", "spec", "version", "label", "lock", "layer", "image", "base", "facts", "build", "use"]


def test_the_program_before_works_on_a_migrated_store(empty: Empty) -> None:
    empty.migrate("0001")
    with empty.engine.connect() as connection, connection.begin():
        run(connection, "insert_environment")
        run(connection, "insert_spec")
        run(connection, "insert_version")
        run(connection, "insert_build")
    empty.migrate("0002")
    with empty.engine.connect() as connection, connection.begin():
        for name in INSERTS:
            if name not in {"environment", "spec", "version", "build"}:
                run(connection, f"insert_{name}")
        others = [name for name in OLD if not name.startswith("insert_")]
        reads = [name for name in others if OLD[name].startswith("SELECT")]
        assert {name: len(run(connection, name)) for name in reads} == dict.fromkeys(reads, 1)
        changes = [name for name in others if OLD[name].startswith("UPDATE")]
        deletes = [name for name in others if OLD[name].startswith("DELETE")]
        assert len(reads) + len(changes) + len(deletes) + len(INSERTS) == len(OLD)
        for name in changes + deletes:
            run(connection, name)
        assert run(connection, "builds") == []
        run(connection, "insert_build")
        assert len(run(connection, "builds")) == 1


def test_rows_of_before_are_read_by_the_program_after(empty: Empty) -> None:
    empty.migrate("0001")
    with empty.engine.connect() as connection, connection.begin():
        for name in ("environment", "spec", "version", "build"):
            run(connection, f"insert_{name}")
    database = open_database(empty.url, empty.home)
    key: dict[str, str | int | None] = {"workspace": "x", "name": "x", "version": "x"}
    builds, versions = database.read(lambda run: (run("builds", **key), run("version", **key)))
    assert [(row["id"], row["queued_at"], row["log"]) for row in builds] == [("x", None, None)]
    assert [(row["spec_digest"], row["details"]) for row in versions] == [("x", None)]
    database.close()


def test_a_newer_store_is_refused(empty: Empty) -> None:
    open_database(empty.url, empty.home).close()
    with empty.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreNewer, match="schema 9999, this program knows") as caught:
        open_database(empty.url, empty.home)
    assert "battery" not in str(caught.value)


OPENER = """
import sys, pathlib
from mlenv.store.server_opening import open_database
sys.stdin.read(1)
open_database(sys.argv[1], pathlib.Path(sys.argv[2])).close()
print("opened")
"""


def test_six_processes_open_a_new_store_at_once(empty: Empty) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPENER, empty.url, str(empty.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("g")
        process.stdin.flush()
    answers = [process.communicate(timeout=120) for process in processes]
    assert answers == [("opened\n", "")] * 6
    with empty.engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]
        assert connection.execute(text("SELECT sequence FROM audit_head")).scalars().all() == [0]
