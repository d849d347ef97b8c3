"""The one place that picks concrete adapters."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mlenv.store.database import StoreUnusable

if TYPE_CHECKING:
    from mlenv.build.bytecode import Compiler
    from mlenv.core.audit import Author
    from mlenv.core.environment import EnvironmentVersion
    from mlenv.core.lock import Lock
    from mlenv.core.platform import Platform
    from mlenv.core.progress import Progress
    from mlenv.core.reference import Workspace
    from mlenv.core.scope import Scope
    from mlenv.resolve.index_http import HttpFetcher
    from mlenv.resolve.machine_index import MachineIndex
    from mlenv.resolve.pip import PipResolver
    from mlenv.run.engines import ContainerEngine
    from mlenv.run.found import Prefix
    from mlenv.run.pythons import HostPython, Pythons
    from mlenv.service.artifacts import Artifacts
    from mlenv.service.assets import Assets
    from mlenv.service.bases import Bases
    from mlenv.service.building import Building
    from mlenv.service.builds import Builds
    from mlenv.service.doctoring import Doctor
    from mlenv.service.environments import Environments
    from mlenv.service.files import Files
    from mlenv.service.image_files import ImageFiles
    from mlenv.service.jobs import Jobs
    from mlenv.service.layer_cache import RegistryLayers
    from mlenv.service.lock_files import LockFiles
    from mlenv.service.locking import Locking
    from mlenv.service.making import ImageMaker
    from mlenv.service.running import Running
    from mlenv.service.site import Site
    from mlenv.service.verifying import Verifying
    from mlenv.store.database import Database
    from mlenv.store.oci import OciLayout
    from mlenv.store.sessions import Sessions
    from mlenv.store.sql import SqlRegistry
    from mlenv.store.sql_builds import SqlWorkers
    from mlenv.work.logs import Logs
    from mlenv.work.queue import DurableQueue
    from mlenv.work.runner import Workers


def utc_now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)


class Embedded:
    """
    A store in a directory of its own, used by this process without a server. What is not used is not made.

    Attributes:
        home: The directory. In it: `mlenv.db` (rows), `oci/` (blobs), `cache/uv`, `cache/wheels`, `prefixes/`
            (environments for local runs), `locks/` (held by processes at work), `work/` (what
            is half done).
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def place(self) -> "Workspace | str":
        """How the one workspace is addressed on Azure's terms."""
        from mlenv.core.reference import Workspace
        from mlenv.core.scope import DEFAULT_GROUP, DEFAULT_SUBSCRIPTION, DEFAULT_WORKSPACE

        return Workspace(DEFAULT_SUBSCRIPTION, DEFAULT_GROUP, DEFAULT_WORKSPACE)

    @cached_property
    def registry(self) -> "SqlRegistry":
        """The rows, migrated first if need be. Raises as `mlenv.store.opening.open_sqlite`."""
        from mlenv.store.opening import open_sqlite
        from mlenv.store.sql import SqlRegistry

        private_directory(self.home)
        return SqlRegistry(open_sqlite(self.home / "mlenv.db"))

    @cached_property
    def blobs(self) -> "OciLayout":
        """The bytes."""
        from mlenv.store.oci import OciLayout

        return OciLayout(self.directory("oci"))

    @cached_property
    def work(self) -> "Sessions":
        """Where temporary files go, in the store's own file system."""
        from mlenv.store.sessions import Sessions

        return Sessions(self.directory() / "work")

    @cached_property
    def environments(self) -> "Environments":
        """Use cases of environments and versions."""
        from mlenv.service.environments import Environments

        return Environments(self.registry, utc_now)

    @cached_property
    def host_platform(self) -> "Platform":
        """What this machine is. Raises `InvalidPlatform` on one that mlenv does not know."""
        import platform

        from mlenv.core.platform import Platform

        return Platform.parse(f"{platform.system()}/{platform.machine()}")

    @cached_property
    def pythons(self) -> "Pythons":
        """The interpreters of this machine."""
        from mlenv.run.pythons import Pythons

        return Pythons(self.directory("cache"), os.environ)

    @cached_property
    def machine_index(self) -> "MachineIndex | None":
        """What takes the public index's place on this machine. Raises `InvalidMachineIndex`."""
        from mlenv.resolve.machine_index import machine_index

        return machine_index(os.environ)

    @cached_property
    def fetcher(self) -> "HttpFetcher":
        """Brings files from indexes."""
        from mlenv.resolve.index_http import HttpFetcher

        return HttpFetcher(machine=self.machine_index)

    @cached_property
    def resolver(self) -> "PipResolver":
        """Resolves pip requirements."""
        return self._resolver_in(self.directory("cache", "uv"))

    def _resolver_in(self, cache: Path) -> "PipResolver":
        from mlenv.resolve.pip import PipResolver

        return PipResolver(
            cache,
            fetcher=self.fetcher,
            machine=self.machine_index,
            host=self.host_platform,
            find_python=self._python_of_minor,
        )

    @cached_property
    def bases(self) -> "Bases":
        """Use cases of base images."""
        from mlenv.service.bases import Bases

        return Bases(self.registry, self.blobs, workdir=self.work.directory, clock=utc_now)

    @cached_property
    def locking(self) -> "Locking":
        """Use cases of locks."""
        from mlenv.service.locking import Locking

        return Locking(
            self.registry,
            self.blobs,
            lambda: self.bases,
            lambda: self.resolver,
            lambda: self.fetcher,
            host_pythons=lambda: [each.version for each in self.pythons.find()],
            host_platform=self.host_platform,
            exclusive=self.exclusive,
            workdir=self.work.directory,
            clock=utc_now,
        )

    @cached_property
    def artifacts(self) -> "Artifacts":
        """Brings wheels into the store."""
        from mlenv.service.artifacts import Artifacts

        return Artifacts(self.blobs, lambda: self.fetcher)

    @cached_property
    def layers(self) -> "RegistryLayers":
        """What is remembered of layers and of bytecode."""
        from mlenv.service.layer_cache import RegistryLayers

        return RegistryLayers(self.registry, self.blobs)

    @cached_property
    def building(self) -> "Building":
        """Use cases of builds."""
        from mlenv.service.building import Building

        return Building(
            self.registry,
            self.blobs,
            self.bases,
            self.locking,
            self._image_maker,
            exclusive=self.exclusive,
            clock=utc_now,
            new_id=_new_id,
        )

    @cached_property
    def running(self) -> "Running":
        """Use cases of runs."""
        from mlenv.service.running import Running

        return Running(
            self.registry,
            self.locking,
            self._builder_for_runs,
            lambda: self.artifacts,
            pythons=self.pythons,
            materialise=self._materialise,
            container_engine=_find_engine,
            blob_directory=self.home / "oci" / "blobs",
            host_platform=self.host_platform,
            who=_who,
            inherited=os.environ,
            clock=utc_now,
            new_id=_new_id,
        )

    @cached_property
    def verifying(self) -> "Verifying":
        """Use cases of verification."""
        from mlenv.service.verifying import Verifying
        from mlenv.store.layout_check import check_layout

        return Verifying(self.registry, self.blobs, check_blobs=lambda progress: check_layout(self.blobs, progress))

    @cached_property
    def doctor(self) -> "Doctor":
        """Looks at this machine."""
        from mlenv.resolve.uv_process import find_uv
        from mlenv.service.doctoring import Doctor

        return Doctor(
            home=self.directory(),
            open_store=lambda: (self.home / "mlenv.db").exists() and self.registry,
            find_uv=find_uv,
            pythons=self.pythons,
            resolver=self._resolver_in,
            container_engine=_find_engine,
            host_platform=self.host_platform,
        )

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Keep other processes out of `name` while the context lasts; the operating system lets go of what dies."""
        from mlenv.core.digest import Digest
        from mlenv.file_lock import FileLock

        with FileLock(self.directory("locks") / Digest.of(name.encode()).hex[:32]):
            yield

    def platforms_of(self, version: "EnvironmentVersion") -> tuple["Platform", ...]:
        """What images of a version are built for: what its spec says, or Linux on this machine's architecture."""
        from mlenv.core.platform import Platform

        return version.spec.platforms or (Platform("linux", self.host_platform.architecture),)

    def _python_of_minor(self, minor: str) -> str | None:
        found = next((each for each in self.pythons.find() if each.minor == minor), None)
        return None if found is None else str(found.path)

    def _image_maker(self) -> "ImageMaker":
        from mlenv.service.making import ImageMaker

        return ImageMaker(
            self.registry,
            self.blobs,
            self.blobs,
            self.layers,
            self.artifacts,
            compiler=self._compiler,
            clock=utc_now,
        )

    def _builder_for_runs(self) -> "Building":
        """Builds images that are run on this machine."""
        return self.building

    def _compiler(self, version: str) -> "Compiler":
        from mlenv.build.bytecode import Compiler
        from mlenv.service.making import NoCompiler

        python = next((each for each in self.pythons.find() if each.version == version), None)
        if python is None:
            raise NoCompiler(version)
        return Compiler(python.path, version)

    def _materialise(
        self, lock: "Lock", python: "HostPython", fetch: Callable[[], None], progress: "Progress"
    ) -> "Prefix":
        from mlenv.run.found import find_prefix

        prefixes = self.directory("prefixes")
        if (found := find_prefix(lock, python, prefixes)) is not None:
            return found
        from mlenv.build.bytecode import compile_to_files
        from mlenv.run.local import materialise

        with self.artifacts.refusing(lock.packages):
            fetch()
            return materialise(
                lock,
                python,
                wheels=self.blobs,
                cache=self.directory("cache"),
                prefixes=prefixes,
                compiler=compile_to_files,
                progress=progress,
            )

    def directory(self, *parts: str) -> Path:
        """A directory below home, for this user's eyes only: `directory("cache", "uv")`."""
        path = private_directory(self.home)
        for part in parts:
            path = private_directory(path / part)
        return path

    def close(self) -> None:
        """Let go of files."""
        if "registry" in self.__dict__:
            self.registry.close()
        if "blobs" in self.__dict__:
            self.blobs.close()
        if "work" in self.__dict__:
            self.work.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class InScope(Embedded):
    """
    One namespace of a server, for one caller. Cheap to make: what costs something is shared by all of a process.

    Attributes:
        scope: The namespace.
        author: Who makes changes, for the audit; without one nothing can be changed.
    """

    def __init__(self, hosted: "Hosted", scope: "Scope", author: "Author | None") -> None:
        super().__init__(hosted.home)
        self.hosted, self.scope, self.author = hosted, scope, author

    @cached_property
    def registry(self) -> "SqlRegistry":
        """The namespace's rows."""
        from mlenv.store.sql import SqlRegistry

        return SqlRegistry(self.hosted.database, self.scope.key, author=self.author, audited=True)

    @cached_property
    def blobs(self) -> "OciLayout":
        """The bytes, of all namespaces."""
        return self.hosted.shared.blobs

    @cached_property
    def work(self) -> "Sessions":
        """Where temporary files go."""
        return self.hosted.shared.work

    @cached_property
    def host_platform(self) -> "Platform":
        """What this machine is."""
        return self.hosted.shared.host_platform

    @cached_property
    def pythons(self) -> "Pythons":
        """The interpreters of this machine."""
        return self.hosted.shared.pythons

    @cached_property
    def machine_index(self) -> "MachineIndex | None":
        """What takes the public index's place on this machine."""
        return self.hosted.shared.machine_index

    @cached_property
    def fetcher(self) -> "HttpFetcher":
        """Brings files from indexes."""
        return self.hosted.shared.fetcher

    @cached_property
    def resolver(self) -> "PipResolver":
        """Resolves pip requirements."""
        return self.hosted.shared.resolver

    @cached_property
    def lock_files(self) -> "LockFiles":
        """Use cases of locks as files."""
        from mlenv.service.lock_files import LockFiles

        return LockFiles(self.registry, self.blobs, utc_now)

    @cached_property
    def image_files(self) -> "ImageFiles":
        """Use cases of images as files."""
        from mlenv.service.image_files import ImageFiles

        return ImageFiles(self.registry, self.blobs)

    @cached_property
    def builds(self) -> "Builds":
        """Use cases of builds that are queued."""
        from mlenv.service.builds import Builds
        from mlenv.store.sql_builds import SqlBuilds

        return Builds(
            self.scope.key,
            SqlBuilds(self.hosted.database, self.scope.key, author=self.author),
            lambda: self.building,
            lambda: self.hosted.queue,
            lambda: self.hosted.logs,
            clock=utc_now,
            new_id=_new_id,
            requested_by=self.author.name if self.author else None,
        )

    @cached_property
    def assets(self) -> "Assets":
        """Use cases of what references environments."""
        from mlenv.service.assets import Assets
        from mlenv.store.sql_assets import SqlAssets

        store = SqlAssets(self.hosted.database, self.scope.key, author=self.author)
        return Assets(store, self.environments, utc_now)

    @cached_property
    def files(self) -> "Files":
        """Use cases of files that clients upload."""
        from mlenv.service.files import Files
        from mlenv.store.sql_files import SqlFiles

        return Files(SqlFiles(self.hosted.database, self.scope.key, author=self.author), self.blobs, utc_now)

    @cached_property
    def jobs(self) -> "Jobs":
        """Use cases of jobs."""
        from mlenv.service.jobs import Jobs

        return Jobs(
            self.scope.key,
            self.assets,
            lambda: self.hosted.queue,
            lambda: self.hosted.logs,
            self._first_use,
            utc_now,
        )

    def _first_use(self, version: "EnvironmentVersion") -> None:
        for platform in self.platforms_of(version):
            self.builds.request(version, platform)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """As for `Embedded`; names are those of this namespace."""
        with super().exclusive(f"{self.scope.key}/{name}"):
            yield

    def close(self) -> None:
        """Nothing: what is open belongs to the process."""


class Hosted:
    """
    The store of a server or a worker: many namespaces over one database and one directory.

    Attributes:
        home: The directory, which every process of the site sees. In it: `oci/` (blobs), `logs/`, `cache/`, `keys/`.
        url: Where the rows are, as SQLAlchemy writes it; None for the SQLite file `mlenv.db` in `home`.
        shared: What all namespaces have in common. Its `registry` is not for use.
    """

    def __init__(self, home: Path, database: str | None = None) -> None:
        self.home, self.url = home, database
        self.shared = Embedded(home)

    @cached_property
    def database(self) -> "Database":
        """The rows, migrated first if need be. Raises as `mlenv.store.server_opening.open_database`."""
        from mlenv.store.server_opening import open_database

        private_directory(self.home)
        return open_database(self.url, self.home)

    @cached_property
    def site(self) -> "Site":
        """The door to every namespace."""
        from mlenv.service.site import Site
        from mlenv.store.sql_site import SqlSite

        return Site(SqlSite(self.database), self.services, utc_now)

    @cached_property
    def queue(self) -> "DurableQueue":
        """Where builds and jobs wait."""
        from mlenv.work.queue import DurableQueue

        private_directory(self.home)
        return DurableQueue(self.home, self.url)

    @cached_property
    def logs(self) -> "Logs":
        """Logs of builds, as they are written and ever after."""
        from mlenv.work.logs import Logs

        return Logs(self.shared.directory("logs"), self.shared.blobs)

    @cached_property
    def workers(self) -> "SqlWorkers":
        """The rows of processes that work for the queue."""
        from mlenv.store.sql_builds import SqlWorkers

        return SqlWorkers(self.database)

    def build_states(self) -> dict[str, int]:
        """How many builds are in each state, in all namespaces."""
        return self.workers.states()

    def start_workers(self, concurrency: int, *, per_scope: int, build: float, step: float) -> "Workers":
        """
        Take builds and jobs from the queue, until the workers are told to stop.

        Args:
            concurrency: How many at once.
            per_scope: How many of one namespace, in all processes together; 0 for no such limit.
            build, step: Seconds that a build, and one step of it, may take.

        Raises:
            QueueUnavailable, StoreUnusable and others of the store.
        """
        from mlenv.work.hosting import Limits
        from mlenv.work.runner import Workers

        limits = Limits(concurrency=concurrency, per_scope=per_scope, build=build, step=step)
        workers = Workers(self, limits)
        workers.start()
        return workers

    def jobs_waiting(self, *, before: datetime, limit: int) -> list[tuple[str, str, int]]:
        """Scope, name and attempts of jobs that were submitted before a time and have not ended."""
        from mlenv.store.sql_assets import jobs_waiting

        return jobs_waiting(self.database, before=before, limit=limit)

    def services(self, scope: "Scope", author: "Author | None") -> InScope:
        """The use cases of a namespace; with an author they may write."""
        return InScope(self, scope, author)

    def close(self) -> None:
        """Let go of files and connections."""
        if "queue" in self.__dict__:
            self.queue.close()
        if "database" in self.__dict__:
            self.database.close()
        self.shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_embedded(home: Path) -> Embedded:
    """The embedded store in `home`, which is made when something is first put there."""
    return Embedded(home)


def private_directory(path: Path) -> Path:
    """Make a directory, for this user's eyes only, if it is not there. Raises `StoreUnusable`."""
    try:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StoreUnusable(str(path), "it is not a directory") from error
    except OSError as error:
        raise StoreUnusable(str(path), error.strerror or str(error)) from error
    return path


def _find_engine() -> "ContainerEngine":
    from mlenv.run.engines import find_engine

    return find_engine()


def _new_id() -> str:
    return os.urandom(16).hex()


def _who() -> tuple[str, str]:
    import getpass
    import platform

    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return user, platform.node()
