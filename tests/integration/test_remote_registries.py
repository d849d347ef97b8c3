"""Registries and a server: bases that the server takes in for whoever asks, and pushes that the client makes by itself."""

import base64
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.images import make_image
from support.oci_front import run_front
from support.oci_registry import PASSWORD, USER, OciRegistry, free_port, run_registry
from support.server import InProcess, Server, in_process, run_server
from support.world import MINOR, World, make_world

from mlenv.core.digest import Digest
from mlenv.core.image import MANIFEST_TYPE
from mlenv.core.progress import Silent
from mlenv.distribution.credentials import Credentials
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import RegistryUnreachable
from mlenv.distribution.registries import Registries
from mlenv.distribution.settings import RegistrySettings

BASES = "/api/v1/workspaces/default/bases"
PYTHON: dict[str, bytes] = {f"usr/local/bin/python{MINOR}": b"elf", "etc/os-release": b"ID=example\n"}
CONFIG = {"Env": ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.11.7"]}


@dataclass
class Site:
    """
    A server with a worker, in plain HTTP, and commands that work with its workspace `default`.

    Attributes:
        bases: A registry whose password only the server has.
        target: One whose password only the client has, and that the server may not speak to.
        dark: One that the server may speak to, and that is not there.
    """

    server: Server
    world: World
    bases: OciRegistry
    target: OciRegistry
    dark: str

    def put_base(self, repository: str, *more: str) -> Digest:
        """Have skopeo put a base image into the first registry; gives its manifest's digest."""
        layout = make_image(
            self.world.directory / repository.replace("/", "-"), [PYTHON, {"id": repository.encode()}], CONFIG
        )
        account = ["--dest-creds", f"{USER}:{PASSWORD}", "--dest-tls-verify=false"]
        command = ["skopeo", "copy", "-q", *account, *more, f"oci:{layout}", f"docker://{self.bases.host}/{repository}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return digest_in(self.bases, repository, "latest")


def digest_in(registry: OciRegistry, repository: str, tag: str) -> Digest:
    with registry.client(headers={"Accept": MANIFEST_TYPE}) as client:
        answer = client.get(f"/v2/{repository}/manifests/{tag}")
    assert answer.status_code == 200, answer.text
    assert str(Digest.of(answer.content)) == answer.headers["docker-content-digest"]
    return Digest.of(answer.content)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("remote-registries")
    with ExitStack() as stack:
        bases = stack.enter_context(run_registry(directory / "bases", password=True))
        target = stack.enter_context(run_registry(directory / "target", password=True))
        bases.docker_config(directory / "server-docker")
        target.docker_config(directory / "client-docker")
        # The same registry by another name, for which the server has no account.
        other = bases.host.replace("127.0.0.1", "localhost")
        dark = f"127.0.0.1:{free_port()}"
        variables = {
            "MLENV_INSECURE_REGISTRIES": f"{bases.host},{other},{dark}",
            "DOCKER_CONFIG": str(directory / "server-docker"),
        }
        world = stack.enter_context(make_world(directory))
        server = stack.enter_context(run_server(directory, "--insecure-http", workers=1, environment=variables))
        world.environment |= {
            "MLENV_SERVER": server.url,
            "MLENV_TOKEN": server.token,
            "MLENV_CONFIG_HOME": str(directory / "config"),
            "DOCKER_CONFIG": str(directory / "client-docker"),
        }
        world.home = directory / "client"
        yield Site(server, world, bases, target, dark)


# Bases.


def test_a_base_is_pulled_by_the_server_with_its_own_account(site: Site) -> None:
    digest = site.put_base("bases/python")
    image = f"{site.bases.host}/bases/python:latest"
    done = site.world.run("base", "pull", image)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["name"], document["digest"]) == (image, str(digest))
    assert [each["version"] for each in document["pythons"]] == ["3.11.7"]
    assert f"Pulling {image} on the server" in done.stderr
    assert site.world.ok("base", "show", image) == document
    assert {"name": image, "digest": str(digest)} in site.world.ok("base", "list", "-o", "json")
    # Its bytes are the server's, and nothing of it is here.
    assert (site.server.home / "oci" / "blobs" / "sha256" / digest.hex).is_file()
    assert not (site.world.home / "remote" / "oci" / "blobs" / "sha256" / digest.hex).exists()
    named = site.world.ok("base", "pull", f"{site.bases.host}/bases/python@{digest}", "--name", "ours:1")
    assert named["digest"] == str(digest)
    assert site.world.ok("base", "show", "ours:1")["digest"] == str(digest)
    with site.server.client() as client:
        records = client.get("/api/v1/workspaces/default/audit", params={"limit": 100}).json()["value"]
    changes = {each["subject"]: each["who"] for each in records if each["action"] == "base.set"}
    assert {image, "docker.io/library/ours:1"} <= changes.keys()
    assert changes[image]
    assert set(changes.values()) == {changes[image]}


def test_a_stalled_pull_does_not_keep_a_server_that_stops(tmp_path: Path) -> None:
    with quiet_registry() as (host, asked):
        variables = {"MLENV_INSECURE_REGISTRIES": host}
        with (
            run_server(tmp_path, "--insecure-http", "--shutdown-timeout", "60", environment=variables) as server,
            server.client() as client,
            ThreadPoolExecutor(1) as pool,
        ):
            answer = pool.submit(client.post, BASES, json={"image": f"{host}/bases/python:1"}, timeout=60)
            assert asked.wait(30)
            begun = time.monotonic()
            server.process.terminate()
            assert server.process.wait(60) == 0
            assert time.monotonic() - begun < 20
            assert (answer.result().status_code, "was stopped" in answer.result().text) == (503, True)


@contextmanager
def quiet_registry(drip: bytes = b"") -> Iterator[tuple[str, threading.Event]]:
    """A registry in plain HTTP that never ends an answer. Gives its host, and what is set once it was asked for something."""
    asked, ended = threading.Event(), threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if connection.recv(1, socket.MSG_PEEK) == b"\x16":
                return
            connection.recv(1 << 16)
            asked.set()
            while not ended.wait(0.05):
                connection.sendall(drip)

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=listen, daemon=True).start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)


def test_a_pull_as_a_whole_has_a_limit(tmp_path: Path) -> None:
    """However evenly a registry lets it come: here it is one endless head of an answer."""
    with quiet_registry(drip=b"x") as (host, _):
        settings = RegistrySettings(insecure=frozenset({host}))
        name = RemoteName.parse(f"{host}/bases/python:1")
        registries = Registries(Credentials(()), settings)
        begun = time.monotonic()
        with (
            registries.open(name, progress=Silent(), seconds=1.0) as repository,
            pytest.raises(RegistryUnreachable, match="not all came in 1 s"),
        ):
            repository.manifest("1")
        assert time.monotonic() - begun < 20


def test_what_a_registry_refuses_the_server_is_said_in_full(site: Site) -> None:
    missing = site.world.run("base", "pull", f"{site.bases.host}/bases/nothing:1")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"{site.bases.host}/bases/nothing" in missing.stderr.splitlines()[-1]
    assert "is not in its registry" in missing.stderr
    unlisted = site.world.run("base", "pull", f"{site.target.host}/bases/python:1")
    assert unlisted.returncode == 1
    assert "this server does not speak to 127.0.0.1" in unlisted.stderr
    assert "MLENV_REGISTRIES" in unlisted.stderr.splitlines()[-1]
    # The same for one that is listed, and that nobody listens at.
    dark = site.world.run("base", "pull", f"{site.dark}/bases/python:1")
    assert (dark.returncode, dark.stdout) == (1, "")
    assert f"the registry {site.dark} does not answer: Connection refused" in dark.stderr
    flag = site.world.run("base", "pull", "a/b", "--insecure-registry", "h.example")
    assert (flag.returncode, "MLENV_INSECURE_REGISTRIES" in flag.stderr) == (1, True)
    other = site.world.run("base", "pull", f"{site.bases.host}/bases/python:latest", "--platform", "linux/arm64")
    assert (other.returncode, other.stdout) == (1, "")
    assert "linux/arm64" in other.stderr


def test_without_an_account_the_hint_is_for_whoever_runs_the_server(site: Site) -> None:
    host = site.bases.host.replace("127.0.0.1", "localhost")
    refused = site.world.run("base", "pull", f"{host}/bases/python:latest")
    assert refused.returncode == 1
    assert f"the registry {host} refuses" in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("hint: it is the server that asks")
    assert "podman login" not in refused.stderr


# What the server refuses, asked directly.


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with in_process(tmp_path_factory.mktemp("bases") / "home") as made:
        yield made


@pytest.mark.parametrize(
    "body",
    [
        {"image": "UPPER"},
        {"image": "oci:/etc/../x"},
        {"image": "../../etc/passwd"},
        {"image": "h.example/a b:1"},
        {"image": "h.example/a:1\r\nHost: x"},
        {"image": "user:secret@h.example/a"},
        {"image": "http://h.example/a"},
        {"image": "h.example/a@sha256:0"},
        {"image": "x" * 513},
        {"image": ""},
        {},
        {"image": "debian", "name": "Not A Name"},
        # Whoever names a digest gets that digest: nothing else may be called so.
        {"image": "debian", "name": f"debian@sha256:{'0' * 64}"},
        {"image": "debian", "platform": {"os": "linux", "architecture": "s390x"}},
        {"image": "debian", "insecure": True},
    ],
)
def test_hostile_names_are_refused(application: InProcess, body: dict[str, object]) -> None:
    answer = application.client.post(BASES, json=body)
    assert answer.status_code in {400, 422}, answer.text
    assert "secret" not in answer.text
    assert application.client.get(BASES).json()["value"] == []


def test_no_private_address_is_connected_to(application: InProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}"):
            answer = application.client.post(BASES, json={"image": f"{host}/a:1"})
            assert (answer.status_code, answer.json()["code"]) == (403, "HostNotListed"), answer.text
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_readers_pull_nothing(application: InProcess) -> None:
    client = application.client
    assert client.post("/api/v1/principals", json={"name": "reader"}).status_code == 201
    assert client.put("/api/v1/workspaces/default/grants/reader", json={"role": "reader"}).status_code == 200
    made = client.post("/api/v1/tokens", json={"name": "t", "owner": "reader"}).json()
    headers = application.headers(made.get("secret") or made.get("token"))
    assert client.get(BASES, headers=headers).status_code == 200
    refused = client.post(BASES, json={"image": f"127.0.0.1:{free_port()}/a:1"}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "NotAllowed")


# Pushes.


def test_the_client_pushes_what_the_server_built_with_its_own_account(site: Site) -> None:
    site.put_base("bases/built")
    base = f"{site.bases.host}/bases/built:latest"
    site.world.ok("environment", "create", "-f", str(site.world.define("train", "alpha", image=base)))
    built = site.world.ok("environment", "build", "train:1")["image"]
    with run_front(site.server.url) as front:
        site.world.environment["MLENV_SERVER"] = f"http://{front.host}"
        try:
            pushed = site.world.ok("environment", "push", "train:1", f"{site.target.host}/envs/train")
            again = site.world.ok("environment", "push", "train:1", f"{site.target.host}/envs/train:2")
        finally:
            site.world.environment["MLENV_SERVER"] = site.server.url
    assert pushed["image"] == f"{site.target.host}/envs/train:1"
    assert pushed["digest"] == built
    assert str(digest_in(site.target, "envs/train", "1")) == str(digest_in(site.target, "envs/train", "2")) == built
    with site.server.client(headers={"Accept": MANIFEST_TYPE}) as client:
        client.headers["Authorization"] = f"Bearer {site.server.token}"
        here = client.get("/v2/default/train/manifests/1")
    assert here.headers["docker-content-digest"] == built
    # All that the manifest names is there, to the byte.
    manifest = here.json()
    assert {each["digest"] for each in (manifest["config"], *manifest["layers"])} <= site.target.blobs
    assert {each["kind"] for each in pushed["blobs"]} >= {"layer", "config", "manifest"}
    assert {each["became"] for each in again["blobs"] if each["kind"] != "manifest"} == {"skipped"}
    # The server was asked, and never told the registry's account.
    assert front.count("GET") > 0
    told = b"".join(json.dumps(each.headers).encode() + each.path.encode() for each in front.seen) + bytes(front.bodies)
    assert site.server.token.encode() in told
    for secret in (PASSWORD.encode(), base64.b64encode(f"{USER}:{PASSWORD}".encode())):
        assert secret not in told


def test_the_client_mounts_the_layers_of_the_base(site: Site, tmp_path: Path) -> None:
    base = f"{site.bases.host}/bases/mounted:latest"
    site.put_base("bases/mounted")
    site.world.ok("environment", "create", "-f", str(site.world.define("mounting", "alpha", image=base)))
    site.bases.docker_config(tmp_path)
    site.world.environment["REGISTRY_AUTH_FILE"] = str(tmp_path / "config.json")
    try:
        pushed = site.world.ok("environment", "push", "mounting:1", f"{site.bases.host}/envs/mounting")
    finally:
        del site.world.environment["REGISTRY_AUTH_FILE"]
    became = {(each["kind"], each["became"]) for each in pushed["blobs"]}
    assert became >= {("base", "mounted"), ("layer", "sent")}
    assert not {("base", "sent"), ("layer", "mounted")} & became


def test_a_push_is_refused_where_the_client_has_no_account(site: Site) -> None:
    refused = site.world.run("environment", "push", "train:1", f"{site.bases.host}/envs/train")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"the registry {site.bases.host} refuses" in refused.stderr
    assert PASSWORD not in refused.stderr
