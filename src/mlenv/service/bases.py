"""Base images: brought into the store by name, and read for what they offer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlenv.build.interface import Blobs
from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
from mlenv.core.facts import BaseFacts
from mlenv.core.image import Image
from mlenv.core.image_name import full_name, is_file_source
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress
from mlenv.errors import InvalidInput, NotFound
from mlenv.service.interface import Clock, Registry


class BaseNotHere(NotFound):
    """A base image that an image build needs, and that is not in the store."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the base image {name} is not in this store")
        self.name = name
        full = full_name(name)
        if full.startswith("docker.io/library/debian:"):
            self.hint = f"make it with `mlenv base create debian:{full.rpartition(':')[2]}`"
        else:
            self.hint = (
                f"where its registry can be reached, `skopeo copy docker://{full} oci-archive:base.tar`; "
                f"then `mlenv base import oci-archive:base.tar --name {name}`"
            )


@dataclass(frozen=True, slots=True)
class Base:
    """A base image that is at hand: what it is and what it offers."""

    image: Image
    facts: BaseFacts


class Bases:
    """The base images of one store."""

    def __init__(self, registry: Registry, blobs: Blobs, *, workdir: Callable[[], Path], clock: Clock) -> None:
        self._registry = registry
        self._blobs = blobs
        self._workdir = workdir
        self._clock = clock

    def names(self) -> Mapping[str, Digest]:
        """Every base in the store, by its full name, sorted."""
        return self._registry.bases()

    def find(self, name: str, platform: Platform | None = None, *, progress: Progress) -> Base | None:
        """
        A base by what a spec's `image` says, or None if it is not at hand.

        A name with a transport (`oci-archive:FILE`) is imported from that file; any other is looked up in the store.

        Raises:
            InvalidInput: The file is no image, or has none for the platform.
        """
        if is_file_source(name):
            from mlenv.build.images import import_image

            with progress.step(f"Importing {name}"):
                image = import_image(name, self._blobs, platform=platform)
            return self._with_facts(image, progress)
        digest = self._registry.base(full_name(name))
        if digest is None or not self._blobs.has(digest):
            return None
        base = self.at(digest, progress=progress)
        return base if platform is None or base.facts.platform == platform else None

    def at(self, digest: Digest, *, progress: Progress) -> Base:
        """A base in the store by its manifest's digest. Raises `NotFound`."""
        return self._with_facts(load_image(digest, self._blobs), progress)

    def need(self, name: str, platform: Platform | None = None, *, progress: Progress) -> Base:
        """As `find`. Raises `BaseNotHere` where that gives None."""
        base = self.find(name, platform, progress=progress)
        if base is None:
            raise BaseNotHere(name)
        return base

    def import_(self, source: str, name: str, platform: Platform | None = None, *, progress: Progress) -> Base:
        """
        Bring an image from disk into the store under a name, which moves there if it pointed elsewhere.

        Raises:
            InvalidInput: It is no image, or has none for the platform.
        """
        from mlenv.build.images import import_image

        with progress.step(f"Importing {source}"):
            image = import_image(source, self._blobs, platform=platform)
        return self._named(name, image, progress)

    def create(
        self,
        image: str,
        *,
        name: str | None = None,
        packages: Sequence[str] = (),
        mirror: str | None = None,
        progress: Progress,
    ) -> Base:
        """
        Make a minimal Debian base with Python, `debian:bookworm` or `debian:trixie`, under that name or another.

        Raises:
            InvalidInput: No such base can be made.
            Unavailable: `mmdebstrap` is missing, or the Debian mirror can't be reached.
        """
        from mlenv.build.debian import create_debian_base

        distribution, _, suite = image.partition(":")
        if distribution != "debian" or not suite:
            raise InvalidInput(f"can't make a base {image!r}: expected debian:bookworm or debian:trixie")
        with TemporaryDirectory(dir=self._workdir(), prefix="base-") as workdir:
            made = create_debian_base(
                suite, packages=packages, mirror=mirror, blobs=self._blobs, workdir=Path(workdir), progress=progress
            )
        return self._named(name or image, made, progress)

    def _named(self, name: str, image: Image, progress: Progress) -> Base:
        base = self._with_facts(image, progress)
        self._registry.set_base(full_name(name), image.manifest.digest, now=self._clock())
        return base

    def _with_facts(self, image: Image, progress: Progress) -> Base:
        facts = self._registry.facts(image.manifest.digest)
        if facts is None:
            from mlenv.build.facts import read_facts

            with progress.step("Reading what the base image offers"):
                facts = read_facts(image, self._blobs)
            self._registry.add_facts(facts)
        return Base(image, facts)
