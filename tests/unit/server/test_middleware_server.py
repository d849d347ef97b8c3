"""What every request passes: limits, ids, the last net."""

import asyncio
import json
import logging
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from starlette.requests import ClientDisconnect

from mlenv.errors import Conflict
from mlenv.server.middleware import Answered, App, Message, Receive, Scope, Send, Surroundings
from mlenv.server.middleware_body import Bodies, Buckets
from mlenv.server.problems import Problems

FOREVER = 3600.0

T = TypeVar("T")


class Unhurried(asyncio.SelectorEventLoop):
    """A loop whose clock stands while anything is done, and jumps over every wait: nothing depends on how busy we are."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(Jumping(self))

    def time(self) -> float:
        return self.now


class Jumping(selectors.DefaultSelector):
    """Waits for nothing, and sets the loop's clock to when the wait would have ended."""

    def __init__(self, loop: Unhurried) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.now += timeout or 0.0
        return super().select(0)


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Unhurried) as runner:
        return runner.run(work)


@dataclass
class Answer:
    """What an application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert not self.status, "an answer began twice"
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


def _scope(method: str = "POST", path: str = "/api/v1/workspaces", **headers: str) -> Scope:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "scheme": "https",
        "headers": pairs,
        "client": ("127.0.0.1", 4711),
        "state": {},
    }


def _ask(app: App, scope: Scope, body: Sequence[bytes] = (b"",), then: float | None = None) -> Answer:
    """Send a request whose body comes in pieces; after them the client is silent for some seconds, or gone."""
    answer = Answer()

    async def pieces() -> AsyncIterator[Message]:
        for number, piece in enumerate(body):
            more = then is not None or number + 1 < len(body)
            yield {"type": "http.request", "body": piece, "more_body": more}
        if then is not None:
            await asyncio.sleep(then)
        yield {"type": "http.disconnect"}

    async def run() -> None:
        source = pieces()
        await app(scope, source.__anext__, answer.take)

    _run(run())
    return answer


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes that came; a server error if reading fails, as a framework might."""
    total = 0
    try:
        while True:
            message = await receive()
            total += len(message.get("body", b""))
            if not message.get("more_body"):
                break
    except Exception:  # noqa: BLE001 - as frameworks do
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"the framework's own words"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(total).encode()})


def _bodies(app: App = _echo, **changes: Any) -> Bodies:
    limits: dict[str, Any] = {"max_body": 10, "max_upload": 100, "timeout": FOREVER, "rate": 1, "upload_rate": 0.0}
    return Bodies(app, problems=Problems(), **{**limits, **changes})


def test_a_body_within_its_limit_is_read() -> None:
    assert _ask(_bodies(), _scope(), [b"12345", b"67890"]).body == b"10"


def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the application was asked")

    answer = _ask(_bodies(never), _scope(content_length="11"), [b"x" * 11])
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert "10 bytes" in json.loads(answer.body)["detail"]


def test_a_body_that_does_not_say_so_is_refused_when_it_gets_too_large() -> None:
    answer = _ask(_bodies(), _scope(), [b"x" * 6, b"x" * 6, b"x" * 6])
    assert (answer.status, json.loads(answer.body)["code"]) == (413, "BodyTooLarge")


@pytest.mark.parametrize("path", ["/blobs/container/file", "/api/v1/workspaces/w/blobs/sha256:0"])
def test_uploads_have_a_limit_of_their_own(path: str) -> None:
    assert _ask(_bodies(), _scope("PUT", path), [b"x" * 50]).body == b"50"
    assert _ask(_bodies(), _scope("PUT", path), [b"x" * 101]).status == 413


def test_a_client_that_stops_sending_is_answered_408() -> None:
    answer = _ask(_bodies(timeout=0.05), _scope(), [b"x"], then=FOREVER)
    assert (answer.status, json.loads(answer.body)["code"]) == (408, "BodyTooSlow")
    assert answer.headers["connection"] == "close"


def test_time_that_the_application_takes_is_not_the_clients() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0.1)
        await _echo(scope, receive, send)

    assert _ask(_bodies(slow, timeout=0.05), _scope(), [b"x", b"y"]).status == 200


@pytest.mark.parametrize(("pieces", "status"), [(17, 200), (25, 408)])
def test_what_is_fast_enough_may_take_longer_than_the_timeout(pieces: int, status: int) -> None:
    async def run() -> Answer:
        answer, left = Answer(), iter(range(pieces - 1))

        async def receive() -> Message:
            # Each byte gives a second more, and comes after one and a half: it takes a while until that is too late.
            await asyncio.sleep(1.5)
            return {"type": "http.request", "body": b"x", "more_body": next(left, None) is not None}

        await _bodies(max_body=100, timeout=10, rate=1)(_scope(), receive, answer.take)
        return answer

    answer = _run(run())
    assert answer.status == status
    assert status != 200 or answer.body == b"%d" % pieces


def test_what_an_application_raises_is_not_taken_for_a_slow_client() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise Conflict("no")

    with pytest.raises(Conflict):
        _ask(_bodies(failing), _scope())


def test_uploads_come_too_often_for_one_token_and_not_for_another() -> None:
    app = _bodies(upload_rate=1.0)
    path = "/blobs/container/file"
    statuses = [_ask(app, _scope("PUT", path, authorization="Bearer a")).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    answer = _ask(app, _scope("PUT", path, authorization="Bearer a"))
    assert int(answer.headers["retry-after"]) >= 1
    assert _ask(app, _scope("PUT", path, authorization="Bearer b")).status == 200
    assert _ask(app, _scope("POST", authorization="Bearer a")).status == 200


def test_a_bucket_fills_again_and_never_beyond_its_size() -> None:
    buckets = Buckets(2.0)
    assert [buckets.take(b"a", 0.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert buckets.take(b"a", 0.5) == 0
    assert [buckets.take(b"a", 1000.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]


@dataclass
class Seen:
    """Remembers what it is told."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.answers.append((method, route, status))


def _around(app: App, seen: Seen | None = None, log: Callable[[Answered], object] | None = None) -> Surroundings:
    return Surroundings(app, problems=Problems(), max_headers=1000, observer=seen, log=log)


@pytest.fixture
def _quiet() -> Iterator[None]:
    logging.getLogger("mlenv.server").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("mlenv.server").setLevel(logging.NOTSET)


def test_every_answer_has_an_id_and_headers_for_browsers() -> None:
    answer = _ask(_around(_echo), _scope())
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "strict-transport-security" in answer.headers


@pytest.mark.parametrize(("id", "taken"), [("client-0123", True), ("short", False), ("a b c d e f g", False)])
def test_a_clients_own_id_is_taken_if_it_can_stand_in_a_log(id: str, taken: bool) -> None:
    assert (_ask(_around(_echo), _scope(x_request_id=id)).headers["x-request-id"] == id) is taken


def test_a_head_that_is_too_large_is_refused() -> None:
    assert _ask(_around(_echo), _scope(x_filler="x" * 1000)).status == 431


@pytest.mark.usefixtures("_quiet")
def test_what_nothing_else_caught_is_answered_with_500_and_seen() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("hunter2")

    seen = Seen()
    answer = _ask(_around(failing, seen), _scope())
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert answer.headers["x-request-id"] in answer.body.decode()
    assert seen.answers == [("POST", "-", 500)]


@pytest.mark.usefixtures("_quiet")
def test_an_answer_that_broke_off_is_not_ended_as_if_it_were_whole() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("x")

    seen = Seen()
    with pytest.raises(KeyError):
        _ask(_around(failing, seen), _scope())
    assert seen.answers == [("POST", "-", 500)]


def test_a_client_that_went_away_is_no_fault_of_ours() -> None:
    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    seen = Seen()
    assert _ask(_around(reading, seen), _scope()).status == 0
    assert seen.answers == [("POST", "-", 499)]


def test_the_access_log_says_who_asked_what() -> None:
    answers: list[Answered] = []
    answer = _ask(_around(_echo, log=answers.append), _scope(authorization="Bearer mlenv_secret"))
    (answered,) = answers
    assert (answered.method, answered.path, answered.status, answered.client, answered.principal) == (
        "POST",
        "/api/v1/workspaces",
        200,
        "127.0.0.1",
        "",
    )
    assert answered.request == answer.headers["x-request-id"]
    assert "mlenv_secret" not in str(answered)
