"""`kill -9` at every named point of the store: what is on disk is whole, and the work can be done again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlenv.core.digest import Digest
from mlenv.core.environment import View
from mlenv.core.platform import Platform
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.store.opening import HEAD, open_sqlite, schema_of
from mlenv.store.sql import SqlRegistry

IRIS = EnvironmentName("iris")
LINUX = Platform("linux", "amd64")

WORK = """
import sys, pathlib
from datetime import UTC, datetime
from mlenv.core.digest import Digest
from mlenv.core.environment import Definition
from mlenv.core.platform import Platform
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import Spec
from mlenv.store.opening import open_sqlite
from mlenv.store.sql import SqlRegistry

database = open_sqlite(pathlib.Path(sys.argv[1]))
registry, now = SqlRegistry(database), datetime(2026, 3, 1, tzinfo=UTC)
for image, version in (("a", "1"), ("b", "2")):
    definition = Definition(EnvironmentName("iris"), Spec(image=image), VersionName(version))
    made, _ = registry.add_version(definition, now=now)
    registry.add_lock(made.name, made.version, Platform("linux", "amd64"), Digest.of(image.encode()), now=now)
database.close()
"""


def work(path: Path, *, fault: str | None = None) -> int:
    environment = {**os.environ, "MLENV_FAULT": fault} if fault else dict(os.environ)
    return subprocess.run([sys.executable, "-c", WORK, path], env=environment, check=False).returncode


@pytest.mark.parametrize(
    ("fault", "versions", "locks"),
    [
        ("migration.step", 0, 0),
        ("version.added", 0, 0),
        ("version.committed", 1, 0),
        ("lock.added", 1, 0),
        ("lock.committed", 1, 1),
        ("version.added#2", 1, 1),
        ("version.committed#2", 2, 1),
        ("lock.added#2", 2, 1),
        ("lock.committed#2", 2, 2),
    ],
)
def test_killed_work_leaves_a_whole_store_and_can_be_repeated(
    tmp_path: Path, fault: str, versions: int, locks: int
) -> None:
    path = tmp_path / "mlenv.db"
    assert work(path, fault=fault) == -signal.SIGKILL
    assert schema_of(path) == (None if fault == "migration.step" else HEAD)

    database = open_sqlite(path)
    registry = SqlRegistry(database)
    assert registry.check() == []
    stored = registry.versions(IRIS, View.ALL, limit=9) if versions else []
    assert len(stored) == versions
    assert registry.environments(View.ALL, limit=9) == ([registry.environment(IRIS)] if versions else [])
    assert len(list(registry.all_locks())) == locks
    database.close()

    assert work(path) == 0
    database = open_sqlite(path)
    registry = SqlRegistry(database)
    assert registry.check() == []
    assert registry.lock_of(IRIS, VersionName("2"), LINUX) == Digest.of(b"b")
    assert [each.spec.image for each in registry.versions(IRIS, View.ALL, limit=9)] == ["b", "a"]
    database.close()
