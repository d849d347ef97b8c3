"""The tools that people have, at `/v2/` over TLS with a token, preserve digests: docker, containerd, podman, skopeo…"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.docker import Docker
from support.images import LayoutBuilder, name, platform
from support.oci_client import Repository
from support.server import Server, run_server
from support.world import World, make_world

pytestmark = pytest.mark.container

_BASE = "example.org/bookworm:1"


def call(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)


def must(*command: str | Path) -> str:
    done = call(*command)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Here:
    """
    A server with an environment `train` whose version 1 was built, and what tools need to speak to it.

    Attributes:
        digest: Of the image that was built.
        certificates: What podman calls a certificate directory.
        login: A file of credentials, written by `podman login`.
    """

    server: Server
    world: World
    digest: str
    certificates: Path
    login: Path

    @property
    def host(self) -> str:
        return self.server.url.removeprefix("https://")

    @property
    def flags(self) -> list[str]:
        return [f"--cert-dir={self.certificates}", f"--authfile={self.login}"]

    @property
    def copy_flags(self) -> list[str]:
        sides = ("src", "dest")
        return [f"--authfile={self.login}", *(f"--{side}-cert-dir={self.certificates}" for side in sides)]

    def copy(self, source: str, target: str, *flags: str) -> None:
        must("skopeo", "copy", "--quiet", *flags, *self.copy_flags, source, target)

    def manifest(self, repository: str, reference: str) -> str:
        """The digest of what the server has."""
        with self.server.client() as client:
            answer = Repository(client, repository).manifest(reference)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["docker-content-digest"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, debian_base: Path, podman_storage: None) -> Iterator[Here]:
    directory = tmp_path_factory.mktemp("interop")
    with make_world(directory) as world:
        digest = _build(world, debian_base)
        with run_server(directory, home=world.home) as server:
            certificates = directory / "certificates"
            certificates.mkdir()
            (certificates / "ca.crt").write_bytes(server.ca.read_bytes())
            made = Here(server, world, digest, certificates, directory / "auth.json")
            must("podman", "login", *made.flags, "--username", "anybody", "--password", server.token, made.host)
            yield made


def _build(world: World, debian_base: Path) -> str:
    """Build `train:1` on a real Debian. Returns the image's digest."""
    world.ok("base", "import", f"oci-archive:{debian_base}", "--name", _BASE)
    world.ok("environment", "create", "--file", str(world.define("train", "alpha", image=_BASE)))
    world.ok("environment", "lock", "train:1", "--no-bytecode")
    built = world.ok("environment", "build", "train:1", "--compression", "gzip")
    world.ok("environment", "label", "set", "train:1", "--label", "production")
    return str(built["image"])


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def docker(request: pytest.FixtureRequest, here: Here, dockers: Callable[[str], Docker]) -> Docker:
    """docker 20.10, and a new one that leaves images to containerd; both know the server, and are logged in."""
    docker = dockers(request.param)
    docker.trust(here.host, here.server.ca)
    docker.must("login", "--username=anybody", f"--password={here.server.token}", here.host)
    return docker


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with an image `one`, and an index `both` of that and another."""
    builder = LayoutBuilder(tmp_path / "layout")
    files = {"etc/os-release": b"ID=example\n", "hello": tmp_path.name.encode()}
    one = builder.image([files, {"more": b"x" * 100_000}])
    arm = builder.image([files], architecture="arm64")
    both = builder.index({**one, **platform("amd64")}, {**arm, **platform("arm64")})
    return builder.finish({**one, **name("one")}, {**both, **name("both")})


def _digest_in(layout: Path, wanted: str) -> str:
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    (found,) = [
        each["digest"]
        for each in entries
        if each.get("annotations", {}).get("org.opencontainers.image.ref.name") == wanted
    ]
    return str(found)


def no_drift(here: Here, directory: Path, python: str) -> None:
    """What a command that starts an interpreter finds installed is what was locked."""
    wrapper = directory / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    wrapper.chmod(0o755)
    checked = here.world.run("check", "--python", str(wrapper))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["drift"] is False


def test_podman_pulls_a_version_and_it_is_what_was_locked(here: Here, tmp_path: Path) -> None:
    for reference in ("train:1", "train:latest", "train:production", f"train@{here.digest}"):
        must("podman", "pull", "--quiet", *here.flags, f"{here.host}/default/{reference}")
    image = f"{here.host}/default/train:1"
    assert must("podman", "image", "inspect", "--format", "{{.Digest}}", image).strip() == here.digest
    code = "import alpha, sys; print(alpha.VALUE, sys.prefix)"
    assert must("podman", "run", "--rm", "--network=none", image, "python", "-c", code).split() == ["43", "/opt/env"]
    no_drift(here, tmp_path, f"podman run --rm -i --network=none {image} python")


def test_docker_pulls_a_version_and_it_is_what_was_locked(here: Here, docker: Docker, tmp_path: Path) -> None:
    repository = f"{here.host}/default/train"
    for reference in (":1", ":latest", ":production", f"@{here.digest}"):
        docker.must("pull", "--quiet", f"{repository}{reference}")
    image = f"{repository}:1"
    digests = json.loads(docker.must("image", "inspect", "--format={{json .RepoDigests}}", image))
    assert set(digests) == {f"{repository}@{here.digest}"}
    run = ("run", "--rm", "-i", "--network=none", image, "python")
    code = "import alpha, sys; print(alpha.VALUE, sys.prefix)"
    assert docker.must(*run, "-c", code).split() == ["43", "/opt/env"]
    variables = " ".join(f"{name}={value}" for name, value in docker.environment.items())
    no_drift(here, tmp_path, f"env {variables} docker {' '.join(run)}")


def test_a_version_runs_in_docker(here: Here, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in docker.environment.items():
        monkeypatch.setenv(variable, value)
    # Without podman, which would come first.
    monkeypatch.setenv("PATH", str(docker.bin))
    code = "import alpha, os; print(alpha.VALUE, os.getcwd()); raise SystemExit(7)"
    done = here.world.run("run", "train:1", "--engine", "container", "--", "python", "-c", code)
    assert done.returncode == 7, done.stderr
    assert done.stdout.split() == ["43", str(here.world.directory)]


def test_docker_without_a_token_pulls_nothing(here: Here, docker: Docker) -> None:
    docker.must("logout", here.host)
    done = docker.call("pull", f"{here.host}/default/train:1")
    assert done.returncode != 0
    assert any(each in done.stderr.lower() for each in ("unauthorized", "authentication required", "no basic auth"))
    wrong = docker.call("login", "--username=x", "--password=mlenv_wrong", here.host)
    assert wrong.returncode != 0
    assert "mlenv_wrong" not in wrong.stderr
    docker.must("login", "--username=anybody", f"--password={here.server.token}", here.host)


def test_docker_pushes_and_pulls(here: Here, docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {here.host}/default/train:1\nLABEL made={docker.suite}\n")
    image = f"{here.host}/default/by-docker/{docker.suite}:1"
    docker.must("pull", "--quiet", f"{here.host}/default/train:1")
    docker.must("build", "--quiet", f"--tag={image}", str(tmp_path))
    docker.must("push", "--quiet", image)
    pushed = here.manifest(f"default/by-docker/{docker.suite}", "1")
    docker.must("rmi", "--force", image)
    docker.must("pull", "--quiet", image)
    found = json.loads(docker.must("image", "inspect", image))[0]
    assert found["Config"]["Labels"]["made"] == docker.suite
    assert found["RepoDigests"] == [f"{here.host}/default/by-docker/{docker.suite}@{pushed}"]


def test_docker_does_not_push_to_an_environment(here: Here, docker: Docker) -> None:
    image = f"{here.host}/default/train"
    docker.must("pull", "--quiet", f"{image}:1")
    docker.must("tag", f"{image}:1", f"{image}:9")
    done = docker.call("push", f"{image}:9")
    assert done.returncode != 0
    assert re.search("denied|403 Forbidden", done.stdout + done.stderr)
    assert here.manifest("default/train", "1") == here.digest


def test_containerd_pulls_by_name_and_by_digest(here: Here, docker: Docker) -> None:
    user = f"--user=anybody:{here.server.token}"
    for reference in (f"{here.host}/default/train:1", f"{here.host}/default/train@{here.digest}"):
        docker.containerd("images", "pull", f"--hosts-dir={docker.hosts}", user, reference)
        assert docker.containerd("images", "list", f"name=={reference}").splitlines()[1].split()[2] == here.digest


def test_podman_without_a_token_pulls_nothing(here: Here, tmp_path: Path) -> None:
    empty = tmp_path / "auth.json"
    empty.write_text("{}")
    flags = [f"--cert-dir={here.certificates}", f"--authfile={empty}"]
    done = call("podman", "pull", "--quiet", *flags, f"{here.host}/default/train:1")
    assert done.returncode != 0
    assert "unauthorized" in done.stderr.lower() or "authentication required" in done.stderr.lower()
    wrong = call("podman", "login", *flags, "--username", "x", "--password", "mlenv_wrong", here.host)
    assert wrong.returncode != 0
    assert "mlenv_wrong" not in wrong.stderr


def test_an_environment_is_not_pushed_to(here: Here, layout: Path) -> None:
    target = f"docker://{here.host}/default/train:2"
    done = call("skopeo", "copy", *here.copy_flags, f"oci:{layout}:one", target)
    assert done.returncode != 0
    assert "denied" in done.stderr.lower()
    assert here.manifest("default/train", "1") == here.digest


def test_podman_pushes_and_pulls(here: Here, layout: Path) -> None:
    image = f"{here.host}/default/by-podman:1"
    pulled = must("podman", "pull", "--quiet", f"oci:{layout}:one").strip()
    must("podman", "push", "--quiet", *here.flags, pulled, image)
    pushed = here.manifest("default/by-podman", "1")
    must("podman", "rmi", "--force", pulled)
    must("podman", "pull", "--quiet", *here.flags, image)
    assert must("podman", "image", "inspect", "--format", "{{.Digest}}", image).strip() == pushed


def test_buildah_pushes_and_pulls(here: Here, layout: Path, tmp_path: Path) -> None:
    image = f"{here.host}/default/by-buildah:1"
    container = must("buildah", "from", "--quiet", "--pull-never", f"oci:{layout}:one").strip()
    must("buildah", "config", "--label", f"made={tmp_path.name}", container)
    made = must("buildah", "commit", "--quiet", container).strip()
    must("buildah", "rm", container)
    noted = tmp_path / "digest"
    must("buildah", "push", "--quiet", *here.flags, f"--digestfile={noted}", made, f"docker://{image}")
    assert here.manifest("default/by-buildah", "1") == noted.read_text().strip()
    must("buildah", "rmi", "--force", made)
    must("buildah", "pull", "--quiet", *here.flags, f"docker://{image}")
    labels = json.loads(must("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]["Labels"]
    assert labels["made"] == tmp_path.name


@pytest.mark.parametrize("which", ["one", "both"])
def test_skopeo_copies_both_ways(here: Here, layout: Path, tmp_path: Path, which: str) -> None:
    repository = f"default/by-skopeo/{which}"
    digest = _digest_in(layout, which)
    here.copy(f"oci:{layout}:{which}", f"docker://{here.host}/{repository}:v1", "--all", "--preserve-digests")
    assert here.manifest(repository, "v1") == digest
    back = tmp_path / "back"
    here.copy(f"docker://{here.host}/{repository}:v1", f"oci:{back}:{which}", "--all", "--preserve-digests")
    assert _digest_in(back, which) == digest
    assert {each.name for each in (layout / "blobs/sha256").iterdir()} >= {
        each.name for each in (back / "blobs/sha256").iterdir()
    }
    # From repository to repository, blobs are mounted.
    again = f"default/by-skopeo/{which}-again"
    here.copy(f"docker://{here.host}/{repository}@{digest}", f"docker://{here.host}/{again}:v2", "--all")
    assert here.manifest(again, "v2") == digest


def test_skopeo_sends_dockers_formats(here: Here, layout: Path) -> None:
    target = f"docker://{here.host}/default/by-skopeo/docker:1"
    here.copy(f"oci:{layout}:one", target, "--format=v2s2")
    raw = json.loads(must("skopeo", "inspect", "--raw", *here.flags, target))
    assert raw["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_skopeo_inspects_lists_and_deletes(here: Here, layout: Path) -> None:
    repository = f"docker://{here.host}/default/listed"
    for tag in ("b", "a"):
        here.copy(f"oci:{layout}:one", f"{repository}:{tag}")
    assert json.loads(must("skopeo", "list-tags", *here.flags, repository))["Tags"] == ["a", "b"]
    found = json.loads(must("skopeo", "inspect", *here.flags, f"{repository}:a"))
    assert found["Digest"] == _digest_in(layout, "one")
    assert found["RepoTags"] == ["a", "b"]
    assert len(found["Layers"]) == 2
    must("skopeo", "delete", *here.flags, f"{repository}:a")
    assert call("skopeo", "inspect", *here.flags, f"{repository}:a").returncode != 0
    assert json.loads(must("skopeo", "list-tags", *here.flags, repository))["Tags"] == []


def test_skopeo_lists_an_environment(here: Here) -> None:
    found = json.loads(must("skopeo", "list-tags", *here.flags, f"docker://{here.host}/default/train"))
    assert found["Tags"] == ["1", "latest", "production"]
    inspected = json.loads(must("skopeo", "inspect", *here.flags, f"docker://{here.host}/default/train:production"))
    assert inspected["Digest"] == here.digest


def test_skopeo_syncs_a_repository(here: Here, layout: Path, tmp_path: Path) -> None:
    for tag in ("1", "2"):
        here.copy(f"oci:{layout}:one", f"docker://{here.host}/default/synced:{tag}")
    flags = [f"--authfile={here.login}", f"--src-cert-dir={here.certificates}", f"--dest-cert-dir={here.certificates}"]
    must("skopeo", "sync", *flags, "--src=docker", "--dest=dir", f"{here.host}/default/synced", tmp_path / "synced")
    assert {each.name for each in (tmp_path / "synced").iterdir()} == {"synced:1", "synced:2"}
    must("skopeo", "sync", *flags, "--src=dir", "--dest=docker", tmp_path / "synced", f"{here.host}/default/mirror")
    for tag in ("1", "2"):
        assert here.manifest("default/mirror/synced", tag) == _digest_in(layout, "one")


def test_umoci_reads_and_changes_what_comes_through_a_layout(here: Here, tmp_path: Path) -> None:
    layout = tmp_path / "train"
    here.copy(f"docker://{here.host}/default/train:1", f"oci:{layout}:1", "--preserve-digests")
    assert _digest_in(layout, "1") == here.digest
    must("umoci", "unpack", "--rootless", "--image", f"{layout}:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/opt/env/bin/python").readlink() == Path("/usr/bin/python3.11")
    must("umoci", "config", "--image", f"{layout}:1", "--tag", "changed", "--config.label", "by=umoci")
    here.copy(f"oci:{layout}:changed", f"docker://{here.host}/default/by-umoci:1", "--preserve-digests")
    assert here.manifest("default/by-umoci", "1") == _digest_in(layout, "changed")
    found = json.loads(must("skopeo", "inspect", *here.flags, f"docker://{here.host}/default/by-umoci:1"))
    assert found["Labels"]["by"] == "umoci"
