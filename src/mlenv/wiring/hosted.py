"""The store of a server or worker: adapters for many namespaces."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mlenv.core.site_policy import DEFAULT_POLICY, SitePolicy
from mlenv.wiring.embedded import Embedded, new_id, utc_now
from mlenv.wiring.machine import Machine, private_directory

if TYPE_CHECKING:
    from mlenv.core.audit import Author
    from mlenv.core.environment import EnvironmentVersion
    from mlenv.core.scope import Scope
    from mlenv.run.pythons import Pythons
    from mlenv.service.assets import Assets
    from mlenv.service.attaching import BuiltEvidence
    from mlenv.service.builds import Builds
    from mlenv.service.collecting import Collecting
    from mlenv.service.environment_images import EnvironmentImages, Remembered
    from mlenv.service.files import Files
    from mlenv.service.image_files import ImageFiles
    from mlenv.service.jobs import Jobs
    from mlenv.service.repositories import Repositories
    from mlenv.service.site import Site
    from mlenv.store.database import Database
    from mlenv.store.sql import SqlRegistry
    from mlenv.store.sql_builds import SqlWorkers
    from mlenv.store.uploads import Uploads
    from mlenv.work.logs import Logs
    from mlenv.work.queue import DurableQueue
    from mlenv.work.runner import Workers


class InScope(Embedded):
    """
    One namespace of a server, for one caller. Cheap to make: what costs something is shared by all of a process.

    Attributes:
        scope: The namespace.
        author: Who makes changes, for the audit; without one nothing can be changed.
    """

    def __init__(self, hosted: "Hosted", scope: "Scope", author: "Author | None") -> None:
        super().__init__(hosted.machine)
        self.hosted, self.scope, self.author = hosted, scope, author

    @cached_property
    def registry(self) -> "SqlRegistry":
        """The namespace's rows."""
        from mlenv.store.sql import SqlRegistry

        return SqlRegistry(self.hosted.database, self.scope.key, author=self.author, audited=True)

    @property
    def pythons(self) -> "Pythons":
        """The interpreters of this machine."""
        return self.machine.pythons

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
            new_id=new_id,
            found=lambda build: self.evidence.complete(build),
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

    def _uploads(self) -> "tuple[Callable[[], Files], str] | None":
        return (lambda: self.files), self.scope.id

    @cached_property
    def repositories(self) -> "Repositories":
        """Use cases of repositories of images."""
        from mlenv.core.image_name import repository_of
        from mlenv.service.repositories import Repositories
        from mlenv.store.sql_repositories import SqlRepositories

        store = SqlRepositories(self.hosted.database, self.scope.key, author=self.author)
        prefix = repository_of(self.scope.name)
        return Repositories(prefix, store, self.blobs, self.hosted.uploads, lambda: self.environment_images, utc_now)

    @cached_property
    def evidence(self) -> "BuiltEvidence":
        """What is known of images, and attaching it to them."""
        from mlenv import __version__
        from mlenv.service.attaching import BuiltEvidence

        return BuiltEvidence(self.registry, self.blobs, lambda: self.repositories, builder=__version__, clock=utc_now)

    @cached_property
    def environment_images(self) -> "EnvironmentImages":
        """Environments as repositories."""
        from mlenv.service.environment_images import EnvironmentImages
        from mlenv.store.sql_built import SqlBuilt

        store, remembered = SqlBuilt(self.hosted.database, self.scope.key), self.hosted.remembered
        return EnvironmentImages(self.scope.key, self.registry, store, self.blobs, remembered, utc_now)

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
        policy: What it does for those who use it.
        machine: What all namespaces have in common.
    """

    def __init__(self, home: Path, database: str | None = None, policy: SitePolicy = DEFAULT_POLICY) -> None:
        self.home, self.url, self.policy = home, database, policy
        self.machine = Machine(home, policy)

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

        return Logs(self.machine.directory("logs"), self.machine.blobs)

    @cached_property
    def uploads(self) -> "Uploads":
        """Blobs that come in pieces."""
        from mlenv.store.uploads import Uploads

        return Uploads(self.machine.blobs)

    @cached_property
    def collecting(self) -> "Collecting":
        """Use cases of collecting garbage, of all namespaces."""
        from mlenv.service.collecting import Collecting
        from mlenv.store.sql_collecting import SqlNames
        from mlenv.store.sweep import Sweep

        names, blobs = SqlNames(self.database), Sweep(self.machine.blobs)
        return Collecting(names, blobs, self.uploads.sweep, self._collecting_alone, utc_now)

    @contextmanager
    def _collecting_alone(self) -> Iterator[None]:
        from mlenv.file_lock import FileLock, Timeout
        from mlenv.service.collecting import CollectionRuns

        lock = FileLock(self.machine.directory("locks") / "collecting", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise CollectionRuns from error
        try:
            yield
        finally:
            lock.release()

    @cached_property
    def remembered(self) -> "Remembered":
        """What this process remembers of environments' images."""
        from mlenv.service.environment_images import Remembered

        return Remembered()

    @cached_property
    def workers(self) -> "SqlWorkers":
        """The rows of processes that work for the queue."""
        from mlenv.store.sql_builds import SqlWorkers

        return SqlWorkers(self.database)

    def build_states(self) -> dict[str, int]:
        """How many builds are in each state, in all namespaces."""
        return self.workers.states()

    def start_workers(
        self, concurrency: int, *, per_scope: int, build: float, step: float, log: int | None = None
    ) -> "Workers":
        """
        Take builds and jobs from the queue, until the workers are told to stop.

        Args:
            concurrency: How many at once.
            per_scope: How many of one namespace, in all processes together; 0 for no such limit.
            build, step: Seconds that a build, and one step of it, may take.
            log: Bytes that the log of a build or job may have; None for no limit.

        Raises:
            QueueUnavailable, StoreUnusable and others of the store.
        """
        from mlenv.work.hosting import Limits
        from mlenv.work.runner import Workers

        limits = Limits(concurrency=concurrency, per_scope=per_scope, build=build, step=step, log=log)
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
        self.machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
