"""
The error tree.

    MlenvError
    ├── InvalidInput   what came in is wrong: a file, a reference, an archive, an option
    ├── NotFound       what was asked for is not there
    ├── Conflict       what is there says otherwise
    ├── Forbidden      who asks is unknown, or may not
    └── Unavailable    something outside did not answer, or refused

A leaf sits beside the code that raises it, keeps its facts as attributes and may carry a `hint`. Several faults at
once are one `ExceptionGroup` of leaves.
"""


class MlenvError(Exception):
    """
    The root: everything that mlenv raises on purpose.

    Attributes:
        hint: What the user can do about it, one imperative sentence, or None.
        detail: A longer explanation, shown with `--verbose` only, or None.
    """

    hint: str | None = None
    detail: str | None = None


class InvalidInput(MlenvError):
    """What came in is wrong: a file, a reference, an archive, an option."""


class NotFound(MlenvError):
    """What was asked for is not there."""


class Conflict(MlenvError):
    """What is there says otherwise."""


class Forbidden(MlenvError):
    """Who asks may not. `NotAuthenticated` if it is not even known who asks."""


class NotAuthenticated(Forbidden):
    """Nobody is known by what was shown: no token, or one that is wrong, expired or revoked."""

    hint = "log in with `mlenv login URL`, or set MLENV_TOKEN"


class Unavailable(MlenvError):
    """
    Something outside did not answer, or refused.

    Attributes:
        lasting: Whether it will be the same however often it is tried, until somebody does something about it.
    """

    lasting: bool = False


def may_pass(error: BaseException) -> bool:
    """Whether what failed may do better when it is tried again, with nothing else changed."""
    return isinstance(error, Unavailable) and not error.lasting
