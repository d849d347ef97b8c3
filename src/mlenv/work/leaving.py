"""A worker that leaves, and a database that does not answer."""

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from mlenv.core.redact import redact
from mlenv.errors import Unavailable

T = TypeVar("T")

#: Seconds between two attempts to write what has happened, while the database does not answer.
_TRY_AGAIN: Final = 1.0

_log = logging.getLogger("mlenv.work")


class Left(BaseException):
    """
    This process leaves: what is begun is to be done by another. Not an `Exception`, which DBOS would take for the end.
    """


def persist(write: Callable[[], T], leaving: threading.Event) -> T:
    """
    Write down what has happened, as soon as the database answers.

    Args:
        leaving: Set when this process is to end.

    Raises:
        Left: The database does not answer, and this process leaves.
    """
    told = False
    while True:
        try:
            return write()
        except Unavailable as error:
            if not told:
                _log.warning("waiting for the database: %s", redact(str(error)))
                told = True
            if leaving.wait(_TRY_AGAIN):
                raise Left from None
