"""The making of an image: wheels, layers, configuration, manifest, and the name under which it is found."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from mlenv.build.compose import compose_image, environment_layer
from mlenv.build.interface import Blobs, ImageNames, LayerCache
from mlenv.build.layers import PathConflict, build_layers, find_conflicts
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.image import Image
from mlenv.core.layer import LayerRecipe, plan_layers
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc
from mlenv.core.progress import Progress
from mlenv.core.python_version import choose, minor_of
from mlenv.core.records import ImageKey
from mlenv.core.wheel_tags import glibc_needed
from mlenv.errors import InvalidInput, NotFound
from mlenv.faults import reach
from mlenv.service.artifacts import Artifacts
from mlenv.service.bases import Base
from mlenv.service.interface import Clock, Registry

if TYPE_CHECKING:
    from mlenv.build.compiler import Compiler


class NoCompiler(NotFound):
    """The interpreter that a lock wants its bytecode compiled by is not on this machine."""

    def __init__(self, version: str) -> None:
        super().__init__(f"the lock's bytecode is compiled by Python {version}, which is not on this machine")
        self.version = version
        self.hint = f"install it with `uv python install {version}`, or lock a new version with `--no-bytecode`"


class BaseDoesNotFit(InvalidInput):
    """A lock asks more of its base image than that offers."""


class ImageMaker:
    """Makes images of locks."""

    def __init__(
        self,
        registry: Registry,
        blobs: Blobs,
        names: ImageNames,
        layers: LayerCache,
        artifacts: Artifacts,
        *,
        compiler: "Callable[[str], Compiler]",
        clock: Clock,
    ) -> None:
        """
        Args:
            compiler: Gives the compiler of exactly that version of Python; raises `NoCompiler` where there is none.
        """
        self._registry = registry
        self._blobs = blobs
        self._names = names
        self._layers = layers
        self._artifacts = artifacts
        self._compiler = compiler
        self._clock = clock

    def make(
        self, version: EnvironmentVersion, lock: Lock, base: Base, key: ImageKey, *, progress: Progress
    ) -> tuple[Image, int, int]:
        """
        Make an image and name it.

        Returns:
            The image, and how many of the environment's layers were made now, of how many.

        Raises:
            BaseDoesNotFit, NoCompiler: It can't be made here.
            InvalidWheel: A package is not what a wheel may be.
            And what `Artifacts.ensure` raises.
        """
        layers = []
        new = count = 0
        recipe = None
        if lock.packages:
            interpreter = check_fits(lock, base.facts, str(version.spec.image))
            self._artifacts.ensure(lock.packages, version.spec.sources, progress=progress)
            reach("wheels.fetched")
            recipe = LayerRecipe(minor_of(interpreter.version), lock.bytecode, key.compression)
            plans = plan_layers(lock.packages)
            count = len(plans)
            new = sum(1 for plan in plans if self._layers.get(plan.key(recipe)) is None)
            with (
                self._artifacts.refusing(lock.packages, partial(self._forget_bytecode, lock.bytecode)),
                self._compiler(lock.bytecode) if lock.bytecode and new else nullcontext() as compiler,
            ):
                layers = build_layers(
                    plans, recipe, blobs=self._blobs, cache=self._layers, compiler=compiler, progress=progress
                )
            if new:
                for warning in _describe(find_conflicts(plans, recipe, blobs=self._blobs, cache=self._layers)):
                    progress.warn(warning)
            layers.append(environment_layer(lock, interpreter, recipe, blobs=self._blobs))
        image = compose_image(base.image, layers, spec=version.spec, lock=lock, recipe=recipe, blobs=self._blobs)
        reach("image.written")
        self._registry.add_image(key, image.manifest, now=self._clock())
        self._names.set_name(str(version), image.manifest)
        reach("image.named")
        return image, new, count

    def _forget_bytecode(self, version: str | None, artifact: Artifact) -> None:
        if version is not None:
            from mlenv.build.bytecode import bytecode_key

            self._layers.remove(bytecode_key(artifact.digest, version))


def check_fits(lock: Lock, facts: BaseFacts, name: str) -> Interpreter:
    """
    The base's interpreter that a lock was made for.

    Raises:
        BaseDoesNotFit: The base has no such Python, or its glibc is older than a wheel needs.
    """
    chosen = choose(lock.target.python_minor, [each.version for each in facts.pythons])
    if chosen is None:
        had = ", ".join(f"{each.version} at {each.path}" for each in facts.pythons) or "none"
        error = BaseDoesNotFit(
            f"{name} has no Python {lock.target.python_minor}, which this is locked for; it has {had}"
        )
        error.hint = "ask for a Python that the base has (`python:`), or take a base that has it, in a new version"
        raise error
    if facts.glibc is not None and (wheels := _too_new(lock.packages, facts.glibc)):
        worst = max(wheels, key=lambda pair: pair[1])
        error = BaseDoesNotFit(
            f"{name} has glibc {facts.glibc}, {worst[0].artifact.filename} needs {worst[1]} ({len(wheels)} such wheels)"
        )
        error.hint = "create a new version: it will be locked for this base, now that it is at hand"
        raise error
    return next(each for each in facts.pythons if each.version == chosen)


def _too_new(packages: Sequence[LockedPackage], glibc: Glibc) -> list[tuple[LockedPackage, Glibc]]:
    needs = [(each, glibc_needed(each.artifact.filename)) for each in packages]
    return [(each, need) for each, need in needs if need is not None and need > glibc]


def _describe(conflicts: Iterable[PathConflict]) -> Iterator[str]:
    """One sentence for each pair of packages, however many files they dispute."""
    by_pair: dict[tuple[str, str], list[PathConflict]] = {}
    for each in conflicts:
        by_pair.setdefault((each.kept, each.lost), []).append(each)
    for first, *others in by_pair.values():
        yield f"{first}; and {len(others)} other files" if others else str(first)
