"""`mlenv store collect`: what nothing names goes, and all that anything names stays."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.images import TAR, make_image
from support.postgres import Cluster
from support.server import InProcess, in_process
from support.world import BASE, World, make_world

from mlenv.build.images import import_image
from mlenv.core.audit import Author
from mlenv.core.collecting import Collected
from mlenv.core.digest import Digest
from mlenv.core.layer import Layer
from mlenv.core.progress import Silent
from mlenv.core.repositories import RepositoryName
from mlenv.core.scope import ScopeKind
from mlenv.service.collecting import CollectionRuns
from mlenv.store.sql_repositories import SqlRepositories
from mlenv.wiring.hosted import Hosted

DAY = timedelta(hours=24)
_AUTHOR = Author("tester", "tester")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("collect")) as made:
        yield made


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    url = None
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        url = cluster.migrated_database()
    with in_process(tmp_path_factory.mktemp("site"), url) as made:
        yield made


def age(home: Path) -> None:
    """Let everything have been used long ago."""
    for path in (home / "oci" / "blobs").glob("*/*"):
        os.utime(path, (1, 1))


def garbage(hosted: Hosted, data: bytes) -> Digest:
    """A blob that nothing names."""
    digest = Digest.of(data)
    hosted.machine.blobs.put([data], digest=digest, size=len(data), what="garbage")
    return digest


def collect(hosted: Hosted, **more: bool) -> Collected:
    return hosted.collecting.collect(DAY, progress=Silent(), **more)


def test_a_store_stays_whole_and_builds_nothing_again(world: World) -> None:
    world.ok("base", "import", "oci:base", "--name", BASE)
    world.ok("environment", "create", "-f", str(world.define("train", "alpha")))
    built = world.ok("environment", "build", "train")
    with Hosted(world.home) as hosted:
        lost = garbage(hosted, b"nobody's")
    age(world.home)
    told = world.ok("store", "collect", "--dry-run")
    # Caches that no image has may go as well.
    assert told["freed"] >= len(b"nobody's")
    assert told["dry_run"] is True
    assert (world.home / "oci/blobs/sha256" / lost.hex).exists()
    done = world.run("store", "collect", "--older-than", "1h")
    assert json.loads(done.stdout) == {**told, "dry_run": False}
    assert done.stderr.splitlines()[-1].startswith(f"freed {told['freed']} bytes ({told['blobs']} blobs); kept ")
    assert not (world.home / "oci/blobs/sha256" / lost.hex).exists()
    world.verify()
    again = world.ok("environment", "build", "train")
    assert (again["image"], again["reused"]) == (built["image"], True)


def test_a_short_age_is_warned_of_and_a_strange_one_refused(world: World) -> None:
    done = world.run("store", "collect", "--older-than", "0s")
    assert done.returncode == 0
    assert "may be removed" in done.stderr
    assert world.run("store", "collect", "--older-than", "soon").returncode == 2


def test_a_layer_that_no_image_has_is_forgotten_and_made_again(server: InProcess) -> None:
    hosted = server.hosted
    registry = hosted.services(hosted.site.scope(ScopeKind.WORKSPACE, "default"), None).registry
    blob, key = garbage(hosted, b"layer"), Digest.of(b"key")
    registry.add_layer(key, Layer(blob, blob, 5, TAR))
    assert collect(hosted).layers == 0
    age(hosted.home)
    done = collect(hosted)
    assert (done.layers, done.freed) == (1, 5)
    assert registry.layer(key) is None


def test_a_base_is_kept_with_its_layers(server: InProcess, tmp_path: Path) -> None:
    hosted = server.hosted
    make_image(tmp_path / "image", [{"a": b"1"}, {"b": b"2"}])
    image = import_image(f"oci:{tmp_path / 'image'}", hosted.machine.blobs)
    services = hosted.services(hosted.site.scope(ScopeKind.WORKSPACE, "default"), _AUTHOR)
    services.registry.set_base("docker.io/library/base:1", image.manifest.digest, now=hosted.site.clock())
    age(hosted.home)
    collect(hosted)
    parts = [image.manifest.digest, image.config_digest, *(layer.digest for layer, _ in image.layers)]
    assert all(hosted.machine.blobs.has(each) for each in parts)


def _describe(data: bytes) -> dict[str, object]:
    return {"mediaType": "application/octet-stream", "digest": str(Digest.of(data)), "size": len(data)}


def test_what_was_pushed_is_kept_while_somebody_may_name_it(server: InProcess) -> None:
    hosted, client = server.hosted, server.client
    store = SqlRepositories(hosted.database, "default", author=_AUTHOR)
    long_ago = hosted.site.clock() - 3 * DAY
    named, unnamed, asked, young = b"named", b"unnamed", b"asked for", b"young"
    for each in (named, unnamed, asked):
        store.add_blob(RepositoryName("free"), garbage(hosted, each), len(each), now=long_ago)
    path = f"/v2/default/free/blobs/uploads/?digest={Digest.of(young)}"
    assert client.post(path, content=young).status_code == 201
    document = {"schemaVersion": 2, "config": _describe(named), "layers": []}
    kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    assert client.put("/v2/default/free/manifests/v", json=document, headers=kind).status_code == 201
    age(hosted.home)
    # Who finds it will not send it again.
    assert client.head(f"/v2/default/free/blobs/{Digest.of(asked)}").status_code == 200
    assert collect(hosted, dry_run=True).links == 1
    assert collect(hosted).links == 1
    found = {
        each: client.get(f"/v2/default/free/blobs/{Digest.of(each)}").status_code
        for each in (named, unnamed, asked, young)
    }
    assert found == {named: 200, unnamed: 404, asked: 200, young: 200}
    assert client.get("/v2/default/free/manifests/v").json() == document


def test_one_collects_at_a_time(server: InProcess) -> None:
    with server.hosted._collecting_alone(), pytest.raises(CollectionRuns):
        collect(server.hosted)


def test_an_environment_that_was_not_built_is_a_repository_without_tags(server: InProcess) -> None:
    body = {"name": "Train_One", "version": "1", "spec": {"image": "debian:bookworm"}}
    made = server.client.post("/api/v1/workspaces/default/environments", json=body)
    assert made.status_code == 201, made.text
    listed = server.client.get("/v2/default/train_one/tags/list")
    assert (listed.status_code, listed.json()["tags"]) == (200, [])
    for tag in ("1", "latest"):
        answer = server.client.get(f"/v2/default/train_one/manifests/{tag}")
        assert answer.status_code == 404
        assert "mlenv environment build Train_One:1" in answer.json()["errors"][0]["message"]
    assert "default/train_one" in server.client.get("/v2/_catalog").json()["repositories"]
