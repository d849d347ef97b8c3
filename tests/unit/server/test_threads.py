"""Calls in threads, and back."""

import asyncio
import contextvars
import os
import threading
import time

import pytest

from mlenv.server.threads import Threads, in_thread

_name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")


def test_a_call_gives_what_it_returns_in_another_thread() -> None:
    async def ask() -> tuple[int, int]:
        return await Threads().run(lambda number, *, by: (number * by, threading.get_ident()), 6, by=7)

    value, thread = asyncio.run(ask())
    assert value == 42
    assert thread != threading.get_ident()


@pytest.mark.parametrize(("raised", "seen"), [(KeyError("x"), KeyError), (StopIteration(), RuntimeError)])
def test_what_a_call_raises_is_raised(raised: Exception, seen: type[Exception]) -> None:
    def fail() -> None:
        raise raised

    with pytest.raises(seen):
        asyncio.run(Threads().run(fail))


def test_a_call_sees_the_context_of_its_request() -> None:
    async def ask(name: str, threads: Threads) -> str:
        _name.set(name)
        await asyncio.sleep(0)
        return await threads.run(_name.get)

    async def both() -> list[str]:
        threads = Threads()
        return list(await asyncio.gather(ask("a", threads), ask("b", threads)))

    assert asyncio.run(both()) == ["a", "b"]


def test_a_cancelled_request_waits_for_its_call() -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    async def cancel() -> None:
        task = asyncio.ensure_future(Threads().run(slow))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(cancel())


def test_there_are_as_many_threads_as_calls_at_once_and_no_more_than_allowed() -> None:
    together, most = threading.Barrier(3), 3

    async def ask() -> tuple[set[int], set[int]]:
        threads = Threads(most)
        alone = {await threads.run(threading.get_ident) for _ in range(5)}

        def meet() -> int:
            together.wait(timeout=10)
            return threading.get_ident()

        return alone, set(await asyncio.gather(*(threads.run(meet) for _ in range(6))))

    alone, all_of_them = asyncio.run(ask())
    assert len(alone) == 1
    assert len(all_of_them) == most


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    assert asyncio.run(in_thread(os.getpid)) == os.getpid()
    process = os.fork()
    if process == 0:
        right = False
        try:
            right = asyncio.run(asyncio.wait_for(in_thread(os.getpid), 10)) == os.getpid()
        finally:
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
