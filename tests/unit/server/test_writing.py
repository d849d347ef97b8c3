"""What a thread writes while more comes in."""

import asyncio
from collections.abc import Callable, Coroutine
from threading import Event
from typing import Any

import pytest

from mlenv.server.oci.bodies import Batch
from mlenv.server.oci.writing import Writing
from mlenv.server.threads import Threads

#: Seconds after which a test has failed that waits for what does not happen.
_LIMIT = 30


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), _LIMIT))


def test_batches_are_written_in_their_order_and_then_released() -> None:
    written, released = list[bytes](), list[bytes]()

    async def work() -> None:
        writing = Writing(
            Threads(), lambda batch: written.extend(map(bytes, batch)), lambda b: released.extend(map(bytes, b))
        )
        for number in range(100):
            await writing.put([b"%d" % number])
        await writing.all()
        assert written == released == [b"%d" % number for number in range(100)]
        await writing.end()

    _run(work)


def test_the_thread_goes_on_without_the_event_loop() -> None:
    go_on, second = Event(), Event()

    def write(batch: Batch) -> None:
        assert go_on.wait(_LIMIT)
        if batch == [b"second"]:
            second.set()

    async def work() -> None:
        writing = Writing(Threads(), write, lambda _: None)
        await writing.put([b"first"])
        await writing.put([b"second"])
        await asyncio.sleep(0)
        # From here on, the event loop does nothing until both are written.
        go_on.set()
        assert second.wait(_LIMIT)
        await writing.all()

    _run(work)


def test_no_more_than_two_are_ahead() -> None:
    go_on, written = Event(), list[Batch]()

    def write(batch: Batch) -> None:
        assert go_on.wait(_LIMIT)
        written.append(batch)

    async def work() -> None:
        writing = Writing(Threads(), write, lambda _: None)
        await writing.put([b"1"])
        await writing.put([b"2"])
        third = asyncio.ensure_future(writing.put([b"3"]))
        done, _ = await asyncio.wait([third], timeout=0.05)
        assert done == set()
        go_on.set()
        await third
        await writing.all()
        assert written == [[b"1"], [b"2"], [b"3"]]

    _run(work)


def test_it_holds_no_thread_while_nothing_comes() -> None:
    async def work() -> None:
        threads = Threads(1)
        writing = Writing(threads, lambda _: None, lambda _: None)
        for _ in range(3):
            await writing.put([b"now and then"])
            await writing.all()
            assert await threads.run(lambda: "another request") == "another request"
        await writing.end()

    _run(work)


def test_who_waits_for_a_thread_gets_it_after_one_batch() -> None:
    begun, go_on, order = asyncio.Event(), Event(), list[bytes]()

    async def work() -> None:
        loop, threads = asyncio.get_running_loop(), Threads(1)

        def write(batch: Batch) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(_LIMIT)
            order.extend(map(bytes, batch))

        writing = Writing(threads, write, lambda _: None)
        await writing.put([b"1"])
        await writing.put([b"2"])
        await begun.wait()
        other = asyncio.ensure_future(threads.run(order.append, b"another request"))
        await asyncio.sleep(0)
        go_on.set()
        # It is not over when the thread was only given away.
        await writing.end()
        await other
        assert order == [b"1", b"another request", b"2"]

    _run(work)


def test_after_one_that_failed_none_is_written_or_released() -> None:
    tried, released = list[Batch](), list[Batch]()

    def write(batch: Batch) -> None:
        tried.append(batch)
        raise OSError("the disk is full")

    async def work() -> None:
        writing = Writing(Threads(), write, released.append)
        await writing.put([b"1"])
        await writing.put([b"2"])
        with pytest.raises(OSError, match="full"):
            await writing.all()
        with pytest.raises(OSError, match="full"):
            await writing.all()
        await writing.put([b"3"])
        with pytest.raises(OSError, match="full"):
            await writing.all()
        await writing.end()
        assert (tried, released) == ([[b"1"]], [])

    _run(work)


def test_what_is_under_way_is_waited_for_when_the_request_is_cancelled() -> None:
    begun, go_on, written = asyncio.Event(), Event(), list[Batch]()

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def write(batch: Batch) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(_LIMIT)
            written.append(batch)

        async def request() -> None:
            writing = Writing(Threads(), write, lambda _: None)
            try:
                await writing.put([b"1"])
                await writing.all()
            finally:
                await writing.end()
                # Whoever closes the file after this closes it after the last byte.
                assert written == [[b"1"]]

        asked = asyncio.ensure_future(request())
        await begun.wait()
        asked.cancel()
        loop.call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert written == [[b"1"]]

    _run(work)
