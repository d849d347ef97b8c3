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
    from mlenv.core.environment import EnvironmentVersion
    from mlenv.core.lock import Lock
    from mlenv.core.platform import Platform
    from mlenv.core.progress import Progress
    from mlenv.resolve.index_http import HttpFetcher
    from mlenv.resolve.machine_index import MachineIndex
    from mlenv.resolve.pip import PipResolver
    from mlenv.run.engines import ContainerEngine
    from mlenv.run.found import Prefix
    from mlenv.run.pythons import HostPython, Pythons
    from mlenv.service.artifacts import Artifacts
    from mlenv.service.bases import Bases
    from mlenv.service.building import Building
    from mlenv.service.doctoring import Doctor
    from mlenv.service.environments import Environments
    from mlenv.service.layer_cache import RegistryLayers
    from mlenv.service.locking import Locking
    from mlenv.service.making import ImageMaker
    from mlenv.service.running import Running
    from mlenv.service.verifying import Verifying
    from mlenv.store.oci import OciLayout
    from mlenv.store.sessions import Sessions
    from mlenv.store.sql import SqlRegistry


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
            lambda: self.building,
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
