"""
Named points at which a test may stop the process dead.

`MLENV_FAULT=NAME` makes the process kill itself with SIGKILL when it reaches that point; `NAME#3` on the third time.
Nothing else is done here: a crash test proves that what is on disk is whole at each point, without sleeping.
"""

import os
import signal

_wanted, _, _count = os.environ.get("MLENV_FAULT", "").partition("#")
_left = int(_count or 1)


def reach(name: str) -> None:
    """Say that the point `name` is reached; dies here if the environment asks for it."""
    if name != _wanted:
        return
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
