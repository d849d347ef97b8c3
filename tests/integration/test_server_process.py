"""A real server process: how it starts, what it offers, how it ends."""

import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.postgres import new_cluster, remove_cluster
from support.server import Server, run_server, wait_until

from mlenv.service.tokens import Tokens
from mlenv.wiring.hosted import Hosted

_TOKEN = re.compile(r"mlenv_[A-Za-z0-9_-]{20,}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process on SQLite, with small limits."""
    limits = ("--max-body", "2000", "--body-timeout", "1", "--body-rate", "1000000", "--log-format", "json")
    with run_server(tmp_path_factory.mktemp("server"), *limits) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """Each database that a server can have."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


def _fails(*arguments: str, **environment: str) -> str:
    """Run a server that must refuse to start with one clear error. Returns what it says."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
    done = subprocess.run(
        [sys.executable, "-m", "mlenv", "server", "start", "--processes", "1", *arguments],
        env={**known, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    return done.stderr


def test_several_processes_start_once_and_serve(tmp_path: Path, database: str | None) -> None:
    with run_server(tmp_path, database=database, processes=2) as server:
        with server.client() as client:
            me = client.get("/api/v1/whoami").raise_for_status().json()
            assert me["roles"] == {"*": "administrator"}
            assert client.get("/api/v1/workspaces/default").status_code == 200
        (token,) = set(_TOKEN.findall((server.directory / "stdout").read_text()))
        assert token == server.token
        assert not _TOKEN.search(server.log)
        assert server.stop() == 0
        # The second time, the administrator is known already.
        server.start()
        assert (server.directory / "stdout").read_text() == ""
        with server.client(token) as client:
            assert client.get("/api/v1/whoami").json() == me


def test_two_servers_that_start_at_once_make_one_administrator(tmp_path: Path, database: str | None) -> None:
    flags = ("--workers", "0", "--processes", "1")
    variables = {} if database is None else {"MLENV_DATABASE": database}
    servers = [Server(tmp_path / "home", flags, variables, tmp_path / name) for name in ("a", "b")]
    try:
        for each in servers:
            each.launch()
        for each in servers:
            wait_until(each._is_ready, "the server is not ready", 60, each)
        (token,) = [each.token for each in servers if each.token]
        for each in servers:
            with each.client(token) as client:
                assert client.get("/api/v1/whoami").status_code == 200
                names = [one["name"] for one in client.get("/api/v1/workspaces").json()["value"]]
                assert names == ["default"]
    finally:
        for each in servers:
            each.stop()


def test_a_client_that_trusts_the_authority_connects_and_another_does_not(server: Server) -> None:
    with server.client() as client:
        assert client.get("/healthz").json() == {"status": "alive"}
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{server.url}/healthz", trust_env=False)


def test_the_certificate_stands_up_to_strict_verification(server: Server) -> None:
    context = ssl.create_default_context(cafile=str(server.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in ("localhost", "127.0.0.1"):
        port = int(server.url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            assert tls.version() in {"TLSv1.2", "TLSv1.3"}


def test_keys_and_home_are_for_their_owner_alone(server: Server) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (server.home / "keys").iterdir()}
    assert modes["ca.key"] == 0o600
    assert stat.S_IMODE((server.home / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700


def test_ca_prints_where_the_certificate_is(server: Server) -> None:
    environment = {**os.environ, "MLENV_HOME": str(server.home)}
    command = [sys.executable, "-m", "mlenv", "server", "ca"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{server.ca}\n"


def test_a_lost_token_can_be_replaced_on_the_servers_machine(server: Server) -> None:
    environment = {**os.environ, "MLENV_HOME": str(server.home)}
    command = [sys.executable, "-m", "mlenv", "server", "token"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    with server.client(done.stdout.strip()) as client:
        assert client.get("/api/v1/whoami").json()["roles"] == {"*": "administrator"}


def test_it_is_alive_ready_and_described(server: Server) -> None:
    with server.client("") as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready", "reasons": []}
        assert client.get("/api/v1/openapi.json").json()["openapi"].startswith("3.")


def test_nobody_gets_in_without_a_token(server: Server) -> None:
    with server.client("") as client:
        answer = client.get("/api/v1/whoami")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    with server.client("mlenv_" + "x" * 43) as client:
        assert client.get("/api/v1/whoami").status_code == 401


def test_metrics_count_requests_by_route_and_not_by_path(server: Server) -> None:
    with server.client() as client:
        for name in ("one", "two"):
            client.get(f"/api/v1/workspaces/{name}")
            client.request("SUBSCRIBE", f"/api/v1/{name}")
        text = client.get("/metrics").text
    (line,) = [
        each
        for each in text.splitlines()
        if each.startswith("mlenv_http_request_seconds_count") and '{workspace}",s' in each
    ]
    assert 'route="/api/v1/workspaces/{workspace}"' in line
    assert 'status="404"' in line
    assert 'method="OTHER"' in text
    assert "SUBSCRIBE" not in text
    assert "process_resident_memory_bytes" in text
    assert "mlenv_builds" in text


def test_figures_of_several_processes_are_put_together(tmp_path: Path) -> None:
    with run_server(tmp_path, processes=2) as server, server.client() as client:
        for _ in range(20):
            client.get("/healthz", headers={"Connection": "close"})
        lines = client.get("/metrics").text.splitlines()
        (line,) = [each for each in lines if each.startswith("mlenv_http_request_seconds_count") and "/healthz" in each]
        assert float(line.rpartition(" ")[2]) == 20


def test_an_unknown_route_and_method_are_problems(server: Server) -> None:
    with server.client() as client:
        assert client.get("/api/v1/nothing").json()["code"] == "NoSuchRoute"
        answer = client.delete("/api/v1/whoami")
        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]


def test_every_log_line_is_json_and_none_has_the_token(server: Server) -> None:
    import json

    with server.client() as client:
        request = client.get("/api/v1/whoami").headers["x-request-id"]
    wait_until(lambda: request in server.log, "the request was not logged", 10)
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    (line,) = [each for each in lines if each.get("request") == request]
    assert (line["route"], line["status"], line["principal"]) == ("/api/v1/whoami", 200, "administrator")
    assert server.token not in server.log


# Limits.


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Server) -> None:
    with server.client() as client:
        assert client.post("/api/v1/workspaces", content=b"x" * 2001).status_code == 413
        chunks = (b"x" * 500 for _ in range(1000))
        assert _status_of_chunks(client, chunks) == 413


def _status_of_chunks(client: httpx.Client, chunks: Iterator[bytes]) -> int:
    try:
        return client.post("/api/v1/workspaces", content=chunks).status_code
    except (httpx.WriteError, httpx.RemoteProtocolError):
        # The server need not wait for the rest before it closes.
        return 413


def test_heads_that_are_too_large_are_refused(server: Server) -> None:
    with server.client() as client:
        assert client.get("/healthz", headers={"X-Filler": "x" * 33_000}).status_code == 431
        assert client.get("/healthz", headers={"X-Filler": "x" * 200_000}).status_code == 431
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "text", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"]
)
def test_what_is_no_http_is_answered_with_400(server: Server, text: bytes) -> None:
    with _connect(server) as connection:
        connection.sendall(text)
        assert b" 400 " in connection.recv(100)


def test_clients_that_send_a_body_byte_by_byte_hold_nobody_up(server: Server) -> None:
    head = (
        f"POST /api/v1/workspaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    ).encode()
    slow = [_connect(server) for _ in range(100)]
    try:
        for each in slow:
            each.sendall(head)
        begun = time.monotonic()
        with server.client() as client:
            for _ in range(20):
                assert client.get("/api/v1/whoami").status_code == 200
        # With 100 clients that send nothing more, others are answered before the first of them is given up.
        assert time.monotonic() - begun < 10
        answers = [each.recv(200) for each in slow]
        assert all(b" 408 " in each for each in answers)
    finally:
        for each in slow:
            each.close()


def _connect(server: Server) -> ssl.SSLSocket:
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(server.ca))
    raw = socket.create_connection((host, int(port)), timeout=30)
    return context.wrap_socket(raw, server_hostname=host)


# What can't start.


def test_its_event_loop_can_send_files_where_uvloop_is_installed_as_well(tmp_path: Path) -> None:
    # uvicorn takes uvloop where it can be imported, unless it is told not to: this one can't be taken without harm.
    uvloop = tmp_path / "packages" / "uvloop.py"
    uvloop.parent.mkdir()
    uvloop.write_text("raise SystemExit('uvloop was taken, which sends no files')\n")
    with run_server(tmp_path, environment={"PYTHONPATH": str(uvloop.parent)}) as made, made.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_benchmark_says_so_when_its_database_is_not_empty(tmp_path: Path, postgres_url: str) -> None:
    with Hosted(tmp_path / "home", postgres_url) as hosted:
        assert Tokens(hosted.site).bootstrap()
    small = ("--environments", "1", "--small", "10", "--seconds", "1", "--processes", "1")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "server", *small, "--database", postgres_url],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the database is not empty")


def test_a_port_in_use_is_one_clear_error(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    said = _fails("--home", str(tmp_path / "home"), "--port", port)
    assert f"port {port}" in said
    assert "--port" in said


def test_a_certificate_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    certificate = tmp_path / "server.pem"
    certificate.write_text("hello")
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(tmp_path / "none.key")]
    assert "none.key" in _fails("--home", str(tmp_path / "home"), "--port", "0", *flags)


def test_a_home_that_is_no_directory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    assert "not a directory" in _fails("--port", "0", MLENV_HOME=str(tmp_path / "home"))


def test_a_database_that_does_not_answer_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"postgresql://ada:hunter2@127.0.0.1:{port}/mlenv"
    said = _fails("--home", str(tmp_path / "home"), "--port", "0", MLENV_DATABASE=url)
    assert str(port) in said
    assert "hunter2" not in said


def test_plain_http_is_for_loopback_unless_forced(tmp_path: Path) -> None:
    said = _fails("--home", str(tmp_path / "home"), "--insecure-http", "--host", "0.0.0.0", "--port", "0")
    assert "in the clear" in said
    with run_server(tmp_path, "--insecure-http") as server:
        assert server.url.startswith("http://")
        with server.client() as client:
            answer = client.get("/api/v1/whoami")
        assert answer.status_code == 200
        assert "strict-transport-security" not in answer.headers
        assert not server.ca.exists()


# How it ends.


@pytest.mark.parametrize("bits", [128, 256])
def test_clients_choose_among_good_ciphers(server: Server, bits: int) -> None:
    both = {128: "ECDHE-ECDSA-AES128-GCM-SHA256", 256: "ECDHE-ECDSA-AES256-GCM-SHA384"}
    wanted = [both[bits], both[384 - bits]]
    context = ssl.create_default_context(cafile=server.ca)
    # Python can't order those of TLS 1.3.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(wanted))
    port = int(server.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert (connection.cipher() or ("",))[0] == wanted[0]


def test_a_request_that_has_begun_is_finished_and_no_other_is_taken(tmp_path: Path) -> None:
    with run_server(tmp_path, "--insecure-http") as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            body = b'{"name": "vision"}'
            head = (
                f"POST /api/v1/workspaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            connection.sendall(head + body[:5])
            wait_until(lambda: _has_connections(server), "the connection was not accepted", 10)
            server.process.terminate()
            wait_until(lambda: _refuses((host, int(port))), "the server still takes connections", 10, server)
            connection.sendall(body[5:])
            assert b" 201 " in connection.recv(1000)
        assert server.process.wait(30) == 0


def _has_connections(server: Server) -> bool:
    with server.client("") as client:
        return client.get("/healthz").status_code == 200


def _refuses(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("processes", [1, 2])
def test_a_client_that_never_ends_does_not_keep_the_server(tmp_path: Path, processes: int) -> None:
    with run_server(tmp_path, "--insecure-http", "--shutdown-timeout", "1", processes=processes) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /api/v1/workspaces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nx")
            wait_until(lambda: _has_connections(server), "the connection was not accepted", 10)
            begun = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begun < 15


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_signal_ends_at_once(tmp_path: Path, processes: int) -> None:
    with run_server(tmp_path, "--insecure-http", processes=processes) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        address = (host, int(port))
        with socket.create_connection(address, timeout=30) as connection:
            head = f"POST /api/v1/workspaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 5\r\n\r\nx".encode())
            wait_until(lambda: _has_connections(server), "the connection was not accepted", 10)
            server.process.send_signal(signal.SIGINT)
            wait_until(lambda: _refuses(address), "the server still takes connections", 10, server)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(5) == 130


def test_a_signal_to_all_processes_at_once_stops_them_gently(tmp_path: Path) -> None:
    with run_server(tmp_path, "--insecure-http", processes=2) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            body = b'{"name": "vision"}'
            head = (
                f"POST /api/v1/workspaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            connection.sendall(head + body[:5])
            wait_until(lambda: _has_connections(server), "the connection was not accepted", 10)
            for process in (*_children(server), server.process.pid):
                os.kill(process, signal.SIGINT)
            wait_until(lambda: _refuses((host, int(port))), "the server still takes connections", 10, server)
            connection.sendall(body[5:])
            assert b" 201 " in connection.recv(1000)
        assert server.process.wait(30) == 0


def test_a_process_that_dies_is_replaced(tmp_path: Path) -> None:
    with run_server(tmp_path, processes=2) as server:
        before = _children(server)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda: len(_children(server)) == 2 and before[0] not in _children(server), "no other took its place", 30
        )
        with server.client() as client:
            for _ in range(10):
                answer = client.get("/api/v1/whoami", headers={"Connection": "close"})
                assert answer.status_code == 200


def test_processes_whose_parent_was_killed_end_by_themselves(tmp_path: Path) -> None:
    with run_server(tmp_path, processes=2) as server:
        children = _children(server)
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(map(_lives, children)), "processes were left behind", 30)


def _children(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_is_not_ready_when_its_database_is_gone_and_again_when_it_is_back(tmp_path: Path) -> None:
    cluster = new_cluster()
    try:
        with run_server(tmp_path, database=cluster.empty_database()) as server, server.client() as client:
            cluster.stop()
            wait_until(lambda: client.get("/readyz").status_code == 503, "it still says that it is ready", 30)
            answer = client.get("/readyz").json()
            assert any(reason.startswith("database") for reason in answer["reasons"])
            assert client.get("/healthz").status_code == 200
            failed = client.get("/api/v1/workspaces")
            assert failed.status_code == 503
            assert "127.0.0.1" not in failed.text
            cluster.start()
            wait_until(lambda: client.get("/readyz").status_code == 200, "it does not come back", 30)
            assert client.get("/api/v1/whoami").status_code == 200
    finally:
        remove_cluster(cluster)


def test_settings_are_listed_with_where_they_came_from(tmp_path: Path) -> None:
    import json

    file = tmp_path / "server.toml"
    file.write_text("port = 1111\nkeep-alive = 5\n")
    environment = {**os.environ, "MLENV_PORT": "2222", "MLENV_DATABASE": "postgresql://ada:hunter2@127.0.0.1/mlenv"}
    command = [sys.executable, "-m", "mlenv", "server", "config", "--config", str(file), "--workers", "7", "-o", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = {each["setting"]: (each["value"], each["origin"]) for each in json.loads(done.stdout)}
    assert found["port"] == (2222, "MLENV_PORT")
    assert found["workers"] == (7, "flag --workers")
    assert found["keep_alive"] == (5, str(file))
    assert found["host"] == ("127.0.0.1", "default")
    assert "hunter2" not in done.stdout


def test_a_server_with_workers_in_it_starts_and_stops(tmp_path: Path, database: str | None) -> None:
    with run_server(tmp_path, database=database, processes=2, workers=2) as server:
        with server.client() as client:
            assert client.get("/readyz").status_code == 200
            assert client.get("/api/v1/whoami").status_code == 200
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_a_worker_starts_and_stops(tmp_path: Path) -> None:
    with run_server(tmp_path) as server:
        environment = {**os.environ, "MLENV_HOME": str(server.home)}
        command = [sys.executable, "-m", "mlenv", "worker", "start", "--workers", "1"]
        worker = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert worker.stderr is not None
            timer = threading.Timer(60, worker.kill)
            timer.start()
            assert any("working" in line for line in worker.stderr)
            worker.terminate()
            assert worker.wait(30) == 0
        finally:
            timer.cancel()
            worker.kill()
            worker.communicate()
