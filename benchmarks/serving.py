"""A server to be measured, in processes of its own."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Seconds that a server may take to start, and to end.
_TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Served:
    """Where a server is, its administrator's token, and its first process."""

    url: str
    token: str
    process: int


class NotEmpty(RuntimeError):
    """A server that is to be measured has found rows in its database, and made no administrator."""

    def __init__(self) -> None:
        super().__init__("the database is not empty; give a new one, made with `createdb`")


@contextmanager
def serving(home: Path, *flags: str, database: str | None = None) -> Iterator[Served]:
    """
    A server over a new store; it is stopped when the context ends.

    Args:
        flags: More of `mlenv server start`.
        database: An empty PostgreSQL database; None for SQLite.

    Raises:
        NotEmpty: Somebody has used the database before.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
    environment |= {"MLENV_HOME": str(home)} | ({"MLENV_DATABASE": database} if database else {})
    log = home.with_name("server.log")
    command = [sys.executable, "-m", "mlenv", "server", "start", "--port", "0", *flags]
    with log.open("wb") as err:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=err)
        try:
            url = _address(process, log)
            yield Served(url, _token(process), process.pid)
        finally:
            process.terminate()
            process.wait(_TIMEOUT)


def _token(process: "subprocess.Popen[bytes]") -> str:
    """What a server that serves has written to its standard output. Raises `NotEmpty`."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 0)
    token = process.stdout.readline().decode().strip() if ready else ""
    if not token:
        raise NotEmpty
    return token


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("serving at "):
                return line.removeprefix("serving at ").strip()
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')}")
