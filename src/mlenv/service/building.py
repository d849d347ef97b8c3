"""A lock becomes an image: the steps of one build, and what is remembered of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlenv.build.interface import Blobs
from mlenv.build.validate import load_image
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.image import Image
from mlenv.core.image_name import full_name
from mlenv.core.layer import Compression, plan_layers
from mlenv.core.lock import Lock
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress, Silent
from mlenv.core.records import BuildRecord, BuildStatus, ImageKey
from mlenv.core.redact import redact
from mlenv.errors import InvalidInput
from mlenv.service.bases import Base, Bases
from mlenv.service.interface import Clock, Exclusive, Registry
from mlenv.service.locking import Locking, require_lockable
from mlenv.service.recorder import Recorder

if TYPE_CHECKING:
    from mlenv.service.making import ImageMaker


class NoBase(InvalidInput):
    """An image was asked for, of a version that names no base image."""

    hint = "create a new version with `--image debian:bookworm`, or `image:` in the environment file"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """
    A version's image.

    Attributes:
        image: The image, in the store.
        record: The build that made it; None if the image was there already, or no record was to be kept.
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
        bases: Bases,
        locking: Locking,
        maker: Callable[[], "ImageMaker"],
        *,
        exclusive: Exclusive,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        """
        Args:
            maker: Gives what makes images, which is not needed for those that are there.
        """
        self._registry = registry
        self._blobs = blobs
        self._bases = bases
        self._locking = locking
        self._maker = maker
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
        recorded: bool = True,
        progress: Progress,
    ) -> BuildResult:
        """
        The version's image for a platform: the one that was built, or else one built now.

        Args:
            recorded: Whether a record is kept of a build that is made now. One that was queued has its own.

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
            if recorded:
                return self._recorded(version, lock, base, key, progress)
            image, new, count = self._maker().make(version, lock, base, key, progress=progress)
            return BuildResult(image, None, lock, new, count)

    def find(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        compression: Compression = Compression.ZSTD,
        options: LockOptions | None = None,
    ) -> Image | None:
        """
        The version's image, if it was built. Nothing is made or fetched.

        Raises:
            LockDiffers: The version is locked with other options than these.
            LockLost: Its lock can't be read.
        """
        if version.spec.image is None or self._locking.is_missing(version, platform):
            return None
        lock = self._locking.lock(version, platform, options, progress=Silent())
        base = lock.base
        if base is None or not self._blobs.has(base):
            base = self._bases.names().get(full_name(version.spec.image))
        return None if base is None else self._find(ImageKey(lock.digest, base, version.spec.digest, compression))

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
            image, new, count = self._maker().make(version, lock, base, key, progress=recorder)
        except BaseException as error:
            steps = tuple(recorder.steps)
            text = redact(str(error)) or type(error).__name__
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
