"""A site with a package index and a base image, over SQLite or PostgreSQL; and workers of it, in processes of their own."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlenv.api.definition import load_definition
from mlenv.core.audit import Author
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.platform import Platform
from mlenv.core.progress import Silent
from mlenv.core.records import BuildRecord
from mlenv.core.scope import DEFAULT_WORKSPACE, ScopeKey
from mlenv.core.site_policy import SitePolicy
from mlenv.service.builds import Builds
from mlenv.service.tokens import Tokens
from mlenv.wiring.hosted import Hosted, InScope
from support import commands
from support.index import addresses
from support.server import make_empty_store
from support.world import BASE, World, make_world

AMD64 = Platform("linux", "amd64")
AUTHOR = Author("tester", "tester")


@dataclass
class Gate:
    """Stands before the downloads of an index: each waits until it is opened, or fails while it is broken."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    broken: bool = False

    def __call__(self, filename: str) -> None:
        self.reached.set()
        if self.broken:
            raise ConnectionAbortedError(filename)
        assert self.opened.wait(120), "nobody opened the gate"


@dataclass
class BuildSite:
    """
    A site whose workspace `default` has a base image.

    Attributes:
        world: The index, and definitions that use it.
        hosted: The store.
        url: The database; None for the SQLite file.
    """

    world: World
    hosted: Hosted
    url: str | None
    gate: Gate
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def services(self) -> InScope:
        """The workspace, opened for writing."""
        return services_of(self.hosted)

    @property
    def builds(self) -> Builds:
        return self.services.builds

    def version(self, name: str, *requirements: str, **fields: Any) -> EnvironmentVersion:
        """Register a version that takes its packages from the index."""
        definition = load_definition(self.world.define(name, *requirements, **fields))
        return self.services.environments.create(definition).version

    def gated(self) -> Gate:
        """Have downloads wait from now on."""
        self.world.index.before = self.gate
        return self.gate

    def worker(
        self, *flags: str, fault: str | None = None, workers: int = 2, variables: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a worker process. `fault` names the point at which it is killed, `variables` are more of them."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
        environment |= {"MLENV_HOME": str(self.hosted.home), "MLENV_INDEXES": ",".join(addresses())}
        environment |= variables or {}
        if self.url is not None:
            environment["MLENV_DATABASE"] = self.url
        if fault is not None:
            environment["MLENV_FAULT"] = fault
        with (self.world.directory / f"worker-{len(self.processes)}.log").open("wb") as log:
            process = commands.start(
                *("worker", "start", "--workers", str(workers), *flags),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def ended(self, build: BuildRecord, timeout: float = 60) -> BuildRecord:
        """The build once it has ended, with its log kept if it has one."""
        until(lambda: self.builds.get(build.id).status.ended, f"{build} has not ended", timeout, self)
        until(lambda: self.builds.log_state(build.id).whole, "its log was not closed", 20, self)
        return self.builds.get(build.id)

    def log(self, build: BuildRecord) -> str:
        return self.builds.log(build.id, limit=1 << 24).decode()

    def worker_logs(self) -> str:
        return "\n".join(path.read_text()[-4000:] for path in sorted(self.world.directory.glob("worker-*.log")))


def services_of(hosted: Hosted) -> InScope:
    """The workspace `default`, opened for writing."""
    scope = hosted.site.store.scope(ScopeKey(DEFAULT_WORKSPACE))
    assert scope is not None
    return hosted.services(scope, AUTHOR)


@contextmanager
def make_site(tmp_path: Path, url: str | None) -> Iterator[BuildSite]:
    """A site. Its worker processes are killed when the context ends."""
    with ExitStack() as stack:
        world = stack.enter_context(make_world(tmp_path))
        if url is None:
            make_empty_store(world.home)
        hosted = stack.enter_context(Hosted(world.home, address(url), SitePolicy(indexes=addresses())))
        Tokens(hosted.site).bootstrap()
        site = BuildSite(world, hosted, url, Gate())
        site.services.bases.import_(f"oci:{world.directory / 'base'}", BASE, progress=Silent())
        try:
            yield site
        finally:
            site.gate.opened.set()
            for each in site.processes:
                each.kill()
                each.wait()


def address(url: str | None) -> str | None:
    """A database's address as SQLAlchemy has it."""
    return url and url.replace("postgresql:", "postgresql+psycopg:", 1)


def children_of(pid: int) -> set[int]:
    """All living processes below one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    found: set[int] = set()
    while more := {each for each, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that live."""
    living = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            living.add(pid)
    return living


def kill(process: "subprocess.Popen[bytes]") -> None:
    """`kill -9`."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def until(condition: Callable[[], object], what: str, timeout: float, site: BuildSite | None = None) -> float:
    """Wait until a condition holds; fail with `what` if it does not in time. Gives the seconds that it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout:
            raise AssertionError(f"{what} after {timeout:.0f} s\n{site.worker_logs() if site else ''}")
        time.sleep(0.02)
    return time.monotonic() - started


def solvers_below(pid: int) -> set[int]:
    """The solvers of conda packages below a process."""
    found = set()
    for each in children_of(pid):
        try:
            command = Path(f"/proc/{each}/cmdline").read_bytes()
        except OSError:
            continue
        if b"mlenv.conda_child" in command:
            found.add(each)
    return found
