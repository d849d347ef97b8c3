"""A real server process on loopback, with an authority of its own; and an application in this process, for quick tests."""

import asyncio
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from mlenv.cli.serving import application
from mlenv.server.settings import Settings
from mlenv.service.tokens import Tokens
from mlenv.store.opening import open_sqlite
from mlenv.wiring.hosted import Hosted
from support import commands
from support.index import addresses

#: Seconds that a server may take to be ready, and to end.
START_TIMEOUT = 60.0
STOP_TIMEOUT = 45.0


@dataclass
class Server:
    """
    A server process.

    Attributes:
        home: Its directory.
        url: `https://127.0.0.1:PORT`.
        ca: The certificate to trust.
        token: The first administrator's; empty where somebody else made it.
        prefix: What its command begins with: a program that becomes the server.
        process: The process; for a server of several, their parent.
        log: What it wrote to its standard error.
    """

    home: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    url: str = ""
    token: str = ""
    prefix: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def ca(self) -> Path:
        return self.home / "keys" / "ca.pem"

    @property
    def log(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        self.launch()
        wait_until(self._is_ready, "the server is not ready", START_TIMEOUT, self)

    def launch(self) -> None:
        """Start the process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.url = ""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
        environment |= {"MLENV_HOME": str(self.home), "MLENV_INDEXES": ",".join(addresses()), **self.environment}
        arguments = ["server", "start", "--port", "0", *self.arguments]
        command = [*self.prefix, sys.executable, "-m", "mlenv", *arguments]
        with (self.directory / "stdout").open("wb") as out, (self.directory / "stderr").open("wb") as err:
            more: dict[str, Any] = {"env": environment, "stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            self.process = subprocess.Popen(command, **more) if self.prefix else commands.start(*arguments, **more)

    def stop(self) -> int:
        """Stop it gently. Returns its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not stop:\n{self.log[-4000:]}") from None

    def client(self, token: str | None = None, **more: object) -> httpx.Client:
        """A client of it that shows a token; the administrator's if none is given, none for an empty one."""
        token = self.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        trust = ssl.create_default_context(cafile=str(self.ca)) if self.url.startswith("https") else True
        settings = {"base_url": self.url, "verify": trust, "headers": headers, "timeout": 30.0, "trust_env": False}
        return httpx.Client(**{**settings, **more})  # type: ignore[arg-type]

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log[-4000:]}")
        for line in self.log.splitlines():
            if line.startswith("serving at "):
                self.url = line.removeprefix("serving at ").strip()
        if not self.url:
            return False
        secret = (self.directory / "stdout").read_text().strip()
        self.token = secret or self.token
        try:
            with self.client("") as client:
                return client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def run_server(
    directory: Path,
    *arguments: str,
    database: str | None = None,
    home: Path | None = None,
    workers: int = 0,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> Iterator[Server]:
    """
    A server that is ready; it is stopped when the context ends.

    Args:
        directory: For its home, unless `home` says otherwise, and for what it writes.
        arguments: More flags.
        database: A PostgreSQL address; a SQLite file in its home if None.
        environment: More variables.
        prefix: What its command begins with: a program that becomes the server.
    """
    flags = ["--workers", str(workers), "--processes", str(processes), *arguments]
    variables = dict(environment or {})
    if database is not None:
        variables["MLENV_DATABASE"] = database
    server = Server(home or directory / "home", tuple(flags), variables, directory / "process", prefix=prefix)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def make_empty_store(home: Path) -> None:
    """Put a SQLite file with empty tables into a new home: a copy, since migrations take longer."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError), open(home / "mlenv.db", "xb", opener=partial(os.open, mode=0o600)) as file:
        file.write(_empty_store())


@cache
def _empty_store() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory, "mlenv.db")
        open_sqlite(path).close()
        return path.read_bytes()


@dataclass
class InProcess:
    """
    An application in this process.

    Attributes:
        client: Shows the administrator's token.
        token: That token.
        hosted: The store behind it.
        app: The application itself.
    """

    client: httpx.Client
    token: str
    hosted: Hosted
    app: Any

    def headers(self, token: str) -> dict[str, str]:
        """Headers that show another token."""
        return {"Authorization": f"Bearer {token}"}


@contextmanager
def in_process(home: Path, database: str | None = None, **settings: object) -> Iterator[InProcess]:
    """An application over a new store, with the first administrator and the workspace `default`."""
    defaults = {"home": home, "database": database, "access_log": False, "indexes": addresses()}
    known = Settings.model_validate(defaults | settings)
    if database is None:
        make_empty_store(home)
    with Hosted(home, known.database_url, known.policy) as hosted:
        token = Tokens(hosted.site).bootstrap()
        assert token is not None
        headers = {"Authorization": f"Bearer {token}"}
        app = application(known, hosted)
        with httpx.Client(transport=_Here(app), base_url="https://127.0.0.1", headers=headers) as client:
            yield InProcess(client, token, hosted, app)


class _Here(httpx.BaseTransport):
    """Hands requests to an application, which runs in a thread of its own."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 123))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(self._handle(request), self._loop).result(60)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        sent = httpx.Request(request.method, request.url, headers=request.headers, content=content)
        answer = await self._inner.handle_async_request(sent)
        body = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=body)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def wait_until(condition: object, what: str, timeout: float, server: Server | None = None) -> None:
    """Wait until a condition, a function, holds; fail with `what` if it does not in time, in seconds."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} within {timeout:.0f} s" + (f":\n{server.log[-4000:]}" if server else ""))
        time.sleep(0.02)
