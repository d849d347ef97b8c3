"""
The queue of builds: how long a build waits for a worker that is idle, and what those who follow a log cost its build.

The server is a real one with its workers inside, over TLS. A build that is measured fails at once, for want of a base
image: it is begun all the same. What the log is measured with is a process that writes as fast as it can.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx

from benchmarks.serving import serving

HELP = "time from asking for a build to its start, and what followers of a log cost"
_RESULTS = Path(__file__).parent / "results"
_SPACE = "/api/v1/workspaces/default"
#: A line of the log, in characters.
_LINE = 80


@dataclass(frozen=True, slots=True)
class Figures:
    """Waits in milliseconds; how long a process takes to write its log, in seconds, alone and followed."""

    database: str
    p50: float
    p99: float
    longest: float
    alone: float
    followed: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--database", help="an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--builds", type=int, default=60, help="how many builds are asked for, one after the other")
    parser.add_argument("--followers", type=int, default=50, help="who follow one log")
    parser.add_argument("--lines", type=int, default=20_000, help="lines of that log")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print, and write the figures."""
    with tempfile.TemporaryDirectory(prefix="mlenv-benchmark-") as scratch:
        with _client(Path(scratch) / "home", arguments.database) as client:
            waits = sorted(_wait(client, number) for number in range(arguments.builds))
        log = Path(scratch) / "log"
        log.mkdir()
        alone = statistics.median(_write(log, f"alone{each}", arguments.lines) for each in range(3))
        followed = statistics.median(
            _write(log, f"followed{each}", arguments.lines, arguments.followers) for each in range(3)
        )
    name = "PostgreSQL" if arguments.database else "SQLite"
    at = min(len(waits) - 1, int(len(waits) * 0.99))
    figures = Figures(name, statistics.median(waits), waits[at], waits[-1], alone, followed)
    print(f"{name}, {len(waits)} builds, {os.cpu_count()} cores: from asking to start, in ms:")
    print(f"p50 {figures.p50:.0f}, p99 {figures.p99:.0f}, longest {figures.longest:.0f}")
    print(f"{arguments.lines} lines of a log: {alone:.2f} s; with {arguments.followers} followers {followed:.2f} s")
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"queued-{name.lower()}.json").write_text(json.dumps(asdict(figures), indent=2) + "\n")


@contextlib.contextmanager
def _client(home: Path, database: str | None) -> Iterator[httpx.Client]:
    """A client of a server over a new store, with its workers inside."""
    with serving(home, "--workers", "2", "--processes", "1", database=database) as server:
        trust = ssl.create_default_context(cafile=str(home / "keys" / "ca.pem"))
        headers = {"Authorization": f"Bearer {server.token}"}
        with httpx.Client(base_url=server.url, verify=trust, headers=headers, timeout=30, trust_env=False) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.05)
            yield client


def _wait(client: httpx.Client, number: int) -> float:
    """Milliseconds from a build's asking to its start, by the server's own clock, and the workers idle again."""
    body = {"name": f"bench-{number}", "spec": {"image": "example.org/none:1", "requirements": []}}
    made = client.post(f"{_SPACE}/environments", json=body)
    # At no particular moment between two looks into the queue.
    time.sleep(Random(number).uniform(0, 0.3))
    build = client.post(f"{made.raise_for_status().headers['Location']}/builds", json={}).raise_for_status().json()
    while build["ended_at"] is None:
        time.sleep(0.05)
        build = client.get(f"{_SPACE}/builds/{build['id']}").raise_for_status().json()
    begun, queued = (datetime.fromisoformat(build[key]) for key in ("started_at", "queued_at"))
    return (begun - queued).total_seconds() * 1000


def _write(directory: Path, id: str, lines: int, followers: int = 0) -> float:
    """Seconds that a process takes to write a log, as a build does, while others follow it from another process."""
    from mlenv.store.oci import OciLayout
    from mlenv.work.logs import Logs
    from mlenv.work.process import Process

    logs = Logs(directory, OciLayout(directory / "oci"))
    writer = logs.writer(id)
    context = multiprocessing.get_context("spawn")
    ready, finished = context.Event(), context.Event()
    reader = context.Process(target=_follow, args=(directory, id, followers, ready, finished)) if followers else None
    if reader is not None:
        reader.start()
        ready.wait(60)
    started = time.monotonic()
    text = "x" * (_LINE - 1)
    program = f"import sys\nfor _ in range({lines}): print({text!r}, flush=True)"
    Process([sys.executable, "-c", program], environment=os.environ, output=writer.output).wait()
    taken = time.monotonic() - started
    writer.close()
    finished.set()
    if reader is not None:
        reader.join()
    return taken


def _follow(directory: Path, id: str, count: int, ready: Any, finished: Any) -> None:
    """What a server process does for so many followers, but for the network."""
    from mlenv.core.records import BuildStatus
    from mlenv.server.following import Followers
    from mlenv.service.builds import LogState
    from mlenv.store.oci import OciLayout
    from mlenv.work.logs import Logs

    logs = Logs(directory, OciLayout(directory / "oci"))

    def state() -> LogState:
        whole = finished.is_set()
        return LogState(logs.size(id), BuildStatus.RUNNING, whole)

    async def one(followers: Followers) -> int:
        events = followers.follow(
            id, state, lambda start, limit: logs.read(id, start=start, limit=limit), start=0, stopping=lambda: False
        )
        return sum([len(each) async for each in events])

    async def all_of_them() -> None:
        followers = Followers()
        tasks = [asyncio.create_task(one(followers)) for _ in range(count)]
        ready.set()
        assert len(set(await asyncio.gather(*tasks))) >= 1

    asyncio.run(all_of_them())
