"""Environments as repositories: tags are versions and labels, written by builds and never by a push."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from support.builds import AMD64, services_of
from support.oci_client import Repository, artifact, codes, content, digest_of, image
from support.server import InProcess, in_process, wait_until
from support.world import BASE, World, make_world

from mlenv.api.definition import load_definition
from mlenv.core.image import Image
from mlenv.core.layer import Compression
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.progress import Silent
from mlenv.core.reference import LabelName, Reference

_SBOM = "application/vnd.example.sbom.v1"


@dataclass
class Environments:
    """A server with environments, and the way to build them."""

    server: InProcess
    world: World

    def repository(self, name: str) -> Repository:
        return Repository(self.server.client, f"default/{name}")

    def create(self, name: str, *requirements: str) -> None:
        """One more version, which shares no image with other environments."""
        path = self.world.define(name, *requirements, environment_variables={"NAME": name})
        services_of(self.server.hosted).environments.create(load_definition(path))

    def build(self, reference: str, compression: Compression = Compression.GZIP, platform: Platform = AMD64) -> Image:
        services = services_of(self.server.hosted)
        version = services.environments.version(Reference.parse(reference))
        options = LockOptions(bytecode=False)
        built = services.building.build(version, platform, compression=compression, options=options, progress=Silent())
        return built.image

    def label(self, reference: str, label: str) -> None:
        services_of(self.server.hosted).environments.set_label(Reference.parse(reference), LabelName(label))

    def archive(self, reference: str) -> None:
        services_of(self.server.hosted).environments.set_archived(Reference.parse(reference), True)


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environments]:
    with make_world(tmp_path_factory.mktemp("environments")) as world, in_process(world.home) as server:
        made = Environments(server, world)
        services_of(server.hosted).bases.import_(f"oci:{world.directory / 'base'}", BASE, progress=Silent())
        yield made


@pytest.fixture(scope="module")
def train(environments: Environments) -> Image:
    """`train:1`, which was built and is `production`; `train:2` was not built."""
    environments.create("train", "alpha")
    environments.create("train", "beta==1.0")
    built = environments.build("train:1")
    environments.label("train:1", "production")
    return built


def test_a_version_and_its_label_are_tags(environments: Environments, train: Image) -> None:
    repository = environments.repository("train")
    assert repository.tags() == ["1", "production"]
    assert repository.tags(n=1) == ["1"]
    assert repository.tags(last="1") == ["production"]
    for reference in ("1", "production", str(train.manifest.digest)):
        get, head = repository.manifest(reference), repository.manifest(reference, "HEAD")
        assert (get.status_code, head.status_code) == (200, 200)
        assert digest_of(get.content) == get.headers["docker-content-digest"] == str(train.manifest.digest)
        assert head.headers["content-length"] == str(len(get.content))
        assert head.headers["content-type"] == get.json()["mediaType"]
    manifest = repository.manifest("1").json()
    for each in (manifest["config"], *manifest["layers"]):
        blob = repository.blob(each["digest"])
        assert (len(blob.content), digest_of(blob.content)) == (each["size"], each["digest"])


def test_a_version_that_was_not_built_says_so(environments: Environments, train: Image) -> None:
    repository = environments.repository("train")
    for tag in ("2", "latest"):
        answer = repository.manifest(tag)
        assert codes(answer, 404) == {"MANIFEST_UNKNOWN"}
        assert "mlenv environment build train:2" in answer.text
        assert repository.manifest(tag, "HEAD").status_code == 404
    answer = repository.manifest("3")
    assert codes(answer, 404) == {"MANIFEST_UNKNOWN"}
    assert "build" not in answer.json()["errors"][0]["message"]


def test_a_push_changes_no_environment(environments: Environments, train: Image) -> None:
    repository, other = environments.repository("train"), image()
    for each in other.blobs:
        repository.push_blob(each.data)
    for reference in ("1", "2", "new", "production", "latest", other.top.digest):
        assert codes(repository.put(other.top, reference), 403) == {"DENIED"}
    for reference in ("1", "production", str(train.manifest.digest)):
        assert codes(repository.manifest(reference, "DELETE"), 403, 405) <= {"DENIED", "UNSUPPORTED"}
    for _, layer in enumerate(train.layers):
        assert codes(repository.blob(str(layer[0].digest), "DELETE"), 403, 405) <= {"DENIED", "UNSUPPORTED"}
    assert repository.manifest("1").headers["docker-content-digest"] == str(train.manifest.digest)
    assert repository.tags() == ["1", "production"]


def test_evidence_may_be_pushed_to_an_environment(environments: Environments, train: Image) -> None:
    repository = environments.repository("train")
    subject = train.manifest.to_dict()
    made = artifact(_SBOM, subject=subject, annotations={"by": "test"})
    for each in made.blobs:
        repository.push_blob(each.data)
    # A tag on it would be a tag on the environment.
    assert codes(repository.put(made.top, "sbom"), 403) == {"DENIED"}
    answer = repository.put(made.top)
    assert answer.status_code == 201, answer.text
    assert answer.headers["oci-subject"] == subject["digest"]
    expected = made.top.descriptor(artifactType=_SBOM, annotations={"by": "test"})
    assert repository.referrers(subject["digest"], _SBOM) == [expected]
    assert repository.manifest(made.top.digest).content == made.top.data
    assert repository.tags() == ["1", "production"]
    assert repository.manifest(made.top.digest, "DELETE").status_code == 202
    assert repository.referrers(subject["digest"], _SBOM) == []


def test_tags_follow_labels_and_builds(environments: Environments) -> None:
    repository = environments.repository("moving")
    environments.create("moving", "alpha")
    environments.create("moving", "beta==2.0")
    assert repository.tags() == []
    one, two = (str(environments.build(f"moving:{number}").manifest.digest) for number in (1, 2))
    assert one != two
    environments.label("moving:1", "canary")
    assert repository.tags() == ["1", "2", "canary", "latest"]
    assert repository.manifest("canary").headers["docker-content-digest"] == one
    environments.label("moving:2", "canary")
    assert repository.manifest("canary").headers["docker-content-digest"] == two
    assert repository.manifest("latest").headers["docker-content-digest"] == two


def test_an_archived_version_can_be_pulled_still(environments: Environments) -> None:
    repository = environments.repository("old")
    for requirement in ("alpha", "beta==1.0"):
        environments.create("old", requirement)
    one, two = (str(environments.build(f"old:{number}").manifest.digest) for number in (1, 2))
    environments.archive("old:2")
    # A deployment that names it goes on; `latest` is the newest that is not archived.
    assert repository.manifest("2").headers["docker-content-digest"] == two
    latest = repository.manifest("latest").headers["docker-content-digest"]
    services = services_of(environments.server.hosted)
    newest = services.environments.environment(Reference.parse("old")).latest_version
    assert latest == {"1": one, "2": two}[str(newest)]


def test_gzip_is_shown_where_there_is_both(environments: Environments) -> None:
    repository = environments.repository("both")
    environments.create("both", "alpha")
    zstd = environments.build("both:1", Compression.ZSTD)
    assert repository.manifest("1").headers["docker-content-digest"] == str(zstd.manifest.digest)
    gzip = environments.build("both:1", Compression.GZIP)
    assert repository.manifest("1").headers["docker-content-digest"] == str(gzip.manifest.digest)
    # The other is there still, by its digest.
    assert repository.manifest(str(zstd.manifest.digest)).status_code == 200


def test_names_that_images_cannot_have(environments: Environments) -> None:
    names = {"Train-Big": "train-big", "a_.-b": "a-b", "x.Y_z": "x.y_z"}
    built = {}
    for name in names:
        environments.create(name, "alpha")
        built[name] = str(environments.build(f"{name}:1").manifest.digest)
    for name, shown in names.items():
        repository = environments.repository(shown)
        # How such names are shown is looked up every few seconds.
        wait_until(lambda it=repository: it.manifest("1").status_code == 200, f"{name} is not shown", 15)
        assert repository.manifest("1").headers["docker-content-digest"] == built[name]
        other = image()
        for each in other.blobs:
            repository.push_blob(each.data)
        assert codes(repository.put(other.top, "1"), 403) == {"DENIED"}


def test_an_environments_layer_is_mounted(environments: Environments, train: Image) -> None:
    free = environments.repository("derived")
    layer = train.layers[0][0]
    answer = free.start(mount=str(layer.digest), **{"from": "default/train"})
    assert answer.status_code == 201
    assert free.blob(str(layer.digest), "HEAD").headers["content-length"] == str(layer.size)


def test_the_repository_shows_nothing_else(environments: Environments, train: Image) -> None:
    # Blobs of the store that are no part of the environment's images are not its.
    data = content()
    environments.repository("elsewhere").push_blob(data)
    assert environments.repository("train").blob(digest_of(data)).status_code == 404
    services = services_of(environments.server.hosted)
    (base,) = services.bases.names().values()
    assert environments.repository("nothing").manifest(str(base)).status_code == 404


def test_a_free_repository_becomes_an_environments(environments: Environments) -> None:
    repository, made = environments.repository("taken"), image()
    repository.push(made, "1")
    environments.create("taken", "alpha")
    answer: httpx.Response = repository.manifest("1")
    assert codes(answer, 404) == {"MANIFEST_UNKNOWN"}
    assert codes(repository.put(made.top, "1"), 403) == {"DENIED"}
    # What was pushed stays under its digest.
    assert repository.manifest(made.top.digest).content == made.top.data
