"""`mlenv doctor`."""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, Verb
from mlenv.cli.printer import Column, Output
from mlenv.errors import MlenvError

if TYPE_CHECKING:
    from mlenv.service.doctoring import Diagnosis

_COLUMNS = (Column("Topic", "topic"), Column("State", "state"), Column("Found", "found"), Column("Advice", "advice"))


class Settings(Struct, frozen=True):
    """`mlenv doctor` takes nothing of its own."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _settings(_: argparse.Namespace) -> Settings:
    return Settings()


def _run(_: Settings, context: Context) -> int:
    from mlenv.service.doctoring import State

    found = _examine(context)
    if context.printer.output is Output.TABLE and context.printer.tabular:
        context.printer.text("".join(_lines(found)))
    else:
        document = [
            {"topic": each.topic, "state": each.state.value, "found": each.found, "advice": each.advice}
            for each in found
        ]
        context.printer.data(document, _COLUMNS)
    return ExitStatus.FAILED if any(each.state is State.BAD for each in found) else ExitStatus.DONE


def _examine(context: Context) -> Sequence["Diagnosis"]:
    """What the doctor finds; of a store that can't even be made, only that."""
    from mlenv.service.doctoring import Diagnosis, State

    try:
        doctor = context.embedded.doctor
    except MlenvError as error:
        return [Diagnosis("store", State.BAD, str(error), error.hint)]
    return doctor.examine(progress=context.progress)


def _lines(found: Sequence["Diagnosis"]) -> Iterator[str]:
    """A table whose advice is a line of its own: it would make the table too wide for a terminal."""
    width = max(len(each.topic) for each in found)
    for each in found:
        yield f"{each.state.value:<7}  {each.topic:<{width}}  {each.found}\n"
        if each.advice:
            yield f"{'':<7}  {'':<{width}}  → {each.advice}\n"


doctor = Verb(_arguments, _settings, _run, Output.TABLE)
