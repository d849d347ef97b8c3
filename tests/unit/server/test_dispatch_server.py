"""Finding routes by the parts of a path."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.exceptions import HTTPException

from mlenv.server.dispatch import Dispatcher, flattened

_inner = APIRouter()


async def _seen(workspace: str) -> None:
    _calls.append(workspace)


_calls: list[str] = []


@_inner.get("/environments/{name}")
async def _show(name: str) -> str:
    return f"show {name}"


@_inner.put("/environments/{name}")
async def _put(name: str) -> str:
    return f"put {name}"


@_inner.get("/environments/special")
async def _special() -> str:
    return "never: the one above comes first"


@_inner.get("/files/{path:path}")
async def _file(path: str) -> str:
    return f"file {path}"


@pytest.fixture
def dispatcher() -> Dispatcher:
    app, middle = FastAPI(), APIRouter()
    middle.include_router(_inner, prefix="/workspaces/{workspace}", dependencies=[Depends(_seen)])
    app.include_router(middle, prefix="/api")
    app.add_api_route("/healthz", lambda: "alive")
    return Dispatcher(flattened(app.router.routes[4:]))


def _get(dispatcher: Dispatcher, path: str, method: str = "GET") -> Any:
    app, sent = FastAPI(), []
    app.router.middleware_stack = dispatcher

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "root_path": "",
        "app": app,
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sent[0]["headers"], sent[1]["body"].decode(), scope


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/api/workspaces/w/environments/iris", "GET", '"show iris"'),
        ("/api/workspaces/w/environments/iris", "PUT", '"put iris"'),
        ("/api/workspaces/w/environments/special", "GET", '"show special"'),
        ("/api/workspaces/w/files/a/b/c", "GET", '"file a/b/c"'),
        ("/api/workspaces/w/files/", "GET", '"file "'),
        ("/healthz", "GET", '"alive"'),
    ],
)
def test_the_first_route_that_matches_answers(dispatcher: Dispatcher, path: str, method: str, body: str) -> None:
    assert _get(dispatcher, path, method)[2] == body


def test_routes_know_their_whole_path_and_keep_dependencies(dispatcher: Dispatcher) -> None:
    _calls.clear()
    scope = _get(dispatcher, "/api/workspaces/w7/environments/iris")[3]
    assert scope["route"].path == "/api/workspaces/{workspace}/environments/{name}"
    assert _calls == ["w7"]


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/workspaces/w/environments", "/API/workspaces/w/files/a", "/healthz/"]
)
def test_what_no_route_matches_is_not_there(dispatcher: Dispatcher, path: str) -> None:
    assert _get(dispatcher, path)[0] == 404


def test_a_method_that_no_route_takes_is_told_which_ones_do(dispatcher: Dispatcher) -> None:
    status, headers, _, _ = _get(dispatcher, "/api/workspaces/w/environments/iris", "DELETE")
    assert (status, dict(headers)[b"allow"]) == (405, b"GET, HEAD, PUT")


def test_head_is_answered_as_get_without_a_body(dispatcher: Dispatcher) -> None:
    path = "/api/workspaces/w/environments/iris"
    status, headers, body, scope = _get(dispatcher, path, "HEAD")
    assert (status, headers, body) == (200, _get(dispatcher, path)[1], "")
    assert (scope["method"], scope["route"].path) == ("HEAD", "/api/workspaces/{workspace}/environments/{name}")


def test_what_is_no_route_is_refused() -> None:
    app = FastAPI()
    app.mount("/below", FastAPI())
    with pytest.raises(TypeError, match="Mount"):
        list(flattened(app.router.routes))


def test_an_unknown_path_raises_what_the_framework_answers() -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(HTTPException) as caught:
        asyncio.run(Dispatcher([])({"type": "http", "path": "/x", "method": "GET"}, nothing, nothing))
    assert caught.value.status_code == 404
