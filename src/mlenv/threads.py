"""Work in several threads at once: what waits for the network, the disk, or for C code that leaves the interpreter free."""

from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

#: Seconds for which the main thread waits for others at most before it looks for a Ctrl-C, and waits again.
#: NOTE: a signal that comes after Python looked for one, and before the system call that waits, ends no wait. Letting go of
#: the interpreter lies between the two, which takes long where other threads want it.
TICK: Final = 0.5

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int,
    order: Callable[[_Item], int] | None = None,
    stop: Callable[[], None] = lambda: None,
) -> list[_Result]:
    """
    The result for each item, in the order of the items, which are begun in that order.

    Args:
        items: They may come with time: each is begun as it comes, if a worker is free.
        workers: How many threads there are at most. For one, there is none but the caller's.
        order: Of the items that have come, the one for which this is least is begun first. Results are in that order then.
        stop: Lets those that are under way end soon; called when one has failed, or the user wants no more of it.

    Raises:
        Exception: What `function` raised for the first item that failed. Items that were not begun are left out, and
            those under way are waited for.
        KeyboardInterrupt: The user wants no more of it, and waits for none of them.
    """
    if min(workers, length_hint(items, workers)) < 2:
        return [function(each) for each in items]
    # NOTE: the pool imports 10 ms of modules, which building one changed layer need not pay.
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, thread_name_prefix=getattr(function, "__name__", "worker"))
    wait, begun = True, list["Future[_Result]"]()
    try:
        if order is None:
            begun += [pool.submit(function, each) for each in items]
        else:
            begun += _least_first(pool, function, items, order)
        begun.reverse()
        made: list[_Result] = []
        # None that is done is kept: an error holds this frame, and what it holds open would stay so until a collection.
        while begun:
            made.append(result(begun.pop()))
        return made
    except BaseException as error:
        wait = not interrupted(error)
        stop()
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)
        begun.clear()


def result(future: "Future[_Result]") -> _Result:
    """What it gives or raises, once it is done; a Ctrl-C that comes meanwhile is never missed."""
    from concurrent.futures import wait

    while not future.done():
        wait((future,), TICK)
    try:
        return future.result()
    finally:
        del future


def interrupted(error: BaseException) -> bool:
    """
    Whether it came of Ctrl-C.

    NOTE: inside of a condition of `threading`, as when a pool starts a thread, Python leaves with the condition's lock not
    taken; that this can't be released is a RuntimeError, and the KeyboardInterrupt only what it came in the middle of.
    """
    came: BaseException | None = error
    while came is not None and not isinstance(came, KeyboardInterrupt):
        came = came.__context__
    return came is not None


def _least_first(
    pool: "Executor", function: Callable[[_Item], _Result], items: Iterable[_Item], order: Callable[[_Item], int]
) -> "Iterator[Future[_Result]]":
    from queue import PriorityQueue

    came: PriorityQueue[tuple[int, int, _Item]] = PriorityQueue()
    for number, item in enumerate(items):
        came.put((order(item), number, item))
        yield pool.submit(lambda: function(came.get_nowait()[-1]))
