"""Databases as servers have them, each new and empty: over SQLite and PostgreSQL."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import Cluster

from mlenv.store.database import Database
from mlenv.store.opening import open_sqlite
from mlenv.store.server_opening import open_database


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty tables, to be copied: migrations take longer."""
    path = tmp_path_factory.mktemp("empty") / "mlenv.db"
    open_sqlite(path).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, empty_store: Path) -> Iterator[Database]:
    """One of each."""
    url = None
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        url = cluster.migrated_database()
    else:
        shutil.copy(empty_store, tmp_path / "mlenv.db")
    opened = open_database(url, tmp_path)
    yield opened
    opened.close()
