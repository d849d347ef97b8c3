"""The migration 0003, while the program that knows 0002 goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from support.postgres import Cluster

from mlenv.store.migrate import sqlite_engine, upgrade_over
from mlenv.store.postgresql import parse_url, postgresql_engine

_OLD_INSERT = text(
    "INSERT INTO scopes (key, kind, name, id, subscription, resource_group, location, created_at) "
    "VALUES (:key, 'workspace', :key, :key, 's', 'g', 'l', '2026-01-01T00:00:00.000000+00:00')"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        made = postgresql_engine(parse_url(cluster.empty_database()))
    else:
        made = sqlite_engine(tmp_path / "mlenv.db")
    yield made
    made.dispose()


def test_namespaces_are_made_before_and_after(engine: Engine) -> None:
    for revision, key in (("0002", "before"), ("0003", "after")):
        with engine.begin() as connection:
            upgrade_over(connection, revision)
            connection.execute(_OLD_INSERT, {"key": key})
    with engine.connect() as connection:
        found = connection.execute(text("SELECT key, settings FROM scopes ORDER BY key")).all()
        assert [tuple(each) for each in found] == [("after", None), ("before", None)]
        for table in ("repository_blobs", "manifests", "repository_tags"):
            assert connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one() == 0
