"""
Threads in which requests wait for disks and databases.

Most requests make one short call there, so what counts is the way to a thread and back: the framework's (anyio) costs more
processor time than such a call itself.
"""

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Most threads of a process. What comes while all are busy waits for its turn.
_MOST: Final = 40


class _Work:
    """A call, and who waits for what comes of it."""

    __slots__ = ("arguments", "context", "ended", "error", "future", "loop", "named", "result", "work")

    def __init__(self, work: Callable[..., Any], arguments: tuple[object, ...], named: Mapping[str, object]) -> None:
        self.work, self.arguments, self.named = work, arguments, named
        self.context = contextvars.copy_context()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False

    def do(self) -> None:
        try:
            self.result = self.context.run(self.work, *self.arguments, **self.named)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self.error = error

    def settle(self) -> None:
        """Tell whoever waits, in the event loop."""
        self.ended = True
        # A request that was cancelled has another future since, or waits no more.
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        elif isinstance(self.error, StopIteration):
            # No future takes it.
            self.future.set_exception(RuntimeError("a call in a thread raised StopIteration"))
        else:
            self.future.set_exception(self.error)


class Threads:
    """Threads of a process, each started when it is first needed. They end with the process."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._waiting: SimpleQueue[_Work] = SimpleQueue()
        self._guard = threading.Lock()
        # Threads, and calls that have not ended.
        self._started = self._open = 0

    @property
    def crowded(self) -> bool:
        """Whether calls wait for a thread."""
        return self._open > self._most

    async def run(self, work: Callable[..., T], /, *arguments: object, **named: object) -> T:
        """Call it in a thread. If the request is cancelled meanwhile, the call ends all the same before this does."""
        each = _Work(work, arguments, named)
        with self._guard:
            self._open += 1
            short = self._started < min(self._open, self._most)
            self._started += short
        if short:
            threading.Thread(target=self._serve, name="request", daemon=True).start()
        self._waiting.put(each)
        try:
            result: T = await each.future
        except asyncio.CancelledError:
            if not each.ended:
                each.future = each.loop.create_future()
                await asyncio.wait([each.future])
                each.future.exception()
            raise
        return result

    def _serve(self) -> None:
        while True:
            each = self._waiting.get()
            each.do()
            with self._guard:
                self._open -= 1
            try:
                each.loop.call_soon_threadsafe(each.settle)
            except RuntimeError:
                # The event loop has been closed, and nobody waits.
                pass
            # What it holds is let go of now, and not when the next call comes.
            del each


_threads = Threads()


def _begin_anew() -> None:
    """A child has none of its parent's threads."""
    global _threads
    _threads = Threads()


os.register_at_fork(after_in_child=_begin_anew)


async def in_thread(work: Callable[..., T], /, *arguments: object, **named: object) -> T:
    """Call it in one of this process's threads; see `Threads.run`."""
    return await _threads.run(work, *arguments, **named)
