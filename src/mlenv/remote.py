"""
A workspace or registry of a server as the store that commands work with; the other such store is `Embedded`.

What is asked of it is asked of the server. What runs here (prefixes, containers) runs from bytes in `remote/` below the
user's home, which may be deleted at any time.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mlenv.client.blobs import RemoteBlobs
from mlenv.client.registry import RemoteRegistry
from mlenv.core.reference import Workspace
from mlenv.core.scope import DEFAULT_WORKSPACE, ScopeKind
from mlenv.service.remote import NotThroughServer
from mlenv.wiring.embedded import Embedded, utc_now
from mlenv.wiring.machine import Machine

if TYPE_CHECKING:
    from mlenv.client.connection import Connection
    from mlenv.client.http import Http
    from mlenv.distribution.client import Repository
    from mlenv.service.reading_evidence import RemoteEvidence
    from mlenv.service.remote import (
        RemoteArtifacts,
        RemoteBases,
        RemoteBuilding,
        RemoteContexts,
        RemoteEnvironments,
        RemoteLocking,
    )


class Remote(Embedded):
    """
    One workspace or registry of a server.

    Attributes:
        http: How the server is asked.
        kind, name: Which namespace.
    """

    def __init__(
        self,
        home: Path,
        http: "Http",
        kind: ScopeKind,
        name: str,
        *,
        connection: "Connection | None" = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Args:
            home: Where bytes from servers are kept on this machine.
            connection: How the server is reached as a registry of images.
            say: Is told lines of logs.
        """
        self._connection = connection
        super().__init__(Machine(home))
        self.http, self.kind, self.name = http, kind, name
        self._say = say

    @cached_property
    def place(self) -> Workspace | str:
        """The workspace's address on Azure's terms, or the registry's name."""
        if self.kind is ScopeKind.REGISTRY:
            return self.name
        return self.registry.scope().address

    @cached_property
    def registry(self) -> RemoteRegistry:  # type: ignore[override]
        """The rows, on the server."""
        return RemoteRegistry(self.http, self.kind, self.name, self.machine.blobs)

    @cached_property
    def blobs(self) -> RemoteBlobs:  # type: ignore[override]
        """The bytes: here, or else on the server."""
        return RemoteBlobs(self.machine.blobs, self.http, self.registry.root)

    @cached_property
    def environments(self) -> "RemoteEnvironments":
        """Use cases of environments and versions."""
        from mlenv.service.remote import RemoteEnvironments

        return RemoteEnvironments(self.registry, utc_now)

    @cached_property
    def bases(self) -> "RemoteBases":
        """Use cases of base images."""
        from mlenv.service.remote import RemoteBases

        return RemoteBases(self.registry, self.registry, self.blobs, workdir=self.machine.work.directory, clock=utc_now)

    @cached_property
    def locking(self) -> "RemoteLocking":
        """Use cases of locks."""
        from mlenv.service.remote import RemoteLocking

        return RemoteLocking(
            self.registry,
            self.registry,
            self.blobs,
            lambda: self.bases,
            lambda: self.machine.resolver,
            lambda: self.machine.fetcher,
            host_pythons=lambda: [each.version for each in self.machine.pythons.find()],
            host_platform=self.machine.host_platform,
            exclusive=self.exclusive,
            workdir=self.machine.work.directory,
            clock=utc_now,
        )

    @cached_property
    def artifacts(self) -> "RemoteArtifacts":
        """Brings packages here."""
        from mlenv.service.remote import RemoteArtifacts

        return RemoteArtifacts(self.blobs, lambda: self.machine.fetcher, lambda: self.machine.channel_fetcher)

    @cached_property
    def building(self) -> "RemoteBuilding":  # type: ignore[override]
        """Use cases of builds."""
        from mlenv.service.remote import RemoteBuilding

        return RemoteBuilding(self.registry, self.blobs, self.locking, say=self._say)

    @cached_property
    def contexts(self) -> "RemoteContexts":  # type: ignore[override]
        """Use cases of Dockerfile contexts."""
        from mlenv.service.remote import RemoteContexts

        return RemoteContexts(self.registry, super().contexts, self.machine.blobs)

    @cached_property
    def evidence(self) -> "RemoteEvidence":  # type: ignore[override]
        """What is known of images: what the server attached to them."""
        from mlenv.service.reading_evidence import RemoteEvidence

        return RemoteEvidence(self.repository, self.machine.blobs)

    def repository(self, name: str) -> "Repository":
        """The repository of an environment on the server (`/v2/`), to be closed."""
        from mlenv.core.image_name import repository_of
        from mlenv.distribution.client import open_repository
        from mlenv.distribution.credentials import Login, OneLogin
        from mlenv.distribution.names import RemoteName
        from mlenv.distribution.settings import RegistrySettings

        assert self._connection is not None
        connection = self._connection
        scheme, _, host = connection.server.partition("://")
        insecure = frozenset({host}) if scheme == "http" else frozenset()
        authority = Path(connection.authority) if connection.authority else None
        return open_repository(
            RemoteName(host, f"{repository_of(self.name)}/{repository_of(name)}"),
            credentials=OneLogin(Login("mlenv", connection.token) if connection.token else None),
            settings=RegistrySettings(insecure=insecure, authority=authority),
        )

    def _builder_for_runs(self) -> "RemoteBuilding":  # type: ignore[override]
        from mlenv.service.remote import RemoteBuilding

        return RemoteBuilding(self.registry, self.blobs, self.locking, say=self._say, whole=True)

    @property
    def verifying(self) -> NoReturn:
        """Refused."""
        raise NotThroughServer("checking a store", "do it where the server runs: `mlenv --embedded store verify`")

    def close(self) -> None:
        """Let go of files. The connection belongs to whoever made it."""
        self.machine.close()


def open_remote(
    home: Path,
    http: "Http",
    connection: "Connection",
    workspace: str | None = None,
    registry: str | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Remote:
    """
    The workspace or registry that is named, or else the one that the connection says, or the workspace `default`.

    Args:
        home: The user's home for mlenv.
    """
    if registry is None and workspace is None:
        workspace, registry = connection.workspace, connection.registry
    kind = ScopeKind.WORKSPACE if registry is None else ScopeKind.REGISTRY
    name = registry or workspace or DEFAULT_WORKSPACE
    return Remote(home / "remote", http, kind, name, connection=connection, say=say)
