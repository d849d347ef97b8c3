"""`mlenv store verify`."""

import argparse
from dataclasses import dataclass

from mlenv.cli.command import Context, ExitStatus, Verb
from mlenv.cli.printer import Column, Output


@dataclass(frozen=True, slots=True)
class Settings:
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
    context.printer.say(
        "the store is whole" if not harm else f"{len(harm)} finding{'s' if len(harm) > 1 else ''} of damage or loss"
    )
    return ExitStatus.FAILED if harm else ExitStatus.DONE


verify = Verb(_arguments, _settings, _verify, Output.TABLE)
