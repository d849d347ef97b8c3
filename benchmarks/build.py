"""
Compare mlenv's image builds with buildah and pip, and with buildah and uv, in one run, on one environment.

Every contender gets the same base image, the same pins and the same local index, and starts from an empty storage.
`cold` is the first build; `nothing` the same build again; `changed` a build after one small package's version changed.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import platformdirs

from benchmarks.engines import Engine, Registry, Setting, clear, index, registry
from benchmarks.measure import Measurement, measure
from benchmarks.ours import Ours
from benchmarks.packages import pins
from benchmarks.peers import Buildah
from benchmarks.table import print_table

HELP = "build images: this builder, buildah + pip, buildah + uv"
_RESULTS = Path(__file__).parent / "results"
_TOOLS = Path(__file__).parents[1] / "tools"
_IMPORT = ("/opt/env/bin/python", "-c", "import numpy, pandas, sklearn")


class Contender(Protocol):
    """One way to build."""

    bytecode: bool

    @property
    def name(self) -> str: ...
    def fresh(self) -> None: ...
    def build(self, which: str) -> Measurement: ...
    def push(self, which: str, registry: Registry) -> Measurement: ...
    def close(self) -> None: ...


@dataclass
class Result:
    """
    What one contender took, a list of figures per run. Times in seconds, sizes in bytes.

    Attributes:
        digests: Of the first image, one per run: equal if builds agree to the bit.
    """

    name: str
    bytecode: bool
    figures: dict[str, list[float]] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)

    def add(self, figure: str, value: float) -> None:
        """Keep one more figure."""
        self.figures.setdefault(figure, []).append(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--repeat", type=int, default=3, help="runs of each contender (default 3)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="contenders whose name contains this")
    parser.add_argument("--bytecode", choices=("with", "without", "both"), default="both")
    parser.add_argument("--base", type=Path, metavar="FILE", help="an OCI archive (default: made with mmdebstrap)")
    parser.add_argument("--no-run", action="store_true", help="neither pull nor start the images")
    parser.add_argument("--name", default="build", help="of the result file (default build)")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table, write the figures."""
    cache = Path(platformdirs.user_cache_dir("mlenv-benchmarks"))
    chosen = pins(cache)
    base = (arguments.base or _base(cache)).resolve()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlenv-benchmark-", dir="/var/tmp")))
        stack.callback(clear, scratch)
        engine = Engine.find(scratch / "engine", base)
        url = stack.enter_context(index(chosen.wheels))
        setting = Setting(chosen, base, url, engine, scratch / "work")
        wanted = {"with": (True,), "without": (False,), "both": (False, True)}[arguments.bytecode]
        contenders = [each for bytecode in wanted for each in _contenders(setting, bytecode)]
        if arguments.only:
            contenders = [each for each in contenders if any(text in each.name for text in arguments.only)]
        results = [Result(each.name, each.bytecode) for each in contenders]
        for number in range(arguments.repeat):
            for contender, result in zip(contenders, results, strict=True):
                print(f"run {number + 1}: {result.name}, bytecode: {result.bytecode}", flush=True)
                _once(contender, result, engine, scratch, runs=not arguments.no_run)
                _write(arguments.name, results)
    print_table(results)


def _contenders(setting: Setting, bytecode: bool) -> list[Contender]:
    return [
        Ours("zstd", bytecode, setting),
        Ours("gzip", bytecode, setting),
        Buildah("pip", bytecode, cached=False, setting=setting),
        Buildah("uv", bytecode, cached=False, setting=setting),
        Buildah("uv", bytecode, cached=True, setting=setting),
    ]


def _once(contender: Contender, result: Result, engine: Engine, scratch: Path, *, runs: bool) -> None:
    """One run of one contender, from nothing."""
    with registry(scratch / "registry") as target:
        contender.fresh()
        contender.push("base", target)
        there = dict(target.blobs("bench", "base"))
        for step, which in (("cold", "first"), ("nothing", "first"), ("changed", "changed")):
            cost = contender.build(which)
            result.add(f"{step}_seconds", cost.seconds)
            result.add(f"{step}_written", cost.written)
            result.add(f"{step}_largest_process", cost.largest)
            result.add(f"{step}_all_processes", cost.together)
            if step != "nothing":
                result.add(f"{step}_push_seconds", contender.push(which, target).seconds)
                blobs = target.blobs("bench", which)
                result.add(f"{step}_sent", sum(size for digest, size in blobs.items() if digest not in there))
                there.update(blobs)
        result.digests.append(target.manifest("bench", "first")[0])
        contender.close()
        if runs:
            _pull_and_start(result, engine, scratch, target)


def _pull_and_start(result: Result, engine: Engine, scratch: Path, source: Registry) -> None:
    """Pull both images into an empty storage, then import in a fresh container, three times."""
    environment = engine.storage(scratch / "pulled")
    for step, which in (("cold", "first"), ("changed", "changed")):
        image = f"docker://{source.address}/bench:{which}"
        cost = measure(["podman", "pull", "--quiet", "--tls-verify=false", image], environment)
        result.add(f"{step}_pull_seconds", cost.seconds)
    command = ["podman", "run", "--rm", "--network=none", f"{source.address}/bench:first"]
    for _ in range(3):
        result.add("import_seconds", measure([*command, *_IMPORT], environment).seconds)
    clear(scratch / "pulled")


def _base(cache: Path) -> Path:
    file = cache / "base-bookworm.tar"
    if not file.exists():
        measure([sys.executable, str(_TOOLS / "debian_base.py"), str(file), "--include=python3-venv"], {})
    return file


def _write(name: str, results: list[Result]) -> None:
    _RESULTS.mkdir(exist_ok=True)
    document = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": dict(_machine()),
        "results": [asdict(each) for each in results],
    }
    (_RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")


def _machine() -> Iterator[tuple[str, str]]:
    yield "kernel", platform.release()
    yield "python", platform.python_version()
    for tool in ("buildah", "podman", "uv"):
        if program := shutil.which(tool):
            yield tool, measure([program, "--version"], {}).output.strip()
