"""Requests: what is sent again, what an answer means, and that no message shows a token."""

import gc
import threading
from typing import Any

import pytest
from support.scripted import TOKEN, Said, good, problem, scripted

from mlenv.client.address import InvalidServer, InvalidToken, UnreadableAuthority, parse_server
from mlenv.client.answers import NotAServer, Redirected, ServerFailed
from mlenv.client.http import Http, ServerUnreachable
from mlenv.core.refusals import EnvironmentNotFound
from mlenv.errors import Forbidden, InvalidInput, MlenvError, NotAuthenticated, NotFound, Unavailable


def test_request_shows_the_token_and_gives_the_data() -> None:
    with scripted(good({"name": "default"})) as script, script.http() as http:
        assert http.request("GET", "/workspaces/default", params={"view": "All", "cursor": None}) == {"name": "default"}
    method, path, headers, _ = script.requests[0]
    assert (method, path) == ("GET", "/api/v1/workspaces/default?view=All")
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["user-agent"].startswith("mlenv/")


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server_is_asked_again_with_growing_pauses(status: int) -> None:
    with scripted(problem(status), problem(status), good(1)) as script, script.http() as http:
        assert http.request("GET", "/x") == 1
    assert len(script.requests) == 3
    assert script.pauses[0] < script.pauses[1]


def test_pause_is_what_the_server_asks_for_within_bounds() -> None:
    tired = (503, {"retry-after": "3"}, b"")
    exhausted = (503, {"retry-after": "86400"}, b"")
    with scripted(tired, exhausted, good(1)) as script, script.http() as http:
        assert http.request("GET", "/x") == 1
    assert script.pauses == [3.0, 20.0]


def test_server_that_stays_busy_is_given_up() -> None:
    with scripted(problem(503, detail="no room for now", hint="wait")) as script, script.http() as http:
        with pytest.raises(Unavailable, match="no room for now") as caught:
            http.request("GET", "/x")
        assert caught.value.hint == "wait"
        assert len(script.requests) == 4
        with pytest.raises(Unavailable):
            http.request("POST", "/x", patient=False)
        assert len(script.requests) == 5


def test_creation_is_sent_again_under_the_same_key() -> None:
    with scripted(None, problem(503), good({"version": "1"})) as script, script.http() as http:
        http.request("POST", "/environments", json={"name": "e"})
        http.request("POST", "/environments", json={"name": "e"})
    keys = [headers["idempotency-key"] for _, _, headers, _ in script.requests]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]
    assert {body for *_, body in script.requests} == {b'{"name":"e"}'}


def test_change_that_may_have_arrived_is_not_sent_again() -> None:
    with scripted(None) as script, script.http() as http:
        with pytest.raises(ServerUnreachable, match="the connection ended before the answer did"):
            http.request("PATCH", "/x", json={})
        assert len(script.requests) == 1


def test_silent_server_is_not_asked_the_same_again() -> None:
    release = threading.Event()
    with scripted(good(1)) as script:
        original = script.requests

        class Slow(list[Any]):
            def append(self, item: Any) -> None:
                original.append(item)
                release.wait(30)

        script.requests = Slow()
        with script.http(silent=0.2) as http, pytest.raises(ServerUnreachable, match="silent for too long"):
            http.request("POST", "/x")
        release.set()
        assert len(original) == 1


def test_nobody_there_is_said_with_the_address() -> None:
    with scripted(good(1)) as script:
        url = script.url
    pauses: list[float] = []
    with Http(url, TOKEN, pause=pauses.append) as http, pytest.raises(ServerUnreachable) as caught:
        http.request("GET", "/x")
    assert url in str(caught.value)
    assert "mlenv server start" in (caught.value.hint or "")
    assert len(pauses) == 3


def test_problem_is_the_error_that_the_server_raised() -> None:
    facts = {"name": "ee", "near": ["e"]}
    said = problem(
        404, detail="no environment is named 'ee'", code="EnvironmentNotFound", branch="NotFound", hint="did you mean 'e'?",
        facts=facts,
    )  # fmt: skip
    with scripted(said) as script, script.http() as http, pytest.raises(EnvironmentNotFound) as caught:
        http.request("GET", "/x")
    assert (str(caught.value), caught.value.hint) == ("no environment is named 'ee'", "did you mean 'e'?")
    assert caught.value.near == ("e",)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidInput), (401, NotAuthenticated), (403, Forbidden), (404, NotFound), (422, InvalidInput)],
)
def test_problem_of_another_version_is_its_branch(status: int, kind: type[MlenvError]) -> None:
    with scripted(problem(status, detail="so it is", code="FromTheFuture", lines=["- a", "+ b"])) as script:
        with script.http() as http, pytest.raises(kind, match="so it is") as caught:
            http.request("GET", "/x")
        assert caught.value.difference == ("- a", "+ b")  # type: ignore[attr-defined]


def test_several_faults_are_a_group() -> None:
    faults = [{"detail": "too long", "in": "body", "path": "tags.a"}, {"detail": "unknown"}]
    with scripted(problem(400, detail="2 things are wrong", errors=faults)) as script, script.http() as http:
        with pytest.raises(ExceptionGroup) as caught:
            http.request("GET", "/x")
        assert [str(each) for each in caught.value.exceptions] == ["body tags.a: too long", "unknown"]


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        ((200, {"content-type": "text/html"}, b"<p>hello"), NotAServer, "it sends a web page"),
        ((404, {"content-type": "text/html"}, b"<p>not here"), NotAServer, "it answered 404"),
        ((200, {"content-type": "application/json"}, b"{"), NotAServer, "not JSON"),
        ((200, {"content-type": "application/json"}, b"[" * 200_000), NotAServer, "not"),
        ((401, {}, b""), NotAuthenticated, "does not know who asks"),
        ((403, {}, b"go away"), Forbidden, "403"),
        ((500, {}, b"oops"), ServerFailed, "answered 500"),
        ((502, {"content-type": "text/html"}, b"<p>bad gateway"), ServerFailed, "answered 502"),
        ((301, {"location": "https://u:p@elsewhere.example.org/"}, b""), Redirected, "elsewhere.example.org"),
    ],
)
def test_other_answers_are_told_apart(said: Said, kind: type[MlenvError], text: str) -> None:
    # What other tests have left is not to be taken apart where an answer is nested too deeply for that.
    gc.collect()
    with scripted(said) as script, script.http() as http, pytest.raises(kind) as caught:
        http.request("GET", "/x")
    assert text in str(caught.value)
    assert TOKEN not in f"{caught.value}{caught.value.hint}{caught.value.detail}{http!r}"
    assert "u:p" not in str(caught.value)


def test_pages_follow_the_cursor_until_there_is_none() -> None:
    first, second = good({"value": [{"n": 1}, {"n": 2}], "next": "c/+"}), good({"value": [{"n": 3}], "next": None})
    with scripted(first, second) as script, script.http() as http:
        assert [each["n"] for each in http.pages("/x", params={"limit": 2})] == [1, 2, 3]
    assert [path for _, path, _, _ in script.requests] == ["/api/v1/x?limit=2", "/api/v1/x?limit=2&cursor=c%2F%2B"]
    with scripted(first, second) as script, script.http() as http:
        assert [each["n"] for each in http.pages("/x", limit=2)] == [1, 2]
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "text",
    ["", "mlenv.example.org", "ftp://example.org", "https://", "https://a:b@example.org", "https://example.org?x=1",
     "https://example.org#x", "https://example.org:99999", "https://ex ample.org", "https://[::1", "https://ä.example.org"],
)  # fmt: skip
def test_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidServer) as caught:
        parse_server(text)
    assert "a:b" not in str(caught.value)


def test_address_has_no_slash_at_its_end() -> None:
    assert parse_server(" https://example.org:8443/mlenv/ ") == "https://example.org:8443/mlenv"


@pytest.mark.parametrize("token", ["a b", "a\nb", "ä", "x" * 9000])
def test_token_that_is_none_is_not_shown(token: str) -> None:
    with pytest.raises(InvalidToken) as caught:
        Http("https://example.org", token)
    assert token not in str(caught.value)


def test_authority_that_is_none_is_told(tmp_path: Any) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(UnreadableAuthority, match="No such file"):
        Http("https://example.org", TOKEN, file)
    file.write_text("no certificate")
    with pytest.raises(UnreadableAuthority, match="not PEM"):
        Http("https://example.org", TOKEN, file)
