"""`mlenv doctor`."""

import argparse
from dataclasses import dataclass

from mlenv.cli.command import Context, ExitStatus, Verb
from mlenv.cli.printer import Column, Output


@dataclass(frozen=True, slots=True)
class Settings:
    """`mlenv doctor` takes nothing of its own."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _settings(_: argparse.Namespace) -> Settings:
    return Settings()


def _run(_: Settings, context: Context) -> int:
    from mlenv.service.doctoring import State

    found = context.embedded.doctor.examine(progress=context.progress)
    document = [
        {"topic": each.topic, "state": each.state.value, "found": each.found, "advice": each.advice} for each in found
    ]
    columns = (Column("Topic", "topic"), Column("State", "state"), Column("Found", "found"), Column("Advice", "advice"))
    context.printer.data(document, columns)
    return ExitStatus.FAILED if any(each.state is State.BAD for each in found) else ExitStatus.DONE


doctor = Verb(_arguments, _settings, _run, Output.TABLE)
