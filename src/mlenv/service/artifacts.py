"""Wheels into the store: each fetched once, checked against its lock while it streams."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlenv.build.interface import Blobs
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.core.progress import Progress, Step
from mlenv.core.spec import Sources
from mlenv.core.wheel import InvalidWheel
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
    """Brings the wheels of a lock into the store."""

    def __init__(self, blobs: Blobs, fetcher: "Callable[[], Fetcher]") -> None:
        self._blobs = blobs
        self._fetcher = fetcher

    def ensure(self, packages: Sequence[LockedPackage], sources: Sources, *, progress: Progress) -> None:
        """
        Have every package's wheel in the store; those that are there are not touched.

        Raises:
            ArtifactLost: A wheel is missing and has no address.
            DigestMismatch: A wheel's bytes are not the locked ones.
            Unavailable: A wheel could not be fetched.
            ExceptionGroup: Several of these.
        """
        missing = [each.artifact for each in packages if not self._blobs.has(each.artifact.digest)]
        if not missing:
            return
        size = sum(each.size for each in missing)
        with progress.step(
            f"Fetching {len(missing)} wheel{'s' if len(missing) > 1 else ''}", total=size, unit="bytes"
        ) as step:
            if kept := len(packages) - len(missing):
                step.note(f"{kept} from cache")
            failures = [failure for failure in self._fetch_all(missing, sources, step) if failure]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup("wheels could not be fetched", failures)

    @contextmanager
    def refusing(
        self, packages: Sequence[LockedPackage], forget: Callable[[Artifact], None] = lambda _: None
    ) -> Iterator[None]:
        """
        Where the packages' wheels are opened: one whose content is refused is not kept, though its digest was right.

        One that was built here stays: it is named by the lock, and nobody could bring it again.

        Args:
            packages: The packages.
            forget: Told of a refused wheel, to forget what was made of it before its last byte was found false.
        """
        try:
            yield
        except InvalidWheel as error:
            for each in packages:
                if each.artifact.filename == error.filename:
                    forget(each.artifact)
                    if each.artifact.url is not None:
                        self._blobs.remove(each.artifact.digest)
            raise

    def _fetch_all(self, artifacts: list[Artifact], sources: Sources, step: Step) -> list[MlenvError | None]:
        # NOTE: the largest first, so that none of them is left alone at the end.
        ordered = sorted(artifacts, key=lambda each: -each.size)
        return in_threads(lambda each: self._fetch(each, sources, step), ordered, workers=_PARALLEL)

    def _fetch(self, artifact: Artifact, sources: Sources, step: Step) -> MlenvError | None:
        if artifact.url is None:
            return ArtifactLost(artifact)

        def counted() -> Iterator[bytes]:
            for chunk in self._fetcher().fetch(artifact, sources):
                step.advance(len(chunk))
                yield chunk

        try:
            self._blobs.put(counted(), digest=artifact.digest, size=artifact.size, what=artifact.filename)
        except MlenvError as error:
            return error
        return None
