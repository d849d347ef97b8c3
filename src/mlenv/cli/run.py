"""`mlenv run|shell` and `mlenv kernel install`."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from msgspec import Struct
from msgspec.structs import replace

from mlenv.cli.arguments import add_reference, to_mapping, to_optional_reference, to_reference
from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.locking import add_lock_options, to_lock_options
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.locking import LockOptions
from mlenv.core.reference import Reference

if TYPE_CHECKING:
    from mlenv.run.process import Ended
    from mlenv.service.running import RunOptions


class RunSettings(Struct, frozen=True):
    """
    What to run, where, and how.

    Attributes:
        reference, file: One of them is set, or `file` with the name that it gets.
        engine: `local` or `container`.
        command: What is run.
    """

    reference: Reference | None
    file: Path | None
    engine: str
    python: str | None
    environment: dict[str, str]
    gpus: str | None
    lock: LockOptions | None
    command: tuple[str, ...]


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument(
        "-f", "--file", type=Path, help="create the environment from this file first, or use the version it is already"
    )
    parser.add_argument(
        "--engine", choices=("local", "container"), default="local", help="where it runs (default: %(default)s)"
    )
    parser.add_argument("--python", metavar="PATH|VERSION", help="the interpreter for a local run")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the command")
    parser.add_argument("--gpus", metavar="all|DEVICE", help="devices for a container")
    add_lock_options(parser)


def _settings(namespace: argparse.Namespace) -> RunSettings:
    file: Path | None = namespace.file
    reference = to_reference(namespace, otherwise="--file FILE") if file is None else to_optional_reference(namespace)
    return RunSettings(
        reference=reference,
        file=file,
        engine=namespace.engine,
        python=namespace.python,
        environment=to_mapping("--env", namespace.env),
        gpus=namespace.gpus,
        lock=to_lock_options(namespace),
        command=getattr(namespace, "command", ()),
    )


def _run_settings(namespace: argparse.Namespace) -> RunSettings:
    settings = _settings(namespace)
    if not settings.command:
        raise UsageError("nothing to run", "put the command after `--`: mlenv run NAME -- python train.py")
    return settings


def _shell_settings(namespace: argparse.Namespace) -> RunSettings:
    settings = _settings(namespace)
    shell = os.environ.get("SHELL", "/bin/sh") if settings.engine == "local" else "/bin/sh"
    return replace(settings, command=(shell,))


def _version(settings: RunSettings, context: Context) -> EnvironmentVersion:
    if settings.file is None:
        assert settings.reference is not None
        return context.store.environments.version(settings.reference)
    from mlenv.api.definition import load_definition

    reference = settings.reference
    definition = load_definition(
        settings.file,
        name=reference.name if reference else None,
        default_name=settings.file.absolute().parent.name or "environment",
        version=reference.version if reference else None,
    )
    for warning in definition.warnings:
        context.printer.warn(warning)
    created = context.store.environments.create(definition)
    context.printer.say(f"{'created' if created.new else 'using'} {created.version}")
    return created.version


def _options(settings: RunSettings) -> "RunOptions":
    from mlenv.service.running import RunOptions

    return RunOptions(
        python=settings.python,
        environment=tuple(settings.environment.items()),
        lock=settings.lock,
        gpus=settings.gpus,
        directory=Path.cwd(),
        terminal=sys.stdin.isatty() and sys.stdout.isatty(),
    )


def _execute(settings: RunSettings, context: Context, kind: str) -> "Ended":
    version = _version(settings, context)
    running = context.store.running
    run = running.run_local if settings.engine == "local" else running.run_container
    return run(version, settings.command, _options(settings), kind=kind, progress=context.progress)


def _leave(ended: "Ended", context: Context) -> NoReturn:
    from mlenv.run.process import leave

    context.close()
    leave(ended)


def _run(settings: RunSettings, context: Context) -> int:
    _leave(_execute(settings, context, "run"), context)


def _shell(settings: RunSettings, context: Context) -> int:
    version = _version(settings, context)
    context.printer.say(f"this is {version}; leave it with `exit`")
    settings = replace(settings, file=None, reference=Reference(version.name, version=version.version))
    prompt = re.sub(r"[^\w.:-]", "-", str(version))
    variables = {"VIRTUAL_ENV_PROMPT": prompt, "PS1": f"({prompt}) {os.environ.get('PS1', '$ ')}"}
    settings = replace(settings, environment=variables | settings.environment)
    if settings.engine == "local" and Path(settings.command[0]).name == "bash" and sys.stdin.isatty():
        settings = replace(settings, command=(*settings.command, "--rcfile", str(_bash_start(context)), "-i"))
    _leave(_execute(settings, context, "shell"), context)


def _bash_start(context: Context) -> Path:
    """What bash reads at its start: the user's own, which may set PATH and prompt, and then ours."""
    path = context.store.machine.directory("cache") / "shell.bashrc"
    path.write_text(_BASH_START)
    return path


run: Final = Verb(_arguments, _run_settings, _run)
shell: Final = Verb(_arguments, _shell_settings, _shell)


_BASH_START: Final = """\
[ -f ~/.bashrc ] && . ~/.bashrc
PATH="${VIRTUAL_ENV:-$CONDA_PREFIX}/bin:$PATH"
PS1="($VIRTUAL_ENV_PROMPT) $PS1"
"""

# kernel install


class KernelSettings(Struct, frozen=True):
    """Which version, under which name Jupyter shows it, and with which interpreter."""

    reference: Reference
    display_name: str | None
    python: str | None


def _kernel_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument("--display-name", metavar="TEXT", help="what Jupyter shows (default: NAME:VERSION)")
    parser.add_argument("--python", metavar="PATH|VERSION", help="the interpreter to run it with")


def _kernel_settings(namespace: argparse.Namespace) -> KernelSettings:
    return KernelSettings(to_reference(namespace), namespace.display_name, namespace.python)


def _kernel(settings: KernelSettings, context: Context) -> int:
    from mlenv.run.kernel import install_kernel
    from mlenv.service.running import RunOptions

    version = context.store.environments.version(settings.reference)
    # Made ready now, so that the kernel starts at once when a notebook asks for it.
    here = context.store.running.local(version, RunOptions(python=settings.python), progress=context.progress)
    installed = install_kernel(
        version.name,
        version.version,
        here.lock,
        display_name=settings.display_name,
        python=settings.python,
    )
    context.printer.say(f"installed the kernel {installed.name}")
    context.printer.data({"kernel": installed.name, "path": str(installed.directory), "environment": str(version)})
    return ExitStatus.DONE


kernel_install: Final = Verb(_kernel_arguments, _kernel_settings, _kernel)
