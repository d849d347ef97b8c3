"""
The command line's grammar. It only parses: a command's module is imported when that command is asked for.

A new command is a line in `COMMANDS`, whose target is a `Verb`: `"mlenv.cli.environment:create"`.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from msgspec import Struct

from mlenv.cli.command import ANYWHERE, UsageError, Verb, Where
from mlenv.cli.printer import Output


class Command(Struct, frozen=True):
    """
    A word of the command line.

    Attributes:
        name: The word.
        summary: What it does, for `--help`.
        target: Its `Verb`, as `module:attribute`; None for a group.
        children: What follows it, for a group.
        takes_command: A command of the user's own follows after `--`; it becomes `arguments.command`, a tuple.
    """

    name: str
    summary: str
    target: str | None = None
    children: tuple["Command", ...] = ()
    takes_command: bool = False


_ENVIRONMENT: Final = "mlenv.cli.environment"
#: Options with a value that may stand before the words of a command.
_BEFORE: Final = frozenset({"-o", "--output", "--query", "--server", "--ca"})

COMMANDS: Final = Command(
    "mlenv",
    "The registry for ML environments that you host yourself.",
    children=(
        Command(
            "environment",
            "Define, find and archive environments.",
            children=(
                Command("create", "Register a version of an environment.", f"{_ENVIRONMENT}:create"),
                Command("show", "Print one version.", f"{_ENVIRONMENT}:show"),
                Command("list", "List environments, or the versions of one.", f"{_ENVIRONMENT}:list_all"),
                Command("lock", "Resolve a version to exact bytes, once.", "mlenv.cli.build:lock"),
                Command("build", "Build the image of a version.", "mlenv.cli.build:build"),
                Command("export", "Write the image of a version to a file or directory.", "mlenv.cli.build:export"),
                Command("evidence", "List and fetch what is known of an image.", "mlenv.cli.evidence:evidence"),
                Command("push", "Push the image of a version to a registry.", "mlenv.cli.push:push"),
                Command("update", "Change a version's description and tags.", f"{_ENVIRONMENT}:update"),
                Command("archive", "Hide a version, or an environment, from lists.", f"{_ENVIRONMENT}:archive"),
                Command("restore", "Show an archived version or environment again.", f"{_ENVIRONMENT}:restore"),
                Command(
                    "label",
                    "Point names such as `production` at versions.",
                    children=(
                        Command("set", "Point a label at a version.", "mlenv.cli.label:set_label"),
                        Command("list", "List labels, with their history.", "mlenv.cli.label:list_labels"),
                    ),
                ),
            ),
        ),
        Command("run", "Run a command in an environment.", "mlenv.cli.run:run", takes_command=True),
        Command("shell", "Start a shell in an environment.", "mlenv.cli.run:shell"),
        Command(
            "kernel",
            "Use environments from Jupyter.",
            children=(Command("install", "Add a kernel that runs in a version.", "mlenv.cli.run:kernel_install"),),
        ),
        Command("check", "Compare what is installed with what is locked.", "mlenv.cli.check:check"),
        Command("diff", "Compare two versions.", "mlenv.cli.check:diff"),
        Command(
            "build",
            "Look after builds on a server.",
            children=(
                Command("list", "List builds, the newest first.", "mlenv.cli.builds:list_all"),
                Command("show", "Print one build.", "mlenv.cli.builds:show"),
                Command("logs", "Print a build's log, or follow it.", "mlenv.cli.builds:logs"),
                Command("cancel", "Cancel a build.", "mlenv.cli.builds:cancel"),
            ),
        ),
        Command(
            "base",
            "Keep base images.",
            children=(
                Command("create", "Make a minimal Debian base with Python.", "mlenv.cli.base:create"),
                Command("import", "Bring in an image from disk.", "mlenv.cli.base:import_"),
                Command("pull", "Bring in an image from a registry.", "mlenv.cli.base:pull"),
                Command("push", "Push a base image to a registry.", "mlenv.cli.push:push_base"),
                Command(
                    "check", "Say which environments stand on a base that has moved.", "mlenv.cli.base_check:check"
                ),
                Command("list", "List base images.", "mlenv.cli.base:list_all"),
                Command("show", "Say what a base image offers.", "mlenv.cli.base:show"),
            ),
        ),
        Command(
            "store",
            "Look after the store.",
            children=(
                Command("verify", "Check that everything named is whole.", "mlenv.cli.store:verify"),
                Command("collect", "Remove bytes that nothing names any more.", "mlenv.cli.store:collect"),
            ),
        ),
        Command(
            "server",
            "Serve environments to a team.",
            children=(
                Command("start", "Start the server.", "mlenv.cli.server:start"),
                Command("ca", "Print where the certificate is that clients must trust.", "mlenv.cli.server:ca"),
                Command("config", "List all settings, and where each came from.", "mlenv.cli.server:config"),
                Command("token", "Make a token for an administrator who lost theirs.", "mlenv.cli.server:token"),
            ),
        ),
        Command(
            "worker",
            "Build and run jobs for a server, on this machine.",
            children=(Command("start", "Start a worker.", "mlenv.cli.server:worker_start"),),
        ),
        Command("login", "Log in to a server, which is the one that is meant from now on.", "mlenv.cli.login:login"),
        Command("logout", "Log out of a server, and forget the token.", "mlenv.cli.login:logout"),
        Command("whoami", "Say who you are on the server.", "mlenv.cli.login:whoami"),
        Command(
            "workspace",
            "Make and find a server's workspaces.",
            children=(
                Command("create", "Make a workspace.", "mlenv.cli.workspace:create"),
                Command("list", "List the workspaces that you may see.", "mlenv.cli.workspace:list_all"),
                Command("show", "Print one workspace.", "mlenv.cli.workspace:show"),
                Command("update", "Set where a workspace's images are pushed.", "mlenv.cli.workspace:update"),
            ),
        ),
        Command(
            "registry",
            "Make and find a server's registries.",
            children=(
                Command("create", "Make a registry.", "mlenv.cli.registry:create"),
                Command("list", "List the registries that you may see.", "mlenv.cli.registry:list_all"),
                Command("show", "Print one registry.", "mlenv.cli.registry:show"),
                Command("update", "Set where a registry's images are pushed.", "mlenv.cli.registry:update"),
            ),
        ),
        Command(
            "token",
            "Make and revoke what programs and people show to a server.",
            children=(
                Command("create", "Make a token; its secret is shown once.", "mlenv.cli.token:create"),
                Command("list", "List tokens.", "mlenv.cli.token:list_all"),
                Command("revoke", "Make a token worthless.", "mlenv.cli.token:revoke"),
            ),
        ),
        Command(
            "principal",
            "Say who is known to a server.",
            children=(
                Command("create", "Register a program.", "mlenv.cli.role:create_principal"),
                Command("list", "List everybody.", "mlenv.cli.role:list_principals"),
            ),
        ),
        Command(
            "role",
            "Say who may do what on a server.",
            children=(
                Command("set", "Give somebody a role.", "mlenv.cli.role:set_role"),
                Command("remove", "Take somebody's role away.", "mlenv.cli.role:remove"),
                Command("list", "List who has which role.", "mlenv.cli.role:list_all"),
            ),
        ),
        Command(
            "audit",
            "See what was changed on a server, and by whom.",
            children=(
                Command("list", "List changes, the newest first.", "mlenv.cli.audit:list_all"),
                Command("export", "Write all changes as JSON lines.", "mlenv.cli.audit:export"),
                Command("verify", "Check that no change was altered, removed or inserted.", "mlenv.cli.audit:verify"),
            ),
        ),
        Command("doctor", "Say what this machine has, and what is missing.", "mlenv.cli.doctor:doctor"),
        Command("schema", "Print the JSON Schema of the environment YAML.", "mlenv.cli.schema:schema"),
    ),
)


class Globals(Struct, frozen=True):
    """
    What every command takes.

    Attributes:
        output: How data is printed.
        query: A JMESPath expression over it, or None.
        verbose: Tell more, above all about errors.
        quiet: Tell only errors.
        where: Which store it works with.
    """

    output: Output = Output.JSON
    query: str | None = None
    verbose: bool = False
    quiet: bool = False
    where: Where = ANYWHERE


class Parsed(Struct, frozen=True):
    """What the command line says: what to do, or a help text to print instead."""

    verb: Verb[Any] | None
    settings: Any
    general: Globals
    text: str | None = None


class _HelpAsked(Exception):
    pass


class _Formatter(argparse.HelpFormatter):
    """
    Knows how wide the terminal is.

    NOTE: argparse makes a formatter for each argument that is added, which would import `shutil`, and with it three
    libraries of compression, to find that out.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """As `shutil.get_terminal_size` has it."""
    if (said := os.environ.get("COLUMNS", "")).isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return 80


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see `{self.prog} --help`")

    def print_help(self, file: Any = None) -> None:
        raise _HelpAsked


def parse(arguments: Sequence[str], environment: os._Environ[str] | dict[str, str] = os.environ) -> Parsed:
    """
    Read a command line.

    Args:
        arguments: Without the program's name.
        environment: `MLENV_OUTPUT` says how data is printed, unless `--output` does.

    Raises:
        UsageError: It makes no sense.
    """
    words, command, rest = _walk(list(arguments))
    if command.target is None:
        return _parse_group(words, command, rest)
    module, _, attribute = command.target.partition(":")
    verb: Verb[Any] = getattr(importlib.import_module(module), attribute)
    parser = _Parser(" ".join(words), description=command.summary, allow_abbrev=False)
    verb.arguments(parser)
    _add_globals(parser, verb.output)
    if command.takes_command:
        parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " -- COMMAND …"
    own: list[str] = []
    if command.takes_command and "--" in rest:
        cut = rest.index("--")
        rest, own = rest[:cut], rest[cut + 1 :]
    try:
        namespace, unknown = parser.parse_known_args(rest)
    except _HelpAsked:
        return Parsed(None, None, Globals(), parser.format_help())
    if unknown and command.takes_command and not unknown[0].startswith("-"):
        before = " ".join(words)
        hint = f"put the command after `--`: {before} NAME -- COMMAND, or {before} --file FILE -- COMMAND"
        raise UsageError(f"one argument too many: {unknown[0]!r}", hint)
    if unknown:
        raise _unknown(unknown[0], parser)
    if command.takes_command:
        namespace.command = tuple(own)
    default = environment.get("MLENV_OUTPUT") or verb.output
    return Parsed(verb, verb.settings(namespace), _globals(namespace, default))


def _walk(arguments: list[str]) -> tuple[list[str], Command, list[str]]:
    """Follow the words that are commands: their names, the last of them, and the arguments that are none."""
    words, command, rest = [COMMANDS.name], COMMANDS, []
    while command.children and arguments:
        word = arguments.pop(0)
        if word.startswith("-"):
            rest.append(word)
            if word in _BEFORE and arguments:
                rest.append(arguments.pop(0))
            continue
        following = next((each for each in command.children if each.name == word), None)
        if following is None:
            raise _no_command(word, words, command)
        words.append(word)
        command = following
    return words, command, rest + arguments


def _parse_group(words: list[str], command: Command, rest: list[str]) -> Parsed:
    parser = _Parser(" ".join(words), description=command.summary, allow_abbrev=False)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for each in command.children:
        subparsers.add_parser(each.name, help=each.summary, add_help=False)
    if command is COMMANDS:
        parser.add_argument("--version", action="store_true", help="print the version of mlenv")
    _add_globals(parser, Output.JSON)
    try:
        namespace, unknown = parser.parse_known_args(rest)
    except _HelpAsked:
        return Parsed(None, None, Globals(), parser.format_help())
    if unknown:
        raise _unknown(unknown[0], parser)
    if getattr(namespace, "version", False):
        from mlenv import __version__

        return Parsed(None, None, Globals(), f"mlenv {__version__}\n")
    return Parsed(None, None, Globals(), parser.format_help())


def _add_globals(parser: argparse.ArgumentParser, default: Output) -> None:
    group = parser.add_argument_group("what every command takes")
    formats = "|".join(Output)
    group.add_argument(
        "-o", "--output", metavar="FORMAT", help=f"{formats} (default: $MLENV_OUTPUT, or {default.value})"
    )
    group.add_argument("--query", metavar="JMESPATH", help="print only this part of the data (jmespath.org)")
    group.add_argument("--verbose", "--debug", action="store_true", help="tell more, above all about errors")
    group.add_argument("--quiet", "--only-show-errors", action="store_true", help="tell only errors")
    known = parser._option_string_actions
    if "--server" not in known:
        group.add_argument(
            "--server", metavar="URL", help="work with this server (default: $MLENV_SERVER, or that of `mlenv login`)"
        )
        group.add_argument("--embedded", action="store_true", help="work with this machine's own store")
    if "--ca" not in known:
        group.add_argument("--ca", metavar="FILE", help="the server's certificate authority (default: $MLENV_CA)")


def _globals(namespace: argparse.Namespace, default: str) -> Globals:
    text = namespace.output or default
    try:
        output = Output(text)
    except ValueError:
        where = "--output" if namespace.output else "MLENV_OUTPUT"
        raise UsageError(f"{where}: no output format is called {text!r}", f"use {', '.join(Output)}") from None
    return Globals(output, namespace.query, namespace.verbose, namespace.quiet, _where(namespace))


def _where(namespace: argparse.Namespace) -> Where:
    server: str | None = getattr(namespace, "server", None)
    if getattr(namespace, "embedded", False):
        if server:
            raise UsageError("--server and --embedded contradict each other", "give one of them")
        server = ""
    if server is not None and not isinstance(server, str):
        server = None
    return Where(
        server,
        getattr(namespace, "ca", None),
        getattr(namespace, "workspace_name", None),
        getattr(namespace, "registry_name", None),
    )


def _no_command(word: str, words: list[str], command: Command) -> UsageError:
    import difflib

    names = [each.name for each in command.children]
    near = [name for name in names if word and name.startswith(word)]
    near = near or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    before = " ".join(words)
    hint = f"did you mean `{before} {near[0]}`?" if near else f"its commands are {', '.join(names)}"
    return UsageError(f"{before} has no command {word!r}", hint)


def _unknown(argument: str, parser: argparse.ArgumentParser) -> UsageError:
    import difflib

    option = argument.split("=")[0]
    if not option.startswith("-") or option == "-":
        return UsageError(f"one argument too many: {argument!r}", f"see `{parser.prog} --help`")
    known = [name for action in parser._actions for name in action.option_strings]
    near = difflib.get_close_matches(option, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"see `{parser.prog} --help`"
    return UsageError(f"{parser.prog} has no option {option!r}", hint)
