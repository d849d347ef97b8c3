"""
A real PostgreSQL, thrown away afterwards: `postgres_url` is an empty database of a test's own.

Its databases sort text as people do in English (ICU), so that what relies on sorting by code point has to say so.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

USER = "mlenv"
PASSWORD = "correct horse@battery/staple"
_PASSWORD_IN_URL = "correct%20horse%40battery%2Fstaple"
#: Nothing waits for the disk, and what is committed outlives the server's end, if not the machine's.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "150",
    "shared_buffers": "64MB",
}


@dataclass
class Cluster:
    """
    A PostgreSQL server in a directory of its own.

    Attributes:
        directory: With `data/`, the socket and `log`.
        port: On the loopback interface.
    """

    directory: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    _databases: int = 0
    _templates: set[str] = field(default_factory=set)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = _SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self.directory)} | self.settings
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = str(self.directory / "log")
        self._run("pg_ctl", "start", "--wait", "-D", self._data, "-l", log, "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server: `fast` ends its connections in order, `immediate` as a crash would."""
        self._run("pg_ctl", "stop", "--wait", "-D", self._data, "-m", mode)

    def url(self, database: str) -> str:
        """A database's address, with the password."""
        return f"postgresql://{USER}:{_PASSWORD_IN_URL}@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """The address of a new database without tables."""
        return self._new("template0")

    def migrated_database(self) -> str:
        """The address of a new database that has this program's tables."""
        from mlenv.store.server_opening import open_database

        if "migrated" not in self._templates:
            self.execute('CREATE DATABASE "migrated" TEMPLATE template0')
            open_database(self.url("migrated"), self.directory).close()
            self._templates.add("migrated")
        return self._new("migrated")

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement, each in a transaction of its own, and give its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _new(self, template: str) -> str:
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def _run(self, program: str, *arguments: str) -> None:
        ran = subprocess.run(
            [*_as_postgres(), str(_binaries() / program), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        log = self.directory / "log"
        assert ran.returncode == 0, ran.stderr + (log.read_text() if log.exists() else "")


def new_cluster(**settings: str) -> Cluster:
    """A server that runs. Whoever asks for it removes it with `remove_cluster`."""
    # NOTE: not below pytest's own directory, whose path is too long for a socket, and closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="mlenv-postgres-", dir="/tmp"))
    secret = directory / "password"
    secret.write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (directory, secret):
            shutil.chown(path, "postgres")
    cluster = Cluster(directory, _free_port(), settings)
    try:
        cluster._run(
            "initdb",
            f"--pgdata={directory / 'data'}",
            f"--username={USER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--locale-provider=icu",
            "--icu-locale=en",
            "--no-sync",
        )
        cluster.start()
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return cluster


def remove_cluster(cluster: Cluster) -> None:
    """Stop the server, if it runs, and remove its files."""
    try:
        if (cluster.directory / "data" / "postmaster.pid").exists():
            cluster.stop()
    finally:
        shutil.rmtree(cluster.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server for all tests of a process. Tests that stop it make one of their own."""
    cluster = new_cluster()
    yield cluster
    remove_cluster(cluster)


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> str:
    """An empty database."""
    return postgres_cluster.empty_database()


def _as_postgres() -> list[str]:
    """PostgreSQL's programs refuse to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def _binaries() -> Path:
    """Debian keeps the server's programs out of PATH, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    assert initdb is not None, "PostgreSQL's server programs are not installed (Debian: postgresql)"
    return Path(initdb).parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
