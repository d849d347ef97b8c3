"""
Answers to what goes wrong: problem documents (RFC 9457), or another dialect's own form by the path's first part.

Nothing from inside is told: what was not raised on purpose is logged, and the answer names only the request.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from msgspec import Struct, field
from msgspec.structs import replace
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mlenv.api.wire_problems import error_members
from mlenv.core.disk_faults import DiskFailed, DiskFull, disk_fault
from mlenv.core.redact import redact
from mlenv.core.refusals import VersionChanged
from mlenv.errors import Conflict, Forbidden, InvalidInput, MlenvError, NotAuthenticated, NotFound, Unavailable
from mlenv.resolve.conda_credentials import InvalidCredentialFile
from mlenv.resolve.conda_process import CondaCrashed, CondaMissing
from mlenv.resolve.condarc import InvalidCondarc
from mlenv.resolve.failures import ResolutionFailed
from mlenv.resolve.machine_index import InvalidMachineIndex

_log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
#: What kind of error has which status, if its class does not say so itself (`status`). The first that fits counts.
_STATUSES: Final[Sequence[tuple[type[MlenvError], int]]] = (
    (NotAuthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (VersionChanged, 412),
    (Conflict, 409),
    (ResolutionFailed, 422),
    (InvalidInput, 400),
    (Unavailable, 503),
)
#: What is wrong with the machine, and not with what somebody asks.
_OWN_SETTINGS: Final = (InvalidCondarc, InvalidCredentialFile, InvalidMachineIndex)
#: After how many seconds a client may ask again.
_RETRY_AFTER: Final = "2"
#: Most faults that one answer lists.
_MOST: Final = 100


class Fault(Struct, frozen=True):
    """
    One of several things that are wrong with a request.

    Attributes:
        detail: What.
        place: `body`, `query`, `path`, `header`, or empty.
        path: Where in it: `packages[0].name`.
        members: What the native form has of it besides.
    """

    detail: str
    place: str = ""
    path: str = ""
    members: Mapping[str, Any] = field(default_factory=dict)


class Problem(Struct, frozen=True):
    """
    An answer to what went wrong, in no dialect yet.

    Attributes:
        status: HTTP's.
        code: What kind, for programs: `VersionConflict`.
        detail: One line for people.
        hint: What they can do about it.
        lines: More lines that belong to it, such as a difference.
        faults: The single things that are wrong, if there are several, or if they have a place.
        headers: To be sent with it.
        request: The request's id.
        members: What the native form has of it besides: `mlenv.api.wire_problems` makes the error of them again.
    """

    status: int
    code: str
    detail: str
    hint: str | None = None
    lines: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    request: str = ""
    members: Mapping[str, Any] = field(default_factory=dict)


#: Writes a problem in a dialect.
Writer = Callable[[Problem], Response]


def problem_of(error: BaseException) -> Problem | None:
    """What to answer to an error; None if it was not raised on purpose."""
    if isinstance(error, BaseExceptionGroup):
        return _of_group(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if (fault := disk_fault(error)) is not None:
        return _of_disk(error, fault)
    if not isinstance(error, MlenvError):
        return None
    if isinstance(error, _OWN_SETTINGS):
        return _of_settings(error)
    status, code, headers = _status(error), type(error).__name__, {}
    if status == 401:
        headers = {"WWW-Authenticate": 'Bearer realm="mlenv"'}
    if status == 503:
        headers = {"Retry-After": _RETRY_AFTER}
    if type(error).__module__.startswith("mlenv.store"):
        return _of_store(error, status, code, headers)
    lines = tuple(map(str, getattr(error, "difference", ())))
    hint = redact(error.hint) if error.hint else None
    members = error_members(error)
    if isinstance(error, CondaMissing | CondaCrashed) and members.pop("more", None):
        # A traceback, which has this machine's paths.
        _log.error("the solver for conda packages failed", extra={"error": str(error), "detail": error.detail})
    return Problem(status, code, redact(str(error)), hint, lines, headers=headers, members=members)


def _status(error: MlenvError) -> int:
    # NOTE: of the class. An error may have a status of something else: of a job, or of what another server answered.
    own: int | None = getattr(type(error), "status", None)
    if own is None and isinstance(error, Unavailable) and error.lasting:
        # Neither are we at fault, nor would it help to ask again.
        return 502
    return own or next((each for kind, each in _STATUSES if isinstance(error, kind)), 500)


def _of_settings(error: MlenvError) -> Problem:
    """What this machine's own settings have wrong is for whoever runs the server; files and values are not told."""
    _log.error("the machine's settings are wrong", extra={"error": str(error), "kind": type(error).__name__})
    hint = "tell whoever runs the server: its log says more"
    return Problem(502, type(error).__name__, "the server's own settings for package sources can't be read", hint)


def _of_disk(error: BaseException, fault: DiskFull | DiskFailed) -> Problem:
    """What is the matter with the server's disk. Whoever asks can do nothing about it, and its place is not told."""
    _log.error("the disk failed", extra={"error": str(error), "kind": type(error).__name__})
    status, code, what = 503, "NotWritable", "the server's store can't be written to"
    if isinstance(fault, DiskFull):
        status, code, what = 507, "NoRoom", "the server has no room left"
    headers = {"Retry-After": _RETRY_AFTER}
    return Problem(status, code, f"{what}; nothing was kept", "try again in a while", headers=headers)


def _of_store(error: MlenvError, status: int, code: str, headers: Mapping[str, str]) -> Problem:
    """What a store says names the server's own files, which are nobody's business."""
    if getattr(error, "status", None) == 400:
        return Problem(400, code, str(error), error.hint)
    if status == 404:
        return Problem(404, code, f"there is no blob {getattr(error, 'digest', '')}".rstrip())
    _log.error("the store failed", extra={"error": str(error), "kind": code})
    if status == 503:
        return Problem(503, code, "the server's store does not answer", "try again in a while", headers=headers)
    return Problem(500, "InternalError", "the server's store is not in order")


def _of_group(group: BaseExceptionGroup[Any]) -> Problem | None:
    """One problem for several errors. The gravest status counts; None if one of them was not raised on purpose."""
    found = [problem_of(each) for each in _leaves(group)]
    problems = [each for each in found if each is not None]
    if not problems or len(problems) < len(found):
        return None
    if len(problems) == 1:
        return problems[0]
    worst = max(problems, key=lambda each: each.status)
    faults = tuple(Fault(each.detail, members=_members(each)) for each in problems[:_MOST])
    hint = next((each.hint for each in problems if each.hint), None)
    return replace(worst, detail=f"{len(problems)} things are wrong: {problems[0].detail}", hint=hint, faults=faults)


def _members(problem: Problem) -> dict[str, Any]:
    hint = {"hint": problem.hint} if problem.hint else {}
    return {"status": problem.status, "code": problem.code, **hint, **problem.members}


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def _of_validation(error: RequestValidationError) -> Problem:
    faults = []
    for each in list(error.errors())[:_MOST]:
        place, *rest = map(str, each["loc"]) if each["loc"] else ("",)
        path = "" if each["type"] == "json_invalid" else _path(each["loc"][1:])
        message = each["msg"]
        if each["type"] == "string_type" and isinstance(each.get("input"), int | float):
            message += ": put it in quotes"
        if each["type"] == "json_invalid":
            message = f"not JSON, at character {rest[0] if rest else 0}: {each.get('ctx', {}).get('error', '')}"
        faults.append(Fault(message, place, path))
    first = faults[0] if faults else Fault("the request is not as it should be")
    where = " ".join(filter(None, (first.place, first.path)))
    detail = f"{where}: {first.detail}" if where else first.detail
    return Problem(400, "InvalidRequest", detail, faults=tuple(faults))


def _path(location: Sequence[Any]) -> str:
    """`("packages", 0, "name")` as `packages[0].name`."""
    text = ""
    for each in location:
        text += f"[{each}]" if isinstance(each, int) else f".{each}" if text else str(each)
    return text


def _of_http(error: HTTPException) -> Problem:
    status = error.status_code
    headers = dict(error.headers or {})
    if status == 404 and error.detail == "Not Found":
        return Problem(404, "NoSuchRoute", "there is nothing at this address", headers=headers)
    if status == 405:
        allowed = headers.get("Allow", headers.get("allow", "other methods"))
        return Problem(
            405, "MethodNotAllowed", f"this address does not take that method, only {allowed}", headers=headers
        )
    if status == 401:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="mlenv"')
    return Problem(status, _phrase(status).title().replace(" ", ""), str(error.detail), headers=headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def write_problem(problem: Problem) -> Response:
    """The native form: `application/problem+json` (RFC 9457), with `code`, `hint`, `lines`, `errors` and `request`."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _phrase(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.members,
    }
    if problem.hint:
        document["hint"] = problem.hint
    if problem.lines:
        document["lines"] = list(problem.lines)
    if problem.faults:
        document["errors"] = [
            {name: value for name, value in (("detail", each.detail), ("in", each.place), ("path", each.path)) if value}
            | dict(each.members)
            for each in problem.faults
        ]
    if problem.request:
        document["request"] = problem.request
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, problem.status, dict(problem.headers), MEDIA_TYPE)


class Problems:
    """
    Writes answers to what goes wrong.

    Args:
        dialects: By the first part of a path, in lower case, who writes there: `{"subscriptions": write_azure}`.
    """

    def __init__(self, dialects: Mapping[str, Writer] | None = None) -> None:
        self._dialects = dict(dialects or {})

    def respond(self, scope: Mapping[str, Any], problem: Problem) -> Response:
        """The answer to the request of an ASGI scope."""
        path: str = scope.get("path", "")
        writer = self._dialects.get(path.lstrip("/").partition("/")[0].lower(), write_problem)
        request = scope.get("state", {}).get("request_id", "")
        return writer(replace(problem, request=request))

    def answer(self, scope: Mapping[str, Any], error: BaseException) -> Response:
        """The answer to an error. One that was not raised on purpose is logged."""
        if (problem := problem_of(error)) is None:
            request = scope.get("state", {}).get("request_id", "")
            _log.error("a request failed unexpectedly", exc_info=error, extra={"request": request})
            problem = Problem(500, "InternalError", f"something went wrong inside; request {request}")
        return self.respond(scope, problem)
