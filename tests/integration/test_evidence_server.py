"""Evidence on a server: attached when a build has succeeded, listed by `/v2/`, shared and pushed with the image."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.builds import AMD64, AUTHOR, make_site, services_of, until
from support.oci_registry import OciRegistry, run_registry
from support.server import Server, run_server
from support.world import BASE, World, make_world

from mlenv.core.digest import Digest
from mlenv.core.progress import Silent
from mlenv.core.records import BuildStatus
from mlenv.core.reference import Reference
from mlenv.core.repositories import RepositoryName
from mlenv.core.scope import ScopeKind, scope_key
from mlenv.errors import Unavailable
from mlenv.service.attaching import BuiltEvidence
from mlenv.service.evidence import ALWAYS_ATTACHED
from mlenv.service.repositories import Repositories
from mlenv.service.sharing import share
from mlenv.wiring.embedded import utc_now
from mlenv.wiring.hosted import Hosted

KINDS = ["lock", "log", "provenance", "spec"]


@dataclass
class Site:
    """A server with a worker, and commands that work with its workspace `default`."""

    server: Server
    world: World
    client: httpx.Client
    registry: OciRegistry

    def referrers(self, image: str, repository: str = "default/train") -> list[dict[str, Any]]:
        answer = self.client.get(f"/v2/{repository}/referrers/{image}")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["manifests"]
        return found

    def attached(self, image: str, repository: str = "default/train") -> list[dict[str, Any]]:
        """What is attached, once all of it is: the log is closed a moment after the build has ended."""
        until(lambda: len(self.referrers(image, repository)) >= 4, "the evidence is not attached", 20)
        return self.referrers(image, repository)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("evidence-server")
    with ExitStack() as stack:
        world = stack.enter_context(make_world(directory))
        registry = stack.enter_context(run_registry(directory / "registry"))
        listed = {"MLENV_REGISTRIES": registry.host, "MLENV_INSECURE_REGISTRIES": registry.host}
        server = stack.enter_context(run_server(directory, home=world.home, workers=1, environment=listed))
        with Hosted(world.home) as hosted:
            services_of(hosted).bases.import_(f"oci:{world.directory / 'base'}", BASE, progress=Silent())
        world.environment |= {
            "MLENV_SERVER": server.url,
            "MLENV_CA": str(server.ca),
            "MLENV_TOKEN": server.token,
            "MLENV_CONFIG_HOME": str(directory / "config"),
        }
        world.home = directory / "client"
        with server.client() as client:
            yield Site(server, world, client, registry)


@pytest.fixture(scope="module")
def image(site: Site) -> str:
    """The image of `train:1`, built by the server."""
    site.world.ok("environment", "create", "-f", str(site.world.define("train", "alpha")))
    built: str = site.world.ok("environment", "build", "train:1", "--compression", "gzip")["image"]
    return built


def test_what_is_built_has_its_evidence(site: Site, image: str) -> None:
    listed = site.attached(image)
    assert sorted(each["artifactType"] for each in listed) == [
        "application/vnd.in-toto+json",
        "application/vnd.mlenv.lock.v1",
        "application/vnd.mlenv.log.v1",
        "application/vnd.mlenv.spec.v1",
    ]
    locks = site.client.get(f"/v2/default/train/referrers/{image}?artifactType=application/vnd.mlenv.lock.v1")
    (lock,) = locks.json()["manifests"]
    manifest = site.client.get(f"/v2/default/train/manifests/{lock['digest']}").json()
    assert manifest["subject"]["digest"] == image
    content = site.client.get(f"/v2/default/train/blobs/{manifest['layers'][0]['digest']}").content
    assert str(Digest.of(content)) == manifest["layers"][0]["digest"]
    assert site.world.ok("environment", "lock", "train:1")["lock"] == str(Digest.of(content))


def test_commands_ask_the_server(site: Site, image: str, tmp_path: Path) -> None:
    site.attached(image)
    found = site.world.ok("environment", "evidence", "train:1")
    assert sorted(each["type"] for each in found) == KINDS
    assert {each["image"] for each in found} == {image}
    done = site.world.run("environment", "evidence", "train:1", "--directory", str(tmp_path / "found"))
    assert done.returncode == 0, done.stderr
    (build,) = site.world.ok("build", "list")
    logs = site.world.run("build", "logs", build["id"])
    assert (tmp_path / "found" / "build.log").read_text() == logs.stdout
    assert f'"invocationId":"{build["id"]}"' in (tmp_path / "found" / "provenance.json").read_text()
    refused = site.world.run("environment", "evidence", "none:1")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


def test_asked_for_again_nothing_is_added(site: Site, image: str) -> None:
    before = site.attached(image)
    assert site.world.ok("environment", "build", "train:1", "--compression", "gzip")["image"] == image
    assert site.referrers(image) == before


def test_what_is_missing_is_said_and_attached_when_it_is_built_again(site: Site, image: str) -> None:
    before = site.attached(image)
    kinds = {"application/vnd.in-toto+json", "application/vnd.mlenv.log.v1"}
    for each in before:
        if each["artifactType"] in kinds:
            assert site.client.delete(f"/v2/default/train/manifests/{each['digest']}").status_code == 202
    told = site.world.run("environment", "evidence", "train:1")
    assert told.returncode == 0
    assert told.stderr.splitlines() == [
        f"not attached to {image}: provenance",
        "hint: `mlenv environment build train:1` attaches what is missing",
    ]
    lock = site.world.run("environment", "evidence", "train:1", "--type", "lock")
    assert (lock.returncode, lock.stderr) == (0, "")
    wanted = site.world.run("environment", "evidence", "train:1", "--type", "provenance", "--output-file", "-")
    assert (wanted.returncode, wanted.stdout) == (1, "")
    assert "attaches what is missing" in wanted.stderr
    assert site.world.ok("environment", "build", "train:1")["reused"] is True
    # The same documents as before, to the byte.
    assert {each["digest"] for each in site.referrers(image)} == {each["digest"] for each in before}
    complete = site.world.run("environment", "evidence", "train:1")
    assert (complete.returncode, complete.stderr) == (0, "")


def test_a_worker_that_dies_before_it_attaches_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with make_site(tmp_path, None) as made:
        worker = made.worker(fault="build.ended")
        version = made.version("left", "beta")
        asked = made.builds.request(version, AMD64)
        worker.wait(60)
        build = made.builds.get(asked.id)
        assert (build.status, build.log) == (BuildStatus.SUCCEEDED, None)
        assert build.image is not None
        assert build.ended_at is not None
        services, image, ended = made.services, build.image, build.ended_at

        def complete(after: float) -> set[str | None]:
            now = ended + timedelta(seconds=after)
            BuiltEvidence(
                services.registry, services.blobs, lambda: services.repositories, builder="1", clock=lambda: now
            ).complete(build)
            listed = services.repositories.referrers(RepositoryName("left"), image, None, limit=10)
            return {each.artifact_type for each in listed}

        def broken() -> Repositories:
            raise Unavailable("the database does not answer")

        # Its worker may be about to: the log, which the provenance names, is closed a moment after the end.
        assert complete(1) == set()
        assert complete(60) == {each.artifact_type for each in ALWAYS_ATTACHED}
        BuiltEvidence(services.registry, services.blobs, broken, builder="1", clock=utc_now).complete(build)
    assert f"the evidence of build {build.id} is not attached: the database does not answer" in caplog.text


def test_an_image_that_was_there_has_evidence_in_every_repository(site: Site, image: str) -> None:
    """The same content under another name is the same image: no worker sees that build."""
    definition = site.world.define("train", "alpha")
    site.world.ok("environment", "create", "-f", str(definition), "--name", "twin")
    site.world.ok("environment", "lock", "twin:1")
    built = site.world.ok("environment", "build", "twin:1", "--compression", "gzip")
    assert (built["image"], built["reused"]) == (image, True)
    listed = site.referrers(image, "default/twin")
    assert {each["artifactType"] for each in listed} >= {
        "application/vnd.mlenv.lock.v1",
        "application/vnd.mlenv.spec.v1",
        "application/vnd.in-toto+json",
    }


def test_evidence_comes_along_when_a_version_is_shared(site: Site, image: str) -> None:
    before = site.attached(image)
    assert site.client.post("/api/v1/registries", json={"name": "shared"}).status_code == 201
    with Hosted(site.server.home) as hosted:
        scope = hosted.site.store.scope(scope_key(ScopeKind.REGISTRY, "shared"))
        assert scope is not None
        for _ in range(2):
            target = hosted.services(scope, AUTHOR)
            share(services_of(hosted), target, Reference.parse("train:1"), clock=utc_now)
    shared = site.referrers(image, "shared/train")
    assert sorted(each["digest"] for each in shared) == sorted(each["digest"] for each in before)
    # A reference says by itself where it leads: `train` of the workspace may be another one.
    there = "azureml://registries/shared/environments/train/versions/1"
    site.world.ok("environment", "create", "-n", "train", "-v", "only-here", "-i", BASE)
    assert len(site.world.ok("environment", "evidence", there)) == len(before)
    pushed = site.world.ok("environment", "push", there, f"{site.registry.host}/from/shared")
    assert (pushed["environment"], pushed["digest"]) == ("train:1", image)


def test_evidence_is_pushed_with_what_is_built(site: Site) -> None:
    """The provenance and the log are known when the build has ended, after the image was pushed."""
    target = f"{site.registry.host}/team"
    site.world.ok("workspace", "update", "default", "--push-to", target)
    site.world.ok("environment", "create", "-f", str(site.world.define("pushed", "beta")))
    image = site.world.ok("environment", "build", "pushed:1", "--compression", "gzip")["image"]
    here = {each["digest"] for each in site.attached(image, "default/pushed")}
    tag = f"/v2/team/pushed/manifests/{image.replace(':', '-')}"
    with site.registry.client(headers={"Accept": "application/vnd.oci.image.index.v1+json"}) as client:

        def listed() -> set[str]:
            answer = client.get(tag)
            return {each["digest"] for each in answer.json()["manifests"]} if answer.is_success else set()

        until(lambda: listed() == here, "the evidence is not in the registry", 20)
    site.world.ok("workspace", "update", "default", "--push-to", "")
    again = site.world.ok("environment", "push", "pushed:1", f"{target}/pushed")
    assert [each["became"] for each in again["blobs"] if each["kind"] == "evidence"] == ["skipped"] * 4
