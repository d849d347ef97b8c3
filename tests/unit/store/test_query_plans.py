"""What is got and listed is found by an index and in its order, however much there is, on SQLite and PostgreSQL."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, insert
from support.postgres import Cluster

from mlenv.store import tables
from mlenv.store.migrate import sqlite_engine
from mlenv.store.opening import open_sqlite
from mlenv.store.postgresql_database import PostgresqlDatabase
from mlenv.store.postgresql_pipeline import statement
from mlenv.store.server_opening import open_postgresql
from mlenv.store.server_statements import STATEMENTS, PostgresqlTexts, SqliteTexts
from mlenv.store.sqlite import connect

TIME = "2026-03-01T12:00:00.000000+00:00"
ENVIRONMENTS, VERSIONS, RECORDS = 2_000, 3_000, 3_000
ONE: dict[str, str | int] = {"workspace": "team", "name": "env-0100"}
PAGE: dict[str, str | int] = {"workspace": "team", "after": "env-0100", "limit": 100}

#: What is asked for most, and lists that may be long.
QUERIES: dict[str, dict[str, str | int]] = {
    "environment": ONE,
    "shown_version": ONE | {"version": "1"},
    "version": ONE | {"version": "1"},
    "environment_labeled": ONE,
    "environments": PAGE,
    "environments_archived": PAGE | {"archived": 1},
    "versions": ONE | {"before": 2_000, "limit": 100},
    "versions_archived": ONE | {"before": 2_000, "limit": 100, "archived": 1},
    "stored_and_next": ONE | {"stored": "5", "next": "6"},
    "newest_versions": ONE | {"limit": 5},
    "label_history": ONE | {"label": "production"},
    "lock": ONE | {"version": "1", "platform": "linux/amd64"},
    "audit": {"after": 10, "limit": 100},
    "audit_of": {"after": 10, "limit": 100, "scope": "team"},
    "newest_audit": {"before": 2_000, "limit": 100},
    "newest_audit_of": {"before": 2_000, "limit": 100, "scope": "team"},
    "good_token": {"digest": "x", "now": TIME},
    "reply": {"principal": "1", "key": "x"},
}


def fill(engine: Engine) -> None:
    """Many environments; many versions of one; many audit records. The database has not counted them yet."""
    common: dict[str, Any] = {"workspace": "team", "created_at": TIME, "modified_at": TIME, "archived": 0}
    names = [f"env-{number:04}" for number in range(ENVIRONMENTS)]
    environment = common | {"latest_version": "1", "next_version": "2", "last_sequence": 1}
    version = common | {"document_digest": "d", "spec_digest": "d", "tags": "{}", "description": None, "details": None}
    several = [version | {"name": "env-0100", "version": str(each), "sequence": each} for each in range(VERSIONS)]
    single = [version | {"name": name, "version": "1", "sequence": 1} for name in names if name != "env-0100"]
    label = {"workspace": "team", "label": "production", "sequence": 1, "version": "1", "set_at": TIME}
    record = {"at": TIME, "scope": "team", "document": "{}", "hash": "x"}
    with engine.begin() as connection:
        connection.execute(insert(tables.environments), [environment | {"name": name} for name in names])
        spec = {"workspace": "team", "document_digest": "d", "document": "{}"}
        connection.execute(insert(tables.specs), [spec, *(spec | {"document_digest": name} for name in names)])
        connection.execute(insert(tables.versions), several + single)
        connection.execute(insert(tables.labels), [label | {"name": name} for name in names])
        connection.execute(insert(tables.audit), [record | {"sequence": each} for each in range(1, RECORDS)])


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("plans") / "mlenv.db"
    open_sqlite(path).close()
    engine = sqlite_engine(path)
    fill(engine)
    engine.dispose()
    with closing(connect(path)) as connection:
        yield connection
    shutil.rmtree(path.parent)


@pytest.fixture(scope="module", params=["not counted", "counted"])
def postgresql_database(
    postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[PostgresqlDatabase]:
    """One whose planner knows nothing of its rows yet, and one whose planner has counted them."""
    database = open_postgresql(postgres_cluster.migrated_database())
    fill(database._engine)
    if request.param == "counted":
        with database._engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE environments, versions, specs, labels, audit")
    yield database
    database.close()


@pytest.mark.parametrize("name", QUERIES)
def test_sqlite_searches_an_index(sqlite_file: sqlite3.Connection, name: str) -> None:
    plan = [row[-1] for row in sqlite_file.execute(f"EXPLAIN QUERY PLAN {SqliteTexts()[name]}", QUERIES[name])]
    # What an index gave, a page at most, may be gone through.
    steps = [step for step in plan if not step.startswith(("CORRELATED", "CO-ROUTINE page", "SCAN page"))]
    assert steps
    assert [step for step in steps if not step.startswith("SEARCH ")] == []


@pytest.mark.parametrize("name", QUERIES)
def test_postgresql_searches_an_index(postgresql_database: PostgresqlDatabase, name: str) -> None:
    text = plan(postgresql_database, name)
    assert "Index" in text
    assert [word for word in ("Sort", "Seq Scan", "Bitmap", "Hash") if word in text] == [], text
    # It is made for any values, and not anew for these.
    assert "$1" in text, text


def test_postgresql_reads_no_table_as_a_whole(postgresql_database: PostgresqlDatabase) -> None:
    # Most of these tables are empty, so that to read them as a whole would be quicker just now. A server keeps its plans.
    plans = {name: plan(postgresql_database, name) for name in STATEMENTS}
    whole = {name for name, text in plans.items() if "Seq Scan" in text or "Hash Join" in text or "Merge Join" in text}
    assert whole == {"scopes", "all_grants", "tokens"}


def plan(database: PostgresqlDatabase, name: str) -> str:
    """How a statement would be run, over a server's connection."""
    asked = statement(name, PostgresqlTexts()[name])
    # The plan is the same for all values.
    given = f"({', '.join('NULL' for _ in asked.names)})" if asked.names else ""
    with database._engine.connect() as connection:
        connection.exec_driver_sql(f"PREPARE asked AS {asked.text.decode()}")
        try:
            return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) EXECUTE asked{given}"))
        finally:
            connection.exec_driver_sql("DEALLOCATE asked")
