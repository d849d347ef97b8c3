"""Evidence in Debian's `docker-registry`: attached by a push, and read back from the registry alone."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.in_toto import check_statement
from support.oci_registry import OciRegistry, run_registry
from support.world import BASE, World, make_world

from mlenv.cli.main import main
from mlenv.core.digest import Digest
from mlenv.core.evidence import CREATED, EMPTY, PREDICATE_TYPE, EvidenceKind, artifact_manifest, empty_descriptor
from mlenv.core.image import INDEX_TYPE, MANIFEST_TYPE, Descriptor, encode
from mlenv.distribution.client import Repository, open_repository
from mlenv.distribution.credentials import Credentials
from mlenv.distribution.names import RemoteName
from mlenv.distribution.settings import RegistrySettings


@dataclass
class Pushed:
    """An environment that was built and pushed, with its evidence."""

    world: World
    registry: OciRegistry
    image: str

    @property
    def source(self) -> str:
        return f"{self.registry.host}/team/train"

    def repository(self) -> Repository:
        name = RemoteName.parse(self.source)
        return open_repository(name, credentials=Credentials(), settings=RegistrySettings())


@dataclass
class Command:
    """`mlenv environment evidence` in this process."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        status = main(["environment", "evidence", *arguments])
        told = self.capture.readouterr()
        return subprocess.CompletedProcess(arguments, status, told.out, told.err)

    def ok(self, *arguments: str) -> Any:
        """One that must succeed; gives the data it prints."""
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def command(pushed: Pushed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("MLENV_HOME", str(pushed.world.home))
    monkeypatch.setenv("MLENV_OUTPUT", "json")
    monkeypatch.chdir(pushed.world.directory)
    return Command(capsys)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    root = tmp_path_factory.mktemp("evidence")
    with make_world(root) as world, run_registry(root / "registry") as registry:
        world.ok("base", "import", "oci:base", "--name", BASE)
        world.ok("environment", "create", "-f", str(world.define("train", "alpha", environment_variables={"A": "1"})))
        image = world.ok("environment", "build", "train:1", "--compression", "gzip")["image"]
        made = Pushed(world, registry, image)
        assert push(made) == ["sent"] * 3
        yield made


def push(pushed: Pushed) -> list[str]:
    """Push the image with its evidence; says what became of each document."""
    done = pushed.world.ok("environment", "push", "train:1", pushed.source)
    assert done["digest"] == pushed.image
    return [each["became"] for each in done["blobs"] if each["kind"] == "evidence"]


def attach(pushed: Pushed, kind: EvidenceKind, subject: str, data: bytes, **fields: Any) -> str:
    """Attach a document, as whoever may write to the repository can."""
    content = Descriptor(kind.media_type, Digest.of(data), len(data))
    about = Descriptor(MANIFEST_TYPE, Digest.parse(subject), 7)
    document = json.loads(artifact_manifest(kind, about, content.digest, content.size))
    with pushed.repository() as repository:
        repository.push_blob(empty_descriptor(), EMPTY)
        repository.push_blob(content, data)
        return str(repository.push_manifest(encode(document | fields), MANIFEST_TYPE).digest)


def list_under(pushed: Pushed, subject: str, *listed: str) -> None:
    """Have the registry say that these are about the subject (distribution-spec, "Referrers Tag Schema")."""
    with pushed.repository() as repository:
        entries = [repository.manifest(each)[0].to_dict() for each in listed]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
        repository.push_manifest(encode(index), INDEX_TYPE, tag=subject.replace(":", "-"))


def copy_of_image(pushed: Pushed, note: str) -> str:
    """The same image with another annotation, and so another digest, to which nothing is attached yet."""
    with pushed.repository() as repository:
        document = json.loads(repository.manifest(pushed.image)[1])
        document["annotations"]["org.example.note"] = note
        return str(repository.push_manifest(encode(document), MANIFEST_TYPE).digest)


def test_an_image_is_rebuilt_from_the_registry_alone(pushed: Pushed, tmp_path: Path) -> None:
    fresh = World(tmp_path, tmp_path / "home", pushed.world.index, pushed.world.environment)
    done = fresh.run("environment", "evidence", "train:1", "--from", pushed.source, "--directory", "found")
    assert done.returncode == 0, done.stderr
    names = ["provenance.json", "pylock.toml", "spec.json"]
    assert sorted(each.name for each in (tmp_path / "found").iterdir()) == names
    assert not fresh.home.exists(), "nothing of a store is needed"
    fresh.ok("base", "import", f"oci:{pushed.world.directory / 'base'}", "--name", BASE)
    fresh.ok("environment", "create", "--name", "again", "--file", "found/spec.json")
    locked = fresh.ok("environment", "lock", "again:1", "--file", "found/pylock.toml")
    assert locked["lock"] == str(Digest.of((tmp_path / "found" / "pylock.toml").read_bytes()))
    built = fresh.ok("environment", "build", "again:1", "--compression", "gzip")
    assert built["image"] == pushed.image


def test_the_registry_lists_what_the_store_knows(pushed: Pushed, command: Command) -> None:
    here = command.ok("train:1")
    there = command.ok("train:1", "--from", pushed.source)
    assert [each["type"] for each in there] == ["lock", "spec", "provenance"]
    assert [{**each, "platform": "linux/amd64"} for each in there] == here
    for name in (f"{pushed.source}:1", f"{pushed.source}@{pushed.image}"):
        assert command.ok("--from", name) == there
    (lock,) = command.ok("train:1", "--from", pushed.source, "--type", "lock")
    assert (lock["artifact_type"], lock["image"]) == ("application/vnd.mlenv.lock.v1", pushed.image)
    assert [each["created"] is not None for each in there] == [False, False, True]


def test_pushed_again_nothing_is_sent(pushed: Pushed) -> None:
    before = pushed.registry.blobs
    assert push(pushed) == ["skipped"] * 3
    assert pushed.registry.blobs == before


def test_provenance_says_what_went_in(pushed: Pushed, command: Command) -> None:
    done = command("train:1", "--from", pushed.source, "--type", "provenance", "--output-file", "-")
    assert (done.returncode, done.stderr) == (0, "")
    statement = json.loads(done.stdout)
    check_statement(statement)
    assert [each["digest"] for each in statement["subject"]] == [{"sha256": pushed.image.removeprefix("sha256:")}]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["compression"] == "gzip"
    assert definition["externalParameters"]["spec"]["environment_variables"] == [["A", "1"]]
    names = [each["name"].partition("-")[0] for each in definition["resolvedDependencies"]]
    assert names == ["base", "pylock.toml", "alpha", "beta", "pip"]
    assert set(statement["predicate"]["runDetails"]["metadata"]) == {"invocationId", "startedOn", "finishedOn"}
    assert str(pushed.world.directory) not in done.stdout


def test_what_others_attached_is_listed(pushed: Pushed, command: Command) -> None:
    image = copy_of_image(pushed, "others")
    signature = "application/vnd.dev.sigstore.bundle.v0.3+json"
    attach(pushed, EvidenceKind.LOG, image, b"signed", artifactType=signature)
    attach(pushed, EvidenceKind.PROVENANCE, image, b"{}", annotations={PREDICATE_TYPE: "https://spdx.dev/Document"})
    found = command.ok("--from", f"{pushed.source}@{image}")
    assert {(each["type"], each["artifact_type"], each["predicate_type"]) for each in found} == {
        (None, signature, None),
        (None, "application/vnd.in-toto+json", "https://spdx.dev/Document"),
    }
    done = command("--from", f"{pushed.source}@{image}", "--directory", "none")
    assert done.returncode == 1
    assert done.stderr == "error: the image has no evidence of mlenv attached to it\n"


def test_each_platform_of_an_index_has_its_own(pushed: Pushed, command: Command) -> None:
    other = copy_of_image(pushed, "arm")
    attach(pushed, EvidenceKind.LOG, other, b"for arm\n")
    with pushed.repository() as repository:
        entries = [
            {**repository.manifest(each)[0].to_dict(), "platform": {"os": "linux", "architecture": architecture}}
            for each, architecture in ((pushed.image, "amd64"), (other, "arm64"))
        ]
        index = encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
        digest = str(repository.push_manifest(index, INDEX_TYPE, tag="both").digest)
    attach(pushed, EvidenceKind.LOG, digest, b"scan", artifactType="application/vnd.example.scan")
    source = f"{pushed.source}:both"
    found = command.ok("--from", source)
    assert [(each["platform"], each["type"]) for each in found] == [
        (None, None),
        ("linux/amd64", "lock"),
        ("linux/amd64", "spec"),
        ("linux/amd64", "provenance"),
        ("linux/arm64", "log"),
    ]
    arm = ("--from", source, "--platform", "linux/arm64")
    done = command(*arm, "--type", "log", "--output-file", "-")
    assert (done.returncode, done.stdout) == (0, "for arm\n")
    done = command("--from", source, "--directory", "both")
    assert done.returncode == 2
    assert "choose one with --platform" in done.stderr
    done = command("--from", source, "--platform", "windows/amd64")
    assert (done.returncode, done.stderr) == (1, "error: both has no image for windows/amd64\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train:2",), "is not in its registry"),
        (("train:1", "--platform", "linux/arm64"), "1 is no image for linux/arm64, but for linux/amd64"),
        (("train:1", "--type", "log", "--output-file", "-"), "the image has no log attached to it"),
        (("train:1", "--type", "lock", "--output-file", "none/lock"), "can't write none/lock"),
    ],
)
def test_what_is_not_there_is_one_clear_error(
    pushed: Pushed, command: Command, arguments: tuple[str, ...], says: str
) -> None:
    done = command(*arguments, "--from", pushed.source)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr.splitlines()[0]


def test_evidence_about_another_image_is_refused(pushed: Pushed, command: Command) -> None:
    image = copy_of_image(pushed, "borrowed")
    (lock,) = command.ok("train:1", "--from", pushed.source, "--type", "lock")
    list_under(pushed, image, lock["digest"])
    done = command("--from", f"{pushed.source}@{image}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: the evidence {lock['digest']} is about {pushed.image}, not {image}\n"


def test_a_lock_that_the_image_was_not_made_from_is_refused(pushed: Pushed, command: Command) -> None:
    image = copy_of_image(pushed, "substituted")
    attach(pushed, EvidenceKind.LOCK, image, b"lock-version = '1.0'\n")
    source = ("--from", f"{pushed.source}@{image}")
    done = command(*source, "--type", "lock", "--output-file", "lock.toml")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: the lock of {image}: expected sha256:")
    assert not (pushed.world.directory / "lock.toml").exists()


def test_several_documents_of_a_kind_are_told_apart(pushed: Pushed, command: Command, tmp_path: Path) -> None:
    image = copy_of_image(pushed, "several")
    attach(pushed, EvidenceKind.LOG, image, b"one\n", annotations={CREATED: "2026-01-01T00:00:00Z"})
    attach(pushed, EvidenceKind.LOG, image, b"two\n", annotations={CREATED: "2026-01-02T00:00:00Z"})
    source = ("--from", f"{pushed.source}@{image}", "--type", "log")
    done = command(*source, "--output-file", "log")
    assert done.returncode == 1
    assert "there are 2 documents of that kind" in done.stderr
    assert command(*source, "--directory", str(tmp_path / "logs")).returncode == 0
    assert {each.name: each.read_text() for each in (tmp_path / "logs").iterdir()} == {
        "build.log": "one\n",
        "build-2.log": "two\n",
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": []}, "has 0 documents, expected one"),
        ({"layers": [{"mediaType": "text/plain", "digest": str(Digest.of(b"x")), "size": 1 << 40}]}, "bytes, at most"),
        ({"layers": [{"mediaType": "text/plain", "digest": str(Digest.of(b"x")), "size": 5}]}, "expected 5 bytes"),
    ],
)
def test_a_document_that_is_not_what_it_says_is_refused(
    pushed: Pushed, command: Command, changes: dict[str, Any], says: str
) -> None:
    image = copy_of_image(pushed, says)
    with pushed.repository() as repository:
        repository.push_blob(Descriptor("text/plain", Digest.of(b"x"), 1), b"x")
    attach(pushed, EvidenceKind.LOG, image, b"kept", **changes)
    done = command("--from", f"{pushed.source}@{image}", "--type", "log", "--output-file", "log")
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not [each for each in pushed.world.directory.iterdir() if each.name.startswith((".mlenv-", "log"))]
