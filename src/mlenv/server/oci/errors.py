"""What goes wrong, as clients of the distribution specification read it: `errors` with codes ("Error Codes")."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from mlenv.core.digest import DigestMismatch, InvalidDigest
from mlenv.core.repositories import (
    BlobNotInRepository,
    ChunkOutOfOrder,
    InvalidManifest,
    InvalidRepository,
    InvalidTag,
    ManifestNotFound,
    ManifestTooLarge,
    PartsMissing,
    RepositoryNotFound,
    UploadBusy,
    UploadNotFound,
    WrittenByBuilds,
    WrongLength,
)
from mlenv.errors import MlenvError
from mlenv.server.oci.answers import Answer, header
from mlenv.server.problems import Problem, problem_of

#: The code of each kind of error. The first that fits counts; any other is told by its status.
_KINDS: Final[Sequence[tuple[type[MlenvError], str]]] = (
    (InvalidDigest, "DIGEST_INVALID"),
    (DigestMismatch, "DIGEST_INVALID"),
    (InvalidRepository, "NAME_INVALID"),
    (RepositoryNotFound, "NAME_UNKNOWN"),
    (ManifestNotFound, "MANIFEST_UNKNOWN"),
    (InvalidTag, "MANIFEST_INVALID"),
    (InvalidManifest, "MANIFEST_INVALID"),
    (ManifestTooLarge, "MANIFEST_INVALID"),
    (PartsMissing, "MANIFEST_BLOB_UNKNOWN"),
    (BlobNotInRepository, "BLOB_UNKNOWN"),
    (UploadNotFound, "BLOB_UPLOAD_UNKNOWN"),
    (UploadBusy, "BLOB_UPLOAD_INVALID"),
    (ChunkOutOfOrder, "BLOB_UPLOAD_INVALID"),
    (WrongLength, "SIZE_INVALID"),
    (WrittenByBuilds, "DENIED"),
)
_STATUSES: Final[Mapping[int, str]] = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NAME_UNKNOWN",
    405: "UNSUPPORTED",
    413: "SIZE_INVALID",
    416: "BLOB_UPLOAD_INVALID",
    429: "TOOMANYREQUESTS",
}
_TYPE: Final = ("content-type", "application/json")


class MethodNotAllowed(MlenvError):
    """An address does not take a method."""

    status = 405

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"this address takes only {', '.join(allowed)}")
        self.allowed = allowed


class NoSuchAddress(MlenvError):
    """There is nothing at an address."""

    status = 404

    def __init__(self) -> None:
        super().__init__("there is nothing at this address")


def refusal(error: BaseException) -> Answer:
    """The answer to an error. One that was not raised on purpose is raised again."""
    problem = problem_of(error)
    if problem is None:
        raise error
    headers = [header(*_TYPE), *(header(name, value) for name, value in problem.headers.items())]
    if isinstance(error, MethodNotAllowed):
        headers.append(header("allow", ", ".join(error.allowed)))
    details: list[Any] = [None]
    if isinstance(error, PartsMissing):
        details = [{"digest": str(each)} for each in error.digests]
    elif isinstance(error, BlobNotInRepository):
        details = [{"digest": str(error.digest)}]
    code = next((code for kind, code in _KINDS if isinstance(error, kind)), None)
    return Answer(problem.status, headers, _body(problem, code or _code(problem), details))


def write_problem(problem: Problem) -> Response:
    """The answer to what goes wrong before a request comes here, or unexpectedly."""
    body = _body(problem, _code(problem), [None])
    return Response(body, problem.status, dict(problem.headers), "application/json")


def _code(problem: Problem) -> str:
    return _STATUSES.get(problem.status, "UNSUPPORTED" if problem.status < 500 else "UNKNOWN")


def _body(problem: Problem, code: str, details: Sequence[Any]) -> bytes:
    message = f"{problem.detail}: {problem.hint}" if problem.hint else problem.detail
    errors: list[dict[str, Any]] = []
    for detail in details:
        entry = {"code": code, "message": message}
        errors.append(entry if detail is None else entry | {"detail": detail})
    return json.dumps({"errors": errors}, ensure_ascii=False).encode("utf-8", "replace")
