"""A version becomes a running process, on this machine or in a container, and leaves a record of its use."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.image_name import name_of_version
from mlenv.core.layer import Compression
from mlenv.core.lock import Lock
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress
from mlenv.core.records import UseRecord
from mlenv.core.redact import redact
from mlenv.errors import InvalidInput
from mlenv.run.activation import variables_in, warnings_about
from mlenv.run.process import Ended, run_command

if TYPE_CHECKING:
    # NOTE: a second run needs little of this, and should not wait for the imports.
    from mlenv.run.engines import ContainerEngine
    from mlenv.run.found import Prefix
    from mlenv.run.inspect import Inspection
    from mlenv.run.pythons import HostPython, Pythons
    from mlenv.service.artifacts import Artifacts
    from mlenv.service.building import Building, BuildResult
    from mlenv.service.interface import Clock, Registry
    from mlenv.service.locking import Locking


class OnlyAnImage(InvalidInput):
    """A local run was asked for, of a version that names an image and no packages."""

    hint = "run it in a container: `--engine container`"


class OwnPython(InvalidInput):
    """An interpreter was named for a version that has its own."""

    hint = "leave `--python` out; another Python is another version, with another `python` in the conda file"


class LocalEnvironment(Struct, frozen=True):
    """
    A version, materialised on this machine.

    Attributes:
        prefix: Its directory, read-only: a virtual environment for an interpreter of the host, or one of conda's.
        lock: What is in it.
    """

    prefix: "Prefix"
    lock: Lock


class RunOptions(Struct, frozen=True):
    """
    How a version is run.

    Attributes:
        python: The interpreter that the user named for a local run, or None.
        environment: Variables on top of the spec's.
        lock: How to lock it, if it is not locked yet; None takes whatever lock there is.
        gpus: Passed to the container engine: `all`, a device, or None.
        directory: Where the command runs, and what a container sees of this machine.
        terminal: Whether stdin and stdout are a terminal.
    """

    python: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    lock: LockOptions | None = None
    gpus: str | None = None
    directory: Path = Path()
    terminal: bool = False


DEFAULT_RUN = RunOptions()


class Running:
    """Runs versions."""

    def __init__(
        self,
        registry: "Registry",
        locking: "Locking",
        building: "Callable[[], Building]",
        artifacts: "Callable[[], Artifacts]",
        *,
        pythons: "Pythons",
        materialise: "Callable[[Lock, HostPython | None, Callable[[], None], Progress], Prefix]",
        container_engine: "Callable[[], ContainerEngine]",
        blob_directory: Path,
        host_platform: Platform,
        who: Callable[[], tuple[str, str]],
        inherited: Mapping[str, str],
        clock: "Clock",
        new_id: Callable[[], str],
    ) -> None:
        """
        Args:
            materialise: Makes or finds the prefix of a lock for an interpreter, if it needs one of this machine; calls
                back for the packages if it needs them.
            blob_directory: Where an OCI image layout keeps its blobs, for container engines to read.
        """
        self._registry = registry
        self._locking = locking
        self._building = building
        self._artifacts = artifacts
        self._pythons = pythons
        self._materialise = materialise
        self._container_engine = container_engine
        self._blob_directory = blob_directory
        self._host_platform = host_platform
        self._who = who
        self._inherited = inherited
        self._clock = clock
        self._new_id = new_id

    def local(
        self, version: EnvironmentVersion, options: RunOptions = DEFAULT_RUN, *, progress: Progress
    ) -> LocalEnvironment:
        """
        The version, locked for this machine's platform and materialised here.

        Raises:
            OnlyAnImage: It names no packages.
            OwnPython: An interpreter was named, and conda's packages bring one.
            NoSuitablePython, UnsuitablePython: No interpreter here is as its lock asks.
            And what `Locking.lock` and `Artifacts.ensure` raise.
        """
        if not version.spec.has_dependencies:
            what = version.spec.image or "that of a Dockerfile"
            raise OnlyAnImage(f"{version} is an image ({what}), without packages of its own")
        lock = self._locking.lock(version, self._host_platform, options.lock, progress=progress)
        python = self._python(lock, options)
        prefix = self._materialise(
            lock,
            python,
            lambda: self._artifacts().ensure(lock.everything, version.spec.sources, progress=progress),
            progress,
        )
        return LocalEnvironment(prefix, lock)

    def _python(self, lock: Lock, options: RunOptions) -> "HostPython | None":
        """The interpreter of this machine for a lock; None for one with conda's packages, which bring their own."""
        if not lock.conda:
            return self._pythons.choose(lock.target.python, options.python)
        if options.python is not None:
            own = f"Python {lock.target.python}" if lock.target.python else "no Python"
            raise OwnPython(f"Python {options.python!r} can't be used: conda's packages bring {own}")
        return None

    def variables(self, version: EnvironmentVersion, here: LocalEnvironment, options: RunOptions) -> dict[str, str]:
        """All environment variables of a command in a version that is materialised here."""
        variables = (*version.spec.environment_variables, *options.environment)
        return variables_in(here.prefix.path, self._inherited, variables, conda=bool(here.lock.conda))

    def run_local(
        self,
        version: EnvironmentVersion,
        command: Sequence[str],
        options: RunOptions = DEFAULT_RUN,
        *,
        kind: str = "run",
        progress: Progress,
    ) -> Ended:
        """Run a command in the version, materialised here. Raises what `local` and `run_command` raise."""
        here = self.local(version, options, progress=progress)
        for warning in warnings_about(self._inherited):
            progress.warn(warning)
        environment = self.variables(version, here, options)
        use = self._begin(version, kind, "local", here.lock.digest, command)
        return self._end(use, run_command(command, environment=environment, directory=options.directory))

    def run_container(
        self,
        version: EnvironmentVersion,
        command: Sequence[str],
        options: RunOptions = DEFAULT_RUN,
        *,
        kind: str = "run",
        progress: Progress,
    ) -> Ended:
        """Build the version's image if need be, and run a command in it. Raises what `Building.build` raises."""
        from mlenv.run.container import ContainerRun, client_variables, run_arguments

        engine, image, built = self._in_engine(version, options, progress)
        run = ContainerRun(
            image=image,
            command=tuple(command),
            directory=options.directory.absolute(),
            variables=dict(options.environment),
            terminal=options.terminal,
            gpus=options.gpus,
            python="python" if built.lock.packages or built.lock.conda_package("python") else None,
        )
        arguments = run_arguments(engine, run)
        use = self._begin(version, kind, "container", built.lock.digest, command, built.image.manifest.digest)
        return self._end(use, run_command(arguments, environment={**self._inherited, **client_variables(run)}))

    def inspect_container(self, version: EnvironmentVersion, *, progress: Progress) -> "tuple[Inspection, Lock]":
        """What is installed in the version's image, as its own interpreter says, and the lock it was made from."""
        from mlenv.core.check import NothingToAsk, require_python
        from mlenv.run.container import ContainerRun, run_arguments
        from mlenv.run.inspect import inspect_by

        engine, image, built = self._in_engine(version, DEFAULT_RUN, progress)
        require_python(built.lock, f"the image of {version}")
        lock = self._building().as_built(version, built.lock)
        if lock.context is not None and not lock.target.python:
            raise NothingToAsk(f"the image of {version}")
        # What a Dockerfile makes may have Debian's Python, which has no other name, and an entry point.
        python = "python" if lock.context is None else "python3"
        run = ContainerRun(image, (python, "-"), Path("/tmp"), network="none", python=python, entry_point=False)
        with progress.step("Inspecting the image"):
            found = inspect_by(run_arguments(engine, run), what=f"the image of {version}")
        return found, lock

    def _in_engine(
        self, version: EnvironmentVersion, options: RunOptions, progress: Progress
    ) -> "tuple[ContainerEngine, str, BuildResult]":
        from mlenv.run.container import load_image

        engine = self._container_engine()
        platform = Platform("linux", self._host_platform.architecture)
        building = self._building()
        compression = building.compression if engine.reads_zstd else Compression.GZIP
        built = building.build(version, platform, compression=compression, options=options.lock, progress=progress)
        building.bring(built.image, progress)
        with progress.step(f"Loading the image into {engine.name}"):
            name = f"mlenv/{name_of_version(version.name, version.version)}"
            image = load_image(engine, self._blob_directory, built.image.manifest, name=name)
        return engine, image, built

    def _begin(
        self,
        version: EnvironmentVersion,
        kind: str,
        engine: str,
        lock: Digest,
        command: Sequence[str],
        image: Digest | None = None,
    ) -> UseRecord:
        user, host = self._who()
        use = UseRecord(
            id=self._new_id(),
            name=version.name,
            version=version.version,
            kind=kind,
            engine=engine,
            lock=lock,
            command=tuple(map(redact, command)),
            user=user,
            host=host,
            started_at=self._clock(),
            image=image,
        )
        self._registry.save_use(use)
        return use

    def _end(self, use: UseRecord, ended: Ended) -> Ended:
        self._registry.save_use(replace(use, exit_code=ended.exit_code, ended_at=self._clock()))
        return ended
