"""
What goes wrong, as Azure's clients read it.

The resource manager's errors are JSON with one `error` (Azure REST API guidelines, "Error response content"), those of
the blob service XML with the code in a header, too (Blob service, "Status and error codes").
"""

import json
from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

from starlette.responses import Response

from mlenv.server.problems import Problem, Writer

#: What kind of error a status means, in the resource manager's words. Everything else is the user's.
_CODES: Final = {401: "AuthenticationFailed", 403: "AuthorizationFailed", 429: "TooManyRequests"}
#: Codes of the blob service, by what was raised, and otherwise by status.
_BLOB_CODES: Final[Mapping[str, str]] = {
    "BadMetadata": "InvalidMetadata",
    "FileExists": "BlobAlreadyExists",
    "FileNotHere": "BlobNotFound",
    "FileSealed": "BlobImmutableDueToPolicy",
    "InvalidPath": "InvalidUri",
    "InvalidSignature": "AuthenticationFailed",
    "Md5Mismatch": "Md5Mismatch",
    "NoSuchContainer": "ContainerNotFound",
    "NoSuchRange": "InvalidRange",
    "NotOfThisDialect": "InvalidQueryParameterValue",
    "ScopeNotFound": "ContainerNotFound",
    "UnknownBlock": "InvalidBlockList",
    "UnknownToken": "NoAuthenticationInformation",
}
_BLOB_STATUSES: Final[Mapping[int, str]] = {
    400: "InvalidInput",
    401: "NoAuthenticationInformation",
    403: "AuthorizationPermissionMismatch",
    404: "ResourceNotFound",
    405: "UnsupportedHttpVerb",
    408: "OperationTimedOut",
    409: "BlobAlreadyExists",
    412: "ConditionNotMet",
    413: "RequestBodyTooLarge",
    416: "InvalidRange",
    429: "ServerBusy",
    503: "ServerBusy",
}


def write_error(problem: Problem) -> Response:
    """The resource manager's form: `{"error": {"code", "message", "details"}}`."""
    code = _CODES.get(problem.status, "ServiceError" if problem.status >= 500 else "UserError")
    details = [{"code": each.path or each.place or "Fault", "message": each.detail} for each in problem.faults]
    if problem.lines:
        details.append({"code": "Difference", "message": "\n".join(problem.lines)})
    if problem.hint:
        details.append({"code": "Hint", "message": problem.hint})
    error: dict[str, Any] = {"code": code, "message": problem.detail, "innererror": {"code": problem.code}}
    if details:
        error["details"] = details
    if problem.request:
        error["additionalInfo"] = [{"type": "request", "info": {"value": problem.request}}]
    body = json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(body, problem.status, dict(problem.headers), "application/json")


def write_blob_error(problem: Problem) -> Response:
    """The blob service's form: XML, and the code in a header."""
    code = _BLOB_CODES.get(problem.code) or _BLOB_STATUSES.get(problem.status, "InternalError")
    message = "".join(each for each in problem.detail if each.isprintable())
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>'
    )
    headers = {**problem.headers, "x-ms-error-code": code}
    return Response(text.encode("utf-8", "replace"), problem.status, headers, "application/xml")


#: Who writes errors, by the first part of the path in lower case.
WRITERS: Final[Mapping[str, Writer]] = {
    **dict.fromkeys(
        ("subscriptions", "tenants", "mferp", "registrymanagement", "history", "discovery", "metadata", "adfs"),
        write_error,
    ),
    "blobs": write_blob_error,
}
