"""Packages that are fetched in the background, for whoever makes something of those that are there."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from mlenv.core.layer import Sized

_Key = TypeVar("_Key")


class Arriving:
    """
    A `build.interface.Incoming`. Threads that fetch say what has come.

    Args:
        missing: What is to come. Every other package counts as there.

    Attributes:
        stopped: Whether nobody wants more of them.
    """

    def __init__(self, missing: Iterable[Sized]) -> None:
        self._missing = {each.artifact.digest for each in missing}
        self._changed = threading.Condition()
        self._failed = False
        self.stopped = False

    def came(self, package: Sized) -> None:
        """It is there."""
        with self._changed:
            self._missing.discard(package.artifact.digest)
            self._changed.notify_all()

    def fail(self) -> None:
        """One of them does not come. The others may."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody wants more of them."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def whole(self, groups: Mapping[_Key, Sequence[Sized]]) -> Iterator[_Key]:
        """The keys of groups, each as soon as its packages are there; of several, the first."""
        waiting = {key: {each.artifact.digest for each in group} for key, group in groups.items()}
        while waiting:
            with self._changed:
                while not (whole := [key for key, those in waiting.items() if those.isdisjoint(self._missing)]):
                    if self._failed or self.stopped:
                        return
                    self._changed.wait()
            for key in whole:
                del waiting[key]
            yield from whole
