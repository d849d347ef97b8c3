"""Logs as server-sent events: the same bytes for all, read once for those at the end, lines never cut."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from mlenv.core.records import BuildStatus
from mlenv.errors import NotFound
from mlenv.server.following import Followers
from mlenv.service.builds import LogState

T = TypeVar("T")


class _Log:
    """A log in memory, which counts how often it is looked at and read."""

    def __init__(self, data: bytes = b"") -> None:
        self.data, self.whole = data, False
        self.looks = self.reads = 0

    def state(self) -> LogState:
        self.looks += 1
        status = BuildStatus.SUCCEEDED if self.whole else BuildStatus.RUNNING
        return LogState(len(self.data), status, self.whole)

    def read(self, start: int, limit: int) -> bytes:
        self.reads += 1
        return self.data[start : start + limit]


def _follow(
    followers: Followers, log: _Log, start: int = 0, stopping: Callable[[], bool] = lambda: False
) -> AsyncIterator[bytes]:
    return followers.follow("log", log.state, log.read, start=start, stopping=stopping)


def _run(work: Awaitable[T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(bounded())


def _text(events: list[bytes]) -> bytes:
    """What the events of the log say, joined again."""
    lines = [line for each in events for line in each.split(b"\n") if line.startswith(b"data: ")]
    return b"".join(line.removeprefix(b"data: ") + b"\n" for line in lines)


async def _all(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [each async for each in stream]


END = b'event: end\ndata: {"status": "succeeded"}\n\n'


def test_a_whole_log_comes_at_once_with_the_offsets_as_ids() -> None:
    log = _Log(b"one\ntwo\r\nthree")
    log.whole = True
    events = _run(_all(_follow(Followers(), log)))
    assert events == [b"id: 9\ndata: one\ndata: two\n\n", b"id: 14\ndata: three\n\n", END]


def test_an_empty_log_ends_at_once() -> None:
    log = _Log()
    log.whole = True
    assert _run(_all(_follow(Followers(), log))) == [END]


def test_it_goes_on_from_an_offset() -> None:
    log = _Log(b"one\ntwo\n")
    log.whole = True
    assert _run(_all(_follow(Followers(), log, start=4))) == [b"id: 8\ndata: two\n\n", END]


def test_a_large_log_comes_in_many_events_and_long_lines_whole() -> None:
    log = _Log(b"".join(b"%d\n" % number for number in range(50_000)) + b"x" * 200_000 + b"\nend\n")
    log.whole = True
    events = _run(_all(_follow(Followers(), log)))
    assert len(events) > 4
    assert _text(events[:-1]) == log.data
    assert log.reads < 12


def test_fifty_who_follow_see_the_same_and_the_log_is_looked_at_once_for_all() -> None:
    log = _Log(b"first\n")

    async def follow() -> list[list[bytes]]:
        followers = Followers()
        tasks = [asyncio.create_task(_all(_follow(followers, log))) for _ in range(50)]
        for number in range(5):
            before = log.looks
            log.data += b"line %d\n" % number
            while log.looks < before + 2:
                await asyncio.sleep(0.01)
        log.whole = True
        found = await asyncio.gather(*tasks)
        assert not followers._tails
        return found

    found = _run(follow())
    assert {_text(events[:-1]) for events in found} == {log.data}
    assert {events[-1] for events in found} == {END}
    assert log.reads <= 6
    assert log.looks < 30


def test_a_line_is_shown_when_it_is_whole() -> None:
    log = _Log(b"begi")

    async def follow() -> list[bytes]:
        task = asyncio.create_task(_all(_follow(Followers(), log)))
        while log.looks < 3:
            await asyncio.sleep(0.01)
        log.data += b"nning\n"
        log.whole = True
        return await task

    assert _run(follow()) == [b"id: 10\ndata: beginning\n\n", END]


def test_a_stream_breaks_off_when_the_server_stops() -> None:
    assert _run(_all(_follow(Followers(), _Log(), stopping=lambda: True))) == []


def test_what_goes_wrong_with_a_log_is_raised_for_who_follows_it() -> None:
    log = _Log()

    def fail() -> LogState:
        raise NotFound("gone")

    with pytest.raises(NotFound, match="gone"):
        _run(_all(Followers().follow("log", fail, log.read, start=0, stopping=lambda: False)))


def test_nobody_looks_at_a_log_that_nobody_follows_any_more() -> None:
    log = _Log(b"one\n")

    async def leave() -> set[asyncio.Task[object]]:
        before = asyncio.all_tasks()
        followers = Followers()
        stream = _follow(followers, log)
        assert await anext(stream) == b"id: 4\ndata: one\n\n"
        await stream.aclose()  # type: ignore[attr-defined]
        assert not followers._tails
        return {each for each in asyncio.all_tasks() - before if not each.cancelling()}

    assert _run(leave()) == set()
