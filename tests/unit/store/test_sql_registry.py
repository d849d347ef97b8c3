"""What SQL adds to the contract: workspaces, several processes, several threads, damage."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlenv.core.environment import Definition, View
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.refusals import EnvironmentNotFound
from mlenv.core.spec import Spec
from mlenv.store.database import StoreUnusable
from mlenv.store.opening import open_sqlite
from mlenv.store.sql import SqlRegistry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IRIS = EnvironmentName("iris")
EACH = 12

WORKER = f"""
import sys, pathlib
from datetime import UTC, datetime
from mlenv.core.environment import Definition
from mlenv.core.reference import EnvironmentName
from mlenv.core.spec import Spec
from mlenv.store.opening import open_sqlite
from mlenv.store.sql import SqlRegistry

path, number = pathlib.Path(sys.argv[1]), sys.argv[2]
database = open_sqlite(path)
registry = SqlRegistry(database)
sys.stdin.read(1)
for index in range({EACH}):
    spec = Spec(image=f"image-{{number}}-{{index}}")
    version, new = registry.add_version(Definition(EnvironmentName("iris"), spec), now=datetime.now(UTC))
    print(version.version, spec.image, new)
database.close()
"""


def test_eight_processes_lose_no_automatic_version(tmp_path: Path) -> None:
    path = tmp_path / "mlenv.db"
    open_sqlite(path).close()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, path, str(number)],
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
    told = [line.split() for answer, _ in answers for line in answer.splitlines()]
    assert len(told) == 8 * EACH
    assert all(new == "True" for _, _, new in told)
    assert {int(version) for version, _, _ in told} == set(range(1, 8 * EACH + 1))
    database = open_sqlite(path)
    stored = SqlRegistry(database).versions(IRIS, View.ALL, limit=1000)
    assert {(each.version, each.spec.image) for each in stored} == {(version, image) for version, image, _ in told}
    assert [int(each.version) for each in stored] == list(range(8 * EACH, 0, -1))
    database.close()


def test_threads_share_a_registry(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path / "mlenv.db")
    registry = SqlRegistry(database)

    def work(number: int) -> None:
        for index in range(5):
            registry.add_version(Definition(IRIS, Spec(image=f"{number}-{index}")), now=NOW)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.versions(IRIS, View.ALL, limit=100)) == 30
    database.close()


def test_child_process_opens_connections_of_its_own(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path / "mlenv.db")
    registry = SqlRegistry(database)
    registry.add_version(Definition(IRIS, Spec(image="parent")), now=NOW)
    child = os.fork()
    if child == 0:
        registry.add_version(Definition(IRIS, Spec(image="child")), now=NOW)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    registry.add_version(Definition(IRIS, Spec(image="parent again")), now=NOW)
    images = [each.spec.image for each in registry.versions(IRIS, View.ALL, limit=9)]
    assert images == ["parent again", "child", "parent"]
    database.close()


def test_workspaces_do_not_see_each_other(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path / "mlenv.db")
    mine, yours = SqlRegistry(database), SqlRegistry(database, "yours")
    mine.add_version(Definition(IRIS, Spec(image="a")), now=NOW)
    with pytest.raises(EnvironmentNotFound) as caught:
        yours.environment(IRIS)
    assert caught.value.near == ()
    yours.add_version(Definition(IRIS, Spec(image="b")), now=NOW)
    assert mine.version(IRIS, VersionName("1")).spec.image == "a"
    assert yours.version(IRIS, VersionName("1")).spec.image == "b"
    assert (list(mine.bases()), list(yours.all_locks())) == ([], [])
    database.close()


def test_equal_specs_are_stored_once(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path / "mlenv.db")
    registry = SqlRegistry(database)
    for name in ("a", "b", "c"):
        registry.add_version(Definition(EnvironmentName(name), Spec(image="same")), now=NOW)
    assert [row["document"] for row in database.read(lambda run: run("all_versions", **_start))] == [
        '{"image":"same"}'
    ] * 3
    database.close()
    connection = sqlite3.connect(tmp_path / "mlenv.db")
    assert connection.execute("SELECT count(*) FROM specs").fetchone() == (1,)
    connection.close()


_start: dict[str, str | int] = {"workspace": "default", "after_name": "", "after_version": "", "limit": 9}


def test_check_finds_what_was_tampered_with(tmp_path: Path) -> None:
    path = tmp_path / "mlenv.db"
    database = open_sqlite(path)
    registry = SqlRegistry(database)
    registry.add_version(Definition(IRIS, Spec(image="a")), now=NOW)
    registry.add_version(Definition(IRIS, Spec(image="b")), now=NOW)
    assert registry.check() == []
    connection = sqlite3.connect(path)
    connection.execute("UPDATE specs SET document = ? WHERE document LIKE '%\"a\"%'", [json.dumps({"image": "x"})])
    connection.execute("UPDATE environments SET latest_version = '1'")
    connection.execute("INSERT INTO locks VALUES ('default', 'iris', '9', 'linux/amd64', 'sha256:0', '')")
    connection.commit()
    connection.close()
    found = "\n".join(registry.check())
    assert "locks points at nothing in versions" in found
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM locks")
    connection.commit()
    connection.close()
    found = "\n".join(registry.check())
    assert "iris:1: its stored spec does not have the digest" in found
    assert "iris:1: its spec has the digest" in found
    assert "latest is recorded as 1, and is 2" in found
    database.close()


def test_check_finds_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "mlenv.db"
    database = open_sqlite(path)
    registry = SqlRegistry(database)
    for number in range(200):
        registry.add_version(Definition(IRIS, Spec(image=f"image-{number}" * 20)), now=NOW)
    database.close()
    with closing(sqlite3.connect(path)) as file:
        [(page,)] = file.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'versions_by_sequence'")
        [(size,)] = file.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    database = open_sqlite(path)
    found = SqlRegistry(database).check()
    assert found
    assert all(str(path) in text for text in found)
    database.close()


def test_store_that_vanished_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mlenv.db"
    database = open_sqlite(path)
    path.unlink()
    with pytest.raises(StoreUnusable, match="unable to open"):
        SqlRegistry(database).environment(IRIS)
    database.close()
