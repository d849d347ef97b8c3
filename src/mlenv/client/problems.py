"""A server's problem document (RFC 9457) becomes the error that the server raised: the same class, text and hint."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from mlenv.api.wire_problems import Problem, error_of
from mlenv.errors import Conflict, Forbidden, InvalidInput, MlenvError, NotAuthenticated, NotFound, Unavailable

#: The branch of the error tree for a status; others are `InvalidInput` below 500, and `Unavailable` from there.
_BRANCHES: Final[Mapping[int, type[MlenvError]]] = {
    401: NotAuthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    429: Unavailable,
}
#: The most characters of a text, and the most texts, that are taken from an answer.
_LONGEST: Final = 20_000
_MOST: Final = 1000


def error_of_problem(status: int, document: Mapping[str, Any]) -> Exception:
    """
    The error that a problem document stands for; an `ExceptionGroup` if it lists several.

    Its class is the server's own where that is known here, and else its branch of the error tree.
    """
    if "branch" in document:
        try:
            return error_of(Problem.model_validate(document))
        except ValidationError:
            # What is there may still be read.
            pass
    code = document.get("code")
    branch = _branch(status)
    detail = _text(document.get("detail")) or _text(document.get("title")) or f"the server answered {status}"
    hint = _text(document.get("hint"))
    faults = [_fault(each) for each in _sequence(document.get("errors"))]
    if len(faults) > 1:
        errors = [_made(branch, code, text, hint if text == faults[-1] else None, ()) for text in faults]
        return ExceptionGroup(detail, errors)
    lines = tuple(filter(None, map(_text, _sequence(document.get("lines")))))
    return _made(branch, code, detail, hint, lines)


def _branch(status: int) -> type[MlenvError]:
    return _BRANCHES.get(status, InvalidInput if status < 500 else Unavailable)


def _fault(document: Any) -> str:
    if not isinstance(document, dict):
        return _text(document) or "a fault without a description"
    where = " ".join(filter(None, (_text(document.get("in")), _text(document.get("path")))))
    text = _text(document.get("detail")) or "a fault without a description"
    return f"{where}: {text}" if where else text


def _made(branch: type[MlenvError], code: Any, text: str, hint: str | None, lines: Sequence[str]) -> MlenvError:
    found = next((each for each in _below(branch) if each.__name__ == code), branch)
    kind = _with_lines(found) if lines else found
    # NOTE: its own constructor would want the facts, which were not sent.
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    error.hint = hint
    if lines:
        error.difference = tuple(lines)  # type: ignore[attr-defined]
    return error


def _with_lines(kind: type[MlenvError]) -> type[MlenvError]:
    """The same kind, whose difference is kept as lines and not computed."""
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "difference": ()})


def _below(branch: type[MlenvError]) -> Iterator[type[MlenvError]]:
    """The branch's classes that are imported, itself first."""
    yield branch
    for each in branch.__subclasses__():
        yield from _below(each)


def _text(value: Any) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) and value else None


def _sequence(value: Any) -> Sequence[Any]:
    return value[:_MOST] if isinstance(value, list) else ()
