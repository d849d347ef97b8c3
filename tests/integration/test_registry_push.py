"""Images to and from Debian's docker-registry: what a push sends, mounts and skips, and what other tools make of it."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.images import LayoutBuilder, make_image, name, platform
from support.oci_front import run_front
from support.oci_registry import OciRegistry, run_registry
from support.world import MINOR, World, make_world

from mlenv.api.definition import load_definition
from mlenv.cli.main import main
from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, EnvironmentVersion
from mlenv.core.platform import Platform
from mlenv.core.progress import Silent
from mlenv.core.reference import Reference, parse_name
from mlenv.core.spec import BuildContext, Spec
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import NotInRegistry
from mlenv.distribution.registries import Registries
from mlenv.errors import NotFound
from mlenv.service.base_checking import check_bases
from mlenv.service.bases import BaseNotHere, LayersNotHere
from mlenv.service.pushing import Pushed
from mlenv.wiring.embedded import Embedded, open_embedded

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
CONFIG = {"Env": ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.11.7"]}
BASE_FILES: dict[str, bytes] = {f"usr/local/bin/python{MINOR}": b"elf", "etc/os-release": b"ID=example\n"}


@dataclass
class Stage:
    """A registry, a world with a package index, and its store in this process."""

    registry: OciRegistry
    world: World
    store: Embedded

    @property
    def host(self) -> str:
        return self.registry.host

    def version(self, title: str, *requirements: str, image: str, **fields: Any) -> EnvironmentVersion:
        definition = load_definition(self.world.define(title, *requirements, image=image, **fields))
        return self.store.environments.create(definition).version

    def push(self, version: EnvironmentVersion, target: str, *platforms: Platform) -> Pushed:
        to = RemoteName.parse(target)
        return self.store.pushing.push(version, platforms or (AMD64,), to, progress=Silent())

    def put_base(self, repository: str, extra: bytes = b"", layout: Path | None = None) -> Digest:
        """Have skopeo put a base image into the registry; gives its manifest's digest."""
        directory = layout or self.world.directory / f"layout-{os.urandom(4).hex()}"
        if layout is None:
            make_image(directory, [BASE_FILES, {"extra": extra or os.urandom(2000)}], CONFIG)
        skopeo("copy", "--all", f"oci:{directory}", f"docker://{self.host}/{repository}")
        return Digest.parse(self.inspect(repository)["Digest"])

    def inspect(self, repository: str) -> Any:
        return json.loads(skopeo("inspect", "--no-tags", f"docker://{self.host}/{repository}"))

    def forget_layers(self, base: Digest) -> None:
        """Remove a base's layers from the store, as if they had never been needed."""
        for layer, _ in self.store.bases.at(base, progress=Silent()).image.layers:
            self.store.blobs.remove(layer.digest)

    def fresh_store(self, directory: Path) -> Embedded:
        return open_embedded(directory)


def skopeo(*arguments: str) -> str:
    command = ["skopeo", arguments[0], "--tls-verify=false", *arguments[1:]]
    if arguments[0] == "copy":
        command = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("push")
    with (
        run_registry(directory / "registry") as registry,
        make_world(directory) as world,
        open_embedded(world.home) as store,
    ):
        yield Stage(registry, world, store)


def became(pushed: Pushed) -> dict[str, list[str]]:
    """What became of the parts of each kind, but for evidence."""
    found: dict[str, list[str]] = {}
    for each in pushed.blobs:
        if each.kind != "evidence":
            found.setdefault(each.kind, []).append(each.became)
    return {kind: sorted(parts) for kind, parts in found.items()}


# Bases from registries.


def test_a_base_is_pulled_once(stage: Stage) -> None:
    digest = stage.put_base("bases/pulled:1")
    image = f"{stage.host}/bases/pulled:1"
    base = stage.store.bases.pull(image, progress=Silent())
    assert base.image.manifest.digest == digest
    assert [each.version for each in base.facts.pythons] == ["3.11.7"]
    assert stage.store.bases.names()[image] == digest
    assert stage.store.bases.origins(digest) == [RemoteName.parse(f"{stage.host}/bases/pulled@{digest}")]
    # What it offers is known by its digest: nothing of its layers is fetched again.
    stage.forget_layers(digest)
    again = stage.store.bases.pull(image, name="own/name:1", progress=Silent())
    assert (again.image.manifest.digest, again.facts) == (digest, base.facts)
    assert stage.store.bases.names()["docker.io/own/name:1"] == digest
    assert not any(stage.store.blobs.has(layer.digest) for layer, _ in again.image.layers)
    stage.store.verifying.verify(progress=Silent())


def test_a_base_by_digest_and_one_that_is_not_there(stage: Stage) -> None:
    digest = stage.put_base("bases/pinned:1")
    base = stage.store.bases.pull(f"{stage.host}/bases/pinned@{digest}", progress=Silent())
    assert base.image.manifest.digest == digest
    with pytest.raises(NotInRegistry):
        stage.store.bases.pull(f"{stage.host}/bases/pinned:2", progress=Silent())
    with pytest.raises(BaseNotHere, match="nor to be had"):
        stage.store.bases.need(f"{stage.host}/bases/pinned:2", progress=Silent())
    assert stage.store.bases.find(f"{stage.host}/bases/pinned:2", progress=Silent()) is None


def test_a_base_for_several_platforms(stage: Stage) -> None:
    builder = LayoutBuilder(stage.world.directory / "several")
    images = [
        builder.image([{**BASE_FILES, "arch": each.encode()}], CONFIG, architecture=each, **platform(each))
        for each in ("amd64", "arm64")
    ]
    layout = builder.finish(builder.index(*images, **name("1")))
    stage.put_base("bases/several:1", layout=layout)
    image = f"{stage.host}/bases/several:1"
    found = {each: stage.store.bases.find(image, each, progress=Silent()) for each in (AMD64, ARM64)}
    assert [base.facts.platform for base in found.values() if base] == [AMD64, ARM64]
    names = stage.store.bases.names()
    assert names[image] != names[f"{image}+linux/arm64"]
    version = stage.version("several", image=image, platforms=["linux/amd64", "linux/arm64"])
    pushed = stage.push(version, f"{stage.host}/envs/several:1", AMD64, ARM64)
    index = json.loads(skopeo("inspect", "--raw", f"docker://{stage.host}/envs/several:1"))
    assert pushed.digest == Digest.parse(stage.inspect("envs/several:1")["Digest"]) or index["manifests"]
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]
    assert became(pushed)["index"] == ["sent"]
    assert became(stage.push(version, f"{stage.host}/envs/several:1", AMD64, ARM64))["index"] == ["skipped"]


def test_a_build_pulls_the_base_that_it_needs(stage: Stage) -> None:
    digest = stage.put_base("bases/needed:1")
    version = stage.version("needed", "alpha", image=f"{stage.host}/bases/needed:1")
    lock = stage.store.locking.lock(version, AMD64, progress=Silent())
    assert lock.base == digest
    # The lock keeps the digest, whatever the tag means later.
    stage.put_base("bases/needed:1")
    stage.store.registry.set_base(f"{stage.host}/bases/needed:1", digest, now=version.created_at)
    built = stage.store.building.build(version, AMD64, progress=Silent())
    labels = built.image.config["config"]["Labels"]
    assert labels["org.opencontainers.image.base.digest"] == str(digest)


def test_a_locked_base_comes_by_its_digest(stage: Stage, tmp_path: Path) -> None:
    first = stage.put_base("bases/moved:1")
    version = stage.version("moved", "alpha", image=f"{stage.host}/bases/moved:1")
    lock = stage.store.locking.lock(version, AMD64, progress=Silent())
    second = stage.put_base("bases/moved:1")
    assert second != first
    with open_embedded(tmp_path / "other") as store:
        other = store.environments.create(load_definition(stage.world.directory / "moved.yml")).version
        data = lock.to_pylock().encode()
        store.blobs.put([data], digest=lock.digest, size=len(data), what="lock")
        store.registry.add_lock(other.name, other.version, AMD64, lock.digest, now=other.created_at)
        built = store.building.build(other, AMD64, progress=Silent())
        assert built.image.config["config"]["Labels"]["org.opencontainers.image.base.digest"] == str(first)


# Pushes.


def test_one_package_changed_sends_one_layer(stage: Stage) -> None:
    """The figures are those of the requests that the registry was sent, not of what the push says."""
    image = f"{stage.host}/bases/py:1"
    stage.put_base("bases/py:1")
    one = stage.version("change", "alpha", "beta==1.0", image=image)
    two = stage.version("change", "alpha", "beta==2.0", image=image)
    with run_front(stage.registry.url) as front:
        first = stage.push(one, f"{front.host}/envs/change:1")
        assert became(first)["manifest"] == ["sent"]
        assert first.digest == Digest.parse(stage.inspect("envs/change:1")["Digest"])
        evidence = sum(each.kind == "evidence" for each in first.blobs)
        assert evidence == 3
        front.seen.clear()
        second = stage.push(two, f"{front.host}/envs/change:2")
        assert became(second) == {
            "base": ["skipped", "skipped"],
            "layer": ["sent", "sent", "skipped", "skipped"],
            "config": ["sent"],
            "manifest": ["sent"],
        }
        sent = {each.digest for each in second.blobs if each.became == "sent" and each.kind in {"layer", "config"}}
        puts = [each for each in front.seen if each.method == "PUT" and "/uploads/" in each.path]
        digests = [Digest.parse(each.path.rpartition("digest=")[2].replace("%3A", ":")) for each in puts]
        # Three blobs of the image, and a document of each kind of evidence; of manifests, one and those of evidence.
        assert sent <= set(digests)
        assert len(digests) == len(sent) + evidence
        bytes_of_image = sum(each.size for each in puts if any(str(digest) in each.path for digest in sent))
        assert bytes_of_image == sum(each.size for each in second.blobs if each.digest in sent)
        manifests = [each for each in front.seen if each.method == "PUT" and "/manifests/2" in each.path]
        assert [each.size for each in manifests] == [each.size for each in second.blobs if each.kind == "manifest"]
        front.seen.clear()
        third = stage.push(two, f"{front.host}/envs/change:2")
        assert {each.became for each in third.blobs} == {"skipped"}
        assert {each.method for each in front.seen} == {"GET", "HEAD"}
    assert third.sum("sent") == third.sum("mounted") == 0


def test_what_was_pushed_before_is_mounted(stage: Stage) -> None:
    version = stage.version("mounted", "alpha", image=f"{stage.host}/bases/mounted:1")
    digest = stage.put_base("bases/mounted:1")
    first = stage.push(version, f"{stage.host}/envs/mounted:1")
    # The base's layers need not come here to be pushed: the registry has them.
    assert became(first)["base"] == ["mounted", "mounted"]
    other = stage.push(version, f"{stage.host}/envs/mounted-too:1")
    assert set(became(other)["base"] + became(other)["layer"] + became(other)["config"]) == {"mounted"}
    assert digest != other.digest == first.digest


def test_layers_that_are_not_here_go_from_registry_to_registry(stage: Stage, tmp_path: Path) -> None:
    digest = stage.put_base("bases/streamed:1")
    version = stage.version("streamed", "alpha", image=f"{stage.host}/bases/streamed:1")
    stage.store.locking.lock(version, AMD64, progress=Silent())
    stage.forget_layers(digest)
    with run_registry(tmp_path / "second") as second:
        pushed = stage.push(version, f"{second.host}/envs/streamed:1")
        assert became(pushed)["base"] == ["sent", "sent"]
        layers = stage.store.bases.at(digest, progress=Silent()).image.layers
        assert not any(stage.store.blobs.has(layer.digest) for layer, _ in layers)
        assert {str(layer.digest) for layer, _ in layers} <= second.blobs
    assert [each.text for each in stage.store.verifying.verify(progress=Silent()) if each.harm] == []
    # What needs the bytes here fetches them.
    image = stage.store.building.build(version, AMD64, progress=Silent()).image
    stage.store.building.bring(image, Silent())
    assert all(stage.store.blobs.has(layer.digest) for layer, _ in layers)


def test_layers_that_nobody_has(stage: Stage) -> None:
    stage.put_base("bases/lost:1")
    version = stage.version("lost", "alpha", image=f"{stage.host}/bases/lost:1")
    image = stage.store.building.build(version, AMD64, progress=Silent()).image
    top = image.layers[-1][0].digest
    stage.store.blobs.remove(top)
    with pytest.raises((LayersNotHere, NotFound)):
        stage.store.building.bring(image, Silent())
    harm = [each.text for each in stage.store.verifying.verify(progress=Silent()) if each.harm]
    assert any(str(top) in each for each in harm)
    # It is made again.
    assert stage.store.building.build(version, AMD64, progress=Silent()).image.layers[-1][0].digest == top


# Others' tools.


def test_others_read_what_we_push(stage: Stage, tmp_path: Path) -> None:
    stage.put_base("bases/read:1")
    version = stage.version("read", "alpha", image=f"{stage.host}/bases/read:1")
    pushed = stage.push(version, f"{stage.host}/envs/read:1")
    skopeo("copy", f"docker://{stage.host}/envs/read:1", f"oci:{tmp_path}/layout:1")
    entry = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"][0]
    assert entry["digest"] == str(pushed.digest)
    command = ["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:1", str(tmp_path / "bundle")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "bundle/rootfs/opt/env/pyvenv.cfg").is_file()


@pytest.mark.container
def test_podman_and_buildah_pull_and_push(stage: Stage) -> None:
    stage.put_base("bases/podman:1")
    version = stage.version("podman", "alpha", image=f"{stage.host}/bases/podman:1")
    pushed = stage.push(version, f"{stage.host}/envs/podman:1")
    image = f"{stage.host}/envs/podman:1"
    for tool in ("podman", "buildah"):
        done = subprocess.run([tool, "pull", "--tls-verify=false", image], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    inspect = ["podman", "image", "inspect", "--format", "{{.Digest}}", image]
    found = subprocess.run(inspect, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(pushed.digest)
    target = f"{stage.host}/bases/from-buildah:1"
    command = ["buildah", "push", "--tls-verify=false", "--digestfile", str(stage.world.directory / "digest"), image]
    done = subprocess.run([*command, f"docker://{target}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    base = stage.store.bases.pull(target, progress=Silent())
    assert str(base.image.manifest.digest) == (stage.world.directory / "digest").read_text().strip()


# Bases to registries.


def test_a_base_is_shared_with_its_package_list(stage: Stage, tmp_path: Path) -> None:
    status = (
        b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\n"
        b"Version: 2.36-9\nDescription: x\n Package: no\n\n"
        b"Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
        b"Package: base-files\nStatus: install ok installed\nArchitecture: amd64\nVersion: 12.4\n"
    )
    make_image(tmp_path / "debian", [{**BASE_FILES, "var/lib/dpkg/status": status}], CONFIG)
    made = stage.store.bases.import_(f"oci:{tmp_path}/debian", "debian-like:1", progress=Silent())
    target = RemoteName.parse(f"{stage.host}/bases/debian-like:1")
    pushed = stage.store.pushing.push_base("debian-like:1", target, progress=Silent())
    assert pushed.digest == made.image.manifest.digest
    assert [each.kind for each in pushed.blobs] == ["layer", "config", "manifest", "evidence"]
    with open_embedded(tmp_path / "other") as store:
        assert store.bases.pull(str(target), progress=Silent()).facts == made.facts
        with store.machine.registries.open(target, progress=Silent()) as repository:
            (listed,) = repository.referrers(pushed.digest, "application/vnd.mlenv.debian-packages.v1")
            _, manifest = repository.manifest(str(listed.digest))
            layer = json.loads(manifest)["layers"][0]
            document = json.loads(
                b"".join(repository.blob(replace(listed, digest=Digest.parse(layer["digest"]), size=layer["size"])))
            )
    assert document["packages"] == [
        {"name": "base-files", "architecture": "amd64", "version": "12.4"},
        {"name": "libc6", "architecture": "amd64", "version": "2.36-9", "source": "glibc"},
    ]
    again = stage.store.pushing.push_base("debian-like:1", target, progress=Silent())
    assert {each.became for each in again.blobs} == {"skipped"}


# The command line.


def test_base_check_tells_what_has_moved(stage: Stage) -> None:
    for title in ("goes", "dark"):
        stage.put_base(f"check/{title}:1")
        version = stage.version(title, image=f"{stage.host}/check/{title}:1")
        stage.store.locking.lock(version, AMD64, progress=Silent())
    only = f"{stage.host}/check/goes:1"
    moved = stage.put_base("check/goes:1")
    with stage.registry.client() as client:
        dark = stage.inspect("check/dark:1")["Digest"]
        assert client.delete(f"/v2/check/dark/manifests/{dark}").status_code == 202
    done = stage.world.run("base", "check", only)
    (row,) = json.loads(done.stdout)
    assert (done.returncode, row["environment"], row["state"], row["now"]) == (1, "goes:1", "moved", str(moved))
    assert row["locked"] != row["now"]
    # What can't be asked fails nothing.
    other = f"{stage.host}/check/dark:1"
    done = stage.world.run("base", "check", other)
    (row,) = json.loads(done.stdout)
    assert (done.returncode, row["state"]) == (0, "unknown")
    assert "is not in its registry" in row["why"]
    # The new one is for new versions; the old one stays what it was.
    assert stage.store.bases.pull(only, progress=Silent()).image.manifest.digest == moved
    store = stage.store
    version = stage.version("goes", "alpha", image=only)
    locks = [(each, AMD64, store.locking.lock(each, AMD64, progress=Silent())) for each in _versions(store, "goes")]
    registries = store.machine.registries
    states = {
        str(each.version): each.state.value for each in check_bases(locks, store.bases, registries, progress=Silent())
    }
    assert states == {"goes:1": "moved", str(version): "current"}


def test_base_check_looks_at_dockerfiles(stage: Stage, tmp_path: Path) -> None:
    for title in ("first", "last"):
        stage.put_base(f"check/{title}:1")
    (tmp_path / "Dockerfile").write_text(f"FROM {stage.host}/check/first:1 AS a\nFROM {stage.host}/check/last:1\n")
    spec = stage.store.contexts.taken(Spec(build=BuildContext(str(tmp_path))), progress=Silent())
    version = stage.store.environments.create(Definition(parse_name("dockerfile"), spec)).version
    stage.store.locking.lock(version, AMD64, progress=Silent())
    moved = stage.put_base("check/first:1")
    done = stage.world.run("base", "check")
    found = [each for each in json.loads(done.stdout) if each["environment"] == "dockerfile:1"]
    assert [(each["base"], each["state"]) for each in found] == [
        (f"{stage.host}/check/first:1", "moved"),
        (f"{stage.host}/check/last:1", "current"),
    ]
    assert (done.returncode, found[0]["now"]) == (1, str(moved))


def _versions(store: Embedded, title: str) -> list[EnvironmentVersion]:
    return list(store.environments.versions(Reference.parse(title)))


def test_push_says_what_it_did(stage: Stage) -> None:
    stage.put_base("bases/cli:1")
    stage.version("cli", "alpha", image=f"{stage.host}/bases/cli:1")
    document = stage.world.ok("environment", "push", "cli:1", f"{stage.host}/envs/cli")
    assert document["image"] == f"{stage.host}/envs/cli:1"
    assert document["digest"] == stage.inspect("envs/cli:1")["Digest"]
    assert document["sent"] + document["mounted"] + document["skipped"] == sum(
        each["size"] for each in document["blobs"]
    )
    assert {each["kind"] for each in document["blobs"]} == {"base", "layer", "config", "manifest", "evidence"}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["environment", "push", "cli:1", "--embedded"], 2, "where to?"),
        (["environment", "push", "cli:1", "a/b", "--to", "c/d"], 2, "said twice"),
        (["environment", "push", "cli:1", "Not A Name"], 1, "not the name of an image"),
        (["environment", "push", "cli:1", f"h.example/a@sha256:{'0' * 64}"], 2, "names a digest"),
        (["base", "pull", "UPPER"], 1, "not the name of an image"),
        (["base", "push", "nothing-like-it", "127.0.0.1:1/a"], 1, "is not in this store"),
    ],
)
def test_what_the_command_line_refuses(
    mlenv_home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    assert main(arguments) == status
    assert says in capsys.readouterr().err


def test_an_interrupted_push_leaves_no_tag(stage: Stage, tmp_path: Path) -> None:
    import signal
    import threading

    stage.put_base("bases/interrupted:1", os.urandom(400_000))
    version = stage.version("interrupted", "alpha", image=f"{stage.host}/bases/interrupted:1")
    stage.store.building.build(version, AMD64, progress=Silent())
    reached, go_on = threading.Event(), threading.Event()
    with run_registry(tmp_path / "second") as second, run_front(second.url) as front:

        def hold(seen: Any) -> None:
            if seen.method == "PUT" and seen.size > 100_000:
                reached.set()
                assert go_on.wait(30)

        front.fault = hold
        process = stage.world.start("environment", "push", "interrupted:1", f"{front.host}/envs/interrupted:1")
        assert reached.wait(30)
        process.send_signal(signal.SIGINT)
        go_on.set()
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert not any("/manifests/1" in each.path and each.method == "PUT" for each in front.seen)
        front.fault = lambda _: None
        done = stage.world.run("environment", "push", "interrupted:1", f"{front.host}/envs/interrupted:1")
        assert done.returncode == 0, done.stderr


def test_two_stores_have_one_memory_each(stage: Stage, tmp_path: Path) -> None:
    registries = Registries(
        stage.store.machine.registries.credentials, stage.store.machine.registries.settings, tmp_path
    )
    digest = Digest.of(b"x")
    known = registries.known("registry.example.org:5000")
    known.add(digest, "a/b")
    known.save()
    assert registries.known("registry.example.org:5000").repository(digest) == "a/b"
    assert registries.known("other.example.org").repository(digest) is None
    next(iter(tmp_path.glob("*.json"))).write_text("[damaged")
    assert registries.known("registry.example.org:5000").repository(digest) is None
