"""A body that is written in a thread while more of it comes in."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from mlenv.server.oci.bodies import Batch
from mlenv.server.threads import Threads

#: How many batches may wait to be written, with the one that is being written.
_AHEAD: Final = 2


class Writing:
    """
    Batches that are written one after the other. A thread that is done with one goes on with the next by itself: to
    be given it by the event loop, which is busy receiving, would take longer than a tenth of hashing and writing it. It holds no
    thread while nothing has come, and lets others have it after each batch if there are too few.

    Args:
        write: Writes one, in a thread.
        release: Told of each that is written, in the event loop.
    """

    def __init__(self, threads: Threads, write: Callable[[Batch], None], release: Callable[[Batch], None]) -> None:
        self._threads, self._write, self._release = threads, write, release
        self._loop = asyncio.get_running_loop()
        self._open: deque[asyncio.Future[None]] = deque()
        self._thread: asyncio.Future[None] | None = None
        self._guard = threading.Lock()
        # What the thread and the event loop share.
        self._waiting: deque[tuple[Batch, asyncio.Future[None]]] = deque()
        self._busy = False
        self._error: BaseException | None = None

    async def put(self, batch: Batch) -> None:
        """Have one more written; waits while too many are not. Raises what `write` raised for one before it."""
        if len(self._open) >= _AHEAD:
            await self._open.popleft()
        written = self._loop.create_future()
        self._open.append(written)
        with self._guard:
            self._waiting.append((batch, written))
            begin, self._busy = not self._busy, True
        if begin:
            self._begin()

    async def all(self) -> None:
        """Wait until all are written. Raises what `write` raised for the first that was not."""
        while self._open:
            await self._open.popleft()

    async def end(self) -> None:
        """Wait until no thread is at it, whatever comes of it."""
        while self._thread is not None and not self._thread.done():
            await asyncio.wait([self._thread])
        for each in self._open:
            if not each.cancel() and not each.cancelled():
                each.exception()

    def _begin(self) -> None:
        self._thread = asyncio.ensure_future(self._threads.run(self._all_that_wait))

    def _all_that_wait(self) -> None:
        while True:
            with self._guard:
                if not self._waiting:
                    self._busy = False
                    return
                batch, written = self._waiting.popleft()
            if self._error is None:
                try:
                    self._write(batch)
                except BaseException as error:  # noqa: BLE001 - whoever waits is told
                    self._error = error
            self._loop.call_soon_threadsafe(self._settle, batch, written, self._error)
            if self._threads.crowded:
                self._loop.call_soon_threadsafe(self._begin)
                return

    def _settle(self, batch: Batch, written: "asyncio.Future[None]", error: BaseException | None) -> None:
        if error is None:
            self._release(batch)
        if written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
