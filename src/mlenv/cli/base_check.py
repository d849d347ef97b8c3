"""`mlenv base check`."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, Verb
from mlenv.cli.printer import Column, Output
from mlenv.cli.registries import Trust, add_trust, registries, to_trust

if TYPE_CHECKING:
    from mlenv.core.environment import EnvironmentVersion
    from mlenv.core.lock import Lock
    from mlenv.core.platform import Platform
    from mlenv.remote import Remote
    from mlenv.wiring.embedded import Embedded

_COLUMNS: Final = (
    Column("Environment", "environment"),
    Column("Platform", "platform"),
    Column("Base", "base"),
    Column("State", "state"),
    Column("Locked", "locked"),
    Column("Now", "now"),
)


class CheckSettings(Struct, frozen=True):
    """Which base only, or None for all."""

    name: str | None
    trust: Trust


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="IMAGE", help="only environments on this base")
    add_trust(parser)


def _settings(namespace: argparse.Namespace) -> CheckSettings:
    return CheckSettings(namespace.name, to_trust(namespace))


def _check(settings: CheckSettings, context: Context) -> int:
    from mlenv.service.base_checking import BaseState, check_bases

    reached = registries(settings.trust, context)
    store = context.store
    found = list(check_bases(_locks(store), store.bases, reached, name=settings.name, progress=context.progress))
    rows = [
        {
            "environment": str(each.version),
            "platform": str(each.platform),
            "base": each.image,
            "state": each.state.value,
            "locked": str(each.locked),
            "now": str(each.now) if each.now else None,
            "why": each.why,
        }
        for each in found
    ]
    context.printer.data(rows, _COLUMNS)
    for why in dict.fromkeys(each.why for each in found if each.why):
        context.printer.say(f"warning: {why}")
    moved = {(str(each.version), each.platform) for each in found if each.state is BaseState.MOVED}
    if moved:
        count = len({(str(each.version), each.platform) for each in found})
        context.printer.say(
            f"{len(moved)} of {count} stand on a base whose tag has moved: "
            "`mlenv base pull` the base, and create new versions"
        )
    return ExitStatus.FAILED if moved else ExitStatus.DONE


def _locks(store: "Embedded | Remote") -> "Iterator[tuple[EnvironmentVersion, Platform, Lock]]":
    """What is locked of versions that are not archived."""
    from mlenv.core.environment import View
    from mlenv.core.reference import Reference

    for environment in store.environments.environments(View.ACTIVE):
        for version in store.environments.versions(Reference(environment.name), View.ACTIVE):
            for platform in store.platforms_of(version):
                if (lock := store.locking.find(version, platform)) is not None:
                    yield version, platform, lock


check: Final = Verb(_arguments, _settings, _check, Output.TABLE)
