"""What this machine has of what mlenv can use, and what to do about what is missing."""

import shutil
import subprocess
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mlenv.core.platform import Platform, Target
from mlenv.core.progress import Progress, Silent
from mlenv.core.spec import Requirement
from mlenv.errors import MlenvError, Unavailable
from mlenv.resolve.conda_probe import CondaState, probe_this_machine
from mlenv.resolve.failures import CredentialsRefused
from mlenv.resolve.interface import Resolver, ResolveRequest
from mlenv.run.engines import ContainerEngine
from mlenv.run.pythons import Pythons

if TYPE_CHECKING:
    from mlenv.build.context_engines import FoundEngines

#: Below this much free space, in bytes, a build of a large environment may fail.
_LITTLE_SPACE: Final = 5 << 30
#: A package that every index has, to see whether one answers.
_PROBE: Final = Requirement("pip")


class State(StrEnum):
    """How one thing stands."""

    GOOD = "good"
    MISSING = "missing"
    BAD = "bad"


class Diagnosis(Struct, frozen=True):
    """
    One thing that was looked at.

    Attributes:
        topic: What it is.
        state: `missing` stops some of what mlenv does, `bad` most of it.
        found: What was found, in a few words.
        advice: What to do, or None.
    """

    topic: str
    state: State
    found: str
    advice: str | None = None


class Doctor:
    """Looks at one machine."""

    def __init__(
        self,
        *,
        home: Path,
        open_store: Callable[[], object],
        find_uv: Callable[[], str],
        pythons: Pythons,
        resolver: Callable[[Path], Resolver],
        container_engine: Callable[[], ContainerEngine],
        builders: "Callable[[], FoundEngines]",
        host_platform: Platform,
        conda: Callable[[], CondaState] = probe_this_machine,
    ) -> None:
        """
        Args:
            open_store: Opens the store if there is one; raises what opening it raises.
            find_uv: The path of `uv`.
            resolver: A resolver with its cache in that directory.
            builders: What can build Dockerfiles here.
            conda: Says how conda's packages stand here.
        """
        self._home = home
        self._open_store = open_store
        self._find_uv = find_uv
        self._pythons = pythons
        self._resolver = resolver
        self._container_engine = container_engine
        self._builders = builders
        self._host_platform = host_platform
        self._conda = conda

    def examine(self, *, progress: Progress) -> list[Diagnosis]:
        """Everything, in the order in which it is needed."""
        checks: Iterable[tuple[str, Callable[[], Diagnosis]]] = (
            ("store", self._store),
            ("Python", self._python),
            ("uv", self._uv),
            ("package index", self._index),
            ("conda", self._conda_channels),
            ("containers", self._containers),
            ("Dockerfiles", self._dockerfiles),
            ("base images", self._mmdebstrap),
        )
        found = []
        for topic, check in checks:
            with progress.step(f"Looking at {topic}"):
                found.append(_guarded(topic, check))
        return found

    def _store(self) -> Diagnosis:
        try:
            self._open_store()
        except MlenvError as error:
            return Diagnosis("store", State.BAD, str(error), error.hint)
        free = shutil.disk_usage(self._home).free
        text = f"{self._home}, {free / 1e9:.1f} GB free"
        if free < _LITTLE_SPACE:
            return Diagnosis("store", State.BAD, text, "free some space, or put the store elsewhere with $MLENV_HOME")
        return Diagnosis("store", State.GOOD, text)

    def _python(self) -> Diagnosis:
        found = self._pythons.find()
        if not found:
            return Diagnosis("Python", State.BAD, "none", "install one with `uv python install 3.11`")
        return Diagnosis("Python", State.GOOD, ", ".join(each.version for each in found))

    def _uv(self) -> Diagnosis:
        path = self._find_uv()
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
        if said.returncode != 0:
            return Diagnosis("uv", State.BAD, f"{path} does not run", "install mlenv again: uv comes with it")
        return Diagnosis("uv", State.GOOD, said.stdout.split("(")[0].strip())

    def _index(self) -> Diagnosis:
        python = next(iter(self._pythons.find()), None)
        target = python.target if python else Target(self._host_platform, "3.11.0")
        with TemporaryDirectory(prefix="mlenv-doctor-") as workdir:
            # NOTE: with a cache of its own, so that it is the index that answers.
            resolver = self._resolver(Path(workdir, "cache"))
            request = ResolveRequest((_PROBE,), target)
            try:
                resolution = resolver.resolve(request, workdir=Path(workdir), progress=Silent())
            except Unavailable as error:
                advice = "check the network and the proxy (`HTTPS_PROXY`); what is locked and fetched runs without"
                return Diagnosis("package index", State.MISSING, str(error), advice)
        package = resolution.packages[0]
        return Diagnosis("package index", State.GOOD, f"answers: {package.name} {package.version}")

    def _conda_channels(self) -> Diagnosis:
        """Never worse than `missing`: many machines need no conda packages."""
        state = self._conda()
        asked = ", ".join(each.name for each in state.channels) or "no channel"
        text = f"{state.solver}, asks {asked} by default"
        if state.failure is None:
            said = f"{state.channels[0].urls[0]} answers" if state.answers else "not asked"
            return Diagnosis("conda", State.GOOD, f"{text}: {said}")
        advice = (
            "only conda files that need conda are locked from there: check the network, the proxy (`HTTPS_PROXY`) "
            "and what `.condarc` names"
        )
        if isinstance(state.failure, CredentialsRefused):
            advice = state.failure.hint or advice
        return Diagnosis("conda", State.MISSING, f"{text}: {state.failure}", advice)

    def _containers(self) -> Diagnosis:
        engine = self._container_engine()
        return Diagnosis("containers", State.GOOD, f"{engine.name} {engine.version}")

    def _dockerfiles(self) -> Diagnosis:
        found = self._builders()
        others = "; ".join(f"{name}: {why}" for name, why in found.others.items())
        if found.engine is None:
            advice = "install buildah or podman, or start docker; see docs/contexts.md, “Where it runs”"
            return Diagnosis("Dockerfiles", State.MISSING, others, advice)
        text = f"{found.engine.name} {found.engine.version}"
        return Diagnosis("Dockerfiles", State.GOOD, f"{text} (not {others})" if others else text)

    def _mmdebstrap(self) -> Diagnosis:
        path = shutil.which("mmdebstrap")
        if path is None:
            advice = (
                "`apt-get install mmdebstrap`, for `mlenv base create`; or `mlenv base import` an image from elsewhere"
            )
            return Diagnosis("base images", State.MISSING, "no mmdebstrap", advice)
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
        return Diagnosis("base images", State.GOOD, said.stdout.strip() or path)


def _guarded(topic: str, check: Callable[[], Diagnosis]) -> Diagnosis:
    """What a check found, or what stopped it."""
    try:
        return check()
    except MlenvError as error:
        return Diagnosis(topic, State.MISSING, str(error), error.hint)
    except (OSError, subprocess.SubprocessError) as error:
        return Diagnosis(topic, State.BAD, str(error))
