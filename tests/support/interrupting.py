"""A Ctrl-C that comes in the worst moment: after Python looked for one, and before the system call that waits."""

import sys
from _thread import interrupt_main
from collections.abc import Callable
from threading import Event, Thread, main_thread
from traceback import walk_stack
from types import CodeType

import pytest


def ends_by_interrupt(function: Callable[[], object], *where: CodeType, end: Callable[[], None]) -> bool:
    """
    Whether a function that waits in the main thread is ended by such a Ctrl-C alone.

    Args:
        where: The code of which it waits, and others that called this.
        end: Ends its wait otherwise. It is called after half a minute, so that a test of what misses a Ctrl-C ends.
    """
    ended, alone = Event(), [True]

    def interrupt() -> None:
        while True:
            frame = sys._current_frames()[main_thread().ident or 0]
            if frame.f_code is where[0] and {each.f_code for each, _ in walk_stack(frame)}.issuperset(where):
                break
        # It makes Python remember a signal, and wakes nothing up.
        interrupt_main()
        if not ended.wait(30):
            alone[0] = False
            end()

    thread = Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        function()
    ended.set()
    thread.join()
    end()
    return alone[0]
