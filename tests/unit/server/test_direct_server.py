"""Routes whose functions are called directly: they answer what the framework would, and refuse what they can't do."""

import asyncio
import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import pytest
from fastapi import Body, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from mlenv.server.direct import DirectRoute


class _Colour(StrEnum):
    RED = "red"


async def _who(request: Request, token: Annotated[str | None, Header(max_length=9)] = None) -> str:
    request.state.asked = getattr(request.state, "asked", 0) + 1
    return f"{token} {request.state.asked}"


def _twice(who: Annotated[str, Depends(_who)]) -> str:
    return who


def _show(
    request: Request,
    name: str,
    who: Annotated[str, Depends(_who)],
    again: Annotated[str, Depends(_twice)],
    size: Annotated[int, Query(ge=1, alias="limit")],
    colour: _Colour = _Colour.RED,
    if_match: Annotated[str | None, Header(max_length=4)] = None,
) -> Response:
    found = {"name": name, "who": who, "again": again, "size": size, "colour": colour, "match": if_match}
    return Response(json.dumps(found | {"method": request.method}), 201)


async def _wait(name: str) -> Response:
    return Response(name)


def _ask(
    route: type[APIRoute], function: Callable[..., Any], query: str = "", **headers: str
) -> tuple[int, bytes] | list[Any]:
    """Status and body of an answer, or what was wrong."""
    app, sent = FastAPI(), []
    app.router.add_api_route("/x/{name}", function, route_class_override=route)

    @app.exception_handler(RequestValidationError)
    async def tell(_: Request, error: RequestValidationError) -> Response:
        return Response(json.dumps([[each["type"], each["loc"], each["msg"]] for each in error.errors()]), 400)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/x/é",
        "raw_path": b"/x/",
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "root_path": "",
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("limit=3", {}),
        ("limit=3&colour=red&limit=4", {"token": "ada", "if_match": "a"}),
        ("", {}),
        ("limit=x&colour=blue", {"if_match": "12345"}),
        ("limit=0", {"token": "1234567890"}),
        ("limit=3&limit=", {}),
        ("size=3", {}),
        ("limit=%20", {}),
    ],
)
def test_a_function_is_called_as_the_framework_calls_it(query: str, headers: dict[str, str]) -> None:
    answers = [_ask(each, _show, query, **headers) for each in (DirectRoute, APIRoute)]
    assert answers[0] == answers[1]


def test_a_function_may_wait_by_itself() -> None:
    assert _ask(DirectRoute, _wait) == (200, "é".encode())


def test_a_dependency_is_called_once() -> None:
    status, body = _ask(DirectRoute, _show, "limit=3", token="ada")
    assert status == 201
    assert json.loads(body)["again"] == "ada 1"


def _with_body(name: str, given: Annotated[dict[str, str], Body()]) -> Response:
    raise NotImplementedError


def _with_answer(name: str, response: Response) -> Response:
    raise NotImplementedError


def _with_several(name: str, each: Annotated[list[str] | None, Query()] = None) -> Response:
    raise NotImplementedError


def _opening() -> Any:
    yield "x"


def _with_opened(name: str, opened: Annotated[str, Depends(_opening)]) -> Response:
    raise NotImplementedError


@pytest.mark.parametrize("function", [_with_body, _with_answer, _with_several, _with_opened])
def test_what_can_not_be_called_directly_is_refused_when_the_server_starts(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="directly"):
        DirectRoute("/x/{name}", function)
