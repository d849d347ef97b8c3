"""How long the command line takes to start: alone, and listing a store of 1,000 environments with 10 versions each."""

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import measure, median
from benchmarks.ours import program
from mlenv.core.environment import Definition
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import Spec
from mlenv.wiring.embedded import open_embedded

HELP = "start of the command line, beside `python -c pass`"
_RESULTS = Path(__file__).parent / "results"
_ENVIRONMENTS = 1000
_VERSIONS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--repeat", type=int, default=10, help="runs of each command (default 10)")


def run(arguments: argparse.Namespace) -> None:
    """Fill a store, measure the commands in turn, print the table, write the figures."""
    with tempfile.TemporaryDirectory(prefix="mlenv-benchmark-") as home:
        filling = _fill(Path(home))
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "mlenv --version": [program(), "--version"],
            "mlenv environment list": [program(), "environment", "list"],
            "mlenv environment list -o table": [program(), "environment", "list", "-o", "table"],
            "mlenv environment show bench-500:10": [program(), "environment", "show", "bench-500:10"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.repeat):
            for name, command in commands.items():
                seconds[name].append(measure(command, {"MLENV_HOME": home}).seconds)
    nothing = median(seconds["python -c pass"])
    print("| | median s | of `python -c pass` |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| `{name}` | {median(values):.3f} | {median(values) / nothing:.1f} |")
    print(f"{_ENVIRONMENTS * _VERSIONS} versions were registered in {filling:.1f} s, in one process.")
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / "start.json").write_text(json.dumps({"filling": filling, "seconds": seconds}, indent=2) + "\n")


def _fill(home: Path) -> float:
    """Register all versions; gives the seconds that it took."""
    started = time.perf_counter()
    now = datetime(2020, 1, 1, tzinfo=UTC)
    with open_embedded(home) as store:
        for environment in range(_ENVIRONMENTS):
            name = EnvironmentName(f"bench-{environment}")
            for version in range(1, _VERSIONS + 1):
                spec = Spec(image=f"debian:bookworm-{version}")
                store.registry.add_version(Definition(name, spec, VersionName(str(version))), now=now)
    return time.perf_counter() - started
