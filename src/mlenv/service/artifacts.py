"""Packages into the store: each fetched once, checked against its lock while it streams."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlenv.build.interface import AllHere, Blobs, Incoming, Incomplete
from mlenv.core.layer import Sized
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.core.progress import Progress, Step, quantity
from mlenv.core.spec import Sources
from mlenv.core.wheel_archive import InvalidPackage
from mlenv.errors import MlenvError, NotFound
from mlenv.faults import reach
from mlenv.service.arriving import Arriving
from mlenv.threads import in_threads, interrupted, result

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
        if missing := self._missing(packages):
            self._bring(missing, len(packages) - len(missing), sources, progress, Arriving(missing))

    @contextmanager
    def fetching(self, packages: Sequence[Sized], sources: Sources, *, progress: Progress) -> Iterator[Incoming]:
        """
        The same in the background, as long as the context lasts; it ends when all are there, or have failed.

        What fails inside of it stops those that are under way.

        Raises:
            What `ensure` raises.
        """
        missing = self._missing(packages)
        kept = len(packages) - len(missing)
        if len(missing) < 2:
            # Threads would take longer to start than they save.
            if missing:
                self._bring(missing, kept, sources, progress, Arriving(missing))
            yield AllHere()
            return
        from concurrent.futures import ThreadPoolExecutor

        arriving, wait = Arriving(missing), True
        pool = ThreadPoolExecutor(1, thread_name_prefix="fetching")
        bringing = pool.submit(self._bring, missing, kept, sources, progress, arriving)
        try:
            try:
                yield arriving
            except Incomplete:
                result(bringing)
                raise
            result(bringing)
        except BaseException as error:
            wait = not interrupted(error)
            arriving.stop()
            raise
        finally:
            pool.shutdown(wait)

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

    def _missing(self, packages: Sequence[Sized]) -> list[Sized]:
        """What the store does not hold, the largest first, so that none of them is left alone at the end."""
        missing = [each for each in packages if not self._blobs.has(each.artifact.digest)]
        return sorted(missing, key=lambda each: -each.artifact.size)

    def _bring(
        self, missing: Sequence[Sized], kept: int, sources: Sources, progress: Progress, arriving: Arriving
    ) -> None:
        """Fetch packages, several at once, as one step. All are tried, whichever fails. Raises what `ensure` raises."""
        size = sum(each.artifact.size for each in missing)
        what = "wheel" if all(isinstance(each, LockedPackage) for each in missing) else "package"
        with progress.step(f"Fetching {quantity(len(missing), what)}", total=size, unit="bytes") as step:
            if kept:
                step.note(f"{kept} from cache")

            def fetch(package: Sized) -> MlenvError | None:
                try:
                    self._fetch(package, sources, step, arriving)
                except MlenvError as error:
                    arriving.fail()
                    return error
                except BaseException:
                    arriving.stop()
                    raise
                arriving.came(package)
                return None

            ended = in_threads(fetch, missing, workers=_PARALLEL, stop=arriving.stop)
        failures = [failure for failure in ended if failure]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup(f"{what}s could not be fetched", failures)
        reach("packages.fetched")

    def _fetch(self, package: Sized, sources: Sources, step: Step, arriving: Arriving) -> None:
        artifact = package.artifact
        if artifact.url is None:
            raise ArtifactLost(artifact)
        fetcher = self._fetcher() if isinstance(package, LockedPackage) else self._channels()

        def counted() -> Iterator[bytes]:
            for chunk in arriving.pieces(fetcher.fetch(artifact, sources)):
                step.advance(len(chunk))
                yield chunk

        self._blobs.put(counted(), digest=artifact.digest, size=artifact.size, what=artifact.filename)
