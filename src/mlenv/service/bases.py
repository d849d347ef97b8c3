"""
Base images: brought into the store by name, and read for what they offer.

One that came from a registry has further names: the place that it is for ever (`HOST/REPOSITORY@DIGEST`), from which its
layers come when they are needed; and `NAME+OS/ARCH` for platforms other than the first that a name was pulled for.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mlenv.build.interface import Blobs
from mlenv.build.validate import load_image
from mlenv.core.digest import Digest, InvalidDigest
from mlenv.core.facts import BaseFacts
from mlenv.core.image import Descriptor, Image
from mlenv.core.image_name import full_name, is_file_source
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress
from mlenv.errors import InvalidInput, MlenvError, NotFound, Unavailable
from mlenv.service.interface import Clock, Registry

if TYPE_CHECKING:
    from mlenv.distribution.names import RemoteName
    from mlenv.distribution.registries import Registries

#: How long a server pulls a base for somebody, in seconds: as long as a client waits for it.
PULL_SECONDS: Final = 3600.0


class BaseNotHere(NotFound):
    """A base image that an image build needs, and that is not in the store."""

    def __init__(self, name: str, why: MlenvError | None = None) -> None:
        # That nothing answers is nothing new where there is no network: it is told with the details.
        told = None if isinstance(why, Unavailable) else why
        super().__init__(f"the base image {name} is not in this store" + (f", nor to be had: {told}" if told else ""))
        self.name = name
        self.detail = str(why) if why is not None else None
        full = full_name(name)
        if told is not None:
            self.hint = told.hint or ("see that its name and tag are right" if isinstance(told, NotFound) else None)
        elif full.startswith("docker.io/library/debian:"):
            self.hint = f"make it with `mlenv base create debian:{full.rpartition(':')[2]}`"
        else:
            self.hint = (
                f"`mlenv base pull {name}` says what its registry answers; where it can be reached only from elsewhere, "
                f"`skopeo copy docker://{full} oci-archive:base.tar` there, and here "
                f"`mlenv base import oci-archive:base.tar --name {name}`"
            )


class Base(Struct, frozen=True):
    """A base image that is at hand: what it is and what it offers."""

    image: Image
    facts: BaseFacts


class LayersNotHere(NotFound):
    """Layers that something needs are not in the store, and no registry is known to have them."""

    def __init__(self, missing: Sequence[Descriptor]) -> None:
        super().__init__(f"{len(missing)} layers are not in this store, such as {missing[0].digest}")
        self.missing = tuple(missing)
        self.hint = "bring the base image in again, with `mlenv base pull` or `mlenv base import`"


class Bases:
    """The base images of one store."""

    def __init__(
        self,
        registry: Registry,
        blobs: Blobs,
        *,
        workdir: Callable[[], Path],
        clock: Clock,
        registries: "Callable[[], Registries] | None" = None,
        preferred: Callable[[], Platform] = lambda: Platform("linux", "amd64"),
    ) -> None:
        """
        Args:
            registries: The way to other registries; without it, nothing is pulled.
            preferred: The platform that is pulled where none is named.
        """
        self._registry = registry
        self._blobs = blobs
        self._workdir = workdir
        self._clock = clock
        self._registries = registries
        self._preferred = preferred

    def names(self) -> Mapping[str, Digest]:
        """Every base in the store, by its full name, sorted."""
        return self._registry.bases()

    def find(
        self, name: str, platform: Platform | None = None, *, pull: bool = True, progress: Progress
    ) -> Base | None:
        """
        A base by what a spec's `image` says, or None if it is not at hand.

        A name with a transport (`oci-archive:FILE`) is imported from that file; any other is looked up in the store.

        Args:
            pull: Take one that is not in the store from its registry, if that can be reached.

        Raises:
            InvalidInput: The file is no image, or has none for the platform.
        """
        try:
            return self.need(name, platform, pull=pull, progress=progress)
        except BaseNotHere:
            return None

    def need(self, name: str, platform: Platform | None = None, *, pull: bool = True, progress: Progress) -> Base:
        """As `find`. Raises `BaseNotHere` where that gives None."""
        if is_file_source(name):
            from mlenv.build.images import import_image

            with progress.step(f"Importing {name}"):
                image = import_image(name, self._blobs, platform=platform)
            return self._with_facts(image, progress)
        full = full_name(name)
        for each in (full, f"{full}+{platform}") if platform is not None else (full,):
            digest = self._registry.base(each)
            if digest is not None and self._blobs.has(digest):
                base = self.at(digest, progress=progress)
                if platform is None or base.facts.platform == platform:
                    return base
        if not pull or self._registries is None:
            raise BaseNotHere(name)
        return self._pull_unasked(name, platform, self._registries(), progress)

    def at(self, digest: Digest, *, progress: Progress) -> Base:
        """A base in the store by its manifest's digest. Raises `NotFound`."""
        return self._with_facts(load_image(digest, self._blobs), progress)

    def need_at(self, name: str, digest: Digest, *, progress: Progress) -> Base | None:
        """The very base that a lock names, from the store or from the repository that `name` is of; None if it is gone."""
        if self._blobs.has(digest):
            return self.at(digest, progress=progress)
        if self._registries is None or is_file_source(name):
            return None
        from mlenv.distribution.names import RemoteName

        with suppress(MlenvError):
            remote = RemoteName.parse(name).at(digest)
            self._registries().check_reachable(remote)
            return self._pull(remote, None, None, progress)
        return None

    def pull(
        self,
        image: str,
        platform: Platform | None = None,
        *,
        name: str | None = None,
        patient: bool = True,
        progress: Progress,
    ) -> Base:
        """
        Bring a base in from its registry: manifest and configuration, and its layers only if they must be read for what
        it offers, which is done once.

        Args:
            image: `IMAGE[:TAG|@DIGEST]`, with its registry or as Docker Hub has it.
            platform: Which one, of an image for several; None takes this machine's.
            name: What specs call it, if not by `image`. A name with a digest is not given: it means that digest.
            patient: Go on with a registry that does not answer within seconds, and for as long as something comes. A
                server does not, and gives up after `PULL_SECONDS`: others wait.

        Raises:
            InvalidRemoteName, ImageNotFound, InvalidImage, DigestMismatch: There is no such base.
            AccessRefused, NotInRegistry, RegistryUnreachable: Its registry does not give it.
        """
        from mlenv.distribution.names import InvalidRemoteName, RemoteName

        if name is not None and RemoteName.parse(name).digest is not None:
            raise InvalidRemoteName(name, "a base is given no name with a digest")
        remote = RemoteName.parse(image)
        if not patient and self._registries is not None:
            self._registries().check_reachable(remote)
        seconds = None if patient else PULL_SECONDS
        return self._pull(remote, platform, full_name((name or image).strip()), progress, seconds)

    def _pull(
        self,
        remote: "RemoteName",
        platform: Platform | None,
        name: str | None,
        progress: Progress,
        seconds: float | None = None,
    ) -> Base:
        from mlenv.service.pulling import fetch_image, fetch_layers

        assert self._registries is not None
        with self._registries().open(remote, progress=progress, seconds=seconds) as repository:
            with progress.step(f"Pulling {remote}") as step:
                image = fetch_image(
                    repository, remote.reference, self._blobs, platform=platform, preferred=self._preferred()
                )
                step.note(str(image.manifest.digest))
            if self._registry.facts(image.manifest.digest) is None:
                fetch_layers(repository, image.layers, self._blobs, progress=progress)
        base = self._with_facts(image, progress)
        now, digest = self._clock(), image.manifest.digest
        self._registry.set_base(str(remote.at(digest)), digest, now=now)
        # Both names: a tag is looked up again by `base check`.
        tagged = f"{remote.host}/{remote.repository}:{remote.tag or 'latest'}" if remote.digest is None else None
        for each in dict.fromkeys(filter(None, (tagged, name))):
            known = self._registry.base(each)
            other = known is not None and self._blobs.has(known) and self._platform_of(known) != base.facts.platform
            self._registry.set_base(f"{each}+{base.facts.platform}" if other else each, digest, now=now)
        return base

    def _platform_of(self, digest: Digest) -> Platform | None:
        facts = self._registry.facts(digest)
        return None if facts is None else facts.platform

    def _pull_unasked(self, name: str, platform: Platform | None, registries: "Registries", progress: Progress) -> Base:
        """Pull what a lock or build needs, unless its registry can't be reached soon. Raises `BaseNotHere`."""
        from mlenv.distribution.names import RemoteName

        try:
            remote = RemoteName.parse(name)
            registries.check_reachable(remote)
            return self._pull(remote, platform, full_name(name), progress)
        except MlenvError as error:
            raise BaseNotHere(name, error) from error

    def origins(self, digest: Digest) -> "list[RemoteName]":
        """The repositories that a base came from, as far as that is known."""
        return origins_of(self._registry, digest)

    def elsewhere(self, digest: Digest) -> frozenset[Digest]:
        """The layers of a base that a registry has, and the store need not have."""
        return layers_elsewhere(self._registry, self._blobs, digest)

    def complete(self, image: Image, base: Digest | None = None, *, progress: Progress) -> None:
        """
        Have all layers of an image in the store: those of its base come from where that came from.

        Args:
            base: The base; None for the one that the image says it stands on.

        Raises:
            LayersNotHere: That is not known.
            AccessRefused, NotInRegistry, RegistryUnreachable: The registry does not give them.
        """
        missing = [pair for pair in image.layers if not self._blobs.has(pair[0].digest)]
        if not missing:
            return
        from mlenv.service.pulling import fetch_layers

        base = base or base_of(image)
        places = self.origins(base) if base is not None and self._registries is not None else []
        failed: MlenvError = LayersNotHere([layer for layer, _ in missing])
        for place in places:
            assert self._registries is not None
            try:
                with self._registries().open(place, progress=progress) as repository:
                    fetch_layers(repository, missing, self._blobs, progress=progress)
                return
            except MlenvError as error:
                failed = error
        raise failed

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
        from tempfile import TemporaryDirectory

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

            self.complete(image, image.manifest.digest, progress=progress)
            with progress.step("Reading what the base image offers"):
                facts = read_facts(image, self._blobs)
            self._registry.add_facts(facts)
        return Base(image, facts)


def origins_of(registry: Registry, digest: Digest) -> "list[RemoteName]":
    """The repositories that a base came from, as far as that is known."""
    from mlenv.distribution.names import RemoteName

    names = [name for name, each in registry.bases().items() if each == digest and "@" in name]
    return [RemoteName.parse(name.partition("+")[0]) for name in names]


def layers_elsewhere(registry: Registry, blobs: Blobs, digest: Digest) -> frozenset[Digest]:
    """The layers of a base that a registry has, and the store need not have."""
    if not blobs.has(digest) or not origins_of(registry, digest):
        return frozenset()
    return frozenset(layer.digest for layer, _ in load_image(digest, blobs).layers)


def base_of(image: Image) -> Digest | None:
    """The base that an image says it stands on (image-spec, annotations.md)."""
    labels = (image.config.get("config") or {}).get("Labels") or {}
    try:
        return Digest.parse(str(labels["org.opencontainers.image.base.digest"]))
    except (KeyError, InvalidDigest):
        return None
