"""Is the store whole: does every name point at bytes that are there and are what they are called."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeAlias

from msgspec import Struct

from mlenv.build.images import load_image
from mlenv.build.interface import Blobs
from mlenv.core.digest import Digest
from mlenv.core.lock import Lock
from mlenv.core.progress import Progress
from mlenv.errors import MlenvError
from mlenv.service.bases import base_of, layers_elsewhere
from mlenv.service.interface import Registry

#: For each blob, what has a name and needs it.
_Users: TypeAlias = dict[Digest, set[str]]


class BlobProblem(Protocol):
    """Something wrong with a blob by itself."""

    @property
    def what(self) -> str:
        """One line for people."""

    @property
    def digest(self) -> Digest | None:
        """Which blob, or None."""

    @property
    def harmless(self) -> bool:
        """Whether it is a leftover that nothing names."""


class Finding(Struct, frozen=True):
    """
    One thing that is not as it should be.

    Attributes:
        harm: Something named is damaged or lost. Otherwise it is garbage that costs only space.
        text: What, in one sentence.
    """

    harm: bool
    text: str


class Verifying:
    """Looks through a whole store."""

    def __init__(
        self, registry: Registry, blobs: Blobs, *, check_blobs: Callable[[Progress], Sequence[BlobProblem]]
    ) -> None:
        """
        Args:
            check_blobs: Looks at every blob by itself.
        """
        self._registry = registry
        self._blobs = blobs
        self._check_blobs = check_blobs

    def verify(self, *, progress: Progress) -> list[Finding]:
        """Everything that is wrong, harm first; empty for a store that is whole."""
        users: _Users = {}
        with progress.step("Checking names"):
            findings = [Finding(True, text) for text in self._registry.check()]
            findings += self._names(users)
        elsewhere = self._elsewhere()
        for each in self._check_blobs(progress):
            if each.digest in elsewhere and not self._blobs.has(each.digest):
                continue
            needed = sorted(users.get(each.digest, ())) if each.digest else []
            text = f"{each.what}, which is needed by {', '.join(needed)}" if needed else each.what
            findings.append(Finding(not each.harmless, text))
        return sorted(findings, key=lambda each: (not each.harm, each.text))

    def _elsewhere(self) -> frozenset[Digest]:
        """Layers of bases that are in the registries these came from. They are fetched when they are needed."""
        found: set[Digest] = set()
        for digest in set(self._registry.bases().values()):
            with suppress(MlenvError):
                found |= layers_elsewhere(self._registry, self._blobs, digest)
        return frozenset(found)

    def _names(self, users: _Users) -> Iterator[Finding]:
        """What is wrong with what has a name; notes in `users` which blobs each needs."""
        locked: dict[Digest, list[str]] = {}
        for name, version, platform, digest in self._registry.all_locks():
            locked.setdefault(digest, []).append(f"{name}:{version}")
            what = f"the lock of {name}:{version} for {platform}"
            users.setdefault(digest, set()).add(what)
            yield from self._read(what, partial(self._check_lock, digest, what, users))
        for key, manifest in self._registry.all_images():
            whose = " and ".join(sorted(set(locked.get(key.lock, [])))) or f"lock {key.lock}"
            what = f"the image of {whose}"
            yield from self._read(what, partial(self._check_image, manifest.digest, what, users))
        for base, digest in self._registry.bases().items():
            what = f"the base {base}"
            yield from self._read(what, partial(self._check_image, digest, what, users))
        for _, layer in self._registry.all_layers():
            if not self._blobs.has(layer.digest):
                yield Finding(False, f"layer {layer.digest} is gone, and will be made again when it is needed")

    def _read(self, what: str, check: Callable[[], Iterator[str]]) -> Iterator[Finding]:
        try:
            yield from (Finding(True, f"{what}: {text}") for text in check())
        except MlenvError as error:
            yield Finding(True, f"{what}: {error}")

    def _check_lock(self, digest: Digest, what: str, users: _Users) -> Iterator[str]:
        lock = Lock.from_pylock(self._blobs.read(digest).decode())
        if lock.context is not None:
            users.setdefault(lock.context.digest, set()).add(what)
            if not self._blobs.has(lock.context.digest):
                yield f"its build context {lock.context.digest} is gone"
        for artifact in (each.artifact for each in lock.everything):
            users.setdefault(artifact.digest, set()).add(what)
            if artifact.url is None and not self._blobs.has(artifact.digest):
                yield f"{artifact.filename} was built here and is gone"

    def _check_image(self, digest: Digest, what: str, users: _Users) -> Iterator[str]:
        users.setdefault(digest, set()).add(what)
        image = load_image(digest, self._blobs)
        for each in (image.config_digest, *(layer.digest for layer, _ in image.layers)):
            users.setdefault(each, set()).add(what)
        if not self._blobs.has(image.config_digest):
            yield f"its configuration {image.config_digest} is gone"
        missing = [layer.digest for layer, _ in image.layers if not self._blobs.has(layer.digest)]
        # A base's layers may still be in the registry that it came from.
        elsewhere = layers_elsewhere(self._registry, self._blobs, base_of(image) or digest) if missing else ()
        for each in missing:
            if each not in elsewhere:
                yield f"its layer {each} is gone"
