"""Dockerfile contexts that a server builds: uploaded by the command line and as Azure's client does it; and hostile ones."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import commands
from support.builds import services_of
from support.server import Server, run_server, wait_until
from support.tiny_base import make_tiny_base

from mlenv.core.progress import Silent
from mlenv.wiring.hosted import Hosted

_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)
_CANARY = "canary-c0ffee-4711"

#: What whoever is root in a step does first: out of the `chroot` that the step runs in, and a look around there.
_ESCAPE = """\
import os, socket, sys
here = os.open("/", os.O_RDONLY)
os.makedirs("/jail", exist_ok=True)
os.chroot("/jail")
os.fchdir(here)
for _ in range(64):
    os.chdir("..")
os.chroot(".")
print("escaped to", sorted(os.listdir("/")), flush=True)
for path in sys.argv[1:]:
    print("reach", path, os.path.exists(path), flush=True)
for base, directories, files in os.walk("/"):
    directories[:] = [each for each in directories if each not in ("usr", "proc", "sys", "dev")]
    for name in files:
        path = os.path.join(base, name)
        try:
            with open(path, "rb") as file:
                if b"canary-" + b"c0ffee" in file.read(1 << 20):
                    print("READ", path, flush=True)
        except OSError:
            pass
for name in os.listdir("/proc"):
    if name.isdigit():
        for what in ("environ", "cmdline", "mem"):
            try:
                with open(f"/proc/{name}/{what}", "rb") as file:
                    text = file.read(1 << 16)
                    if b"canary-" + b"c0ffee" in text or b"MLENV_" in text:
                        print("READ", name, what, flush=True)
            except OSError:
                pass
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, debian_base: Path) -> Iterator[Server]:
    """A server that builds with buildah, with two bases. A secret of its own is in its environment and its home."""
    directory = tmp_path_factory.mktemp("contexts")
    variables = {"MLENV_BUILD_ENGINE": "buildah", "SOME_API_TOKEN": f"{_CANARY}-variable"}
    with run_server(directory, workers=2, environment=variables) as server:
        with Hosted(server.home) as hosted:
            bases = services_of(hosted).bases
            bases.import_(f"oci:{make_tiny_base(directory / 'tiny')}", "tiny", progress=Silent())
            bases.import_(f"oci-archive:{debian_base}", "debian:bookworm", progress=Silent())
        (server.home / "keys" / "secret").write_text(f"{_CANARY}-key")
        (server.home / "work").mkdir(exist_ok=True)
        (server.home / "work" / "secret").write_text(f"{_CANARY}-other-context")
        yield server


def mlenv(server: Server, directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of somebody who is logged in."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
    environment |= {
        "MLENV_HOME": str(directory / "own"),
        "MLENV_CONFIG_HOME": str(directory / "config"),
        "MLENV_SERVER": server.url,
        "MLENV_CA": str(server.ca),
        "MLENV_TOKEN": server.token,
    }
    done: subprocess.CompletedProcess[str] = commands.run(*arguments, env=environment)
    return done


def test_a_directory_here_is_built_there(server: Server, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "run.sh").write_text("echo hello")
    (context / "Dockerfile").write_text("FROM tiny\nARG WHO\nCOPY run.sh /\nRUN sh /run.sh; echo for $WHO\n")
    created = mlenv(server, tmp_path, "environment", "create", "--name", "far", "--build-context", str(context))
    assert created.returncode == 0, created.stderr
    assert json.loads(created.stdout)["build"]["path"].startswith(f"{server.url}/blobs/azureml-blobstore-")
    # What the directory is by now is of no interest.
    (context / "run.sh").write_text("echo changed")
    built = mlenv(server, tmp_path, "environment", "build", "far:1", "--build-arg", "WHO=me")
    assert built.returncode == 0, built.stderr
    assert [line.split(" ", 1)[1] for line in built.stderr.splitlines() if "Z hello" in line or "Z for " in line] == [
        "hello",
        "for me",
    ]
    document = json.loads(built.stdout)
    assert not document["reused"]
    assert built.stderr.splitlines()[-1] == "built far:1: 1 new layers, 0 reused"
    lock = json.loads(mlenv(server, tmp_path, "environment", "lock", "far:1").stdout)
    assert lock["context"]["arguments"] == {"WHO": "me"}
    assert [each["name"] for each in lock["context"]["bases"]] == ["tiny"]
    again = json.loads(mlenv(server, tmp_path, "environment", "build", "far:1").stdout)
    assert (again["image"], again["reused"]) == (document["image"], True)
    refused = mlenv(server, tmp_path, "environment", "build", "far:1", "--network", "default")
    assert refused.returncode == 1
    assert "through a server" in refused.stderr


def test_what_debian_has_is_checked(server: Server, tmp_path: Path, podman_storage: None) -> None:
    """Its Python is called `python3` alone; and an entry point is not what is asked."""
    context = tmp_path / "context"
    context.mkdir()
    metadata = "/usr/lib/python3/dist-packages/added-1.dist-info"
    (context / "Dockerfile").write_text(
        f"FROM debian:bookworm\nRUN mkdir -p {metadata} && printf 'Name: added\\nVersion: 1\\n' > {metadata}/METADATA\n"
        'ENTRYPOINT ["echo"]\n'
    )
    created = mlenv(server, tmp_path, "environment", "create", "--name", "plain", "--build-context", str(context))
    assert created.returncode == 0, created.stderr
    done = mlenv(server, tmp_path, "check", "plain:1", "--engine", "container", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["locked"] == 1


def upload(server: Server, name: str, files: dict[str, str]) -> str:
    """Upload a directory as Azure's client does, and register a version of it. Gives its address."""
    with server.client() as client:
        store = client.get(f"{_WORKSPACE}/datastores/workspaceblobstore").json()
        place = f"{server.url}/blobs/{store['properties']['containerName']}/LocalUpload/{name}/context/"
        for path, text in files.items():
            sent = client.put(f"{place}{path}", content=text, headers={"x-ms-blob-type": "BlockBlob"})
            assert sent.status_code == 201, sent.text
        body = {"properties": {"build": {"contextUri": place, "dockerfilePath": "/Dockerfile"}}}
        made = client.put(f"{_WORKSPACE}/environments/{name}/versions/1", json=body)
        assert made.status_code == 201, made.text
    return place


def build(server: Server, name: str) -> tuple[dict[str, Any], str]:
    """Build a version: the build as it ended, and its log."""
    with server.client() as client:
        asked = client.post(f"/api/v1/workspaces/default/environments/{name}/versions/1/builds", json={})
        assert asked.status_code in {200, 201, 202}, asked.text
        path = f"/api/v1/workspaces/default/builds/{asked.json()['id']}"
        wait_until(
            lambda: client.get(path).json()["status"] not in {"queued", "running"}, "it has not ended", 120, server
        )
        return client.get(path).json(), client.get(f"{path}/logs").text


def test_an_upload_of_azures_client_is_built(server: Server) -> None:
    files = {"Dockerfile": "FROM tiny\nCOPY . /app\nRUN ls /app /app/src\n", "src/a.py": "1", "no.log": "2"}
    upload(server, "uploaded", files | {".dockerignore": "*.log\n"})
    ended, log = build(server, "uploaded")
    assert ended["status"] == "succeeded", log
    assert "a.py" in log
    assert "no.log" not in log


def test_a_context_of_another_namespace_is_not_taken(server: Server) -> None:
    place = upload(server, "mine", {"Dockerfile": "FROM tiny\n"})
    with server.client() as client:
        assert client.post("/api/v1/workspaces", json={"name": "others"}).status_code in {201, 409}
        spec = {"build": {"path": place}}
        made = client.post("/api/v1/workspaces/others/environments", json={"name": "theirs", "spec": spec})
        assert made.status_code == 201, made.text
        locked = client.post("/api/v1/workspaces/others/environments/theirs/versions/1/locks/linux/amd64", json={})
        assert locked.status_code == 404, locked.text
        assert "neither a directory here nor an upload to this namespace" in locked.text


@pytest.mark.parametrize("path", ["/etc", "file:///etc", "/"])
def test_a_directory_of_the_server_is_no_context(server: Server, path: str) -> None:
    with server.client() as client:
        body = {"name": f"local-{len(path)}", "spec": {"build": {"path": path, "dockerfile_path": "hostname"}}}
        made = client.post("/api/v1/workspaces/default/environments", json=body)
        if made.status_code == 201:
            locks = f"/api/v1/workspaces/default/environments/local-{len(path)}/versions/1/locks/linux/amd64"
            made = client.post(locks, json={})
        assert made.status_code in {400, 404, 422}, made.text


def test_whoever_breaks_out_of_a_step_finds_nothing(server: Server) -> None:
    paths = [server.home, server.home / "mlenv.db", server.home / "keys" / "secret", "/root", "/etc/shadow", "/home"]
    port = server.url.rpartition(":")[2]
    connect = (
        "import socket; s = socket.socket(); s.settimeout(5); "
        f"print('connect', s.connect_ex(('127.0.0.1', {port})), flush=True)"
    )
    dockerfile = (
        "FROM debian:bookworm\nCOPY escape.py /escape.py\n"
        f"RUN python3 /escape.py {' '.join(map(str, paths))}\n"
        f'RUN python3 -c "{connect}"\n'
        "RUN --mount=type=bind,source=/,target=/context find /context; env; cat /proc/net/tcp /proc/net/unix\n"
    )
    # What it may see is there to show that it would tell.
    upload(server, "hostile", {"Dockerfile": dockerfile, "escape.py": _ESCAPE, "own.txt": f"{_CANARY}-own"})
    ended, log = build(server, "hostile")
    assert ended["status"] == "succeeded", log
    assert "escaped to ['bin', 'build', 'conf', 'dev', 'etc'" in log
    for path in paths:
        assert f"reach {path} False" in log, log
    read = [line.split()[-1] for line in log.splitlines() if " READ " in line]
    assert read == ["/build/context/own.txt"], log
    assert _CANARY not in log
    # ECONNREFUSED: there is a loopback interface, and nobody else on it.
    assert "connect 111" in log
    listening = [line for line in log.splitlines() if f":{int(port):04X} " in line]
    assert listening == []
    assert socket.gethostname() not in log.replace("attempt 1 begins, on " + socket.gethostname(), "")


def test_a_dockerfile_that_asks_for_privileges_is_refused(server: Server) -> None:
    upload(server, "privileged", {"Dockerfile": "FROM tiny\nRUN --security=insecure true\n"})
    ended, _ = build(server, "privileged")
    assert ended["status"] == "failed"
    assert "RUN --security=insecure is not allowed" in ended["error"]


def test_a_build_that_is_canceled_leaves_nothing(server: Server) -> None:
    upload(server, "endless", {"Dockerfile": "FROM tiny\nRUN (sleep 600 &); echo begun; sleep 600\n"})
    with server.client() as client:
        asked = client.post("/api/v1/workspaces/default/environments/endless/versions/1/builds", json={}).json()
        path = f"/api/v1/workspaces/default/builds/{asked['id']}"
        wait_until(lambda: "Z begun" in client.get(f"{path}/logs").text, "it has not begun", 60, server)
        assert _in_sandboxes(server.home)
        assert client.post(f"{path}/cancel", json={}).status_code in {200, 202}
        wait_until(lambda: not _in_sandboxes(server.home), "its processes live", 30)
        assert client.get(path).json()["status"] == "canceled"
    wait_until(lambda: not list((server.home / "work").glob("*/context-*")), "its directory is there", 60)


def _in_sandboxes(home: Path) -> list[str]:
    """Processes that see a directory of the server's sandboxes as `/build`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            lines = (entry / "mountinfo").read_text().splitlines() if entry.name.isdigit() else []
        except OSError:
            continue
        found += [entry.name for line in lines if f"{home}/work" in line.split()[3] and " /build " in line]
    return found
