"""Where logins are kept: for this user's eyes only, whole, and without a word of them in a message."""

import json
import stat
from pathlib import Path
from threading import Thread

import pytest

from mlenv.client.address import InvalidServer
from mlenv.client.credentials import (
    CredentialsDamaged,
    CredentialsUnusable,
    Login,
    find_login,
    remove_login,
    save_login,
    server_key,
)

SERVER = "https://mlenv.example.org:8443"
TOKEN = "mlenv_secret"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"MLENV_CONFIG_HOME": str(tmp_path / "config")}


def _file(environment: dict[str, str]) -> Path:
    return Path(environment["MLENV_CONFIG_HOME"]) / "servers.json"


def test_what_was_saved_is_found(environment: dict[str, str]) -> None:
    assert find_login(environment=environment) is None
    login = Login(SERVER, TOKEN, "/etc/ca.pem", "team", own=True)
    save_login(login, environment=environment)
    assert find_login(environment=environment) == login
    assert find_login("HTTPS://MLENV.example.org:8443/", environment=environment) == login
    assert find_login("https://mlenv.example.org", environment=environment) is None


def test_the_server_that_was_logged_in_to_last_is_meant(environment: dict[str, str]) -> None:
    for number in (1, 2):
        save_login(Login(f"https://{number}.example.org", f"{TOKEN}{number}"), environment=environment)
    found = find_login(environment=environment)
    assert found is not None
    assert found.server == "https://2.example.org"
    remove_login("https://2.example.org", environment=environment)
    assert find_login(environment=environment) is None
    assert find_login("https://1.example.org", environment=environment) is not None


def test_it_is_for_this_user_s_eyes_only(environment: dict[str, str]) -> None:
    save_login(Login(SERVER, TOKEN), environment=environment)
    file = _file(environment)
    file.chmod(0o644)
    save_login(Login(SERVER, TOKEN), environment=environment)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_login_does_not_show_its_token() -> None:
    assert TOKEN not in repr(Login(SERVER, TOKEN))


def test_many_logins_at_once_lose_none(environment: dict[str, str]) -> None:
    def save(number: int) -> None:
        save_login(Login(f"https://{number}.example.org", TOKEN), environment=environment)

    threads = [Thread(target=save, args=(number,)) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(json.loads(_file(environment).read_text())["servers"]) == 16
    assert not list(_file(environment).parent.glob(".servers*"))


@pytest.mark.parametrize(
    "content",
    [
        b"{" + TOKEN.encode(),
        b"[]",
        b'{"servers": []}',
        b'{"default": "S", "servers": {"S": "mlenv_secret"}}',
        b'{"default": "S", "servers": {"S": {"token": ["mlenv_secret"]}}}',
        b'{"default": "S", "servers": {"S": {"token": "mlenv_secret", "ca": 1}}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (1 << 20) + b"{}",
    ],
)
def test_damaged_files_are_told_without_their_content(environment: dict[str, str], content: bytes) -> None:
    _file(environment).parent.mkdir()
    _file(environment).write_bytes(content.replace(b'"S"', f'"{SERVER}"'.encode()))
    with pytest.raises(CredentialsDamaged) as caught:
        find_login(environment=environment)
    assert TOKEN not in str(caught.value)
    assert str(_file(environment)) in str(caught.value)


def test_a_directory_that_can_t_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CredentialsUnusable):
        save_login(Login(SERVER, TOKEN), environment={"MLENV_CONFIG_HOME": str(tmp_path / "file" / "below")})


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("https://Example.ORG/", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80", "http://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://example.org/mlenv/", "https://example.org/mlenv"),
    ],
)
def test_spellings_of_a_server(server: str, key: str) -> None:
    assert server_key(server) == key
    assert server_key(key) == key


@pytest.mark.parametrize("server", ["", "example.org", "https://", "https://user:pw@example.org", "https://x/?y"])
def test_addresses_that_are_none(server: str) -> None:
    with pytest.raises(InvalidServer):
        server_key(server)
