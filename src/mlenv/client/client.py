"""The client for Python programs: what the command line does against a server, as methods that give values."""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from mlenv.api.wire_site import ScopeAnswer, WhoAnswer
from mlenv.client.connection import find_connection
from mlenv.client.http import Http
from mlenv.client.memory import MemoryBlobs
from mlenv.client.registry import RemoteRegistry
from mlenv.core.access import Principal
from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange, View
from mlenv.core.layer import Compression
from mlenv.core.lock import Lock
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.records import BuildRecord, UseRecord
from mlenv.core.reference import LATEST, EnvironmentName, LabelName, Reference, VersionName, parse_label, parse_name
from mlenv.core.refusals import LabelNotFound
from mlenv.core.scope import DEFAULT_WORKSPACE, Scope, ScopeKey, ScopeKind
from mlenv.errors import InvalidInput, NotFound, Unavailable

#: Rows that are asked for at once.
_PAGE: Final = 200
#: Between two looks at a build, in seconds: the first, and the longest.
_FIRST_LOOK: Final = 0.2
_LONGEST_LOOK: Final = 5.0


class NoServer(InvalidInput):
    """No server is named."""

    hint = "give its address, set MLENV_SERVER, or log in with `mlenv login URL`"

    def __init__(self) -> None:
        super().__init__("no server is named")


class NoVersionYet(NotFound):
    """The environment has no version."""


class BuildTimeout(Unavailable):
    """A build has not ended in the time that was given. It goes on."""

    def __init__(self, build: BuildRecord, timeout: float) -> None:
        super().__init__(f"build {build.id} of {build.name}:{build.version} is {build.status} after {timeout:.0f} s")
        self.build = build


class Client:
    """
    One workspace or registry of a server.

    Names of environments are references, as everywhere: `iris`, `iris:3`, `iris@production`. Safe for several threads.

    Attributes:
        server: The server's address.
        kind, name: Which namespace.
    """

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        *,
        workspace: str | None = None,
        registry: str | None = None,
        ca: str | Path | None = None,
    ) -> None:
        """
        Args:
            server: Its address; None for `MLENV_SERVER`, or the server of the last `mlenv login`.
            token: Shown to it; None for `MLENV_TOKEN`, or that of the login.
            workspace, registry: One of them; with neither, `MLENV_WORKSPACE` or `MLENV_REGISTRY`, or else `default`.
            ca: A PEM file with the authority its certificate must be of; None for `MLENV_CA`, or that of the login, or
                those that the machine trusts.

        Raises:
            NoServer, InvalidServer, InvalidToken, UnreadableAuthority: One of these is missing or wrong.
        """
        if workspace is not None and registry is not None:
            raise InvalidInput(f"a workspace ({workspace!r}) and a registry ({registry!r}) are both given")
        connection = find_connection(server, None if ca is None else str(ca), token)
        if connection is None:
            raise NoServer
        if workspace is None and registry is None:
            workspace, registry = connection.workspace, connection.registry
        self.kind = ScopeKind.WORKSPACE if registry is None else ScopeKind.REGISTRY
        self.name = registry or workspace or DEFAULT_WORKSPACE
        self.server = connection.server
        self._http = Http(connection.server, connection.token, connection.authority)
        self._blobs = MemoryBlobs()
        self._registry = RemoteRegistry(self._http, self.kind, self.name, self._blobs)

    # The site.

    def whoami(self) -> Principal:
        """Who the server takes the token's bearer for. Raises `NotAuthenticated`."""
        who = self._registry.parse(WhoAnswer, self._http.request("GET", "/whoami"))
        roles = {ScopeKey(scope): role for scope, role in who.roles.items()}
        only = None if who.only is None else frozenset(map(ScopeKey, who.only))
        return Principal(who.id, who.name, roles, who.token, only)

    def scope(self) -> Scope:
        """The workspace or registry itself. Raises `NotFound`."""
        return self._registry.scope()

    def workspaces(self) -> Iterator[Scope]:
        """The workspaces that may be read, by name."""
        pages = self._http.pages("/workspaces", params={"limit": _PAGE})
        return (self._registry.parse(ScopeAnswer, each).to_core() for each in pages)

    def registries(self) -> Iterator[Scope]:
        """The registries that may be read, by name."""
        pages = self._http.pages("/registries", params={"limit": _PAGE})
        return (self._registry.parse(ScopeAnswer, each).to_core() for each in pages)

    # Environments and versions.

    def create(
        self,
        file: str | Path | Definition | None = None,
        *,
        name: str | None = None,
        version: str | None = None,
        image: str | None = None,
        conda_file: str | Path | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        python: str | None = None,
    ) -> EnvironmentVersion:
        """
        Register a version; one of the same content that is there already is given back.

        Args:
            file: An environment YAML; with a name, also a conda file, `requirements.txt`, `pyproject.toml` or
                `pylock.toml`. Or a `Definition`.
            version: The version; None for the file's, or else the next one.

        Raises:
            InvalidInput, ExceptionGroup: The definition has faults.
            VersionConflict: That version exists with other content.
        """
        if isinstance(file, Definition):
            return self._registry.add_version(file, now=_NOT_ASKED)[0]
        from mlenv.api.definition import load_definition

        definition = load_definition(
            None if file is None else Path(file),
            name=name,
            version=version,
            image=image,
            conda_file=None if conda_file is None else Path(conda_file),
            description=description,
            tags=dict(tags or {}),
            python=python,
        )
        return self._registry.add_version(definition, now=_NOT_ASKED)[0]

    def get(self, reference: str) -> EnvironmentVersion:
        """
        The version that a reference means: the one it names, the one its label points at, or the newest.

        Raises:
            InvalidReference, EnvironmentNotFound, VersionNotFound, LabelNotFound: There is none.
        """
        wanted = self._parsed(reference)
        if wanted.version is not None:
            return self._registry.version(wanted.name, wanted.version)
        if wanted.label is None or wanted.label == LATEST:
            return self._newest(wanted.name)
        labels = self._registry.environment(wanted.name).labels
        if wanted.label not in labels:
            raise LabelNotFound(wanted.name, wanted.label, labels)
        return self._registry.version(wanted.name, labels[wanted.label])

    def environment(self, name: str) -> Environment:
        """One environment as a whole. Raises `EnvironmentNotFound`."""
        return self._registry.environment(parse_name(name))

    def environments(self, view: View = View.ACTIVE) -> Iterator[Environment]:
        """Environments by name."""
        after: str | None = None
        while page := self._registry.environments(view, limit=_PAGE, after=after):
            yield from page
            after = page[-1].name

    def versions(self, name: str, view: View = View.ACTIVE) -> Iterator[EnvironmentVersion]:
        """Versions of an environment, the newest first. Raises `EnvironmentNotFound`."""
        checked, after = parse_name(name), None
        while page := self._registry.versions(checked, view, limit=_PAGE, after=after):
            yield from page
            after = page[-1].version

    def update(
        self,
        reference: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        set_tags: Mapping[str, str] | None = None,
        remove_tags: tuple[str, ...] = (),
    ) -> EnvironmentVersion:
        """
        Change description and tags of a version, over whatever others change at the same time.

        Args:
            description: The new one; `""` for none; None leaves it.
            tags: All tags from now on; None leaves them.
            set_tags, remove_tags: What is added and taken away after that.

        Raises:
            EnvironmentNotFound, VersionNotFound, LabelNotFound: It is not there.
        """
        change: dict[str, Any] = {"set_tags": dict(set_tags or {}), "remove_tags": list(remove_tags)}
        if description is not None:
            change["description"] = description
        if tags is not None:
            change["tags"] = dict(tags)
        return self._registry.change_version(*self._meant(reference), change)

    def archive(self, reference: str) -> None:
        """Archive one version, or with a bare name the environment and all its versions."""
        self._set_archived(reference, True)

    def restore(self, reference: str) -> None:
        """Show an archived version or environment again. Raises `EnvironmentArchived`."""
        self._set_archived(reference, False)

    def set_label(self, reference: str, label: str) -> EnvironmentVersion:
        """Point a label at the version that a reference means. Raises `ComputedLabel`."""
        found = self.get(reference)
        self._registry.set_label(found.name, parse_label(label), found.version, now=_NOT_ASKED)
        return found

    def labels(self, name: str) -> dict[LabelName, list[LabelChange]]:
        """Every label with where it points and pointed, the newest first. Raises `EnvironmentNotFound`."""
        return self._registry.labels(parse_name(name))

    # Locks, builds and uses.

    def lock(self, reference: str, platform: str | Platform, options: LockOptions | None = None) -> Lock:
        """
        The lock of a version for a platform: the one that was made, or else one that the server makes now.

        Raises:
            LockDiffers: It was made with other options.
            ResolutionFailed: Its requirements have no answer.
        """
        name, version = self._meant(reference)
        digest = self._registry.make_lock(name, version, _platform(platform), options)
        return Lock.from_pylock(self._blobs.read(digest).decode())

    def build(
        self,
        reference: str,
        platform: str | Platform = "linux/amd64",
        *,
        compression: Compression = Compression.ZSTD,
        options: LockOptions | None = None,
    ) -> BuildRecord:
        """
        Ask for a version's image. It is built in the server's queue, once however many ask: see `wait`.

        Raises:
            NoBase: It can't be built.
        """
        name, version = self._meant(reference)
        return self._registry.request_build(
            name, version, _platform(platform), compression=compression, options=options
        )

    def builds(self, reference: str) -> list[BuildRecord]:
        """Builds of a version, the newest first."""
        return self._registry.builds(*self._meant(reference))

    def get_build(self, id: str) -> BuildRecord:
        """A build as it stands. Raises `NotFound`."""
        return self._registry.build(id)

    def wait(self, build: BuildRecord | str, timeout: float | None = None) -> BuildRecord:
        """
        Wait for a build's end, however it ends: its `status` says how.

        Args:
            timeout: In seconds; None for no limit.

        Raises:
            BuildTimeout: It has not ended in that time.
        """
        found = self._registry.build(build if isinstance(build, str) else build.id)
        begun, look = time.monotonic(), _FIRST_LOOK
        while not found.status.ended:
            left = None if timeout is None else begun + timeout - time.monotonic()
            if left is not None and left <= 0:
                raise BuildTimeout(found, timeout or 0)
            time.sleep(look if left is None else min(look, left))
            look = min(look * 1.5, _LONGEST_LOOK)
            found = self._registry.build(found.id)
        return found

    def logs(self, build: BuildRecord | str) -> Iterator[str]:
        """The lines of a build's log, from the first on, as they are written; it ends with the build."""
        return self._registry.log_lines(build if isinstance(build, str) else build.id)

    def cancel(self, build: BuildRecord | str) -> BuildRecord:
        """Cancel a build; one that has ended stays as it is."""
        return self._registry.cancel_build(build if isinstance(build, str) else build.id)

    def uses(self, reference: str, limit: int = 100) -> list[UseRecord]:
        """Uses of an environment, or of one version of it, the newest first."""
        wanted = self._parsed(reference)
        if wanted.label is not None:
            name, version = self._meant(reference)
            return self._registry.uses(name, version, limit=limit)
        return self._registry.uses(wanted.name, wanted.version, limit=limit)

    # Inside.

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.server!r}, {self.kind}={self.name!r})"

    def _parsed(self, text: str) -> Reference:
        """A reference into this namespace. Raises `InvalidReference`, or `InvalidInput` if it is into another."""
        reference = Reference.parse(text)
        where = reference.registry or (reference.workspace.name if reference.workspace else None)
        kind = ScopeKind.REGISTRY if reference.registry else ScopeKind.WORKSPACE
        if where is not None and (kind, where) != (self.kind, self.name):
            raise InvalidInput(f"{text} is in the {kind} {where!r}, and this client in the {self.kind} {self.name!r}")
        return reference

    def _meant(self, text: str) -> tuple[EnvironmentName, VersionName]:
        reference = self._parsed(text)
        if reference.version is not None:
            return reference.name, reference.version
        found = self.get(text)
        return found.name, found.version

    def _newest(self, name: EnvironmentName) -> EnvironmentVersion:
        for view in (View.ACTIVE, View.ALL):
            if found := self._registry.versions(name, view, limit=1):
                return found[0]
        raise NoVersionYet(f"environment {name!r} has no versions yet")

    def _set_archived(self, text: str, archived: bool) -> None:
        reference = self._parsed(text)
        if reference.version is None and reference.label is None:
            self._registry.set_archived(reference.name, archived, now=_NOT_ASKED)
        else:
            self._registry.change_version(*self._meant(text), {"archived": archived})


#: The server's own clock counts.
_NOT_ASKED: Final = datetime.min


def _platform(text: str | Platform) -> Platform:
    return text if isinstance(text, Platform) else Platform.parse(text)
