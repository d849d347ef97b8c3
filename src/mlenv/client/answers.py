"""What a server's answers mean: data, or the error that the server met."""

import json
from typing import Any, Final

import httpx

from mlenv.client.problems import error_of_problem
from mlenv.core.redact import redact
from mlenv.errors import Forbidden, InvalidInput, MlenvError, NotAuthenticated, Unavailable

#: Most bytes of one answer that is read into memory.
ANSWER_LIMIT: Final = 256 << 20


class NotAServer(InvalidInput):
    """Something answers at that address, but not an mlenv server."""

    hint = "check the address: `mlenv login URL`, --server or MLENV_SERVER"

    def __init__(self, server: str, got: str) -> None:
        super().__init__(f"what answers at {server} is not an mlenv server: {got}")
        self.server = server


class Redirected(InvalidInput):
    """The server's address has moved. A token is not sent on to where somebody points."""

    def __init__(self, server: str, location: str) -> None:
        super().__init__(f"{server} points elsewhere: {redact(location)[:500]!r}")
        self.hint = "use that address, if it is the server's"
        self.server, self.location = server, location


class OtherVersion(InvalidInput):
    """The server answers something that this version does not understand."""

    hint = "bring client and server to the same version of mlenv"

    def __init__(self, server: str, why: str) -> None:
        from mlenv import __version__

        super().__init__(
            f"{server} runs another version of mlenv than {__version__}, which does not understand it: {why}"
        )
        self.server = server


class ServerFailed(Unavailable):
    """The server, or something before it, has a fault of its own."""

    hint = "try again; if it stays so, the server's log says more"


class AnswerTooLarge(InvalidInput):
    """An answer that would not fit into memory."""

    def __init__(self, server: str) -> None:
        super().__init__(f"the server {server} sends more than {ANSWER_LIMIT} bytes in one answer")


def read_answer(server: str, response: httpx.Response) -> bytes:
    """The body of an answer that is being received. Raises `AnswerTooLarge`."""
    parts, size = [], 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > ANSWER_LIMIT:
            raise AnswerTooLarge(server)
        parts.append(chunk)
    return b"".join(parts)


def is_json(response: httpx.Response) -> bool:
    """Whether the answer says that it is JSON, or a problem document (RFC 9457, section 3)."""
    kind: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def parse_json(server: str, response: httpx.Response, body: bytes) -> Any:
    """The data of an answer. Raises `NotAServer`."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise NotAServer(server, "its answer is not JSON") from error
    except RecursionError as error:
        raise NotAServer(server, "its answer is nested too deep") from error


def failure(server: str, response: httpx.Response, body: bytes) -> Exception:
    """The error that an answer with a status of 300 or more stands for."""
    if response.has_redirect_location:
        return Redirected(server, response.headers["location"])
    document = parse_json(server, response, body) if is_json(response) and body else None
    if isinstance(document, dict) and ("title" in document or "detail" in document):
        return error_of_problem(response.status_code, document)
    return _without_problem(server, response.status_code)


def _without_problem(server: str, status: int) -> MlenvError:
    """Of an answer that no mlenv server gives, as that of a proxy before it."""
    if status == httpx.codes.UNAUTHORIZED:
        return NotAuthenticated(f"{server} does not know who asks")
    if status == httpx.codes.FORBIDDEN:
        return Forbidden(f"{server} refuses: 403 without saying why")
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return Unavailable(f"{server} is asked too often: 429")
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ServerFailed(f"{server} answered {status}, without saying why")
    return NotAServer(server, f"it answered {status}")
