"""`mlenv schema`: the JSON Schema of the environment YAML."""

import argparse
from typing import Final

from mlenv.cli.command import Context, ExitStatus, Verb


def _no_arguments(_: argparse.ArgumentParser) -> None:
    pass


def _schema(_: None, context: Context) -> int:
    from mlenv.api.schema import environment_schema

    context.printer.data(environment_schema())
    return ExitStatus.DONE


schema: Final = Verb(_no_arguments, lambda _: None, _schema)
