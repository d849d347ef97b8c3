"""
The use cases of locks, builds, bases and wheels where a server has the store: it is asked, and what it gives is used here.

What runs on this machine (`mlenv.service.running`) is the same as without a server.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from msgspec.structs import replace

from mlenv.build.installed import installed_of
from mlenv.build.interface import Blobs
from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.facts import BaseFacts
from mlenv.core.image import MANIFEST_TYPE, Descriptor, Image
from mlenv.core.image_name import full_name, is_file_source
from mlenv.core.installed import with_installed
from mlenv.core.layer import Compression, Sized, count_layers
from mlenv.core.lock import Lock
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress, quantity
from mlenv.core.records import BuildRecord, BuildStatus
from mlenv.core.reference import EnvironmentName, Reference, VersionName
from mlenv.core.spec import Sources, Spec
from mlenv.errors import Conflict, InvalidInput, Unavailable
from mlenv.service.artifacts import Artifacts
from mlenv.service.bases import Base, BaseNotHere, Bases
from mlenv.service.building import BuildResult, NoBase, NotBuilt
from mlenv.service.context_builds import ContextBuilds, ContextOptions
from mlenv.service.environments import Environments
from mlenv.service.locking import DEFAULT_OPTIONS, Locking

#: Between two looks at a build that says nothing, in seconds: the first, and the longest.
_FIRST_LOOK: Final = 0.2
_LONGEST_LOOK: Final = 5.0


class BuildServer(Protocol):
    """What a server does. `mlenv.client.registry.RemoteRegistry` is the one there is."""

    def make_lock(
        self, name: EnvironmentName, version: VersionName, platform: Platform, options: LockOptions | None
    ) -> Digest:
        """Let it resolve a version, unless it has; gives the lock's blob, which is kept here, too."""

    def request_build(
        self,
        name: EnvironmentName,
        version: VersionName,
        platform: Platform,
        *,
        compression: Compression = Compression.GZIP,
        options: LockOptions | None = None,
    ) -> BuildRecord:
        """Ask for a build."""

    def build(self, id: str) -> BuildRecord:
        """A build as it stands."""

    def builds(self, name: EnvironmentName, version: VersionName) -> list[BuildRecord]:
        """Builds of a version, the newest first."""

    def log_lines(self, id: str) -> Iterator[str]:
        """The lines of its log, from the first on, as they come, until the build has ended."""


class BuildFailed(InvalidInput):
    """A build on the server failed."""

    def __init__(self, build: BuildRecord) -> None:
        super().__init__(build.error or f"the build of {build.name}:{build.version} failed, and does not say why")
        self.hint = f"its whole log: `mlenv build logs {build.id}`"
        self.build = build


class BuildCanceled(Conflict):
    """Somebody canceled the build."""

    def __init__(self, build: BuildRecord) -> None:
        super().__init__(f"the build of {build.name}:{build.version} was canceled")
        self.build = build


class NotThroughServer(InvalidInput):
    """Something that is done where the store is, and not through a server."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what} can't be done through a server")
        self.hint = hint


class RemoteEnvironments(Environments):
    """The environments of a workspace or registry on a server."""

    def _name(self, reference: Reference) -> EnvironmentName:
        """The name: whoever opened this has looked at where the reference leads."""
        return reference.name


class RemoteLocking(Locking):
    """Locks that the server makes, or this machine where only it knows for which Python."""

    def __init__(self, server: BuildServer, *arguments: Any, **keywords: Any) -> None:
        """
        Args:
            server: Makes locks.
            arguments, keywords: As for `Locking`, whose registry names in the server what was made here.
        """
        super().__init__(*arguments, **keywords)
        self._server = server

    def _make(self, version: EnvironmentVersion, platform: Platform, options: LockOptions, progress: Progress) -> Lock:
        if platform == self._host_platform and _says_no_python(version.spec):
            return super()._make(version, platform, options, progress)
        with progress.step(f"Locking {version} for {platform} on the server") as step:
            asked = None if options == DEFAULT_OPTIONS else options
            lock = self._read(self._server.make_lock(version.name, version.version, platform, asked))
            step.note(quantity(lock.count, "package"))
        return lock


def _says_no_python(spec: Spec) -> bool:
    """Whether neither the spec nor a base image says which Python is meant: then it is that of whoever runs it."""
    return spec.image is None and spec.build is None and spec.wanted_python is None and not spec.needs_conda


class RemoteArtifacts(Artifacts):
    """Wheels that the server built come from it, all others from their indexes."""

    def ensure(self, packages: Sequence[Sized], sources: Sources, *, progress: Progress) -> None:
        """Have every package's file here."""
        built = [each for each in packages if each.artifact.url is None and not self._blobs.has(each.artifact.digest)]
        if built:
            with progress.step(f"Fetching {quantity(len(built), 'wheel')} that the server built"):
                for each in built:
                    self._blobs.path(each.artifact.digest)
        super().ensure(packages, sources, progress=progress)


class BaseServer(Protocol):
    """What a server does with bases. `mlenv.client.registry.RemoteRegistry` is the one there is."""

    def pull_base(self, image: str, platform: Platform | None, name: str | None) -> BaseFacts:
        """Let it take a base image from its registry; gives what it offers, once it is at hand there."""


class RemoteBases(Bases):
    """The base images of a server."""

    def __init__(self, server: BaseServer, *arguments: Any, **keywords: Any) -> None:
        """
        Args:
            server: Pulls bases.
            arguments, keywords: As for `Bases`.
        """
        super().__init__(*arguments, **keywords)
        self._server = server

    def need(self, name: str, platform: Platform | None = None, *, pull: bool = True, progress: Progress) -> Base:
        """A base there by what a spec's `image` says. Raises `BaseNotHere`."""
        if is_file_source(name):
            raise NotThroughServer(f"looking into {name}", "leave the server out: `mlenv --embedded base show …`")
        digest = self._registry.base(full_name(name))
        facts = self._registry.facts(digest) if digest is not None else None
        if digest is None or facts is None or platform not in {None, facts.platform}:
            raise BaseNotHere(name)
        return Base(_image_of(facts), facts)

    def import_(self, *_: object, **__: object) -> NoReturn:
        """Refused."""
        raise NotThroughServer("importing a base image", _ON_SERVER)

    def create(self, *_: object, **__: object) -> NoReturn:
        """Refused."""
        raise NotThroughServer("making a base image", _ON_SERVER)

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
        Let the server take a base in from its registry, with the account that the server has there.

        Raises:
            As `Bases.pull`; and `HostNotListed` for a registry that the server does not speak to.
        """
        from mlenv.distribution.problems import AccessRefused, UntrustedRegistry

        with progress.step(f"Pulling {image} on the server") as step:
            try:
                facts = self._server.pull_base(image, platform, name)
            except (AccessRefused, UntrustedRegistry) as error:
                # What the server's own hint names is done there.
                error.hint = _THERE
                raise
            step.note(str(facts.digest))
        return Base(_image_of(facts), facts)


#: What to do about it.
_ON_SERVER: Final = "do it where the server runs, with the server's home as MLENV_HOME and `--embedded`"
_THERE: Final = (
    "it is the server that asks: its account and the registries that it trusts are for whoever runs it to set"
)
_NEW_LAYERS: Final = re.compile(r"\b(\d+) new\b")


def _image_of(facts: BaseFacts) -> Image:
    """A base image that is on the server, by its digest alone."""
    return Image(Descriptor(MANIFEST_TYPE, facts.digest, 0), {}, facts.digest, ())


class ContextServer(Protocol):
    """Where contexts are uploaded to. `mlenv.client.registry.RemoteRegistry` is the one there is."""

    def upload(self, path: str, content: Path) -> str:
        """Put a file among the namespace's own, under a path; gives its address."""


class RemoteContexts:
    """Dockerfile contexts that the server builds. It has `taken` as `mlenv.service.context_builds.ContextBuilds` has it."""

    def __init__(self, server: ContextServer, contexts: ContextBuilds, blobs: Blobs) -> None:
        """
        Args:
            contexts: Take directories in on this machine.
        """
        self._server, self._contexts, self._blobs = server, contexts, blobs

    def taken(self, spec: Spec, *, progress: Progress) -> Spec:
        """A spec whose context, if it is a directory here, is on the server."""
        taken = self._contexts.taken(spec, progress=progress)
        if taken.build is None or taken.build == spec.build or taken.build.digest is None:
            return taken
        archive = self._blobs.path(taken.build.digest)
        with progress.step("Uploading the build context", total=archive.stat().st_size, unit="bytes"):
            address = self._server.upload(f"contexts/{taken.build.digest.hex}.tar", archive)
        return replace(taken, build=replace(taken.build, path=address))


class RemoteBuilding:
    """
    Builds that the server makes. It has `build` as `mlenv.service.building.Building` has it.

    Attributes:
        compression: Of layers, if nobody says otherwise: gzip, since a server's images are pulled by any tool.
    """

    compression: Final = Compression.GZIP

    def __init__(
        self,
        server: BuildServer,
        blobs: Blobs,
        locking: Locking,
        *,
        say: Callable[[str], None],
        whole: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            blobs: Brings from the server what is not here.
            say: Is told the lines of the build's log.
            whole: Bring the images' layers here, too.
        """
        self._server, self._blobs, self._locking = server, blobs, locking
        self._say, self._whole, self._pause = say, whole, pause

    def build(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        *,
        compression: Compression = Compression.GZIP,
        options: LockOptions | None = None,
        context: ContextOptions | None = None,
        progress: Progress,
    ) -> BuildResult:
        """
        The version's image for a platform: the one that was built, or else one that the server builds now.

        Raises:
            NoBase, DockerfileNotBuilt: There is nothing to build on.
            NotThroughServer: It is for the server to say how a Dockerfile is built.
            BuildFailed, BuildCanceled: The build came to nothing.
            Unavailable: The server does not answer.
        """
        if context is not None and context != ContextOptions():
            raise NotThroughServer("choosing an engine or a network, or handing in secrets,", "leave them out")
        if version.spec.image is None and version.spec.build is None:
            raise NoBase(f"{version} names no base image")
        asked = self._server.request_build(
            version.name, version.version, platform, compression=compression, options=options
        )
        ended = self.follow(asked)
        if ended.image is None:
            raise Unavailable(f"the server does not say which image build {ended.id} made")
        lock = self._locking.lock(version, platform, progress=progress)
        image = load_image(ended.image, self._blobs)
        if self._whole:
            self.bring(image, progress)
        count = count_layers(lock) if lock.context is None else 1
        if asked.status.ended:
            return BuildResult(image, None, lock, 0, count)
        new = _new_layers(ended, count)
        return BuildResult(image, ended, lock, new, count if lock.context is None else new)

    def as_built(self, version: EnvironmentVersion, lock: Lock) -> Lock:
        """
        A lock to be compared: that of a Dockerfile context with what its image has installed, any other as it is.

        Raises:
            NotBuilt: The image is not built yet.
        """
        if lock.context is None:
            return lock
        for build in self._server.builds(version.name, version.version):
            if build.image is not None and build.platform == lock.target.platform:
                installed = installed_of(build.image, self._blobs)
                if installed is not None:
                    return with_installed(lock, installed)
        raise NotBuilt(version)

    def follow(self, build: BuildRecord) -> BuildRecord:
        """
        Wait for a build's end, and pass on what its log says.

        Raises:
            BuildFailed, BuildCanceled: It came to nothing.
        """
        if not build.status.ended:
            try:
                for line in self._server.log_lines(build.id):
                    self._say(line)
            except KeyboardInterrupt:
                # NOTE: it may be others' build, too.
                self._say(f"the build goes on; `mlenv build cancel {build.id}` ends it")
                raise
            build = self.ended(self._server.build(build.id))
        if build.status is BuildStatus.CANCELED:
            raise BuildCanceled(build)
        if build.status is not BuildStatus.SUCCEEDED:
            raise BuildFailed(build)
        return build

    def ended(self, build: BuildRecord) -> BuildRecord:
        """Wait for a build's end, however it ends: its log may be whole a moment before."""
        look = _FIRST_LOOK
        while not build.status.ended:
            self._pause(look)
            look = min(look * 2, _LONGEST_LOOK)
            build = self._server.build(build.id)
        return build

    def bring(self, image: Image, progress: Progress) -> None:
        """Have all of an image here."""
        missing = [layer for layer, _ in image.layers if not self._blobs.has(layer.digest)]
        self._blobs.path(image.config_digest)
        if missing:
            size = sum(each.size for each in missing)
            with progress.step(f"Fetching {quantity(len(missing), 'layer')}", total=size, unit="bytes") as step:
                for each in missing:
                    self._blobs.path(each.digest)
                    step.advance(each.size)


def _new_layers(build: BuildRecord, count: int) -> int:
    """How many layers were made now, as the build's steps say it."""
    stored = 0
    for step in build.steps:
        if step.title == "Building layers":
            return int(match[1]) if (match := _NEW_LAYERS.search(step.note)) else count
        stored += step.title == "Storing what the Dockerfile added"
    return stored
