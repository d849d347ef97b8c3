"""
Collects garbage: removes bytes that nothing names any more, while everything else goes on.

What rows name is read in one state of the database, and followed through manifests, indexes and locks. What came, or
was used, after some time before that (the grace) stays whatever names it: somebody may be about to.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from mlenv.core.collecting import Collected, Link, Named, named_in
from mlenv.core.digest import Digest
from mlenv.core.progress import Progress
from mlenv.errors import Conflict

if TYPE_CHECKING:
    from mlenv.service.interface import Clock

#: How long what nothing names is left alone: longer than any build or push takes.
GRACE: Final = timedelta(hours=24)


class CollectionRuns(Conflict):
    """Another process collects already."""

    hint = "wait until it has ended"

    def __init__(self) -> None:
        super().__init__("another process collects what nothing names, in the same store")


class Names(Protocol):
    """What the rows of all namespaces name."""

    def named(self) -> Named:
        """What they name, in one state of the database."""

    def forget_layer(self, key: Digest) -> None:
        """Forget a finished layer; it can be made again."""

    def forget_link(self, link: Link, unless: Callable[[], bool]) -> bool:
        """Take a blob from a repository, unless it turns out, when nobody can push a manifest, that it is used."""


class Bytes(Protocol):
    """Blobs as files."""

    def recover(self) -> None:
        """Put back what a collection that died had taken aside."""

    def blobs(self) -> Iterator[tuple[Digest, int, float]]:
        """Every blob: its size in bytes, and when it came or was last used, in seconds since the epoch."""

    def names(self) -> Iterator[Digest]:
        """What the store of blobs names itself."""

    def document(self, digest: Digest) -> bytes | None:
        """A blob that may name others; None if it can't, or is not there."""

    def used(self, digest: Digest) -> float | None:
        """When a blob came or was last used; None if it is not there."""

    def remove(self, digest: Digest, *, before: float) -> int | None:
        """Remove a blob that was last used before a time. Returns its size in bytes; None if it is used after all."""


class Collecting:
    """Collects the garbage of a store."""

    def __init__(
        self,
        names: Names,
        blobs: Bytes,
        sweep_uploads: Callable[[float], int],
        exclusive: Callable[[], AbstractContextManager[None]],
        clock: "Clock",
    ) -> None:
        """
        Args:
            sweep_uploads: Removes uploads that nobody went on with for so many seconds, and returns their bytes.
            exclusive: Keeps other collections out; raises `CollectionRuns`.
        """
        self._names, self._blobs, self._sweep_uploads = names, blobs, sweep_uploads
        self._exclusive, self._clock = exclusive, clock

    def collect(self, grace: timedelta = GRACE, *, dry_run: bool = False, progress: Progress) -> Collected:
        """
        Remove what nothing names.

        Args:
            grace: For how long something must not have been used. What is shorter than a build or a push takes away what
                one that goes on has found to be there.
            dry_run: Remove nothing, and tell what would be.

        Raises:
            CollectionRuns: Another process collects.
        """
        with self._exclusive():
            # File systems tell the time of a use to some milliseconds.
            before = self._clock() - max(grace, timedelta(seconds=1))
            if not dry_run:
                self._blobs.recover()
            with progress.step("Following names") as step:
                named = self._names.named()
                marked = self._mark({*named.digests, *self._blobs.names()})
                step.note(f"{len(marked)} digests")
            with progress.step("Removing what nothing names"):
                return self._sweep(named, marked, before, grace, dry_run)

    def _mark(self, roots: Iterable[Digest]) -> set[Digest]:
        """All that is named, at first or any hand."""
        marked, waiting = set(roots), list(roots)
        while waiting:
            data = self._blobs.document(waiting.pop())
            for each in named_in(data) if data is not None else ():
                if each not in marked:
                    marked.add(each)
                    waiting.append(each)
        return marked

    def _sweep(self, named: Named, marked: set[Digest], before: datetime, grace: timedelta, dry_run: bool) -> Collected:
        limit, kept, young = before.timestamp(), [0, 0], [0, 0]
        # What somebody has just pushed, and is about to name by a manifest.
        waiting = {each.digest for each in named.links if each.created_at >= before}
        garbage: dict[Digest, int] = {}
        for digest, size, used in self._blobs.blobs():
            if digest in marked:
                kept = [kept[0] + size, kept[1] + 1]
            elif used >= limit or digest in waiting:
                young = [young[0] + size, young[1] + 1]
            else:
                garbage[digest] = size

        def is_used(link: Link) -> bool:
            used = self._blobs.used(link.digest)
            return used is not None and used >= limit

        layers = [key for key, digest in named.layers.items() if digest in garbage]
        links = [each for each in named.links if each.digest in garbage and not is_used(each)]
        if dry_run:
            return Collected(sum(garbage.values()), len(garbage), 0, len(layers), len(links), *kept, *young)
        # Rows first: a name must never point at nothing.
        for key in layers:
            self._names.forget_layer(key)
        forgotten = sum(self._names.forget_link(each, partial(is_used, each)) for each in links)
        removed = [self._blobs.remove(each, before=limit) for each in garbage]
        freed = [size for size in removed if size is not None]
        uploads = self._sweep_uploads(grace.total_seconds())
        return Collected(sum(freed), len(freed), uploads, len(layers), forgotten, *kept, *young)
