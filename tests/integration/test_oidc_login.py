"""Logging in at a real provider on loopback, through a real application; and everything that must not log in."""

import hashlib
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from support.oidc import CLIENT_ID, CLIENT_SECRET, OidcProvider, serve_oidc
from support.server import InProcess, in_process

from mlenv.core.access import Role
from mlenv.server.oidc import SKEW

VERIFIER = "v" * 64
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REDIRECT = "http://127.0.0.1:50000/done"
STATE = "s" * 40


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with serve_oidc() as made:
        yield made


@pytest.fixture
def server(provider: OidcProvider, tmp_path: Path) -> Iterator[InProcess]:
    settings = {
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
    }
    with in_process(tmp_path / "home", **settings) as made:
        made.client.headers.pop("Authorization")
        yield made


def _get(url: str, **more: Any) -> httpx.Response:
    """The browser, at the provider."""
    with httpx.Client(trust_env=False) as browser:
        return browser.get(url, **more)


def _start(server: InProcess, **changes: str) -> httpx.Response:
    query = {"redirect": REDIRECT, "state": STATE, "challenge": CHALLENGE, **changes}
    return server.client.get("/api/v1/login/start", params=query)


def _callback(server: InProcess) -> str:
    """Log in at the provider; gives where that sends the browser."""
    started = _start(server)
    assert started.status_code == 302, started.text
    return _get(started.headers["location"]).headers["location"]


def _log_in(server: InProcess) -> dict[str, str]:
    """Log in; gives what the command line is told."""
    done = server.client.get(_callback(server))
    assert done.status_code == 302, done.text
    location = done.headers["location"]
    assert location.startswith(f"{REDIRECT}?")
    told = {key: values[0] for key, values in parse_qs(urlsplit(location).query).items()}
    assert told["state"] == STATE
    return told


def _exchange(server: InProcess, code: str, verifier: str = VERIFIER) -> httpx.Response:
    return server.client.post("/api/v1/login/token", json={"code": code, "verifier": verifier})


def _token(server: InProcess) -> str:
    answer = _exchange(server, _log_in(server)["code"])
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def _who(server: InProcess, token: str) -> Any:
    return server.client.get("/api/v1/whoami", headers=server.headers(token)).json()


def test_a_person_logs_in_without_a_role_and_gets_one(server: InProcess) -> None:
    token = _token(server)
    who = _who(server, token)
    assert (who["name"], who["roles"]) == ("ann", {})
    environments = "/api/v1/workspaces/default/environments"
    assert server.client.get(environments, headers=server.headers(token)).status_code == 404
    granted = server.client.put(
        "/api/v1/workspaces/default/grants/ann", json={"role": Role.READER}, headers=server.headers(server.token)
    )
    assert granted.status_code == 200
    assert server.client.get(environments, headers=server.headers(token)).status_code == 200


def test_the_same_subject_is_the_same_person_whatever_their_name(server: InProcess, provider: OidcProvider) -> None:
    first = _who(server, _token(server))
    provider.user["preferred_username"] = "ann.married"
    again = _who(server, _token(server))
    assert (again["id"], again["name"]) == (first["id"], "ann")


def test_another_subject_is_another_person_whatever_their_name(server: InProcess, provider: OidcProvider) -> None:
    first = _who(server, _token(server))
    provider.user["sub"] = "u-2"
    other = _who(server, _token(server))
    assert other["id"] != first["id"]
    assert other["name"] == "ann-2"


@pytest.mark.parametrize("name", ["administrator", "0" * 31 + "1", "../../etc", "<script>", "", "é" * 400])
def test_a_name_at_the_provider_gives_nothing(server: InProcess, provider: OidcProvider, name: str) -> None:
    provider.user["preferred_username"] = name
    who = _who(server, _token(server))
    assert who["roles"] == {}
    assert who["name"] != "administrator"
    assert who["name"].isascii()


def test_a_token_of_a_login_expires_in_twelve_hours(server: InProcess) -> None:
    answer = _exchange(server, _log_in(server)["code"]).json()
    lasts = datetime.fromisoformat(answer["expires_at"]) - datetime.fromisoformat(answer["created_at"])
    assert lasts.total_seconds() == 12 * 3600
    assert answer["name"] == "login"


def test_a_login_leaves_audit_records(server: InProcess) -> None:
    _token(server)
    records = server.client.get("/api/v1/audit", headers=server.headers(server.token)).json()["value"]
    assert [(each["who"], each["action"]) for each in records[:2]] == [
        ("ann", "token.create"),
        ("ann", "principal.create"),
    ]


def test_a_code_is_good_once_in_whatever_spelling(server: InProcess) -> None:
    code = _log_in(server)["code"]
    assert _exchange(server, code).status_code == 201
    for spelling in (code, f"{code}\n", f"{code[:10]}!{code[10:]}", f"{code}=="):
        assert _exchange(server, spelling).status_code in {400, 403}, spelling


def test_a_code_is_for_who_began(server: InProcess) -> None:
    code = _log_in(server)["code"]
    assert _exchange(server, code, "w" * 64).status_code == 403
    assert _exchange(server, code).status_code == 201


def test_a_code_does_not_last(server: InProcess) -> None:
    code = _log_in(server)["code"]
    seals = server.app.state.seals
    seals._now = lambda: time.time() + 120
    assert _exchange(server, code).status_code == 400


def test_a_cookie_is_no_code(server: InProcess) -> None:
    """What is sealed for one purpose is not taken for another."""
    _start(server)
    assert _exchange(server, server.client.cookies["mlenv_login"]).status_code == 400
    assert _exchange(server, "gAAAAA").status_code == 400


def test_the_cookie_is_for_the_login_alone(server: InProcess) -> None:
    header = _start(server).headers["set-cookie"].lower()
    for each in ("httponly", "secure", "samesite=lax", "path=/api/v1/login", "max-age=600"):
        assert each in header


def test_states_that_are_not_ours(server: InProcess, provider: OidcProvider) -> None:
    provider.state = "x" * 43
    refused = server.client.get(_callback(server))
    assert refused.status_code == 400
    assert "location" not in refused.headers


def test_a_callback_without_the_browser_that_began(server: InProcess) -> None:
    """Login CSRF: somebody else's finished login is not taken over."""
    location = _callback(server)
    server.client.cookies.clear()
    assert server.client.get(location).status_code == 400


def test_a_callback_of_another_login_of_the_browser(server: InProcess) -> None:
    first = _callback(server)
    _start(server)
    assert server.client.get(first).status_code == 400


def test_a_refusal_of_the_provider_reaches_the_command_line(server: InProcess) -> None:
    location = _callback(server)
    state = parse_qs(urlsplit(location).query)["state"][0]
    path = urlsplit(location).path
    done = server.client.get(f"{path}?{urlencode({'error': 'access_denied', 'state': state})}")
    assert "access_denied" in parse_qs(urlsplit(done.headers["location"]).query)["error"][0]


def test_a_code_of_the_provider_that_is_wrong(server: InProcess) -> None:
    location = _callback(server)
    state = parse_qs(urlsplit(location).query)["state"][0]
    done = server.client.get(f"{urlsplit(location).path}?{urlencode({'code': 'guessed', 'state': state})}")
    told = parse_qs(urlsplit(done.headers["location"]).query)
    assert "invalid_grant" in told["error"][0]
    assert "code" not in told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "somebody-else"}, "aud"),
        ({"aud": ["somebody-else"]}, "aud"),
        ({"aud": [CLIENT_ID, "somebody-else"]}, "azp"),
        ({"aud": [CLIENT_ID], "azp": "somebody-else"}, "azp"),
        ({"aud": None}, "aud"),
        ({"iss": "https://issuer.example.org"}, "iss"),
        ({"iss": None}, "iss"),
        ({"exp": int(time.time()) - SKEW - 30}, "exp"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "exp"),
        ({"nbf": int(time.time()) + 3600}, "nbf"),
        ({"iat": int(time.time()) + 3600}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "names nobody"),
        ({"sub": "x" * 300}, "names nobody"),
        ({"sub": 7}, "sub"),
        ({"at_hash": "bm90IGl0cyBoYXNo"}, "at_hash"),
    ],
)
def test_tokens_that_are_not_for_this_login(
    server: InProcess, provider: OidcProvider, change: dict[str, Any], named: str
) -> None:
    def alter(claims: dict[str, Any]) -> None:
        for key, value in change.items():
            claims.pop(key, None)
            if value is not None:
                claims[key] = value

    provider.alter = alter
    told = _log_in(server)
    assert "code" not in told
    assert told["error"].endswith(named)
    records = server.client.get("/api/v1/principals", headers=server.headers(server.token)).json()["value"]
    assert [each["name"] for each in records] == ["administrator"]


def test_a_clock_that_is_a_little_off_is_no_fault(server: InProcess, provider: OidcProvider) -> None:
    provider.alter = lambda claims: claims.update(iat=int(time.time()) + SKEW // 2, exp=int(time.time()) - SKEW // 2)
    assert "code" in _log_in(server)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_signatures_that_are_none(server: InProcess, provider: OidcProvider, algorithm: str) -> None:
    provider.algorithm = algorithm
    assert "code" not in _log_in(server)


def test_a_signature_by_another_key(server: InProcess, provider: OidcProvider) -> None:
    published = provider.published
    provider.new_key()
    provider.published = published[:1]
    assert "code" not in _log_in(server)


def test_the_provider_may_change_its_key(server: InProcess, provider: OidcProvider) -> None:
    _token(server)
    provider.new_key()
    # Keys are not asked for again at once.
    server.app.state.oidc_provider._keys_read -= 60
    assert "code" in _log_in(server)


def test_a_provider_that_says_that_it_is_another(server: InProcess, provider: OidcProvider) -> None:
    real, provider.issuer = provider.issuer, "https://issuer.example.org"
    answer = _start(server)
    assert answer.status_code == 503
    assert real in answer.json()["detail"]


@pytest.mark.parametrize(
    "redirect",
    [
        "https://evil.example.org/",
        "http://evil.example.org:80/",
        "http://127.0.0.1.evil.example.org:80/",
        "http://127.0.0.1:80@evil.example.org/",
        "http://127.0.0.1/done",
        "http://localhost:50000/done",
        "http://127.0.0.1:50000/done?x=1",
        "http://127.0.0.1:50000/done#x",
        "http://127.0.0.1:50000/\r\nX-Injected: 1",
        "javascript:alert(1)",
        "",
    ],
)
def test_the_browser_is_sent_to_loopback_only(server: InProcess, redirect: str) -> None:
    answer = _start(server, redirect=redirect)
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize("change", [{"state": "short"}, {"challenge": "short"}, {"state": "x y" * 10}])
def test_what_can_be_guessed_is_not_taken(server: InProcess, change: dict[str, str]) -> None:
    assert _start(server, **change).status_code == 400


def test_pkce_state_and_nonce_are_new_each_time(server: InProcess, provider: OidcProvider) -> None:
    _log_in(server)
    _log_in(server)
    first, second = provider.asked
    for key in ("state", "nonce", "code_challenge"):
        assert len(first[key]) >= 43
        assert first[key] != second[key]


def test_a_server_without_a_provider_says_so(tmp_path: Path) -> None:
    with in_process(tmp_path / "home") as server:
        assert server.client.get("/api/v1/login").json() == {"oidc": False, "issuer": None}
        answer = _start(server)
        assert (answer.status_code, answer.json()["code"]) == (404, "NoLogin")
