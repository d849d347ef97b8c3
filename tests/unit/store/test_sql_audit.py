"""The audit of changes: what each leaves, that all leave one, and that tampering is found; on SQLite and PostgreSQL."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from support.postgres import Cluster

from mlenv.core.audit import AuditRecord, Author, find_breaks, find_faults
from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, View
from mlenv.core.platform import Platform
from mlenv.core.reference import EnvironmentName, LabelName, VersionName
from mlenv.core.scope import ScopeKey
from mlenv.core.spec import Spec
from mlenv.store.audit import NoAuthor
from mlenv.store.database import Database, StoreDamaged, StoreUnusable, UnstorableValue
from mlenv.store.opening import open_sqlite
from mlenv.store.postgresql import parse_url
from mlenv.store.server_opening import open_database
from mlenv.store.sql import SqlRegistry
from mlenv.store.sql_site import SqlSite

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
IRIS = EnvironmentName("iris")
ONE, TWO = VersionName("1"), VersionName("2")
LINUX = Platform("linux", "amd64")
AUTHOR = Author("1", "ada", "t1", "192.0.2.7", "request-1")
EACH = 6


@dataclass(frozen=True)
class Rows:
    """A database, how it is opened again, and how it is tampered with."""

    database: Database
    url: str
    home: Path

    def registry(self, author: Author | None = AUTHOR) -> SqlRegistry:
        return SqlRegistry(self.database, "team", author=author, audited=True)

    def records(self, scope: str | None = None) -> list[AuditRecord]:
        return SqlSite(self.database).audit(None if scope is None else ScopeKey(scope), limit=10_000)

    def execute(self, statement: str) -> None:
        engine = create_engine(parse_url(self.url) if self.url.startswith("postgresql") else self.url)
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlenv.db"
    open_sqlite(path).close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def rows(request: pytest.FixtureRequest, tmp_path: Path, empty_store: Path) -> Iterator[Rows]:
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        url = cluster.migrated_database()
    else:
        shutil.copy(empty_store, tmp_path / "mlenv.db")
        url = f"sqlite:///{tmp_path / 'mlenv.db'}"
    database = open_database(url, tmp_path)
    yield Rows(database, url, tmp_path)
    database.close()


def definition(image: str, version: str | None = None, **tags: str) -> Definition:
    return Definition(IRIS, Spec(image=image), VersionName(version) if version else None, None, tags)


def test_every_change_leaves_a_record_and_nothing_else_does(rows: Rows) -> None:
    registry = rows.registry()
    registry.add_version(definition("a"), now=NOW)
    registry.add_version(definition("a"), now=NOW)
    registry.add_version(definition("a", "1", team="x"), now=NOW)
    registry.update_version(IRIS, ONE, now=NOW, description="new", tags={"team": "x"})
    registry.update_version(IRIS, ONE, now=NOW, description="new", tags={"team": "x"})
    registry.update_version(IRIS, ONE, now=NOW, description="new", tags={"team": "x"}, archived=True)
    registry.set_archived(IRIS, True, now=NOW)
    registry.set_archived(IRIS, True, now=NOW)
    registry.add_version(definition("b"), now=NOW)
    registry.set_archived(IRIS, True, now=NOW)
    registry.add_version(definition("b"), now=NOW)
    for version in (ONE, ONE, TWO):
        registry.set_label(IRIS, LabelName("production"), version, now=NOW)
    for name in ("lock", "other"):
        registry.add_lock(IRIS, ONE, LINUX, Digest.of(name.encode()), now=NOW)
    for name in ("x", "x", "y"):
        registry.set_base("debian:12", Digest.of(name.encode()), now=NOW)
    records = rows.records()
    assert [(each.change.action, each.change.subject) for each in records] == [
        ("version.create", "iris:1"),
        ("version.update", "iris:1"),
        ("version.update", "iris:1"),
        ("version.archive", "iris:1"),
        ("environment.archive", "iris"),
        ("environment.restore", "iris"),
        ("version.create", "iris:2"),
        ("environment.archive", "iris"),
        ("environment.restore", "iris"),
        ("version.restore", "iris:2"),
        ("label.set", "iris@production"),
        ("label.set", "iris@production"),
        ("lock.create", "iris:1 linux/amd64"),
        ("base.set", "debian:12"),
        ("base.set", "debian:12"),
    ]
    assert {(each.author, each.scope, each.at) for each in records} == {(AUTHOR, "team", NOW)}
    assert list(find_breaks(records)) == []


def test_a_record_says_what_changed(rows: Rows) -> None:
    registry = rows.registry()
    made, _ = registry.add_version(definition("a"), now=NOW)
    registry.update_version(IRIS, ONE, now=NOW, description="new", tags={"k": "v"}, archived=True)
    registry.set_label(IRIS, LabelName("production"), ONE, now=NOW)
    created, updated, labelled = (each.change for each in rows.records())
    state: dict[str, object] = {
        "spec": str(made.spec.digest),
        "description": None,
        "tags": {},
        "details": {},
        "archived": False,
    }
    assert (created.before, created.after) == (None, state)
    assert updated.before == state
    assert updated.after == state | {"description": "new", "tags": {"k": "v"}, "archived": True}
    assert (labelled.before, labelled.after) == (None, {"version": "1"})


def test_without_an_author_nothing_changes(rows: Rows) -> None:
    rows.registry().add_version(definition("a"), now=NOW)
    reader = rows.registry(None)
    with pytest.raises(NoAuthor, match="opened for reading"):
        reader.add_version(definition("b"), now=NOW)
    with pytest.raises(NoAuthor):
        reader.update_version(IRIS, ONE, now=NOW, description="x", tags={})
    with pytest.raises(NoAuthor):
        reader.set_archived(IRIS, True, now=NOW)
    with pytest.raises(NoAuthor):
        reader.set_label(IRIS, LabelName("production"), ONE, now=NOW)
    with pytest.raises(NoAuthor):
        reader.add_lock(IRIS, ONE, LINUX, Digest.of(b""), now=NOW)
    with pytest.raises(NoAuthor):
        reader.set_base("debian:12", Digest.of(b""), now=NOW)
    assert [each.version for each in reader.versions(IRIS, View.ALL, limit=9)] == ["1"]
    assert len(rows.records()) == 1


def test_what_fails_leaves_no_record(rows: Rows) -> None:
    registry = rows.registry()
    registry.add_version(definition("a"), now=NOW)

    def fail(run: object) -> None:
        registry._audit(run, "version.create", "iris:2", None, None, NOW)  # type: ignore[arg-type]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        rows.database.write(fail)
    assert len(rows.records()) == 1
    registry.add_version(definition("b"), now=NOW)
    assert list(find_breaks(rows.records())) == []


TAMPERING = {
    "altered: content": "UPDATE audit SET document = replace(document, 'iris:3', 'iris:9') WHERE sequence = 3",
    "altered: namespace": "UPDATE audit SET scope = 'other' WHERE sequence = 3",
    "altered: time": "UPDATE audit SET at = '2025-03-01T12:00:00.000000+00:00' WHERE sequence = 3",
    "altered: hash": "UPDATE audit SET hash = 'f' WHERE sequence = 3",
    "altered: no JSON": "UPDATE audit SET document = '[' WHERE sequence = 3",
    "altered: other JSON": "UPDATE audit SET document = '[]' WHERE sequence = 3",
    "removed: first": "DELETE FROM audit WHERE sequence = 1",
    "removed: in between": "DELETE FROM audit WHERE sequence = 3",
    "removed: in between, numbered anew": (
        "DELETE FROM audit WHERE sequence = 3; UPDATE audit SET sequence = 3 WHERE sequence = 4;"
        "UPDATE audit SET sequence = 4 WHERE sequence = 5"
    ),
    "removed: last": "DELETE FROM audit WHERE sequence = 5",
    "inserted: at the end": "INSERT INTO audit SELECT 6, at, scope, document, hash FROM audit WHERE sequence = 5",
    "inserted: in between": (
        "UPDATE audit SET sequence = 6 WHERE sequence = 5; UPDATE audit SET sequence = 5 WHERE sequence = 4;"
        "INSERT INTO audit SELECT 4, at, scope, document, hash FROM audit WHERE sequence = 3"
    ),
}


@pytest.mark.parametrize("statements", TAMPERING.values(), ids=TAMPERING)
def test_tampering_is_found(rows: Rows, statements: str) -> None:
    for image in "abcde":
        rows.registry().add_version(definition(image), now=NOW)
    head = SqlSite(rows.database).audit_head()[1]
    assert list(find_faults(rows.records(), [head])) == []
    for statement in statements.split(";"):
        rows.execute(statement)
    assert list(find_faults(rows.records(), [head])) != []


def test_without_the_end_of_the_chain_nothing_changes_and_that_is_found(rows: Rows) -> None:
    rows.registry().add_version(definition("a"), now=NOW)
    rows.execute("DELETE FROM audit_head")
    for change in (
        lambda: rows.registry().add_version(definition("b"), now=NOW),
        lambda: rows.registry().set_archived(IRIS, True, now=NOW),
    ):
        with pytest.raises(StoreUnusable):
            change()
    assert [each.version for each in rows.registry().versions(IRIS, View.ACTIVE, limit=9)] == ["1"]
    assert len(rows.records()) == 1
    assert list(find_faults(rows.records(), [SqlSite(rows.database).audit_head()[1]])) == [
        "what the chain ended with was removed"
    ]


def test_a_record_that_is_no_text_is_damage(tmp_path: Path) -> None:
    database = open_database(None, tmp_path)
    SqlRegistry(database, "team", author=AUTHOR, audited=True).add_version(definition("a"), now=NOW)
    with closing(sqlite3.connect(tmp_path / "mlenv.db")) as connection, connection:
        connection.execute("UPDATE audit SET document = CAST(x'ff' AS TEXT)")
    with pytest.raises(StoreDamaged, match="decode to UTF-8"):
        SqlSite(database).audit(None, limit=9)
    database.close()


WORKER = f"""
import sys, pathlib
from datetime import UTC, datetime
from mlenv.core.audit import Author
from mlenv.core.environment import Definition
from mlenv.core.reference import EnvironmentName
from mlenv.core.spec import Spec
from mlenv.store.server_opening import open_database
from mlenv.store.sql import SqlRegistry

number = sys.argv[3]
database = open_database(sys.argv[1], pathlib.Path(sys.argv[2]))
registry = SqlRegistry(database, "team", author=Author(number, "writer"), audited=True)
sys.stdin.read(1)
for index in range({EACH}):
    spec = Spec(image=f"image-{{number}}-{{index}}")
    version, new = registry.add_version(Definition(EnvironmentName("iris"), spec), now=datetime.now(UTC))
    print(version.version, spec.image, new)
    registry.add_version(Definition(EnvironmentName(f"own-{{number}}"), Spec(image="same")), now=datetime.now(UTC))
database.close()
"""


def test_eight_processes_lose_no_version_and_keep_the_chain_whole(rows: Rows) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, rows.url, str(rows.home), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("g")
        process.stdin.flush()
    answers = [process.communicate(timeout=120) for process in processes]
    assert [error for _, error in answers] == [""] * 8
    answered = [line.split() for answer, _ in answers for line in answer.splitlines()]
    assert {int(version) for version, _, _ in answered} == set(range(1, 8 * EACH + 1))
    assert all(new == "True" for _, _, new in answered)
    stored = rows.registry(None).versions(IRIS, View.ALL, limit=1000)
    assert {(each.version, each.spec.image) for each in stored} == {(version, image) for version, image, _ in answered}
    records = rows.records()
    assert len(records) == 8 * EACH + 8
    assert list(find_faults(records, [SqlSite(rows.database).audit_head()[1]])) == []
    subjects = [each.change.subject for each in records]
    assert len(set(subjects)) == len(subjects)


def test_values_that_no_database_keeps_are_refused(rows: Rows) -> None:
    registry = rows.registry()
    registry.add_version(definition("a"), now=NOW)
    for bad in ("nul \0", "surrogate \ud800"):
        with pytest.raises(UnstorableValue):
            registry.update_version(IRIS, ONE, now=NOW, description=bad, tags={})
        with pytest.raises(UnstorableValue):
            registry.version(IRIS, VersionName(bad))
    with pytest.raises(UnstorableValue):
        registry.versions(IRIS, View.ALL, limit=2**70)
    assert registry.version(IRIS, ONE).description is None
