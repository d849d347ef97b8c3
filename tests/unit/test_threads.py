from collections.abc import Callable, Iterator
from threading import Condition, Event

import pytest
from support.interrupting import ends_by_interrupt

from mlenv.threads import in_threads, result


def test_results_are_in_the_order_of_the_items() -> None:
    last = Event()

    def work(item: int) -> int:
        if item == 0:
            assert last.wait(30)
        if item == 9:
            last.set()
        return item * item

    assert in_threads(work, range(10), workers=2) == [item * item for item in range(10)]


def test_of_those_that_have_come_the_least_is_begun_first() -> None:
    all_came, all_done, begun = Event(), Event(), list[int]()

    def items() -> Iterator[int]:
        yield from (100, 101, 7, 3, 9, 1)
        all_came.set()

    def work(item: int) -> int:
        # One worker is busy to the end, the other until all have come: it alone does the rest.
        if item >= 100:
            assert (all_done if item == 100 else all_came).wait(30)
            return item
        begun.append(item)
        if len(begun) == 4:
            all_done.set()
        return item

    assert sorted(in_threads(work, items(), workers=2, order=lambda item: item)) == [1, 3, 7, 9, 100, 101]
    assert begun == [1, 3, 7, 9]


def test_one_worker_is_the_caller() -> None:
    from threading import current_thread

    assert in_threads(lambda _: current_thread(), iter([1, 2]), workers=1) == [current_thread()] * 2
    assert in_threads(lambda _: current_thread(), [1], workers=8) == [current_thread()]


def test_the_first_failure_is_raised_and_the_rest_is_stopped() -> None:
    stopped = Event()

    def work(item: int) -> int:
        if item == 0:
            raise ValueError("no")
        assert stopped.wait(30)
        return item

    with pytest.raises(ValueError, match="no"):
        in_threads(work, range(4), workers=2, stop=stopped.set)


def test_an_interrupt_in_the_middle_of_starting_a_thread_waits_for_none() -> None:
    go_on = Event()

    def items() -> Iterator[int]:
        yield from (1, 2)
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    ended: list[bool] = []
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        in_threads(lambda _: ended.append(go_on.wait(30)), items(), workers=2)
    assert ended == []
    go_on.set()


@pytest.mark.parametrize("order", [None, abs])
def test_an_interrupt_that_wakes_nothing_up_is_seen_all_the_same(order: Callable[[int], int] | None) -> None:
    go_on = Event()

    def wait() -> None:
        in_threads(lambda _: go_on.wait(60), [1, 2], workers=2, order=order)

    assert ends_by_interrupt(wait, Condition.wait.__code__, result.__code__, end=go_on.set)
