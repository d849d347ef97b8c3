"""
A server under 16 clients: how long `get`, one page of `list`, and `create` take, and whether that grows with the store.

The rows are loaded straight into the database. Each client is a process of its own with one kept-alive connection, and
asks again as soon as it has an answer. Server and clients share this machine's cores. Each operation is asked of
`benchmarks.server_peer`, too, right after, over the same rows.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from multiprocessing.queues import Queue
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

from sqlalchemy import create_engine, insert, text

from benchmarks.measure import descendants, processor_seconds
from benchmarks.server_peer import DATABASE
from benchmarks.serving import serving
from mlenv.core.digest import Digest
from mlenv.core.spec import Requirement, Spec, canonical_json
from mlenv.server.settings import usual_processes
from mlenv.server.tls import ensure
from mlenv.store import tables
from mlenv.store.postgresql import parse_url
from mlenv.wiring.hosted import Hosted

HELP = "latency of get, list and create over HTTP with 16 clients"
_RESULTS = Path(__file__).parent / "results"
_TIME = "2026-01-01T00:00:00.000000Z"
_BASE = "/api/v1/workspaces/default/environments"
#: Requirements of a spec.
_LINES = 20
#: Gaps in the body of a creation.
_NAME, _NUMBER = "THE-NAME", "THE-NUMBER"
#: Those of this database, and those that write its log for all. Others may be at work for another database.
_BACKENDS: Final = (
    "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND (datname = current_database() OR backend_type IN ('walwriter', 'checkpointer', 'background writer'))"
)
#: Seconds at the start of each measurement that do not count.
_WARM_UP = 2.0


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One operation, per request in milliseconds.

    Attributes:
        contender: Whose answers they were: mlenv's, or the peer's.
        p50, p99: Latency.
        rate: How many were answered in a second.
        server, database, clients: Processor time. Unlike latency, what else the machine does hardly changes it.
    """

    operation: str
    versions: int
    contender: str
    p50: float
    p99: float
    rate: float
    server: float
    database: float
    clients: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--database", help="an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--environments", type=int, default=10_000, help="environments, with 10 versions each")
    parser.add_argument("--small", type=int, default=1_000, help="versions of the small store that is compared")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each operation is measured in a round")
    parser.add_argument("--rounds", type=int, default=3, help="how often; the table has the medians")
    parser.add_argument("--processes", type=int, default=0, help="processes of the server; 0: as many as it chooses")
    parser.add_argument("--tls", action="store_true", help="over TLS, as a server is by default")


def run(arguments: argparse.Namespace) -> None:
    """Fill two stores of different sizes, measure each operation on both, print the table, write the figures."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="mlenv-benchmark-") as scratch:
        small, large = arguments.small // 10, arguments.environments
        with (
            _serving(Path(scratch) / "home", arguments) as server,
            _serving_peer(server, Path(scratch) / "peer.log", arguments) as peer,
        ):
            _fill(server.url_of_database, 0, small)
            figures += _measure([server, peer], arguments, small)
            _fill(server.url_of_database, small, large)
            figures += _measure([server, peer], arguments, large)
    kind = "PostgreSQL" if arguments.database else "SQLite"
    print(f"{kind}, {arguments.clients} clients, {os.cpu_count()} cores\n")
    columns = (
        "",
        "versions",
        "",
        "p50 ms",
        "p99 ms",
        "a second",
        "server ms",
        "database ms",
        "clients ms",
        "p50, times",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for ours, peers in zip(figures[::2], figures[1::2], strict=True):
        for each in (ours, peers):
            latency = f"{each.p50:.1f} | {each.p99:.1f} | {each.rate:.0f}"
            processor = f"{each.server:.2f} | {each.database:.2f} | {each.clients:.2f} | {each.p50 / ours.p50:.2f}"
            print(f"| {each.operation} | {each.versions} | {each.contender} | {latency} | {processor} |")
    _RESULTS.mkdir(exist_ok=True)
    target = _RESULTS / f"server-{kind.lower()}.json"
    target.write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n")


# The store.


def _fill(url: str, first: int, last: int) -> None:
    """Environments `bench-FIRST` up to `bench-LAST`, without the last, with ten versions each."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for start in range(first, last, 500):
            environments: list[dict[str, Any]] = []
            versions: list[dict[str, Any]] = []
            specs: list[dict[str, Any]] = []
            for number in range(start, min(start + 500, last)):
                environments.append(_environment(number))
                for version in range(1, 11):
                    row, spec = _version(number, version)
                    versions.append(row)
                    specs.append(spec)
            connection.execute(insert(tables.environments), environments)
            connection.execute(insert(tables.specs), specs)
            connection.execute(insert(tables.versions), versions)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def _spec(number: int, version: int) -> Spec:
    """A spec of an ordinary size: twenty requirements."""
    lines = tuple(Requirement(f"package-{each}=={number}.{version}.{each}") for each in range(_LINES))
    return Spec(image="debian:bookworm", requirements=lines, environment_variables=(("LANG", "C.UTF-8"),))


def _environment(number: int) -> dict[str, Any]:
    times = {"created_at": _TIME, "modified_at": _TIME}
    counters = {"archived": 0, "latest_version": "10", "next_version": "11", "last_sequence": 10}
    return {"workspace": "default", "name": f"bench-{number:06}", **counters, **times}


def _version(number: int, version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = _spec(number, version)
    document = canonical_json(spec.to_dict())
    digest = str(Digest.of(document.encode()))
    row = {
        "workspace": "default",
        "name": f"bench-{number:06}",
        "version": str(version),
        "sequence": version,
        "spec_digest": str(spec.digest),
        "document_digest": digest,
        "description": None,
        "tags": '{"team":"bench"}',
        "archived": 0,
        "created_at": _TIME,
        "modified_at": _TIME,
        "details": None,
    }
    return row, {"workspace": "default", "document_digest": digest, "document": document}


# The server.


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    host: str
    port: int
    token: str
    url_of_database: str
    authority: Path | None
    process: int


@contextlib.contextmanager
def _serving(home: Path, arguments: argparse.Namespace) -> Iterator[_Server]:
    """A server over a new store, in processes of its own."""
    url = f"sqlite:///{home / 'mlenv.db'}"
    if arguments.database:
        url = parse_url(arguments.database).render_as_string(hide_password=False)
    with Hosted(home, arguments.database) as hosted:
        _ = hosted.database
    flags = ["--workers", "0", "--processes", str(arguments.processes)]
    flags += [] if arguments.tls else ["--insecure-http"]
    with serving(home, *flags, database=arguments.database) as served:
        host, _, port = served.url.rpartition("//")[2].rpartition(":")
        authority = home / "keys" / "ca.pem" if arguments.tls else None
        server = _Server("mlenv", host, int(port), served.token, url, authority, served.process)
        # It says where it serves before its processes are ready.
        with _connect(server) as connection:
            connection.sendall(_get(server, ""))
            _answer(connection)
        yield server


@contextlib.contextmanager
def _serving_peer(server: _Server, log: Path, arguments: argparse.Namespace) -> Iterator[_Server]:
    """The peer over the same database, with as many processes, and the same certificate."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.server_peer", "--port", str(port)]
    command += ["--processes", str(arguments.processes or usual_processes())]
    if server.authority is not None:
        made = ensure(server.authority.parent, ["127.0.0.1"], now=datetime.now(UTC))
        command += ["--certificate", str(made.certificate), "--key", str(made.key)]
    with log.open("wb") as err:
        process = subprocess.Popen(command, env={**os.environ, DATABASE: server.url_of_database}, stderr=err)
        try:
            peer = replace(server, name="plain FastAPI", host="127.0.0.1", port=port, process=process.pid)
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(ConnectionRefusedError), _connect(peer) as connection:
                    connection.sendall(_get(peer, ""))
                    _answer(connection)
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the peer did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.05)
            yield peer
        finally:
            process.terminate()
            process.wait(60)


# The clients.


def _measure(servers: Sequence[_Server], arguments: argparse.Namespace, environments: int) -> list[Figure]:
    """Each operation of one server right after the other, several times, since a machine's speed moves."""
    operations: dict[str, Callable[[_Server, Random], bytes]] = {
        "get": lambda server, random: _get(
            server, f"/bench-{random.randrange(environments):06}/versions/{random.randint(1, 10)}"
        ),
        "list environments, one page (50)": lambda server, _: _get(server, ""),
        "list versions, one page (10)": lambda server, random: _get(
            server, f"/bench-{random.randrange(environments):06}/versions"
        ),
        "create": lambda server, random: _post(server, f"new-{random.getrandbits(40)}"),
        "create a further version": lambda server, random: _post(server, f"bench-{random.randrange(environments):06}"),
    }
    found: list[Figure] = []
    for name, make in operations.items():
        # One after the other: what is created later makes pages longer.
        rounds = [
            [_operation(name, functools.partial(make, each), each, arguments, environments * 10) for each in servers]
            for _ in range(arguments.rounds)
        ]
        found += [_medians(figures) for figures in zip(*rounds, strict=True)]
    return found


def _medians(figures: Sequence[Figure]) -> Figure:
    """Of several figures of one operation, each number by itself."""
    numbers = ("p50", "p99", "rate", "server", "database", "clients")
    return replace(figures[0], **{name: median(getattr(each, name) for each in figures) for name in numbers})


def _get(server: _Server, path: str) -> bytes:
    head = f"GET {_BASE}{path} HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    return head.encode()


def _post(server: _Server, name: str) -> bytes:
    # Written once and filled in: a client that writes each anew would take a tenth of the two cores for itself.
    number = f"{time.monotonic_ns()}.{os.getpid()}"
    body = _body().replace(_NAME, name).replace(_NUMBER, number).encode()
    head = (
        f"POST {_BASE} HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: Bearer {server.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@functools.cache
def _body() -> str:
    """The body of a creation, with gaps for its name and for what makes it another than all others."""
    lines = [{"text": f"package-{each}=={_NUMBER}.{each}"} for each in range(_LINES)]
    spec = _spec(0, 0).to_dict() | {"requirements": lines}
    return json.dumps({"name": _NAME, "spec": spec})


def _operation(
    name: str, make: Callable[[Random], bytes], server: _Server, arguments: argparse.Namespace, versions: int
) -> Figure:
    context = multiprocessing.get_context("fork")
    results: Queue[tuple[list[float], float, str]] = context.Queue()
    end = time.monotonic() + _WARM_UP + arguments.seconds
    clients = [
        context.Process(target=_client, args=(server, make, number, end, arguments.seconds, results))
        for number in range(arguments.clients)
    ]
    for each in clients:
        each.start()
    time.sleep(max(0.0, end - arguments.seconds - time.monotonic()))
    before = _processor(server)
    time.sleep(max(0.0, end - time.monotonic()))
    after = _processor(server)
    found: list[float] = []
    own = 0.0
    for _ in clients:
        latencies, took, fault = results.get(timeout=arguments.seconds + 60)
        if fault:
            raise RuntimeError(f"{name}: {fault}")
        found += latencies
        own += took
    for each in clients:
        each.join()
    seconds = sorted(found)
    p50, p99 = _percentile(seconds, 0.5), _percentile(seconds, 0.99)
    each_of = 1000 / max(1, len(seconds))
    in_server, in_database = ((late - early) * each_of for early, late in zip(before, after, strict=True))
    rate = len(seconds) / arguments.seconds
    return Figure(name, versions, server.name, p50 * 1000, p99 * 1000, rate, in_server, in_database, own * each_of)


def _processor(server: _Server) -> tuple[float, float]:
    """What the server's processes have taken, and those that a PostgreSQL on this machine has for it, in seconds."""
    database: list[int] = []
    if server.url_of_database.startswith("postgresql"):
        engine = create_engine(server.url_of_database)
        with engine.connect() as connection:
            database = list(connection.execute(text(_BACKENDS)).scalars())
        engine.dispose()
    return processor_seconds(descendants(server.process)), processor_seconds(database)


def _percentile(values: Sequence[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def _client(
    server: _Server,
    make: Callable[[Random], bytes],
    number: int,
    end: float,
    measured: float,
    results: "Queue[tuple[list[float], float, str]]",
) -> None:
    """Tell the latencies of one client and its processor time, or what went wrong."""
    try:
        results.put((*_latencies(server, make, number, end, measured), ""))
    except (RuntimeError, OSError, ValueError) as error:
        results.put(([], 0.0, f"{type(error).__name__}: {error}"))


def _latencies(
    server: _Server, make: Callable[[Random], bytes], number: int, end: float, measured: float
) -> tuple[list[float], float]:
    """
    One client with one connection: what each request took, from its first byte to the answer's last, in seconds; and what
    processor time all took together.
    """
    random, latencies = Random(number), []
    begun = time.process_time()
    with _connect(server) as connection:
        while (started := time.monotonic()) < end:
            request = make(random)
            started = time.monotonic()
            connection.sendall(request)
            status = _answer(connection)
            if status not in {200, 201}:
                raise RuntimeError(f"answered with {status}: {request[:200]!r}")
            if started > end - measured:
                latencies.append(time.monotonic() - started)
            else:
                begun = time.process_time()
    return latencies, time.process_time() - begun


def _connect(server: _Server) -> socket.socket:
    connection = socket.create_connection((server.host, server.port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if server.authority is None:
        return connection
    import ssl

    return ssl.create_default_context(cafile=server.authority).wrap_socket(connection, server_hostname=server.host)


def _answer(connection: socket.socket) -> int:
    """Read one answer. A client that does as little as this measures the server, and not itself."""
    data = b""
    while (at := data.find(b"\r\n\r\n")) < 0:
        data += _more(connection)
    head = data[:at].lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    rest = at + 4 + length - len(data)
    while rest > 0:
        rest -= len(_more(connection))
    return int(head[9:12])


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise RuntimeError("the server closed the connection")
    return data
