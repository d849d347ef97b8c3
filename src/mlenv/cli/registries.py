"""What commands that speak to registries of images have in common."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from mlenv.cli.command import Context

if TYPE_CHECKING:
    from mlenv.distribution.registries import Registries


class Trust(Struct, frozen=True):
    """Registries that may do without trusted TLS, and a file with an authority to trust."""

    insecure: tuple[str, ...]
    authority: Path | None


def add_trust(parser: argparse.ArgumentParser) -> None:
    """`--insecure-registry` and `--ca`."""
    group = parser.add_argument_group("how registries are trusted")
    group.add_argument(
        "--insecure-registry",
        metavar="HOST",
        action="append",
        default=[],
        help="speak to it without TLS, or with any certificate (default: $MLENV_INSECURE_REGISTRIES)",
    )
    group.add_argument("--ca", metavar="FILE", help="an authority to trust: the registry's, or the server's")


def to_trust(namespace: argparse.Namespace) -> Trust:
    """What was said."""
    return Trust(tuple(namespace.insecure_registry), Path(namespace.ca) if namespace.ca else None)


def registries(trust: Trust, context: Context) -> "Registries":
    """The way to registries from now on."""
    return context.store.machine.reach_registries(trust.insecure, trust.authority)
