"""Packages into the store: each fetched once, checked against its lock while it streams."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlenv.build.interface import Blobs
from mlenv.core.layer import Sized
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.core.progress import Progress, Step
from mlenv.core.spec import Sources
from mlenv.core.wheel_archive import InvalidPackage
from mlenv.errors import MlenvError, NotFound
from mlenv.threads import in_threads

if TYPE_CHECKING:
    from mlenv.resolve.interface import Fetcher

#: Downloads under way at once.
_PARALLEL = 8


class ArtifactLost(NotFound):
    """A wheel that was built here, or came from a file, and is in the store no more."""

    hint = "import the environment's export again, or create a new version, which is locked afresh"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(f"{artifact.filename} ({artifact.digest}) has no address, and the store does not hold it")
        self.artifact = artifact


class Artifacts:
    """
    Brings the packages of a lock into the store.

    Args:
        blobs: The store.
        fetcher: Brings wheels from indexes.
        channels: Brings conda packages from channels.
    """

    def __init__(self, blobs: Blobs, fetcher: "Callable[[], Fetcher]", channels: "Callable[[], Fetcher]") -> None:
        self._blobs = blobs
        self._fetcher = fetcher
        self._channels = channels

    def ensure(self, packages: Sequence[Sized], sources: Sources, *, progress: Progress) -> None:
        """
        Have every package's file in the store, wheels and conda packages; those that are there are not touched.

        Raises:
            ArtifactLost: A wheel is missing and has no address.
            DigestMismatch: A file's bytes are not the locked ones.
            Unavailable: A file could not be fetched.
            ExceptionGroup: Several of these.
        """
        missing = [each for each in packages if not self._blobs.has(each.artifact.digest)]
        if not missing:
            return
        size = sum(each.artifact.size for each in missing)
        what = "wheel" if all(isinstance(each, LockedPackage) for each in missing) else "package"
        with progress.step(
            f"Fetching {len(missing)} {what}{'s' if len(missing) > 1 else ''}", total=size, unit="bytes"
        ) as step:
            if kept := len(packages) - len(missing):
                step.note(f"{kept} from cache")
            failures = [failure for failure in self._fetch_all(missing, sources, step) if failure]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup(f"{what}s could not be fetched", failures)

    @contextmanager
    def refusing(
        self, packages: Sequence[Sized], forget: Callable[[Artifact], None] = lambda _: None
    ) -> Iterator[None]:
        """
        Where the packages' files are opened: one whose content is refused is not kept, though its digest was right.

        One that was built here stays: it is named by the lock, and nobody could bring it again.

        Args:
            packages: The packages.
            forget: Told of a refused file, to forget what was made of it before its last byte was found false.
        """
        try:
            yield
        except InvalidPackage as error:
            for each in packages:
                if each.artifact.filename == error.filename:
                    forget(each.artifact)
                    if each.artifact.url is not None:
                        self._blobs.remove(each.artifact.digest)
            raise

    def _fetch_all(self, packages: list[Sized], sources: Sources, step: Step) -> list[MlenvError | None]:
        # NOTE: the largest first, so that none of them is left alone at the end.
        ordered = sorted(packages, key=lambda each: -each.artifact.size)
        return in_threads(lambda each: self._fetch(each, sources, step), ordered, workers=_PARALLEL)

    def _fetch(self, package: Sized, sources: Sources, step: Step) -> MlenvError | None:
        artifact = package.artifact
        if artifact.url is None:
            return ArtifactLost(artifact)
        fetcher = self._fetcher() if isinstance(package, LockedPackage) else self._channels()

        def counted() -> Iterator[bytes]:
            for chunk in fetcher.fetch(artifact, sources):
                step.advance(len(chunk))
                yield chunk

        try:
            self._blobs.put(counted(), digest=artifact.digest, size=artifact.size, what=artifact.filename)
        except MlenvError as error:
            return error
        return None
