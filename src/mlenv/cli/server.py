"""`mlenv server` and `mlenv worker`."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, Verb
from mlenv.cli.printer import Column, Output
from mlenv.errors import Unavailable

if TYPE_CHECKING:
    from mlenv.server.settings import Loaded


class ServerExtraMissing(Unavailable):
    """The libraries of a server are not installed."""

    hint = "`pip install 'mlenv[server]'` installs all that servers and workers need"

    def __init__(self, name: str) -> None:
        super().__init__(f"a server needs the Python package {name!r}, which is not installed")
        self.name = name


class Options(Struct, frozen=True):
    """
    What the command line says of settings.

    Attributes:
        given: Settings that flags gave.
        config: The settings file, or None.
    """

    given: dict[str, Any]
    config: Path | None


def _flags(parser: argparse.ArgumentParser) -> None:
    from mlenv.cli.server_flags import add_flags

    add_flags(parser)


def _worker_flags(parser: argparse.ArgumentParser) -> None:
    from mlenv.cli.server_flags import add_flags

    add_flags(parser, serving=False)


def _require_extra() -> None:
    try:
        import cryptography  # noqa: F401
        import dbos  # noqa: F401
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ServerExtraMissing(error.name or str(error)) from error


def _options(namespace: argparse.Namespace) -> Options:
    from mlenv.cli.server_flags import given

    return Options(given(namespace), namespace.config)


def _load(options: Options) -> "Loaded":
    from mlenv.home import home
    from mlenv.server.settings import load

    return load(options.given, os.environ, file=options.config, default_home=home())


def _start(options: Options, context: Context) -> int:
    _require_extra()
    from mlenv.cli.serving import start

    start(_load(options).settings, context.printer)
    return ExitStatus.DONE


def _ca(options: Options, context: Context) -> int:
    _require_extra()
    from mlenv.cli.serving import ensure_authority

    context.printer.text(f"{ensure_authority(_load(options).settings)}\n")
    return ExitStatus.DONE


def _config(options: Options, context: Context) -> int:
    columns = (
        Column("Setting", "setting"),
        Column("Value", "value"),
        Column("From", "origin"),
        Column("Flag", "flag"),
        Column("Variable", "variable"),
    )
    context.printer.data(_load(options).documents(), columns)
    return ExitStatus.DONE


def _token(options: Options, context: Context) -> int:
    _require_extra()
    from mlenv.cli.serving import recover

    context.printer.say("a token for the administrator, good for one day:")
    context.printer.text(f"{recover(_load(options).settings)}\n")
    return ExitStatus.DONE


def _work(options: Options, context: Context) -> int:
    _require_extra()
    from mlenv.cli.serving import work

    work(_load(options).settings, context.printer)
    return ExitStatus.DONE


start = Verb(_flags, _options, _start)
ca = Verb(_flags, _options, _ca)
config = Verb(_flags, _options, _config, Output.TABLE)
token = Verb(_worker_flags, _options, _token)
worker_start = Verb(_worker_flags, _options, _work)
