"""What a command is: its arguments, its settings, and what it does with them."""

import argparse
from collections.abc import Callable
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from msgspec import Struct

from mlenv.cli.printer import Output, Printer
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    from mlenv.client.connection import Connection
    from mlenv.client.http import Http
    from mlenv.core.progress import Progress
    from mlenv.core.reference import Reference
    from mlenv.remote import Remote
    from mlenv.wiring.embedded import Embedded

S = TypeVar("S")


class ExitStatus(IntEnum):
    """How the process ends. A command that was run for the user ends as that command did."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130
    PIPE = 141


class UsageError(InvalidInput):
    """The command line is wrong: exit status 2."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Where(Struct, frozen=True):
    """
    Which store a command is to work with, as the command line says it.

    Attributes:
        server: A server's address; `""` for this machine's own store; None for what variables or a login say.
        authority: A file with the certificate authority that the server's certificate must be of, or None.
        workspace, registry: The namespace that was named, or None.
    """

    server: str | None = None
    authority: str | None = None
    workspace: str | None = None
    registry: str | None = None


#: Nothing was said.
ANYWHERE: Final = Where()


class Context:
    """
    What a command works with. Members that cost something are made when they are first used.

    Attributes:
        printer: All that is printed goes through it.
        where: Which store was named.
    """

    def __init__(self, printer: Printer, where: Where = ANYWHERE) -> None:
        self.printer = printer
        self.where = where
        self._others: dict[tuple[str | None, str | None], Embedded | Remote] = {}

    @cached_property
    def store(self) -> "Embedded | Remote":
        """
        The store that the command works with: this user's own, or a server's workspace or registry.

        Raises:
            RegistryNotHere: A registry is named, and the store is this user's own.
        """
        return self._open(self.where.workspace, self.where.registry)

    @property
    def remote(self) -> "Remote":
        """The workspace or registry of the server. Raises `UsageError` if no server is named."""
        from mlenv.remote import Remote

        # What says which server is missing.
        _ = self.http
        assert isinstance(self.store, Remote)
        return self.store

    def store_of(self, reference: "Reference") -> "Embedded | Remote":
        """The store that a reference means, which may name another workspace or registry of the server."""
        workspace = reference.workspace.name if reference.workspace else None
        if reference.registry is None and workspace in {None, self.where.workspace}:
            return self.store
        key = (None if reference.registry else workspace, reference.registry)
        if key not in self._others:
            self._others[key] = self._open(*key)
        return self._others[key]

    def _open(self, workspace: str | None, registry: str | None) -> "Embedded | Remote":
        if self.connection is None:
            if registry is not None:
                from mlenv.service.environments import RegistryNotHere

                raise RegistryNotHere(registry)
            return self.embedded
        from mlenv.home import home
        from mlenv.remote import open_remote

        return open_remote(home(), self.http, self.connection, workspace, registry, say=self.printer.say)

    @cached_property
    def embedded(self) -> "Embedded":
        """This user's own store, whatever the command line says."""
        from mlenv.home import home
        from mlenv.wiring.embedded import open_embedded

        return open_embedded(home())

    @cached_property
    def connection(self) -> "Connection | None":
        """The server that is named by `--server`, `MLENV_SERVER` or a login, or None for none."""
        from mlenv.client.connection import find_connection

        return find_connection(self.where.server, self.where.authority)

    @cached_property
    def http(self) -> "Http":
        """The server, to be asked. Raises `UsageError` if none is named."""
        if self.connection is None:
            raise UsageError(
                "which server?", "log in with `mlenv login URL`, or name one with --server or MLENV_SERVER"
            )
        from mlenv.client.http import Http

        return Http(self.connection.server, self.connection.token, self.connection.authority)

    @cached_property
    def progress(self) -> "Progress":
        """Tells of long work: bars on a terminal, lines otherwise, nothing with `--quiet`."""
        from mlenv.cli.progress import progress_for

        return progress_for(self.printer)

    def close(self) -> None:
        """Let go of what was made."""
        for each in self._others.values():
            each.close()
        for name in ("store", "embedded", "http"):
            if name in self.__dict__:
                self.__dict__[name].close()


class Verb(Struct, Generic[S], frozen=True):
    """
    A command that does something.

    Attributes:
        arguments: Adds its arguments to a parser.
        settings: Makes its settings, a struct, of what was parsed. Raises `UsageError`.
        run: Does it, and says how the process ends.
        output: How data is printed when the user doesn't say.
    """

    arguments: Callable[[argparse.ArgumentParser], Any]
    settings: Callable[[argparse.Namespace], S]
    run: Callable[[S, Context], int]
    output: Output = Output.JSON
