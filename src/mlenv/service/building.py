"""A lock becomes an image: the steps of one build, and what is remembered of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from mlenv.build.interface import Blobs
from mlenv.build.validate import load_image
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.image import Image
from mlenv.core.image_name import full_name
from mlenv.core.layer import Compression, count_layers
from mlenv.core.lock import Lock
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress, Silent
from mlenv.core.records import BuildRecord, BuildStatus, ImageKey
from mlenv.core.redact import redact
from mlenv.errors import InvalidInput, NotFound
from mlenv.service.bases import Base, Bases
from mlenv.service.interface import Clock, Exclusive, Registry
from mlenv.service.locking import Locking
from mlenv.service.recorder import Recorder

if TYPE_CHECKING:
    from mlenv.service.context_builds import ContextBuilds, ContextOptions
    from mlenv.service.making import ImageMaker


class NoBase(InvalidInput):
    """An image was asked for, of a version that names no base image."""

    hint = "create a new version with `--image debian:bookworm`, or `image:` in the environment file"


class NotBuilt(NotFound):
    """What a Dockerfile installs is known when it was built, and it was not."""

    def __init__(self, version: EnvironmentVersion) -> None:
        super().__init__(f"the image of {version} is not built yet, so what it has installed is not known")
        self.hint = f"build it with `mlenv environment build {version}`"


class BuildResult(Struct, frozen=True):
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
    """
    Builds images, each once.

    Attributes:
        compression: Of layers, if nobody says otherwise: zstd is quicker, and what runs images here reads it.
    """

    compression: Final = Compression.ZSTD

    def __init__(
        self,
        registry: Registry,
        blobs: Blobs,
        bases: Bases,
        locking: Locking,
        maker: Callable[[], "ImageMaker"],
        contexts: "Callable[[], ContextBuilds]",
        *,
        exclusive: Exclusive,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        """
        Args:
            maker, contexts: Give what makes images of packages, and of Dockerfiles; not needed for those that are there.
        """
        self._registry = registry
        self._blobs = blobs
        self._bases = bases
        self._locking = locking
        self._maker = maker
        self._contexts = contexts
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
        context: "ContextOptions | None" = None,
        recorded: bool = True,
        progress: Progress,
    ) -> BuildResult:
        """
        The version's image for a platform: the one that was built, or else one built now.

        Args:
            context: How the Dockerfile is built, of a version that has one.
            recorded: Whether a record is kept of a build that is made now. One that was queued has its own.

        Raises:
            NoBase, BaseNotHere, BaseDoesNotFit: There is nothing to build on.
            InvalidWheel: A package is not what a wheel may be.
            And what `Locking.lock` and `Artifacts.ensure` raise.
        """
        spec = version.spec
        if spec.build is not None:
            return self._build_context(version, platform, compression, options, context, recorded, progress)
        if spec.image is None:
            raise NoBase(f"{version} names no base image")
        if self._locking.is_missing(version, platform):
            # NOTE: a lock is made once, so one for an image is made with the base at hand.
            self._bases.need(spec.image, platform, progress=progress)
        lock = self._locking.lock(version, platform, options, progress=progress)
        base = self._base(spec.image, lock, platform, progress)
        key = ImageKey(lock.digest, base.image.manifest.digest, spec.digest, compression)
        count = count_layers(lock)
        if (found := self._find(key)) is not None:
            return BuildResult(found, None, lock, 0, count)
        with self._exclusive(f"image-{key.lock.hex}-{key.base.hex}-{compression}"):
            if (found := self._find(key)) is not None:
                return BuildResult(found, None, lock, 0, count)

            def make(progress: Progress) -> tuple[Image, int, int]:
                return self._maker().make(version, lock, base, key, progress=progress)

            return self._made(version, lock, make, recorded, progress)

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
        spec = version.spec
        if (spec.image is None and spec.build is None) or self._locking.is_missing(version, platform):
            return None
        lock = self._locking.lock(version, platform, options, progress=Silent())
        if lock.context is not None:
            return self._find(_context_key(version, lock, compression))
        base = lock.base
        if base is None or not self._blobs.has(base):
            base = self._bases.names().get(full_name(str(spec.image)))
        return None if base is None else self._find(ImageKey(lock.digest, base, version.spec.digest, compression))

    def _find(self, key: ImageKey) -> Image | None:
        manifest = self._registry.image_of(key)
        if manifest is None or not self._blobs.has(manifest.digest):
            return None
        image = load_image(manifest.digest, self._blobs)
        missing = {
            each
            for each in (image.config_digest, *(layer.digest for layer, _ in image.layers))
            if not self._blobs.has(each)
        }
        # Layers of a base that came from a registry may still be there only.
        return image if missing <= (self._bases.elsewhere(key.base) if missing else set()) else None

    def bring(self, image: Image, progress: Progress) -> None:
        """Have all of an image in the store. Raises as `Bases.complete`."""
        self._bases.complete(image, progress=progress)

    def _base(self, name: str, lock: Lock, platform: Platform, progress: Progress) -> Base:
        if lock.base is not None and (found := self._bases.need_at(name, lock.base, progress=progress)) is not None:
            return found
        base = self._bases.need(name, platform, progress=progress)
        if lock.base is not None and lock.base != base.image.manifest.digest:
            progress.warn(f"{name} is not the image that this was locked for ({lock.base}), which is gone")
        return base

    def _build_context(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        compression: Compression,
        options: LockOptions | None,
        context: "ContextOptions | None",
        recorded: bool,
        progress: Progress,
    ) -> BuildResult:
        lock = self._locking.lock(version, platform, options, progress=progress)
        key = _context_key(version, lock, compression)
        if (found := self._find(key)) is not None:
            return BuildResult(found, None, lock, 0, 1)
        with self._exclusive(f"image-{key.lock.hex}-{key.base.hex}-{compression}"):
            if (found := self._find(key)) is not None:
                return BuildResult(found, None, lock, 0, 1)

            def make(progress: Progress) -> tuple[Image, int, int]:
                image, new = self._contexts().make(version, lock, key, context, progress=progress)
                return image, new, new

            return self._made(version, lock, make, recorded, progress)

    def as_built(self, version: EnvironmentVersion, lock: Lock) -> Lock:
        """
        A lock to be compared: that of a Dockerfile context with what its image has installed, any other as it is.

        Raises:
            NotBuilt: The image is not built yet.
        """
        if lock.context is None:
            return lock
        from mlenv.build.installed import installed_of
        from mlenv.core.installed import with_installed

        for compression in Compression:
            image = self._find(_context_key(version, lock, compression))
            installed = installed_of(image.manifest.digest, self._blobs) if image is not None else None
            if installed is not None:
                return with_installed(lock, installed)
        raise NotBuilt(version)

    def _made(
        self,
        version: EnvironmentVersion,
        lock: Lock,
        make: Callable[[Progress], tuple[Image, int, int]],
        recorded: bool,
        progress: Progress,
    ) -> BuildResult:
        if recorded:
            return self._recorded(version, lock, make, progress)
        image, new, count = make(progress)
        return BuildResult(image, None, lock, new, count)

    def _recorded(
        self,
        version: EnvironmentVersion,
        lock: Lock,
        make: Callable[[Progress], tuple[Image, int, int]],
        progress: Progress,
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
            image, new, count = make(recorder)
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


def _context_key(version: EnvironmentVersion, lock: Lock, compression: Compression) -> ImageKey:
    assert lock.foundation is not None
    return ImageKey(lock.digest, lock.foundation, version.spec.digest, compression)
