"""`python -m benchmarks build|start|server|queued|registry|conda`: measure, print a table, write JSON to `benchmarks/results/`."""

import argparse
import signal
import sys

from benchmarks import build, conda, queued, registry, server, start
from benchmarks.serving import NotEmpty


def main() -> None:
    """Run the chosen benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build|start|server|queued|registry|conda")
    for module, name in (
        (build, "build"),
        (start, "start"),
        (server, "server"),
        (queued, "queued"),
        (registry, "registry"),
        (conda, "conda"),
    ):
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    # Whoever stops a benchmark wants its servers, mounts and gigabytes gone, too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        arguments.run(arguments)
    except NotEmpty as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
