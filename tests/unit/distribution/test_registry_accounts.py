import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlenv.distribution.auth import Challenge, parse_challenges
from mlenv.distribution.credentials import (
    Credentials,
    HelperFailed,
    Login,
    UnreadableCredentials,
    credential_files,
)
from mlenv.distribution.settings import RegistrySettings, is_loopback, named_registries
from mlenv.errors import InvalidInput


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper called `test`, which knows two registries, and says what it was asked."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "docker-credential-test"
    program.write_text(
        "#!/bin/sh\nread -r host\n"
        f'echo "$1 $host" >> {tmp_path}/asked\n'
        'case "$host" in\n'
        'a.example) echo \'{"ServerURL":"a.example","Username":"helped","Secret":"s3cret"}\' ;;\n'
        'b.example) echo \'{"Username":"<token>","Secret":"refresh"}\' ;;\n'
        "slow.example) exec sleep 30 ;;\n"
        "odd.example) echo 's3cret but no JSON' ;;\n"
        "broken.example) echo s3cret; exit 3 ;;\n"
        "*) echo credentials not found in native keychain; exit 1 ;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "asked"


def test_files_are_asked_in_their_order(tmp_path: Path) -> None:
    variables = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "DOCKER_CONFIG": str(tmp_path / "docker")}
    files = credential_files(variables, tmp_path)
    assert files == (
        tmp_path / "run/containers/auth.json",
        tmp_path / ".config/containers/auth.json",
        tmp_path / "docker/config.json",
    )
    assert credential_files({}, tmp_path)[-1] == tmp_path / ".docker/config.json"
    assert credential_files({**variables, "REGISTRY_AUTH_FILE": "/x/auth.json"}, tmp_path) == (Path("/x/auth.json"),)
    write(files[0], {"auths": {"a.example": auth("podman", "1")}})
    write(files[2], {"auths": {"a.example": auth("docker", "2"), "b.example": auth("docker", "3")}})
    credentials = Credentials(files)
    assert credentials.find("a.example") == Login("podman", "1")
    assert credentials.find("b.example") == Login("docker", "3")
    assert credentials.find("c.example") is None


def test_entries_of_every_kind(tmp_path: Path) -> None:
    file = write(
        tmp_path / "config.json",
        {
            "auths": {
                "https://old.example/v1/": auth("old", "p:w:d"),
                "host.example/team": auth("team", "1"),
                "host.example": auth("all", "2"),
                "https://index.docker.io/v1/": auth("hub", "3"),
                "plain.example": {"username": "plain", "password": "4"},
                "token.example": {"identitytoken": "refresh"},
                "empty.example": {},
                "damaged.example": {"auth": "%%%"},
                "strange.example": ["no"],
            }
        },
    )
    credentials = Credentials((file,))
    assert credentials.find("old.example") == Login("old", "p:w:d")
    assert credentials.find("host.example", "team/x") == Login("team", "1")
    assert credentials.find("host.example", "teams/x") == Login("all", "2")
    assert credentials.find("docker.io", "library/debian") == Login("hub", "3")
    assert credentials.find("plain.example") == Login("plain", "4")
    assert credentials.find("token.example") == Login("", "", "refresh")
    assert [credentials.find(f"{each}.example") for each in ("empty", "damaged", "strange")] == [None, None, None]


def test_helpers(tmp_path: Path, helper: Path) -> None:
    for document in ({"credsStore": "test"}, {"credHelpers": {"a.example": "test", "b.example": "test"}}):
        credentials = Credentials((write(tmp_path / "config.json", document),))
        assert credentials.find("a.example", "x/y") == Login("helped", "s3cret")
        assert credentials.find("b.example") == Login("", "", "refresh")
        assert credentials.find("c.example") is None
    assert set(helper.read_text().splitlines()) == {"get a.example", "get b.example", "get c.example"}


def test_helpers_that_fail_tell_no_secret(tmp_path: Path, helper: Path) -> None:
    names = dict.fromkeys(("odd.example", "broken.example", "slow.example"), "test")
    names |= {"none.example": "not-there", "path.example": "../../bin/sh"}
    credentials = Credentials((write(tmp_path / "config.json", {"credHelpers": names}),), timeout=0.2)
    for name in names:
        with pytest.raises(HelperFailed) as failed:
            credentials.find(name)
        assert "s3cret" not in str(failed.value) + repr(failed.value.__cause__)


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": ' + "[" * 100_000, "null"])
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnreadableCredentials):
        Credentials((tmp_path / "config.json",)).find("a.example")


def test_no_representation_has_a_secret() -> None:
    login = Login("user", "password-1", "token-1")
    assert "password-1" not in repr(login)
    assert "token-1" not in repr(login)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("Basic", [Challenge("basic")]),
        ('Basic realm="a, b=c"', [Challenge("basic", "a, b=c")]),
        (
            'Bearer realm="https://h.example/token",service="r",scope="repository:a:pull"',
            [Challenge("bearer", "https://h.example/token", "r")],
        ),
        ('bearer REALM = "x\\"y" , service=z', [Challenge("bearer", 'x"y', "z")]),
        (
            'Negotiate, Basic realm="x", Bearer realm="https://t"',
            [Challenge("basic", "x"), Challenge("bearer", "https://t")],
        ),
        ("Bearer", []),
        ("", []),
        ('Bearer realm="unclosed', []),
        ("Digest qop=auth", []),
    ],
)
def test_challenges(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


def test_hostile_challenges_take_no_time() -> None:
    for header in ("Bearer " + 'a="' * 50_000, "," * 200_000, "Bearer realm=" + "\\" * 100_000, "a " * 100_000):
        assert len(parse_challenges(header)) <= 1


def test_who_may_do_without_tls() -> None:
    settings = RegistrySettings(insecure=named_registries({"V": "a.example:5000, b.example"}, "V", ("C.example",)))
    for host in (
        "a.example:5000",
        "b.example:1",
        "c.example",
        "127.0.0.1:5000",
        "127.9.9.9",
        "[::1]:5000",
        "localhost",
    ):
        assert settings.is_insecure(host)
    for host in ("a.example", "a.example:5001", "d.example", "127.0.0.1.example", "localhost.example", "10.0.0.1"):
        assert not settings.is_insecure(host)
    assert not RegistrySettings(authority=Path("ca.pem")).is_insecure("127.0.0.1:5000")
    assert not RegistrySettings(listed=frozenset()).is_insecure("127.0.0.1:5000")
    with pytest.raises(InvalidInput, match="HOST:PORT"):
        named_registries({"V": "https://a.example"}, "V")
    assert not is_loopback("1270.0.0.1")
