"""
Compare the layers made of 40 conda packages of 5 MB with rattler's own installation of them to a prefix, in one run.

`cold` begins with the packages and nothing else; `changed` follows with another version of one of them, `nothing` with
the same ones again. Rattler fetches packages from a server on loopback, as it does, and in a second row reads them from
files, as layers are made from a store. A layer is hashed twice, compressed and on disk for good (fsync) when it is done;
an installation is neither.

Three kinds of content: machine code, pieces of the largest library at hand, text of random words, and random bytes.
"""

import argparse
import functools
import hashlib
import http.server
import importlib.util
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from benchmarks.measure import median
from mlenv.build.conda_layers import build_conda_layers
from mlenv.core.conda_layer import CondaRecipe, plan_conda_layers
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaScheme
from mlenv.core.digest import Digest
from mlenv.core.layer import Layer
from mlenv.core.lock import Artifact
from mlenv.store.oci import OciLayout

HELP = "layers of conda packages: this builder, rattler's installation"
_RESULTS = Path(__file__).parent / "results"
_COUNT = 40
_FILES = 50
_SIZE = 100_000
_KINDS = ("code", "text", "random")
_STEPS = ("cold", "changed", "nothing")
_CHANNEL = "https://conda.example.org/main"


class LayerMemory(dict[Digest, Layer]):
    """A cache of layers."""

    def put(self, key: Digest, layer: Layer) -> None:
        """Remember a layer."""
        self.setdefault(key, layer)

    def remove(self, key: Digest) -> None:
        """Forget a layer."""
        self.pop(key, None)


@dataclass(frozen=True)
class Channel:
    """Packages as files, in two versions of the first."""

    directory: Path
    first: tuple[CondaPackage, ...]
    changed: tuple[CondaPackage, ...]

    def chosen(self, step: str) -> tuple[CondaPackage, ...]:
        """What is wanted in a step, in the order of the steps."""
        return self.first if step == "cold" else self.changed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--repeat", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--kind", action="append", choices=_KINDS, help="of content (default: each)")
    parser.add_argument("--name", default="conda", help="of the result file (default conda)")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table, write the figures."""
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for kind in arguments.kind or _KINDS:
        with tempfile.TemporaryDirectory(prefix="mlenv-benchmark-", dir="/var/tmp") as scratch:
            results[kind] = _measure(kind, Path(scratch), arguments.repeat)
    print(f"| content | | {' s | '.join(_STEPS)} s |\n|---|---|---|---|---|")
    for kind, rows in results.items():
        for name, steps in rows.items():
            print(f"| {kind} | {name} | " + " | ".join(f"{median(steps[step]):.2f}" for step in _STEPS) + " |")
        ours = median(rows["mlenv"]["cold"])
        ratios = (f"{ours / median(rows[name]['cold']):.2f} times {name}" for name in rows if name != "mlenv")
        print(f"{kind}, cold: mlenv takes {', '.join(ratios)}")
    _RESULTS.mkdir(exist_ok=True)
    document = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "results": results}
    (_RESULTS / f"{arguments.name}.json").write_text(json.dumps(document, indent=2) + "\n")


def _measure(kind: str, scratch: Path, repeat: int) -> dict[str, dict[str, list[float]]]:
    channel = _make_channel(kind, scratch / "channel")
    rows: dict[str, dict[str, list[float]]] = {}
    with _served(channel.directory) as address:
        contenders: dict[str, Callable[[Path], Iterator[float]]] = {
            "mlenv": functools.partial(_ours, channel),
            "rattler, from a server": functools.partial(_rattler, channel, f"{address}/linux-64"),
            "rattler, from files": functools.partial(_rattler, channel, (channel.directory / "linux-64").as_uri()),
        }
        for number in range(repeat):
            for name, contender in contenders.items():
                print(f"run {number + 1}: {kind}, {name}", flush=True)
                work = scratch / "work"
                work.mkdir()
                for step, seconds in zip(_STEPS, contender(work), strict=True):
                    rows.setdefault(name, {}).setdefault(step, []).append(seconds)
                shutil.rmtree(work)
    return rows


def _ours(channel: Channel, work: Path) -> Iterator[float]:
    blobs, cache = OciLayout(work / "store"), LayerMemory()
    for each in {*channel.first, *channel.changed}:
        data = (channel.directory / "linux-64" / each.artifact.filename).read_bytes()
        blobs.put([data], digest=each.artifact.digest, size=len(data), what=each.name)
    recipe = CondaRecipe(CondaScheme("/opt/env"))
    for step in _STEPS:
        os.sync()
        started = time.perf_counter()
        build_conda_layers(plan_conda_layers(channel.chosen(step)), recipe, blobs=blobs, cache=cache)
        yield time.perf_counter() - started
    blobs.close()


def _rattler(channel: Channel, address: str, work: Path) -> Iterator[float]:
    for step in _STEPS:
        packages = [
            {
                "name": each.name,
                "version": each.version,
                "url": f"{address}/{each.artifact.filename}",
                "sha256": each.artifact.digest.hex,
            }
            for each in channel.chosen(step)
        ]
        request = {"packages": packages, "prefix": str(work / "prefix"), "cache": str(work / "cache")}
        os.sync()
        command = [sys.executable, "-m", "benchmarks.conda_install", json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        yield float(done.stdout)


def _make_channel(kind: str, directory: Path) -> Channel:
    (directory / "linux-64").mkdir(parents=True)
    content = _content(kind)
    packages = [_make(directory, f"package{number}", "1.0", content) for number in range(_COUNT)]
    return Channel(directory, tuple(packages), (_make(directory, "package0", "1.1", content), *packages[1:]))


def _content(kind: str) -> Callable[[int], bytes]:
    """What gives so many bytes, other ones each time."""
    draw = random.Random(1)
    if kind == "random":
        return draw.randbytes
    if kind == "text":
        words = [bytes(draw.choices(range(97, 123), k=draw.randrange(3, 9))) for _ in range(4000)]
        return lambda size: b" ".join(draw.choices(words, k=size // 4))[:size]
    spec = importlib.util.find_spec("rattler.rattler")
    assert spec is not None
    assert spec.origin is not None
    code = Path(spec.origin).read_bytes()

    def slice_of(size: int) -> bytes:
        start = draw.randrange(len(code) - size)
        return code[start : start + size]

    return slice_of


def _make(directory: Path, name: str, version: str, content: Callable[[int], bytes]) -> CondaPackage:
    """A package of files that name no prefix."""
    stem = f"{name}-{version}-0"
    files = [(f"lib/{name}/file{number}", content(_SIZE)) for number in range(_FILES)]
    paths = [
        {
            "_path": path,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_in_bytes": len(data),
        }
        for path, data in files
    ]
    index = {"name": name, "version": version, "build": "0", "build_number": 0, "subdir": "linux-64", "depends": []}
    info = [
        ("info/index.json", json.dumps(index).encode()),
        ("info/paths.json", json.dumps({"paths": paths, "paths_version": 1}).encode()),
    ]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        for part, members in (("pkg", files), ("info", info)):
            archive.writestr(f"{part}-{stem}.tar.zst", zstandard.ZstdCompressor(level=9).compress(_tar(members)))
    data = out.getvalue()
    (directory / "linux-64" / f"{stem}.conda").write_bytes(data)
    artifact = Artifact(f"{stem}.conda", len(data), Digest.of(data), f"{_CHANNEL}/linux-64/{stem}.conda")
    return CondaPackage(name, version, "0", 0, "linux-64", _CHANNEL, artifact)


def _tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in members:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said of requests."""


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    """A directory on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(directory)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
