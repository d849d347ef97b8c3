"""What the namespaces of one store share on this machine: bytes, interpreters, indexes, room for work."""

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv.store.database import StoreUnusable, unusable

if TYPE_CHECKING:
    from mlenv.build.bytecode import Compiler
    from mlenv.core.platform import Platform
    from mlenv.core.site_policy import SitePolicy
    from mlenv.distribution.registries import Registries
    from mlenv.resolve.conda import CondaResolver
    from mlenv.resolve.conda_fetch import ChannelFetcher
    from mlenv.resolve.guard import Guard
    from mlenv.resolve.index_http import HttpFetcher
    from mlenv.resolve.machine_index import MachineIndex
    from mlenv.resolve.pip import PipResolver
    from mlenv.run.pythons import Pythons
    from mlenv.service.context_builds import ContextSettings
    from mlenv.store.oci import OciLayout
    from mlenv.store.sessions import Sessions


#: Solvers of conda packages that a process of a server runs at once: each may take a core, and gigabytes.
_SOLVERS: Final = 2


class Machine:
    """
    A directory, and what this machine does with it. What is not used is not made.

    Attributes:
        home: The directory. In it: `oci/` (blobs), `cache/uv` and `cache/rattler` (what resolvers fetched),
            `cache/wheels` and `cache/conda` (unpacked packages), `prefixes/` (environments for local runs), `locks/`
            (held by processes at work), `work/` (what is half done).
        policy: What it does for those who use a site; None for whoever uses it by themselves.
    """

    def __init__(self, home: Path, policy: "SitePolicy | None" = None) -> None:
        self.home, self.policy = home, policy
        self._stopped = False

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

        return HttpFetcher(machine=self.machine_index, guard=self._guard())

    def _guard(self, places: "Callable[[], Iterable[str]]" = lambda: ()) -> "Guard | None":
        """What keeps a server from fetching what only it can reach; `places` are its own besides its index."""
        if self.policy is None:
            return None
        from mlenv.resolve.guard import Guard

        own = self.machine_index.index.url if self.machine_index is not None else None
        return Guard(self.policy, own, places)

    @cached_property
    def registries(self) -> "Registries":
        """The way to registries of images, as this user's variables and files say. Raises `InvalidInput`."""
        made = self._registries()
        if self._stopped:
            made.stop()
        return made

    def reach_registries(self, insecure: tuple[str, ...] = (), authority: Path | None = None) -> "Registries":
        """The same from now on, with more that may do without trusted TLS, and an authority to trust."""
        if insecure or authority is not None:
            self.registries = self._registries(insecure, authority)
        return self.registries

    def stop_registries(self) -> None:
        """Let everything that comes from registries end soon. What is asked for later ends at once."""
        self._stopped = True
        # Not made for this: it is called from a signal's handler.
        if (made := self.__dict__.get("registries")) is not None:
            made.stop()

    def _registries(self, insecure: tuple[str, ...] = (), authority: Path | None = None) -> "Registries":
        from mlenv.distribution.registries import open_registries

        memory = self.home / "cache" / "registries"
        guarded = self.policy is not None
        return open_registries(
            os.environ, Path.home(), memory=memory, insecure=insecure, authority=authority, guarded=guarded
        )

    @cached_property
    def resolver(self) -> "PipResolver":
        """Resolves pip requirements."""
        return self.resolver_in(self.directory("cache", "uv"))

    @cached_property
    def conda_resolver(self) -> "CondaResolver":
        """Solves for conda packages, as conda's own settings on this machine say. Raises `InvalidInput`."""
        from mlenv.resolve.conda import CondaResolver
        from mlenv.resolve.conda_credentials import read_stored
        from mlenv.resolve.condarc import read_settings

        return CondaResolver(
            self.directory("cache", "rattler"),
            settings=read_settings(os.environ),
            stored=read_stored(os.environ),
            own=self.policy is None,
            at_once=_SOLVERS if self.policy is not None else None,
        )

    def check_settings(self) -> None:
        """
        See that conda's settings on this machine can be read: for those who work for others, who can't mend them.

        Raises:
            InvalidCondarc, InvalidCredentialFile: They can't.
        """
        self.conda_resolver.check_settings()

    @cached_property
    def channel_fetcher(self) -> "ChannelFetcher":
        """Brings files from conda channels."""
        from mlenv.resolve.conda_fetch import ChannelFetcher

        access = self.conda_resolver.access
        return ChannelFetcher(access, guard=self._guard(lambda: access().own_places))

    def resolver_in(self, cache: Path) -> "PipResolver":
        """One that keeps what it fetched in a directory."""
        from mlenv.resolve.pip import PipResolver

        return PipResolver(
            cache,
            fetcher=self.fetcher,
            machine=self.machine_index,
            host=self.host_platform,
            find_python=self._python_of_minor,
        )

    def _python_of_minor(self, minor: str) -> str | None:
        found = next((each for each in self.pythons.find() if each.minor == minor), None)
        return None if found is None else str(found.path)

    @property
    def context_settings(self) -> "ContextSettings":
        """How Dockerfiles are built here: as the site's policy says, or as whoever uses it by themselves does."""
        from mlenv.service.context_builds import ContextSettings, settings_from

        if self.policy is None:
            return settings_from(os.environ)
        return ContextSettings(self.policy.build_engine, self.policy.build_network, local=False)

    def directory(self, *parts: str) -> Path:
        """A directory below home, for this user's eyes only: `directory("cache", "uv")`."""
        path = private_directory(self.home)
        for part in parts:
            path = private_directory(path / part)
        return path

    def compiler(self, version: str) -> "Compiler":
        """What compiles bytecode as that full version of Python does. Raises `NoCompiler`."""
        from mlenv.build.bytecode import Compiler
        from mlenv.service.making import NoCompiler

        python = next((each for each in self.pythons.find() if each.version == version), None)
        if python is None:
            raise NoCompiler(version)
        return Compiler(python.path, version)

    def close(self) -> None:
        """Let go of files."""
        if "blobs" in self.__dict__:
            self.blobs.close()
        if "work" in self.__dict__:
            self.work.close()


def private_directory(path: Path) -> Path:
    """Make a directory, for this user's eyes only, if it is not there. Raises `StoreUnusable`, `StoreFull`, `StoreReadOnly`."""
    try:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StoreUnusable(str(path), "it is not a directory") from error
    except OSError as error:
        raise unusable(str(path), error) from error
    return path
