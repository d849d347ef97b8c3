"""The embedded store: adapters for one namespace."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mlenv.wiring.machine import Machine, private_directory

if TYPE_CHECKING:
    from mlenv.build.context_engines import FoundEngines
    from mlenv.core.environment import EnvironmentVersion
    from mlenv.core.lock import Lock
    from mlenv.core.platform import Platform
    from mlenv.core.progress import Progress
    from mlenv.core.reference import Workspace
    from mlenv.run.engines import ContainerEngine
    from mlenv.run.found import Prefix
    from mlenv.run.pythons import HostPython
    from mlenv.service.artifacts import Artifacts
    from mlenv.service.bases import Bases
    from mlenv.service.building import Building
    from mlenv.service.conda_locking import CondaLocking
    from mlenv.service.context_builds import ContextBuilds
    from mlenv.service.doctoring import Doctor
    from mlenv.service.environments import Environments
    from mlenv.service.evidence import Evidence
    from mlenv.service.files import Files
    from mlenv.service.layer_cache import RegistryLayers
    from mlenv.service.lock_files import LockFiles
    from mlenv.service.locking import Locking
    from mlenv.service.making import ImageMaker
    from mlenv.service.pushing import Pushing
    from mlenv.service.running import Running
    from mlenv.service.verifying import Verifying
    from mlenv.store.oci import OciLayout
    from mlenv.store.sql import SqlRegistry


class Embedded:
    """
    A store in a directory of its own, used by this process without a server. What is not used is not made.

    Attributes:
        machine: What does the work, in that directory.
        home: The directory. In it: `mlenv.db` (rows), and what `Machine` keeps there.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.home = machine.home

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

    @property
    def blobs(self) -> "OciLayout":
        """The bytes."""
        return self.machine.blobs

    @cached_property
    def environments(self) -> "Environments":
        """Use cases of environments and versions."""
        from mlenv.service.environments import Environments

        return Environments(self.registry, utc_now)

    @cached_property
    def bases(self) -> "Bases":
        """Use cases of base images."""
        from mlenv.core.platform import Platform
        from mlenv.service.bases import Bases

        return Bases(
            self.registry,
            self.blobs,
            workdir=self.machine.work.directory,
            clock=utc_now,
            registries=lambda: self.machine.registries,
            preferred=lambda: Platform("linux", self.machine.host_platform.architecture),
        )

    @cached_property
    def locking(self) -> "Locking":
        """Use cases of locks."""
        from mlenv.service.locking import Locking

        return Locking(
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
            policy=self.machine.policy,
            contexts=lambda: self.contexts,
            own_index=lambda: self.machine.resolver.own_index,
            conda=lambda: self._conda,
        )

    @cached_property
    def _conda(self) -> "CondaLocking":
        from mlenv.service.conda_locking import CondaLocking

        return CondaLocking(
            lambda: self.machine.conda_resolver,
            lambda: self.machine.resolver,
            self.artifacts,
            self.blobs,
            self.machine.policy,
        )

    @cached_property
    def lock_files(self) -> "LockFiles":
        """Use cases of locks as files."""
        from mlenv.service.lock_files import LockFiles

        return LockFiles(self.registry, self.blobs, utc_now)

    @cached_property
    def evidence(self) -> "Evidence":
        """What is known of images, as documents to be attached to them."""
        from mlenv import __version__
        from mlenv.service.evidence import Evidence

        return Evidence(self.registry, self.blobs, builder=__version__)

    @cached_property
    def artifacts(self) -> "Artifacts":
        """Brings packages into the store."""
        from mlenv.service.artifacts import Artifacts

        return Artifacts(self.blobs, lambda: self.machine.fetcher, lambda: self.machine.channel_fetcher)

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
            lambda: self.contexts,
            exclusive=self.exclusive,
            clock=utc_now,
            new_id=new_id,
        )

    @cached_property
    def pushing(self) -> "Pushing":
        """Use cases of images in other registries."""
        from mlenv.service.pushing import Pushing

        return Pushing(self.blobs, self.bases, self.building, self.machine.registries, self.evidence)

    @cached_property
    def contexts(self) -> "ContextBuilds":
        """Use cases of Dockerfile contexts."""
        from mlenv.build.context_engines import find_context_engine
        from mlenv.service.context_builds import ContextBuilds

        return ContextBuilds(
            self.registry,
            self.blobs,
            self.blobs,
            lambda: self.bases,
            settings=self.machine.context_settings,
            engine=find_context_engine,
            workdir=self.machine.work.directory,
            clock=utc_now,
            uploads=self._uploads(),
        )

    def _uploads(self) -> "tuple[Callable[[], Files], str] | None":
        """What was uploaded to the namespace, and its id; None where nothing can be uploaded to."""
        return None

    @cached_property
    def running(self) -> "Running":
        """Use cases of runs."""
        from mlenv.service.running import Running

        return Running(
            self.registry,
            self.locking,
            self._builder_for_runs,
            lambda: self.artifacts,
            pythons=self.machine.pythons,
            materialise=self._materialise,
            container_engine=_find_engine,
            blob_directory=self.home / "oci" / "blobs",
            host_platform=self.machine.host_platform,
            who=_who,
            inherited=os.environ,
            clock=utc_now,
            new_id=new_id,
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
            home=self.machine.directory(),
            open_store=lambda: (self.home / "mlenv.db").exists() and self.registry,
            find_uv=find_uv,
            pythons=self.machine.pythons,
            resolver=self.machine.resolver_in,
            container_engine=_find_engine,
            builders=self._find_builders,
            host_platform=self.machine.host_platform,
        )

    def _find_builders(self) -> "FoundEngines":
        from mlenv.build.context_engines import look_for_engines

        return look_for_engines(self.machine.context_settings.engine, self.machine.work.directory())

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Keep other processes out of `name` while the context lasts; the operating system lets go of what dies."""
        from mlenv.core.digest import Digest
        from mlenv.file_lock import FileLock

        with FileLock(self.machine.directory("locks") / Digest.of(name.encode()).hex[:32]):
            yield

    def platforms_of(self, version: "EnvironmentVersion") -> tuple["Platform", ...]:
        """What images of a version are built for: what its spec says, or Linux on this machine's architecture."""
        from mlenv.core.platform import Platform

        return version.spec.platforms or (Platform("linux", self.machine.host_platform.architecture),)

    def _image_maker(self) -> "ImageMaker":
        from mlenv.service.making import ImageMaker

        return ImageMaker(
            self.registry,
            self.blobs,
            self.blobs,
            self.layers,
            self.artifacts,
            compiler=self.machine.compiler,
            clock=utc_now,
        )

    def _builder_for_runs(self) -> "Building":
        """Builds images that are run on this machine."""
        return self.building

    def _materialise(
        self, lock: "Lock", python: "HostPython | None", fetch: Callable[[], None], progress: "Progress"
    ) -> "Prefix":
        from mlenv.run.found import find_prefix

        prefixes = self.machine.directory("prefixes")
        if (found := find_prefix(lock, python, prefixes)) is not None:
            return found
        from mlenv.build.bytecode import compile_to_files
        from mlenv.run.local import materialise

        with self.artifacts.refusing(lock.everything):
            fetch()
            return materialise(
                lock,
                python,
                wheels=self.blobs,
                cache=self.machine.directory("cache"),
                prefixes=prefixes,
                compiler=compile_to_files,
                progress=progress,
            )

    def close(self) -> None:
        """Let go of files."""
        if "registry" in self.__dict__:
            self.registry.close()
        self.machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_embedded(home: Path) -> Embedded:
    """The embedded store in `home`, which is made when something is first put there."""
    return Embedded(Machine(home))


def utc_now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)


def _find_engine() -> "ContainerEngine":
    from mlenv.run.engines import find_engine

    return find_engine()


def new_id() -> str:
    """An id that nobody can guess."""
    return os.urandom(16).hex()


def _who() -> tuple[str, str]:
    import getpass
    import platform

    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return user, platform.node()
