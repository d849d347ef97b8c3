"""The making of an image: wheels, layers, configuration, manifest, and the name under which it is found."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

from mlenv.build.compose import compose_image, environment_layer
from mlenv.build.conflicts import Listed
from mlenv.build.interface import Blobs, ImageNames, Incoming, LayerCache
from mlenv.build.layers import PathConflict, build_layers, find_conflicts
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.image import Image
from mlenv.core.layer import Layer, LayerRecipe, plan_layers
from mlenv.core.lock import LOCK_NAME, Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc
from mlenv.core.progress import Progress
from mlenv.core.records import ImageKey
from mlenv.core.spec import Sources
from mlenv.core.wheel_tags import glibc_needed
from mlenv.errors import InvalidInput, NotFound
from mlenv.faults import reach
from mlenv.service.artifacts import Artifacts
from mlenv.service.bases import Base
from mlenv.service.interface import Clock, Registry

if TYPE_CHECKING:
    from mlenv.build.compiler import Compiler
    from mlenv.core.conda_layer import CondaRecipe


class NoCompiler(NotFound):
    """The interpreter that a lock wants its bytecode compiled by is not on this machine."""

    def __init__(self, version: str) -> None:
        super().__init__(f"the lock's bytecode is compiled by Python {version}, which is not on this machine")
        self.version = version
        self.hint = f"install it with `uv python install {version}`, or lock a new version with `--no-bytecode`"


_ANEW: Final = "create a new version: it will be locked for this base, now that it is at hand"


class BaseDoesNotFit(InvalidInput):
    """A lock asks more of its base image than that offers."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


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
            InvalidPackage: A package is not what it may be.
            And what `Artifacts.ensure` raises.
        """
        layers: list[Layer] = []
        new = count = 0
        recipe = None
        if lock.count:
            interpreter = check_fits(lock, base.facts, str(version.spec.image))
            recipe = LayerRecipe(lock.target.python_minor, lock.bytecode, key.compression)
            with self._artifacts.refusing(lock.everything, partial(self._forget_bytecode, lock.bytecode)):
                layers, new = self._package_layers(lock, recipe, version.spec.sources, progress)
            count = len(layers)
            layers.append(self._environment_layer(lock, interpreter, recipe))
        image = compose_image(base.image, layers, spec=version.spec, lock=lock, recipe=recipe, blobs=self._blobs)
        reach("image.written")
        self._registry.add_image(key, image.manifest, now=self._clock())
        self._names.set_name(str(version), image.manifest)
        reach("image.named")
        return image, new, count

    def _package_layers(
        self, lock: Lock, recipe: LayerRecipe, sources: Sources, progress: Progress
    ) -> tuple[list[Layer], int]:
        """The layers of a lock's packages, the lowest first, and how many of them were made now."""
        plans = plan_layers(lock.packages)
        below: list[Layer] = []
        new, listing = 0, _nothing_listed
        with self._artifacts.fetching(lock.everything, sources, progress=progress) as incoming:
            if lock.conda:
                below, new, listing = self._conda_layers(lock, recipe, incoming, progress)
            missing = sum(1 for plan in plans if self._layers.get(plan.key(recipe)) is None)
            with self._compiler(lock.bytecode) if lock.bytecode and missing else nullcontext() as compiler:
                layers = build_layers(
                    plans,
                    recipe,
                    blobs=self._blobs,
                    cache=self._layers,
                    compiler=compiler,
                    incoming=incoming,
                    progress=progress,
                )
        if new or missing:
            conflicts = find_conflicts(plans, recipe, blobs=self._blobs, cache=self._layers, below=listing())
            for warning in _describe(conflicts):
                progress.warn(warning)
        return [*below, *layers], new + missing

    def _conda_layers(
        self, lock: Lock, recipe: LayerRecipe, incoming: Incoming, progress: Progress
    ) -> tuple[list[Layer], int, Callable[[], Listed]]:
        """The same of conda's packages, and what lists their files."""
        from mlenv.build.conda_layers import build_conda_layers, list_conda_packages
        from mlenv.core.conda_layer import plan_conda_layers

        plans, conda = plan_conda_layers(lock.conda), _conda_recipe(lock, recipe)
        new = sum(1 for plan in plans if self._layers.get(plan.key(conda)) is None)
        layers = build_conda_layers(
            plans, conda, blobs=self._blobs, cache=self._layers, incoming=incoming, progress=progress
        )
        return layers, new, lambda: list_conda_packages(plans, conda, blobs=self._blobs)

    def _environment_layer(self, lock: Lock, interpreter: Interpreter | None, recipe: LayerRecipe) -> Layer:
        """The topmost layer."""
        if interpreter is not None:
            return environment_layer(lock, interpreter, recipe, blobs=self._blobs)
        from mlenv.build.conda_layers import conda_environment_layer

        files = {LOCK_NAME: lock.to_pylock()}
        return conda_environment_layer(lock.conda, _conda_recipe(lock, recipe), files=files, blobs=self._blobs)

    def _forget_bytecode(self, version: str | None, artifact: Artifact) -> None:
        if version is not None:
            from mlenv.build.bytecode import bytecode_key

            self._layers.remove(bytecode_key(artifact.digest, version))


def _conda_recipe(lock: Lock, recipe: LayerRecipe) -> "CondaRecipe":
    from mlenv.core.conda_layer import CondaRecipe
    from mlenv.core.conda_tree import CondaScheme

    return CondaRecipe(CondaScheme.of(lock.conda, recipe.prefix), recipe.compression)


def _nothing_listed() -> Listed:
    return [], []


def check_fits(lock: Lock, facts: BaseFacts, name: str) -> Interpreter | None:
    """
    The base's interpreter that a lock was made for; None where conda's packages bring one, or there is none.

    Raises:
        BaseDoesNotFit: The base has no such Python, or its glibc is older than a package needs.
    """
    if lock.conda:
        _check_conda_fits(lock, facts, name)
    elif not (fitting := [each for each in facts.pythons if each.minor == lock.target.python_minor]):
        had = ", ".join(f"{each.version} at {each.path}" for each in facts.pythons) or "none"
        raise BaseDoesNotFit(
            f"{name} has no Python {lock.target.python_minor}, which this is locked for; it has {had}",
            "ask for a Python that the base has (`python:`), or take a base that has it, in a new version",
        )
    if facts.glibc is not None and (wheels := _too_new(lock.packages, facts.glibc)):
        worst = max(wheels, key=lambda pair: pair[1])
        wants = f"{worst[0].artifact.filename} needs {worst[1]} ({len(wheels)} such wheels)"
        raise BaseDoesNotFit(f"{name} has glibc {facts.glibc}, {wants}", _ANEW)
    return None if lock.conda else fitting[0]


def _check_conda_fits(lock: Lock, facts: BaseFacts, name: str) -> None:
    """Conda's packages bring all but the C library, for which they were chosen."""
    from mlenv.core.conda_package import NOARCH

    programs = [each.artifact.filename for each in lock.conda if each.subdir != NOARCH]
    if not programs:
        return
    if facts.glibc is None:
        raise BaseDoesNotFit(
            f"{name} has no glibc, and {programs[0]} needs one ({len(programs)} such packages)",
            "take a base image with glibc, such as Debian's, in a new version",
        )
    if lock.target.glibc is not None and facts.glibc < lock.target.glibc:
        raise BaseDoesNotFit(
            f"{name} has glibc {facts.glibc}, and conda's packages are locked for {lock.target.glibc}", _ANEW
        )


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
