"""Opening a store: its first tables, one that is up to date, one from the future, and what is no store at all."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from mlenv.store import migrate, statements
from mlenv.store.database import StoreDamaged, StoreNewer, StoreUnusable
from mlenv.store.migrate import sqlite_engine
from mlenv.store.opening import HEAD, open_sqlite, schema_of
from mlenv.store.server_statements import STATEMENTS
from mlenv.store.sqlite import connect
from mlenv.store.tables import metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "mlenv.db"


def test_head_is_the_newest_migration() -> None:
    assert migrate.head() == HEAD


def test_migrations_lead_to_the_tables(path: Path) -> None:
    open_sqlite(path).close()
    engine = sqlite_engine(path)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_sqlite_text_is_what_the_statements_say() -> None:
    kept = Path(statements.__file__).with_name("sqlite_statements.py").read_text(encoding="utf-8")
    assert kept == statements.sqlite_module(), "run `python -m mlenv.store.statements`"


def every_statement() -> list[Any]:
    return list(STATEMENTS.values())


def test_statements_and_tables_are_right_for_postgresql() -> None:
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    texts = [str(statement.compile(dialect=dialect)) for statement in every_statement()]
    assert any("FOR UPDATE" in text for text in texts)
    for table in metadata.tables.values():
        keys = [column for column in table.primary_key.columns if isinstance(column.type, Text)]
        made = str(CreateTable(table).compile(dialect=dialect))
        assert all(f'{column.name} TEXT COLLATE "C"' in made for column in keys), made


def test_store_is_private_and_durable(path: Path) -> None:
    open_sqlite(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    connection = connect(path)
    pragmas = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    pragmas |= {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("foreign_keys", "busy_timeout")}
    connection.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_an_up_to_date_store_is_opened_and_used_without_sqlalchemy(path: Path) -> None:
    open_sqlite(path).close()
    code = (
        "import sys, pathlib; from mlenv.wiring.embedded import open_embedded; from mlenv.core.environment import View\n"
        "with open_embedded(pathlib.Path(sys.argv[1])) as embedded: embedded.registry.environments(View.ALL, limit=1)\n"
        "heavy = {'sqlalchemy', 'alembic', 'pydantic', 'rich', 'ruamel', 'platformdirs', 'jmespath', 'filelock'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, path.parent], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_newer_store_is_refused(path: Path) -> None:
    open_sqlite(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreNewer, match="schema 9999, this program knows") as caught:
        open_sqlite(path)
    assert (caught.value.found, caught.value.known) == ("9999", HEAD)
    assert schema_of(path) == "9999"


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, and long enough to be told from one" * 100)
    with pytest.raises(StoreDamaged):
        open_sqlite(path)


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnusable, match="file"):
        open_sqlite(tmp_path / "file" / "mlenv.db")


def test_eight_processes_open_a_new_store_at_once(path: Path) -> None:
    code = (
        "import sys, pathlib; from mlenv.store.opening import open_sqlite; sys.stdin.read(1)\n"
        "open_sqlite(pathlib.Path(sys.argv[1])).close(); print('opened')"
    )
    command = [sys.executable, "-c", code, str(path)]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"g")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [answer for answer, _ in answers] == [b"opened\n"] * 8, answers
    assert schema_of(path) == HEAD
