"""A lock becomes an image: the steps of one build, and what is remembered of it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from mlenv.build.bytecode import Compiler, bytecode_key
from mlenv.build.compose import compose_image, environment_layer
from mlenv.build.images import load_image
from mlenv.build.interface import Blobs, ImageNames, LayerCache
from mlenv.build.layers import PathConflict, build_layers, find_conflicts
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.image import Image
from mlenv.core.layer import Compression, LayerRecipe, plan_layers
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Glibc, Platform
from mlenv.core.progress import Progress
from mlenv.core.python_version import choose, minor_of
from mlenv.core.records import BuildRecord, BuildStatus, ImageKey
from mlenv.core.wheel_tags import glibc_needed
from mlenv.errors import InvalidInput, NotFound
from mlenv.faults import reach
from mlenv.service.artifacts import Artifacts
from mlenv.service.bases import Base, Bases
from mlenv.service.interface import Clock, Exclusive, Registry
from mlenv.service.locking import Locking, require_lockable
from mlenv.service.recorder import Recorder


class NoBase(InvalidInput):
    """An image was asked for, of a version that names no base image."""

    hint = "create a new version with `--image debian:bookworm`, or `image:` in the environment file"


class NoCompiler(NotFound):
    """The interpreter that a lock wants its bytecode compiled by is not on this machine."""

    def __init__(self, version: str) -> None:
        super().__init__(f"the lock's bytecode is compiled by Python {version}, which is not on this machine")
        self.version = version
        self.hint = f"install it with `uv python install {version}`, or lock a new version with `--no-bytecode`"


class BaseDoesNotFit(InvalidInput):
    """A lock asks more of its base image than that offers."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """
    A version's image.

    Attributes:
        image: The image, in the store.
        record: The build that made it; None if the image was there already.
        lock: What it was made from.
        new_layers, layers: How many of the environment's layers were made now, of how many.
    """

    image: Image
    record: BuildRecord | None
    lock: Lock
    new_layers: int
    layers: int


class Building:
    """Builds images, each once."""

    def __init__(
        self,
        registry: Registry,
        blobs: Blobs,
        names: ImageNames,
        layers: LayerCache,
        bases: Bases,
        locking: Locking,
        artifacts: Artifacts,
        *,
        compiler: Callable[[str], Compiler],
        exclusive: Exclusive,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        """
        Args:
            compiler: Gives the compiler of exactly that version of Python; raises `NoCompiler` where there is none.
        """
        self._registry = registry
        self._blobs = blobs
        self._names = names
        self._layers = layers
        self._bases = bases
        self._locking = locking
        self._artifacts = artifacts
        self._compiler = compiler
        self._exclusive = exclusive
        self._clock = clock
        self._new_id = new_id

    def build(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        *,
        compression: Compression = Compression.ZSTD,
        options: LockOptions | None = None,
        progress: Progress,
    ) -> BuildResult:
        """
        The version's image for a platform: the one that was built, or else one built now.

        Raises:
            NoBase, BaseNotHere, BaseDoesNotFit: There is nothing to build on.
            InvalidWheel: A package is not what a wheel may be.
            And what `Locking.lock` and `Artifacts.ensure` raise.
        """
        spec = version.spec
        require_lockable(version)
        if spec.image is None:
            raise NoBase(f"{version} names no base image")
        if self._locking.is_missing(version, platform):
            # NOTE: a lock is made once, so one for an image is made with the base at hand.
            self._bases.need(spec.image, platform, progress=progress)
        lock = self._locking.lock(version, platform, options, progress=progress)
        base = self._base(spec.image, lock, platform, progress)
        key = ImageKey(lock.digest, base.image.manifest.digest, spec.digest, compression)
        count = len(plan_layers(lock.packages))
        if (found := self._find(key)) is not None:
            return BuildResult(found, None, lock, 0, count)
        with self._exclusive(f"image-{key.lock.hex}-{key.base.hex}-{compression}"):
            if (found := self._find(key)) is not None:
                return BuildResult(found, None, lock, 0, count)
            return self._recorded(version, lock, base, key, progress)

    def _find(self, key: ImageKey) -> Image | None:
        manifest = self._registry.image_of(key)
        if manifest is None or not self._blobs.has(manifest.digest):
            return None
        image = load_image(manifest.digest, self._blobs)
        whole = all(
            self._blobs.has(each) for each in (image.config_digest, *(layer.digest for layer, _ in image.layers))
        )
        return image if whole else None

    def _base(self, name: str, lock: Lock, platform: Platform, progress: Progress) -> Base:
        if lock.base is not None and self._blobs.has(lock.base):
            return self._bases.at(lock.base, progress=progress)
        base = self._bases.need(name, platform, progress=progress)
        if lock.base is not None and lock.base != base.image.manifest.digest:
            progress.warn(f"{name} is not the image that this was locked for ({lock.base}), which is gone")
        return base

    def _recorded(
        self, version: EnvironmentVersion, lock: Lock, base: Base, key: ImageKey, progress: Progress
    ) -> BuildResult:
        recorder = Recorder(progress)
        record = BuildRecord(
            id=self._new_id(),
            name=version.name,
            version=version.version,
            platform=lock.target.platform,
            status=BuildStatus.RUNNING,
            started_at=self._clock(),
        )
        self._registry.save_build(record)
        try:
            image, new, count = self._make(version, lock, base, key, recorder)
        except BaseException as error:
            steps = tuple(recorder.steps)
            text = str(error) or type(error).__name__
            self._registry.save_build(
                replace(record, status=BuildStatus.FAILED, error=text, ended_at=self._clock(), steps=steps)
            )
            raise
        record = replace(
            record,
            status=BuildStatus.SUCCEEDED,
            image=image.manifest.digest,
            ended_at=self._clock(),
            steps=tuple(recorder.steps),
        )
        self._registry.save_build(record)
        return BuildResult(image, record, lock, new, count)

    def _forget_bytecode(self, version: str | None, artifact: Artifact) -> None:
        if version is not None:
            self._layers.remove(bytecode_key(artifact.digest, version))

    def _make(
        self, version: EnvironmentVersion, lock: Lock, base: Base, key: ImageKey, progress: Recorder
    ) -> tuple[Image, int, int]:
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
