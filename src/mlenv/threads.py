"""Work in several threads at once: what waits for the network, the disk, or for C code that leaves the interpreter free."""

from collections.abc import Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    workers: int,
    stop: Callable[[], None] = lambda: None,
) -> list[_Result]:
    """
    The result for each item, in the order of the items, which are begun in that order.

    Args:
        stop: Lets those that are under way end soon; called when one has failed, or the user wants no more of it.

    Raises:
        Exception: What `function` raised for the first item that failed. Items that were not begun are left out, and
            those under way are waited for.
    """
    if len(items) < 2:
        return [function(each) for each in items]
    # NOTE: the pool imports 10 ms of modules, which building one changed layer need not pay.
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, thread_name_prefix=getattr(function, "__name__", "worker"))
    try:
        return list(pool.map(function, items))
    except BaseException:
        stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
