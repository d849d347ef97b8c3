"""
Pull and push of blobs from this server's `/v2/`, beside Debian's `docker-registry` on the same machine in the same run.

Each round begins with empty stores, and takes both servers row by row. One client moves all blobs of a kind; of 32
clients, each moves all of the small ones, or one large one (of a quarter of the size when pushing). mlenv finds out for
every request who asks and what they may; docker-registry lets everybody in. Both wait for the disk before they acknowledge a
blob.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.engines import clear, registry
from benchmarks.measure import Sampler, median
from benchmarks.registry_change import Sent, one_package_changed
from benchmarks.registry_client import Client, Target, make_blobs, together
from benchmarks.serving import serving
from mlenv.server.tls import ensure

HELP = "pull and push of blobs: this server and docker-registry"
#: For the clients alone: servers decide by themselves.
_CONFIGURATION: Final = "OPENSSL_CONF"
_CLIENTS: Final = Path(__file__).with_name("clients.cnf")
_RESULTS = Path(__file__).parent / "results"
_REPOSITORY = "default/bench"
_SMALL = 4096


@dataclass
class Contender:
    """
    What was measured of one server.

    Attributes:
        figures: By row, one per round: blobs a second, or bytes a second.
        memory: By row, one per round: proportional bytes of its processes together, at their peak.
        cipher: What it agreed on with a client; empty without TLS.
    """

    name: str
    figures: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)
    cipher: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32, help="how many there are where there is not one")
    parser.add_argument("--small", type=int, default=100, help=f"blobs of {_SMALL} bytes")
    parser.add_argument("--large", type=int, default=4, help="large blobs")
    parser.add_argument("--size", type=int, default=200, help="MB of a large one")
    parser.add_argument(
        "--processes", type=int, default=0, help="processes of mlenv's server; 0: as many as it chooses"
    )
    parser.add_argument("--scheme", choices=("http", "https", "both"), default="both")
    parser.add_argument(
        "--ciphers",
        choices=("go", "openssl"),
        default="go",
        help="whose order clients offer them in; go: as podman does",
    )
    parser.add_argument("--only", choices=("mlenv", "docker-registry"), help="for profiling")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table for HTTP and one for TLS, write the figures."""
    if arguments.ciphers == "go" and os.environ.get(_CONFIGURATION) != str(_CLIENTS):
        # OpenSSL reads it once, when it is loaded.
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(command[0], command, {**os.environ, _CONFIGURATION: str(_CLIENTS)})
    os.environ.pop(_CONFIGURATION, None)
    document: dict[str, Any] = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "load": os.getloadavg()[0]}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    schemes = ("http", "https") if arguments.scheme == "both" else (arguments.scheme,)
    for scheme in schemes:
        names = ("mlenv", "docker-registry")
        contenders = [Contender(name) for name in names if arguments.only in {None, name}]
        for number in range(arguments.rounds):
            _round(contenders if number % 2 == 0 else contenders[::-1], arguments, tls=scheme == "https")
        document[scheme] = [asdict(each) for each in contenders]
        print(f"\n{scheme}\n")
        if scheme == "https":
            print(", ".join(f"{each.name}: {each.cipher}" for each in contenders), end="\n\n")
        _table(contenders)
    if arguments.only is None:
        document["one package changed"] = [asdict(each) for each in _change()]
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / "registry.json").write_text(json.dumps(document, indent=2) + "\n")


def _change() -> list[Sent]:
    with tempfile.TemporaryDirectory(prefix="mlenv-benchmark-", dir="/var/tmp") as scratch:
        found = one_package_changed(Path(scratch))
    print("\n| version | new blobs of the image | MB | of evidence | MB |\n|---|---|---|---|---|")
    for each in found:
        cells = [f"{len(sizes)} | {sum(sizes) / 1e6:.3f}" for sizes in (each.image, each.evidence)]
        print(f"| {each.version} | {' | '.join(cells)} |")
    return found


def _round(contenders: Sequence[Contender], arguments: argparse.Namespace, *, tls: bool) -> None:
    """Every row once, on new stores: of both servers right after each other, since a machine's speed moves."""
    scratch = Path(tempfile.mkdtemp(prefix="mlenv-benchmark-", dir="/var/tmp"))
    try:
        with ExitStack() as stack:
            payload = scratch / "payload"
            payload.write_bytes(os.urandom(1_000_000) * arguments.size)
            targets = [
                (each, stack.enter_context(_SERVERS[each.name](scratch / each.name, arguments, tls)))
                for each in contenders
            ]
            for contender, target in targets:
                contender.cipher = Client(target).cipher
            for row in _rows(arguments, payload):
                for contender, target in targets:
                    _measure(row, contender, target)
    finally:
        clear(scratch)


@dataclass(frozen=True, slots=True)
class Row:
    """
    Something that is measured.

    Attributes:
        amount: Blobs, or bytes, that all clients together move.
        work: What one client does; it gets its number.
    """

    name: str
    clients: int
    amount: int
    work: Callable[[Client, int], None]


def _rows(arguments: argparse.Namespace, payload: Path) -> list[Row]:
    many, size = arguments.clients, arguments.size * 1_000_000
    small, large = make_blobs(payload, _SMALL, arguments.small), make_blobs(payload, size, arguments.large)
    own_small = [make_blobs(payload, _SMALL, len(small)) for _ in range(many)]
    own_large = make_blobs(payload, size // 4, many)
    few, heavy = f"{len(small)} of 4 KiB", f"{len(large)} of {arguments.size} MB"
    return [
        Row(f"push {few}, 1 client", 1, len(small), lambda client, _: client.push(_REPOSITORY, small)),
        Row(f"push {heavy}, 1 client", 1, len(large) * size, lambda client, _: client.push(_REPOSITORY, large)),
        Row(f"pull {few}, 1 client", 1, len(small), lambda client, _: client.pull(_REPOSITORY, small)),
        Row(f"pull {heavy}, 1 client", 1, len(large) * size, lambda client, _: client.pull(_REPOSITORY, large)),
        Row(
            f"push {few} each, {many} clients",
            many,
            many * len(small),
            lambda client, number: client.push(_REPOSITORY, own_small[number]),
        ),
        Row(
            f"push {arguments.size // 4} MB each, {many} clients",
            many,
            many * (size // 4),
            lambda client, number: client.push(_REPOSITORY, [own_large[number]]),
        ),
        Row(
            f"pull {few} each, {many} clients",
            many,
            many * len(small),
            lambda client, _: client.pull(_REPOSITORY, small),
        ),
        Row(
            f"pull {arguments.size} MB each, {many} clients",
            many,
            many * size,
            lambda client, number: client.pull(_REPOSITORY, [large[number % len(large)]]),
        ),
    ]


def _measure(row: Row, contender: Contender, target: Target) -> None:
    os.sync()
    sampler = Sampler(target.pid)
    seconds = together(target, row.clients, row.work)
    contender.memory.setdefault(row.name, []).append(sampler.stop())
    contender.figures.setdefault(row.name, []).append(row.amount / seconds)


def _table(contenders: list[Contender]) -> None:
    print("| | " + " | ".join(f"{each.name} | memory MB" for each in contenders) + " | ratio |")
    print("|---" * (2 * len(contenders) + 2) + "|")
    for row in contenders[0].figures:
        unit, name = (1e6, "MB/s") if " MB" in row else (1, "blobs/s")
        values = [median(each.figures[row]) / unit for each in contenders]
        memory = [median(each.memory[row]) / 1e6 for each in contenders]
        cells = [f"{value:,.0f} {name} | {held:.0f}" for value, held in zip(values, memory, strict=True)]
        print(f"| {row} | {' | '.join(cells)} | {values[0] / values[-1]:.2f} |")


@contextmanager
def _mlenv(scratch: Path, arguments: argparse.Namespace, tls: bool) -> Iterator[Target]:
    scratch.mkdir()
    home = scratch / "home"
    flags = ["--workers", "0", "--processes", str(arguments.processes), *([] if tls else ["--insecure-http"])]
    with serving(home, *flags) as served:
        host, _, port = served.url.rpartition("//")[2].rpartition(":")
        yield Target("mlenv", host, int(port), served.token, home / "keys/ca.pem" if tls else None, served.process)


@contextmanager
def _docker_registry(scratch: Path, arguments: argparse.Namespace, tls: bool) -> Iterator[Target]:
    keys = None
    if tls:
        (scratch / "keys").mkdir(parents=True)
        keys = ensure(scratch / "keys", ["127.0.0.1"], now=datetime.now(UTC))
    with registry(scratch / "registry", keys) as made:
        host, _, port = made.address.partition(":")
        yield Target("docker-registry", host, int(port), "", keys.authority if keys else None, made.pid)


_SERVERS: Final = {"mlenv": _mlenv, "docker-registry": _docker_registry}
