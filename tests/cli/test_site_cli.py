"""`mlenv login|logout|whoami|workspace|registry|token|principal|role|audit` against a real server, as their users see them."""

import json
import os
import re
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import commands
from support.oidc import CLIENT_ID, CLIENT_SECRET, serve_oidc
from support.server import Server, run_server


@dataclass
class Person:
    """Somebody at a command line, with a configuration of their own."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def saved(self) -> Path:
        return self.directory / "config" / "servers.json"

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
        environment |= {
            "MLENV_HOME": str(self.directory / "home"),
            "MLENV_CONFIG_HOME": str(self.directory / "config"),
            "MLENV_OUTPUT": "json",
            **self.variables,
        }
        return commands.start(
            *arguments,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
        )

    def run(self, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        out, err = process.communicate(text, timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ok(self, *arguments: str, text: str = "") -> Any:
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def log_in(self, server: Server, token: str) -> None:
        self.ok("login", server.url, "--token", "-", "--ca", str(server.ca), text=token + "\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("site-server")) as made:
        yield made


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


@pytest.fixture
def administrator(person: Person, server: Server) -> Person:
    person.log_in(server, server.token)
    return person


def _somebody(tmp_path: Path, name: str) -> Person:
    directory = tmp_path / name
    directory.mkdir()
    return Person(directory)


# login, logout, whoami


def test_login_saves_what_later_commands_show(person: Person, server: Server) -> None:
    done = person.run("login", server.url, "--token", "-", "--ca", str(server.ca), text=f"{server.token}\n")
    assert done.returncode == 0, done.stderr
    assert server.token not in done.stdout + done.stderr
    assert f"logged in to {server.url} as administrator" in done.stderr
    assert stat.S_IMODE(person.saved.stat().st_mode) == 0o600
    assert stat.S_IMODE(person.saved.parent.stat().st_mode) == 0o700
    who = person.ok("whoami")
    assert (who["server"], who["name"], who["roles"]) == (server.url, "administrator", {"*": "administrator"})


def test_login_without_becoming_the_default(person: Person, server: Server) -> None:
    person.ok("login", server.url, "--token", "-", "--ca", str(server.ca), "--no-default", text=server.token)
    document = json.loads(person.saved.read_text())
    assert (document["default"], list(document["servers"])) == (None, [server.url])
    assert person.ok("whoami", "--server", server.url)["name"] == "administrator"
    assert "which server?" in person.run("whoami").stderr


def test_login_with_a_wrong_token_saves_nothing(person: Person, server: Server) -> None:
    token = "mlenv_" + "W" * 43
    done = person.run("login", server.url, "--token", "-", "--ca", str(server.ca), text=token)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {server.url} does not take this token")
    assert token not in done.stderr
    assert not person.saved.exists()


def test_login_without_the_authority_says_how_to_get_it(person: Person, server: Server) -> None:
    done = person.run("login", server.url, "--token", "-", text=server.token)
    assert done.returncode == 1
    assert "certificate" in done.stderr
    assert "mlenv server ca" in done.stderr
    assert "--ca" in done.stderr
    assert not person.saved.exists()


def test_login_without_a_token_where_there_is_no_browser_login(person: Person, server: Server) -> None:
    done = person.run("login", server.url, "--ca", str(server.ca))
    assert done.returncode == 1
    assert "a token is needed" in done.stderr
    assert "--token -" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["mlenv.example.org"], "not a server's address"),
        (["ftp://mlenv.example.org"], "not a server's address"),
        (["https://user:secret@mlenv.example.org"], "credentials don't belong into it"),
        (["https://127.0.0.1:1", "--token", "a b"], "what is given as a token is none"),
        (["https://127.0.0.1:1", "--token", ""], "--token is empty"),
    ],
)
def test_refusals_of_login(person: Person, arguments: list[str], error: str) -> None:
    done = person.run("login", *arguments)
    assert done.returncode in {1, 2}
    assert error in done.stderr
    assert "secret" not in done.stderr
    assert not person.saved.exists()


def test_logout_forgets(administrator: Person, server: Server) -> None:
    assert "logged out" in administrator.run("logout").stderr
    assert server.token not in administrator.saved.read_text()
    done = administrator.run("whoami")
    assert done.returncode == 2
    assert "which server?" in done.stderr
    assert "not logged in anywhere" in administrator.run("logout").stderr


def test_a_token_that_was_given_outlives_logout(administrator: Person, server: Server) -> None:
    administrator.ok("logout", server.url)
    administrator.log_in(server, server.token)
    assert administrator.ok("whoami")["name"] == "administrator"


def test_variables_come_before_a_login(administrator: Person, server: Server) -> None:
    administrator.variables = {"MLENV_TOKEN": "mlenv_" + "W" * 43}
    assert administrator.run("whoami").returncode == 1
    administrator.variables = {"MLENV_SERVER": server.url, "MLENV_TOKEN": server.token, "MLENV_CA": str(server.ca)}
    administrator.saved.unlink()
    assert administrator.ok("whoami")["name"] == "administrator"


def test_a_token_of_the_variables_is_shown_to_their_server_only(person: Person, server: Server) -> None:
    person.variables = {"MLENV_SERVER": "https://127.0.0.1:1", "MLENV_TOKEN": server.token, "MLENV_CA": str(server.ca)}
    done = person.run("whoami", "--server", server.url, "--ca", str(server.ca))
    assert done.returncode == 1
    assert "no token was shown" in done.stderr


def test_damaged_logins_are_told_without_their_content(administrator: Person) -> None:
    administrator.saved.write_text('{"servers": mlenv_secret')
    done = administrator.run("whoami")
    assert done.returncode == 1
    assert "the saved logins can't be read" in done.stderr
    assert "mlenv_secret" not in done.stderr


# A browser


def test_login_with_a_browser(person: Person, tmp_path: Path) -> None:
    with serve_oidc() as provider:
        arguments = ("--oidc-issuer", provider.issuer, "--oidc-client-id", CLIENT_ID)
        secret = {"MLENV_OIDC_CLIENT_SECRET": CLIENT_SECRET}
        with run_server(tmp_path / "server", *arguments, environment=secret, processes=2) as server:
            url, process = _browse(person, server)
            assert url.startswith(server.url)
            with server.client("", follow_redirects=True, base_url="") as browser:
                page = browser.get(url)
            assert (page.status_code, "You are logged in" in page.text) == (200, True)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            assert json.loads(out)["name"] == "ann"
            assert "mlenv_" not in out + err
            assert person.ok("whoami")["name"] == "ann"
            token = json.loads(person.saved.read_text())["servers"][server.url]["token"]
            person.ok("logout")
            assert token.startswith("mlenv_")
            # Logging out ends a token that logging in made.
            with server.client() as client:
                tokens = client.get("/api/v1/all-tokens", params={"owner": "ann"}).json()["value"]
            assert [each["revoked_at"] is not None for each in tokens] == [True]
            # The provider says no.
            provider.algorithm = "none"
            url, process = _browse(person, server)
            with server.client("", follow_redirects=True, base_url="") as browser:
                assert "You are not logged in" in browser.get(url).text
            _, err = process.communicate(timeout=60)
            assert process.returncode == 1
            assert "identity token is not good" in err


def _browse(person: Person, server: Server) -> "tuple[str, subprocess.Popen[str]]":
    """Begin to log in; gives the address that the browser is to open."""
    person.variables = {}
    process = person.start("login", server.url, "--ca", str(server.ca), "--no-browser")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("https://"):
            return line.strip(), process
    raise AssertionError("no address was printed")


# workspace, registry


@pytest.mark.parametrize("kind", ["workspace", "registry"])
def test_namespaces_are_made_listed_and_shown(administrator: Person, kind: str) -> None:
    made = administrator.ok(kind, "create", f"new-{kind}", "--subscription", "sub-1", "-g", "rg1", "-l", "westeurope")
    assert (made["kind"], made["subscription"], made["resource_group"]) == (kind, "sub-1", "rg1")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["id"])
    assert administrator.ok(kind, "show", f"new-{kind}") == made
    assert administrator.ok(kind, "show", "--name", f"new-{kind}") == made
    assert made in administrator.ok(kind, "list")
    assert len(administrator.ok(kind, "list", "-r", "1")) == 1
    again = administrator.run(kind, "create", f"NEW-{kind}")
    assert again.returncode == 1
    assert f"there is a {kind} 'NEW-{kind}' already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["create", "a b"], 1, "not a name of a workspace or registry: 'a b'"),
        (["create", "../x"], 1, "not a name"),
        (["create", "*"], 1, "not a name"),
        (["create", "x" * 65], 1, "not a name"),
        (["create", "x", "-g", "x/y"], 1, "not a resource group"),
        (["create", "x", "--location", "West Europe"], 1, "not a location"),
        (["create"], 2, "which one?"),
        (["create", "x", "--name", "y"], 2, "which one?"),
        (["show", "nowhere"], 1, "there is no workspace 'nowhere'"),
    ],
)
def test_refusals_of_workspace(administrator: Person, arguments: list[str], status: int, error: str) -> None:
    done = administrator.run("workspace", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert error in done.stderr


# Who may do what


def test_a_program_gets_a_token_and_a_role(administrator: Person, server: Server, tmp_path: Path) -> None:
    for name in ("blue", "green"):
        administrator.ok("workspace", "create", name)
    administrator.ok("principal", "create", "ci")
    administrator.ok("role", "set", "ci", "contributor", "-w", "blue")
    administrator.ok("role", "set", "ci", "reader", "-w", "green")
    made = administrator.ok("token", "create", "deploy", "--for", "ci", "-w", "blue", "--expires", "12h")
    assert made["only"] == ["blue"]
    ci = _somebody(tmp_path, "ci")
    ci.log_in(server, made["secret"])
    assert ci.ok("whoami")["roles"] == {"blue": "contributor"}
    assert [each["name"] for each in ci.ok("workspace", "list")] == ["blue"]
    hidden = ci.run("workspace", "show", "green")
    assert (hidden.returncode, "or none that you may see" in hidden.stderr) == (1, True)
    for refused in (
        ["workspace", "create", "red"],
        ["role", "set", "ci", "administrator", "-w", "blue"],
        ["role", "list", "-w", "blue"],
        ["principal", "list"],
        ["token", "list", "--all"],
        ["audit", "list"],
    ):
        done = ci.run(*refused)
        assert done.returncode == 1, refused
        assert "ci may not" in done.stderr, done.stderr
    wider = ci.run("token", "create", "wider", "-w", "green")
    assert wider.returncode == 1
    assert "can't make a token for green" in wider.stderr
    assert ci.ok("token", "create", "same")["only"] == ["blue"]
    assert {each["name"] for each in ci.ok("token", "list")} == {"deploy", "same"}
    administrator.ok("token", "revoke", made["id"])
    assert "unknown, expired or revoked" in ci.run("whoami").stderr


def test_roles_are_given_listed_and_taken_away(administrator: Person) -> None:
    administrator.ok("workspace", "create", "yellow")
    administrator.ok("principal", "create", "eve")
    administrator.ok("role", "set", "eve", "approver", "-w", "yellow")
    there = administrator.ok("role", "list", "-w", "yellow")
    assert [(each["name"], each["role"], each["scope"]) for each in there] == [
        ("administrator", "administrator", "*"),
        ("eve", "approver", "yellow"),
    ]
    administrator.ok("role", "remove", "eve", "-w", "yellow")
    assert [each["name"] for each in administrator.ok("role", "list", "-w", "yellow")] == ["administrator"]
    last = administrator.run("role", "remove", "administrator", "--everywhere")
    assert last.returncode == 1
    assert "the last administrator everywhere" in last.stderr
    assert administrator.run("role", "set", "eve", "reader").returncode == 2
    assert "no role is called 'owner'" in administrator.run("role", "set", "eve", "owner", "-w", "yellow").stderr
    assert "nobody is called 'mallory'" in administrator.run("role", "set", "mallory", "reader", "-w", "yellow").stderr


@pytest.mark.parametrize("time", ["10", "1w", "-1d", "d", "0m", "99999d"])
def test_lifetimes_that_are_none(administrator: Person, time: str) -> None:
    done = administrator.run("token", "create", "x", f"--expires={time}")
    assert done.returncode in {1, 2}
    assert done.stdout == ""


# audit


def test_the_audit_is_listed_exported_and_verified(administrator: Person, server: Server, tmp_path: Path) -> None:
    administrator.ok("workspace", "create", "audited")
    newest = administrator.ok("audit", "list", "-r", "1")
    assert [(each["who"], each["action"], each["subject"]) for each in newest] == [
        ("administrator", "workspace.create", "audited")
    ]
    assert newest[0]["from"] == "127.0.0.1"
    assert administrator.ok("audit", "list", "-w", "audited") == newest
    whole = administrator.ok("audit", "verify")
    assert whole == {"records": newest[0]["sequence"], "head": newest[0]["hash"], "whole": True}
    file = tmp_path / "audit.jsonl"
    administrator.ok("audit", "export", "--file", str(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[-1] == {"head": whole["head"], "sequence": whole["records"]}
    assert administrator.run("audit", "export").stdout == file.read_text()
    assert administrator.ok("audit", "verify", "--file", str(file)) == whole
    # Piped, it can be read only once.
    for name in ("-", "/dev/stdin"):
        assert administrator.ok("audit", "verify", "--file", name, text=file.read_text()) == whole
    administrator.ok("principal", "create", "later")
    assert administrator.ok("audit", "verify", "--head", whole["head"])["records"] == whole["records"] + 1
    lost = administrator.run("audit", "verify", "--head", "0" * 63 + "1")
    assert (lost.returncode, "no record has the hash" in lost.stderr) == (1, True)
    assert administrator.run("audit", "verify", "--head", "x").returncode == 2


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda lines: [*lines[:1], *lines[2:]], "record 2 is missing"),
        (lambda lines: [lines[0].replace("server", "nobody"), *lines[1:]], "record 1 was altered"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], "record 2 is missing"),
        (lambda lines: lines[:-1], "may have been cut off"),
        (lambda lines: [*lines[:-2], lines[-1]], "no record has the hash"),
        (lambda lines: ["[]", *lines], "line 1 is not a record"),
        (lambda lines: ["{", *lines], "line 1 is not JSON"),
        (lambda lines: ['{"sequence": "1", "at": 3}', *lines], "record 1 is missing"),
        (lambda lines: [], "may have been cut off"),
    ],
)
def test_exports_that_were_tampered_with(administrator: Person, tmp_path: Path, damage: Any, found: str) -> None:
    file = tmp_path / "audit.jsonl"
    administrator.ok("audit", "export", "--file", str(file))
    file.write_text("".join(f"{line}\n" for line in damage(file.read_text().splitlines())))
    done = administrator.run("audit", "verify", "--file", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert found in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("delete from audit where sequence = 3", "record 3 is missing"),
        ("delete from audit where sequence = (select max(sequence) from audit)", "no record has the hash"),
        ("update audit set document = replace(document, 'principal.create', 'principal.delete')", "was altered"),
        ("update audit set scope = 'default' where sequence = 1", "record 1 was altered"),
        ("update audit set at = '2001-01-01T00:00:00.000000+00:00' where sequence = 2", "record 2 was altered"),
        ("update audit set document = '{}' where sequence = 2", "record 2 was altered"),
        ("update audit set document = 'not json' where sequence = 2", "record 2 was altered"),
    ],
)
def test_a_database_that_was_tampered_with(
    administrator: Person, server: Server, statement: str, found: str, request: pytest.FixtureRequest
) -> None:
    administrator.ok("principal", "create", f"one-{abs(hash(request.node.name))}")
    assert administrator.ok("audit", "verify")["whole"] is True
    with closing(sqlite3.connect(server.home / "mlenv.db", isolation_level=None)) as database:
        records = database.execute("select * from audit").fetchall()
        assert database.execute(statement).rowcount >= 1
        done = administrator.run("audit", "verify")
        # The server goes on with its other tests.
        database.execute("begin immediate")
        database.execute("delete from audit")
        database.executemany(f"insert into audit values ({', '.join('?' * len(records[0]))})", records)
        database.execute("commit")
    assert (done.returncode, done.stdout) == (1, "")
    assert found in done.stderr, done.stderr
    assert administrator.ok("audit", "verify")["whole"] is True
