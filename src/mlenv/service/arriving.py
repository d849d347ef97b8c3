"""Packages that are fetched in the background, for whoever makes something of those that are there."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from mlenv.build.interface import Incomplete
from mlenv.core.layer import Sized
from mlenv.threads import TICK

#: How many pieces of one package may have come before they are looked at.
_AHEAD: Final = 4

_Key = TypeVar("_Key")
_Item = TypeVar("_Item")


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
        self._reading: set[SimpleQueue[bytes | BaseException | None]] = set()
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
            for each in self._reading:
                each.put(Incomplete())

    def pieces(self, source: Iterator[bytes]) -> Iterator[bytes]:
        """
        A package's bytes as they come. They are read in a thread of its own, which alone waits for a server that sends
        nothing: it holds up neither whoever wants no more of them, nor the end of the process.

        Raises:
            Incomplete: Nobody wants more of them.
            And what the source raises.
        """
        read: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        room = threading.Semaphore(_AHEAD)
        left = threading.Event()

        def reading() -> None:
            try:
                for piece in source:
                    read.put(piece)
                    room.acquire()
                    if left.is_set():
                        return
                read.put(None)
            except BaseException as error:  # noqa: BLE001 - it is raised where the bytes are wanted
                read.put(error)

        with self._changed:
            self._reading.add(read)
        threading.Thread(target=reading, name="download", daemon=True).start()
        try:
            while True:
                piece = None if self.stopped else _next(read)
                if self.stopped:
                    raise Incomplete
                if piece is None:
                    return
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                room.release()
        finally:
            left.set()
            room.release()
            with self._changed:
                self._reading.discard(read)

    def whole(self, groups: Mapping[_Key, Sequence[Sized]]) -> Iterator[_Key]:
        """The keys of groups, each as soon as its packages are there; of several, the first."""
        waiting = {key: {each.artifact.digest for each in group} for key, group in groups.items()}
        while waiting:
            with self._changed:
                while not (whole := [key for key, those in waiting.items() if those.isdisjoint(self._missing)]):
                    if self._failed or self.stopped:
                        return
                    self._changed.wait(TICK)
            for key in whole:
                del waiting[key]
            yield from whole


def _next(read: "SimpleQueue[_Item]") -> _Item:
    """What comes next; a Ctrl-C that comes meanwhile is never missed."""
    while True:
        try:
            return read.get(timeout=TICK)
        except Empty:
            continue
