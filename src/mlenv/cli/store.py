"""`mlenv store verify|collect`."""

import argparse
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.printer import Column, Output
from mlenv.core.progress import quantity

_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
#: Below this, builds and pushes that go on may lose what they have found to be there.
_SHORT: Final = timedelta(hours=1)


class Settings(Struct, frozen=True):
    """`mlenv store verify` takes nothing of its own."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _settings(_: argparse.Namespace) -> Settings:
    return Settings()


def _verify(_: Settings, context: Context) -> int:
    findings = context.store.verifying.verify(progress=context.progress)
    harm = [each for each in findings if each.harm]
    document = [{"harm": each.harm, "finding": each.text} for each in findings]
    context.printer.data(document, (Column("Harm", "harm"), Column("Finding", "finding")))
    context.printer.say(f"{quantity(len(harm), 'finding')} of damage or loss" if harm else "the store is whole")
    return ExitStatus.FAILED if harm else ExitStatus.DONE


verify = Verb(_arguments, _settings, _verify, Output.TABLE)


class Collect(Struct, frozen=True):
    """What is removed: for how long it was not used, whether really, and which server's settings file says where."""

    grace: timedelta
    dry_run: bool
    config: Path | None


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, and tell what would be")
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        default="24h",
        help="leave alone what came or was used in this time: 30d, 12h, 90m (default: 24h)",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="the settings file of a server, for its store")


def _collect_settings(namespace: argparse.Namespace) -> Collect:
    if not (match := _AGE.fullmatch(namespace.older_than)):
        raise UsageError(f"--older-than: not an age: {namespace.older_than!r}", "write it as 30d, 12h, 90m or 0s")
    return Collect(timedelta(**{_UNITS[match[2]]: int(match[1])}), namespace.dry_run, namespace.config)


def _collect(wanted: Collect, context: Context) -> int:
    from mlenv.home import home
    from mlenv.server.settings import load
    from mlenv.wiring.hosted import Hosted

    settings = load({}, os.environ, file=wanted.config, default_home=home()).settings
    if wanted.grace < _SHORT and not wanted.dry_run:
        context.printer.warn("what builds and pushes are using that go on now may be removed with what nobody uses")
    with Hosted(settings.home, settings.database_url) as hosted:
        done = hosted.collecting.collect(wanted.grace, dry_run=wanted.dry_run, progress=context.progress)
    context.printer.data({**asdict(done), "dry_run": wanted.dry_run})
    verb = "would free" if wanted.dry_run else "freed"
    context.printer.say(
        f"{verb} {done.freed + done.uploads} bytes ({done.blobs} blobs); kept {done.kept} ({done.kept_blobs} blobs), "
        f"and {done.young} that nothing names, for a while ({done.young_blobs} blobs)"
    )
    return ExitStatus.DONE


collect = Verb(_collect_arguments, _collect_settings, _collect)
