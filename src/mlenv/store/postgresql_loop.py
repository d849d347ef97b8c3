"""
Reads that wait for PostgreSQL in an event loop, without a thread of their own.

On a machine whose cores are busy, much of what a short read takes is the way to a thread and back: whoever waits for the
database, and whoever waits for that thread, hand Python's lock from one core to the other. What is called by `greenlet_spawn` is
written like all else; where it waits for the database, by `await_only`, the event loop goes on with something else. (SQLAlchemy's
`asyncio` extension is made of these two: docs.sqlalchemy.org, "Asynchronous I/O".)
"""

import asyncio
import time
from asyncio import AbstractEventLoop, Future, LifoQueue, QueueEmpty, TimerHandle
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg.waiting import Ready
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util.concurrency import await_only

from mlenv.store.postgresql import POOL_TIMEOUT

T = TypeVar("T")

#: Connections that one event loop has at most: the others of a pool are for threads.
MOST: Final = 8
#: Seconds after which a connection goes back to the pool, which sees to it that connections are neither dead nor too old.
KEPT: Final = 5.0


class LoopConnection:
    """
    A connection of the pool that an event loop has for some seconds.

    Its socket is watched for all that time, which costs less than to begin and end that with each statement.

    Attributes:
        pooled: The connection.
    """

    def __init__(self, pooled: PoolProxiedConnection, loop: AbstractEventLoop) -> None:
        self.pooled = pooled
        self._loop, self._until = loop, time.monotonic() + KEPT
        self._socket = cast("psycopg.Connection[Any]", pooled.driver_connection).pgconn.socket
        self._watched = self._lost = False
        self._answers: Generator[Any, Ready | None, Any] | None = None
        self._future: Future[Any]
        self._watch()

    @property
    def is_good(self) -> bool:
        """Whether it can be used again before it goes back."""
        return self._watched and self.pooled.is_valid and time.monotonic() < self._until

    def wait(self, answers: Generator[Any, Any, T]) -> T:
        """What a generator of the driver comes to, which asks this connection. Raises what it raises."""
        self._answers, self._future = answers, self._loop.create_future()
        self._watch()
        try:
            self._go_on(None)
            return cast(T, await_only(self._future))
        except BaseException:
            # Whoever gets the error may close the socket, and the next one to be opened has its number.
            self._unwatch()
            raise
        finally:
            self._answers = None

    def close(self) -> None:
        """Give it back to the pool."""
        self._unwatch()
        if self._lost:
            self.pooled.invalidate()
        self.pooled.close()

    def _go_on(self, ready: Ready | None) -> None:
        """Give the driver what its generator waits for, up to its end."""
        if self._answers is None:
            # Nothing was asked: this is the database ending it.
            self._lost = True
            self._unwatch()
            return
        try:
            wanted = self._answers.send(ready)
        except StopIteration as end:
            self._settle(self._future.set_result, end.value)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self._unwatch()
            self._settle(self._future.set_exception, error)
        else:
            if wanted & Ready.W:
                self._loop.add_writer(self._socket, self._go_on, Ready.W)
            elif ready is Ready.W:
                self._loop.remove_writer(self._socket)

    def _settle(self, settle: Callable[[Any], None], outcome: object) -> None:
        self._answers = None
        # Who was cancelled waits no more.
        if not self._future.done():
            settle(outcome)

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._loop.add_reader(self._socket, self._go_on, Ready.R)

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, False
        if watched and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)


class LoopConnections:
    """
    Connections of a pool that event loops keep for a short time, so that they are at hand without waiting.

    Args:
        connect: Takes a connection from the pool. A thread calls it, for it may wait.
    """

    def __init__(self, connect: Callable[[], PoolProxiedConnection]) -> None:
        self._connect = connect
        self._loops: WeakKeyDictionary[AbstractEventLoop, _Places] = WeakKeyDictionary()

    def take(self) -> LoopConnection:
        """
        A connection for whoever was called by `greenlet_spawn`: the one that was used last.

        Raises:
            TimeoutError: None became free in time.
            And what `connect` raises.
        """
        places = self._of_loop()
        try:
            found = places.queue.get_nowait()
        except QueueEmpty:
            found = await_only(asyncio.wait_for(places.queue.get(), POOL_TIMEOUT))
        if found is not None and found.is_good:
            return found
        return await_only(places.renew(found, self._connect))

    def give(self, connection: LoopConnection) -> None:
        """Give back what `take` gave, with nothing begun over it."""
        self._of_loop().give(connection)

    def forget(self) -> None:
        """Use none of those again that are here: they are likely to be lost. Any thread may call it."""
        for loop, places in list(self._loops.items()):
            if loop.is_closed() or loop is asyncio._get_running_loop():
                places.forget()
            else:
                loop.call_soon_threadsafe(places.forget)

    def _of_loop(self) -> "_Places":
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = _Places(loop)
        return found


class _Places:
    """
    As many places as one event loop has connections at most.

    Attributes:
        queue: Those that are free: each with a connection, or without one yet.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: TimerHandle | None = None
        self.queue: LifoQueue[LoopConnection | None] = LifoQueue()
        for _ in range(MOST):
            self.queue.put_nowait(None)

    async def renew(self, old: LoopConnection | None, connect: Callable[[], PoolProxiedConnection]) -> LoopConnection:
        """Another connection for a place that was taken."""
        try:
            if old is not None:
                old.close()
            return LoopConnection(await asyncio.to_thread(connect), self._loop)
        except BaseException:
            self.queue.put_nowait(None)
            raise

    def give(self, connection: LoopConnection) -> None:
        """Free the place of a connection that was taken."""
        if connection.is_good:
            self.queue.put_nowait(connection)
        else:
            connection.close()
            self.queue.put_nowait(None)
        if self._timer is None:
            self._timer = self._loop.call_later(KEPT, self._sweep)

    def forget(self) -> None:
        """Give all that are free back to the pool."""
        self._keep(lambda _: False)

    def _sweep(self) -> None:
        """Give those back that have been here for long enough."""
        left = self._keep(lambda each: each.is_good)
        self._timer = self._loop.call_later(KEPT, self._sweep) if left else None

    def _keep(self, wanted: Callable[[LoopConnection], bool]) -> int:
        """How many of those that are free are kept."""
        free = [self.queue.get_nowait() for _ in range(self.queue.qsize())]
        kept = [each for each in free if each is not None and wanted(each)]
        for each in free:
            if each is not None and each not in kept:
                each.close()
        # Places without a connection are taken last.
        for place in (*[None] * (len(free) - len(kept)), *reversed(kept)):
            self.queue.put_nowait(place)
        return len(kept)
