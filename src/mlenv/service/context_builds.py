"""Dockerfile contexts: taken into the store, locked to exact bytes, and built by an engine of this machine."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field
from msgspec.structs import replace

from mlenv.build.context import ContextLimits, PackedContext, pack_directory, pack_files, read_dockerfile, unpack
from mlenv.build.interface import Blobs, ImageNames
from mlenv.core.dockerfile import Dockerfile, ImageUse, parse_dockerfile
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.files import FileNotHere, scope_of, upload_at
from mlenv.core.image import Image
from mlenv.core.lock import Lock, LockedBase, LockedContext
from mlenv.core.platform import Platform, Target
from mlenv.core.progress import Progress
from mlenv.core.records import ImageKey
from mlenv.core.redact import redact
from mlenv.core.spec import Spec
from mlenv.errors import InvalidInput, NotFound
from mlenv.faults import reach

if TYPE_CHECKING:
    from mlenv.build.context_engines import ContextEngine
    from mlenv.build.context_sandbox import Sandbox
    from mlenv.core.digest import Digest
    from mlenv.service.bases import Bases
    from mlenv.service.files import Files
    from mlenv.service.interface import Clock, Registry

#: What resolves the images of a Dockerfile, as a lock says it.
RESOLVER: Final = "dockerfile"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ARGUMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILES: Final = 100_000
#: Secrets shorter than this are not looked for in the log: every other line would have them.
_SHORT: Final = 4


class ContextNotHere(NotFound):
    """A build context that can't be brought from where it is."""

    hint = "create a new version with `--build-context DIRECTORY`, which takes the directory into the store"

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"the build context {redact(path)[:500]!r} {why}")
        self.why = why


class ContextChanged(InvalidInput):
    """An upload is not the context any more that a version was created with."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the build context {redact(path)[:500]!r} is not the one that the version was created with")


class InvalidArgument(InvalidInput):
    """A build argument or a secret that can't be given."""


class ContextSettings(Struct, frozen=True):
    """
    How contexts are built here.

    Attributes:
        engine: Which engine; None for the first that answers.
        network: What steps of a build may reach: `none`, or `default` for what this machine can.
        timeout: Seconds that a Dockerfile may take.
        local: Whether directories of this machine may be contexts, as they may not be on a server.
    """

    engine: str | None = None
    network: str = "default"
    timeout: float = 7200.0
    limits: ContextLimits = field(default_factory=ContextLimits)
    local: bool = True


class ContextOptions(Struct, frozen=True):
    """
    How one build is made. Nothing of it is kept.

    Attributes:
        engine, network: In the place of the settings.
        secrets: The values of secrets, by their ids.
    """

    engine: str | None = None
    network: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ContextOptions({self.engine!r}, {self.network!r})"


def settings_from(variables: Mapping[str, str]) -> ContextSettings:
    """
    The settings of whoever uses a store by themselves: `MLENV_BUILD_ENGINE`, `_NETWORK`, `_TIMEOUT` (seconds).

    Raises:
        InvalidArgument: One of them makes no sense.
    """
    network = variables.get("MLENV_BUILD_NETWORK") or "default"
    timeout = variables.get("MLENV_BUILD_TIMEOUT") or "7200"
    if network not in {"none", "default"}:
        raise InvalidArgument(f"MLENV_BUILD_NETWORK is {network!r}, expected none or default")
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", timeout) or float(timeout) <= 0:
        raise InvalidArgument(f"MLENV_BUILD_TIMEOUT is {timeout!r}, expected seconds")
    return ContextSettings(variables.get("MLENV_BUILD_ENGINE") or None, network, float(timeout))


class ContextBuilds:
    """The Dockerfile contexts of one namespace."""

    def __init__(
        self,
        registry: "Registry",
        blobs: Blobs,
        names: ImageNames,
        bases: "Callable[[], Bases]",
        *,
        settings: ContextSettings,
        engine: "Callable[[str | None, Path], ContextEngine]",
        workdir: Callable[[], Path],
        clock: "Clock",
        uploads: "tuple[Callable[[], Files], str] | None" = None,
    ) -> None:
        """
        Args:
            engine: Finds an engine, by its name or the first there is; raises `NoBuilder`.
            uploads: What was uploaded to the namespace, and its id; None where nothing can be uploaded to.
        """
        self._registry, self._blobs, self._names, self._bases = registry, blobs, names, bases
        self._settings, self._engine, self._workdir, self._clock = settings, engine, workdir, clock
        self._uploads = uploads

    def taken(self, spec: Spec, *, progress: Progress) -> Spec:
        """
        A spec whose context, if it is a directory here, is in the store, so that it stays what it is.

        Raises:
            DockerfileNotHere, InvalidContext, ContextTooLarge, InvalidIgnoreFile: It is no context that can be taken.
        """
        build = spec.build
        if build is None or build.digest is not None or _URL.match(build.path) or not self._settings.local:
            return spec
        with progress.step(f"Taking in the build context {build.path}") as step:
            packed = self._pack(Path(build.path), build.dockerfile_path)
            step.note(f"{packed.files} files, {packed.size} bytes")
        return replace(spec, build=replace(build, digest=packed.digest))

    def lock(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        arguments: Sequence[tuple[str, str]],
        *,
        progress: Progress,
    ) -> Lock:
        """
        A lock of a version's context, not stored yet: every image that the Dockerfile names is found, by its digest.

        Raises:
            ContextNotHere, ContextChanged, InvalidContext: There is no context.
            InvalidDockerfile, RefusedInstruction, InvalidArgument: It can't be built.
            BaseNotHere: An image that it names is not at hand.
        """
        build = version.spec.build
        assert build is not None
        for name, _ in arguments:
            if not _ARGUMENT.fullmatch(name):
                raise InvalidArgument(f"{name[:100]!r} can't be the name of a build argument")
        digest = self._archive(version, progress)
        given = dict(sorted(arguments))
        dockerfile = self._parsed(digest, given, platform)
        for name in sorted(given.keys() - dockerfile.arguments - _PREDEFINED):
            progress.warn(f"the Dockerfile has no ARG {name}")
        found: dict[ImageUse, LockedBase] = {}
        for use in dockerfile.images:
            base = self._bases().need(use.name, use.platform or platform, progress=progress)
            found[use] = LockedBase(use.name, base.image.manifest.digest, use.platform)
        return Lock(
            target=Target(platform, "", None),
            packages=(),
            resolver=RESOLVER,
            base=found[dockerfile.final].digest if dockerfile.final else None,
            context=LockedContext(digest, build.dockerfile_path, tuple(found.values()), tuple(given.items())),
        )

    def make(
        self,
        version: EnvironmentVersion,
        lock: Lock,
        key: ImageKey,
        options: ContextOptions | None = None,
        *,
        progress: Progress,
    ) -> tuple[Image, int]:
        """
        Build a locked context, and name the image.

        Returns:
            The image, and how many layers it has that its bases have not.

        Raises:
            NoBuilder, NoIsolation: Nothing here can build it.
            BuilderFailed, BuildTooSlow, BuilderTooOld: The Dockerfile did not end well.
            InvalidImage, InvalidArchive: What came of it is no image that can be kept.
            ContextNotHere, BaseNotHere: What it needs is gone.
        """
        from mlenv.build.context_result import take_result
        from mlenv.build.context_sandbox import open_sandbox

        context, options = lock.context, options or ContextOptions()
        assert context is not None
        platform = lock.target.platform
        if not self._blobs.has(context.digest) and self._archive(version, progress) != context.digest:
            raise ContextChanged(version.spec.build.path if version.spec.build else "")
        dockerfile = self._parsed(context.digest, dict(context.arguments), platform)
        bases = {ImageUse(each.name, each.platform): self._base(each, progress) for each in context.bases}
        local = {use: f"mlenv-base-{number}" for number, use in enumerate(bases)}
        engine = self._engine(options.engine or self._settings.engine, self._workdir())
        with open_sandbox(self._workdir(), engine.name) as sandbox:
            with progress.step("Preparing the build context"):
                unpack(self._blobs.path(context.digest), sandbox.directory, limits=self._settings.limits)
                text = dockerfile.on({use: f"localhost/{name}" for use, name in local.items()})
                (sandbox.directory / "Dockerfile").write_text(text, "utf-8")
                _write_layout(sandbox.directory / "bases", [(local[use], bases[use]) for use in bases], self._blobs)
            self._run(
                engine, sandbox, dockerfile, [(local[use], bases[use]) for use in bases], context, options, progress
            )
            reach("context.built")
            labels = {"dev.mlenv.lock": str(lock.digest), "dev.mlenv.context": str(context.digest)}
            if lock.base is not None:
                labels["org.opencontainers.image.base.digest"] = str(lock.base)
            image = take_result(
                sandbox.directory / "out",
                list(bases.values()),
                {local[use]: f"{use.name}@{bases[use].manifest.digest}" for use in bases},
                platform=platform,
                variables=version.spec.environment_variables,
                labels=labels,
                compression=key.compression,
                blobs=self._blobs,
                progress=progress,
            )
        reach("image.written")
        self._registry.add_image(key, image.manifest, now=self._clock())
        self._names.set_name(str(version), image.manifest)
        reach("image.named")
        known = {diff_id for base in bases.values() for _, diff_id in base.layers}
        return image, sum(diff_id not in known for _, diff_id in image.layers)

    def _run(
        self,
        engine: "ContextEngine",
        sandbox: "Sandbox",
        dockerfile: Dockerfile,
        bases: Sequence[tuple[str, Image]],
        context: LockedContext,
        options: ContextOptions,
        progress: Progress,
    ) -> None:
        from mlenv.build.context_engines import EngineBase, EngineOrder
        from mlenv.core.layer import MTIME

        arguments = dict(context.arguments)
        if "SOURCE_DATE_EPOCH" in dockerfile.arguments:
            arguments.setdefault("SOURCE_DATE_EPOCH", str(MTIME))
        order = EngineOrder(
            bases=tuple(
                EngineBase(name, image.manifest.digest, image.config_digest, tuple(each for _, each in image.layers))
                for name, image in bases
            ),
            arguments=tuple(arguments.items()),
            secrets=_checked_secrets(options.secrets),
            network=options.network or self._settings.network,
            documents=dockerfile.has_documents,
        )
        hidden = [each for value in options.secrets.values() for each in value.split() if len(each) >= _SHORT]
        with progress.step(f"Building the Dockerfile with {engine.name} {engine.version}"):

            def say(line: str) -> None:
                for each in hidden:
                    line = line.replace(each, "***")
                progress.line(line)

            engine.build(order, sandbox, say=say, timeout=self._settings.timeout)

    def _parsed(self, archive: "Digest", arguments: Mapping[str, str], platform: Platform) -> Dockerfile:
        return parse_dockerfile(read_dockerfile(self._blobs.path(archive)), arguments, platform)

    def _base(self, locked: LockedBase, progress: Progress) -> Image:
        """A base with all its layers here."""
        from mlenv.service.bases import BaseNotHere

        base = self._bases().need_at(locked.name, locked.digest, progress=progress)
        if base is None:
            raise BaseNotHere(f"{locked.name}@{locked.digest}")
        self._bases().complete(base.image, locked.digest, progress=progress)
        return base.image

    def _pack(self, directory: Path, dockerfile: str) -> PackedContext:
        try:
            return pack_directory(directory, dockerfile, self._blobs, limits=self._settings.limits)
        except OSError as error:
            raise ContextNotHere(str(directory), f"can't be read: {error.strerror}") from error

    def _archive(self, version: EnvironmentVersion, progress: Progress) -> "Digest":
        """The archive of a version's context, taken in now if it is elsewhere."""
        build = version.spec.build
        assert build is not None
        if self._settings.local and build.digest is not None and self._blobs.has(build.digest):
            return build.digest
        if not _URL.match(build.path):
            if not self._settings.local:
                raise ContextNotHere(build.path, "is a directory of another machine")
            found = self._pack(Path(build.path), build.dockerfile_path).digest
        else:
            with progress.step("Taking in the uploaded build context"):
                found = self._uploaded(build.path, build.dockerfile_path)
        if build.digest is not None and found != build.digest:
            raise ContextChanged(build.path)
        return found

    def _uploaded(self, uri: str, dockerfile: str) -> "Digest":
        """What was uploaded to this namespace: an archive of ours, or a directory file by file."""
        place = upload_at(uri)
        if place is None or self._uploads is None or scope_of(place[0]) != self._uploads[1]:
            raise ContextNotHere(uri, "is neither a directory here nor an upload to this namespace")
        container, path = place
        files = self._uploads[0]()
        if not path.endswith("/"):
            try:
                return files.get(container, path).digest
            except FileNotHere:
                path += "/"
        found: dict[str, tuple[Path, int]] = {}
        for file in files.tree(container, path):
            found[file.path.removeprefix(path)] = (files.content(file), file.size)
            if len(found) > _FILES:
                raise ContextNotHere(uri, f"has more than {_FILES} files")
        if not found:
            raise ContextNotHere(uri, "has no files")
        return pack_files(found, dockerfile, self._blobs, limits=self._settings.limits).digest


#: Build arguments that builders know without an ARG ("Predefined ARGs").
_PREDEFINED: Final = frozenset(
    name
    for each in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (each, each.lower())
) | {"SOURCE_DATE_EPOCH"}


def _checked_secrets(secrets: Mapping[str, str]) -> dict[str, str]:
    for id in secrets:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", id):
            raise InvalidArgument(f"{id[:100]!r} can't be the id of a secret")
    return dict(secrets)


def _write_layout(directory: Path, images: Sequence[tuple[str, Image]], blobs: Blobs) -> None:
    """An OCI layout (image-spec, image-layout.md) of images, which shares the store's bytes where it can."""
    target = directory / "blobs/sha256"
    target.mkdir(parents=True)
    entries = []
    for name, image in images:
        for digest in (image.manifest.digest, image.config_digest, *(layer.digest for layer, _ in image.layers)):
            if not (target / digest.hex).exists():
                _link(blobs.path(digest), target / digest.hex)
        entries.append({**image.manifest.to_dict(), "annotations": {"org.opencontainers.image.ref.name": name}})
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    for each in (directory, directory / "blobs", target, directory / "oci-layout", directory / "index.json"):
        each.chmod(0o755 if each.is_dir() else 0o644)


def _link(source: Path, target: Path) -> None:
    """A file that others may read, and nobody in a sandbox may write: the store's own, if it is one."""
    if source.stat().st_mode & 0o004:
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    import shutil

    shutil.copyfile(source, target)
    target.chmod(0o444)
