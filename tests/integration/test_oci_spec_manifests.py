"""The OCI distribution specification, "Pushing Manifests": every kind of them, and those that are refused."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from support.oci_client import (
    CODES,
    CONFIG,
    DOCKER,
    DOCKER_LIST,
    EMPTY,
    INDEX,
    LAYER,
    MANIFEST,
    Artifact,
    Content,
    Repository,
    artifact,
    codes,
    content,
    digest_of,
    image,
    index,
    index_of,
    manifest,
)

KIND = "application/vnd.example.thing.v1"


def with_data() -> Artifact:
    """Descriptors that hold their content as well."""
    made = image()
    config, *layers = [each.descriptor(data=base64.b64encode(each.data).decode()) for each in made.blobs]
    return Artifact(made.blobs, [manifest(config, layers)])


def non_distributable() -> Artifact:
    """Layers that are elsewhere, and are never pushed."""
    made = image(1)
    config, layer = made.blobs
    away = [
        Content(content(), f"application/vnd.oci.image.layer.nondistributable.v1.tar{form}").descriptor(
            urls=["https://example.org/blob"]
        )
        for form in ("", "+gzip", "+zstd")
    ]
    return Artifact(made.blobs, [manifest(config.descriptor(), [*away, layer.descriptor()])])


def with_more_fields() -> Artifact:
    """Fields that the specification of images does not know, at every level."""
    made = image()
    config, *layers = [each.descriptor(**{"org.example.more": [1]}) for each in made.blobs]
    more: dict[str, Any] = {"extra": "field", "org.example": {"deep": [None, 1.5, "ü"]}}
    one = Artifact(made.blobs, [manifest(config, layers, **more)])
    return index_of(one, image(architecture="arm64"), **more)


def uncompressed() -> Artifact:
    made = image()
    config, *layers = made.blobs
    plain = [Content(each.data, LAYER) for each in layers]
    return Artifact([config, *plain], [manifest(config.descriptor(), [each.descriptor() for each in plain])])


def without_layers_but_empty() -> Artifact:
    """An artifact that is nothing but its annotations, as the specification of images recommends it."""
    empty = Content(b"{}", EMPTY)
    top = manifest(empty.descriptor(), [empty.descriptor()], artifactType=KIND, annotations={"a": content(8).hex()})
    return Artifact([empty], [top])


def large() -> Artifact:
    """Just under 4 MiB."""
    notes = {f"note-{number}": "A" * 10_000 for number in range(415)}
    made = image(annotations=notes)
    assert 4_000_000 < len(made.top.data) < 4 << 20
    return made


def docker() -> Artifact:
    """Docker's manifest, which came before OCI's."""
    made = image()
    config, *layers = made.blobs
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": DOCKER}
    document["config"] = {**config.descriptor(), "mediaType": "application/vnd.docker.container.image.v1+json"}
    kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    document["layers"] = [{**each.descriptor(), "mediaType": kind} for each in layers]
    top = Content(json.dumps(document, indent=3).encode(), DOCKER)
    entry = top.descriptor(platform={"os": "linux", "architecture": "amd64"})
    both = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry]}
    return Artifact(made.blobs, [top, Content(json.dumps(both).encode(), DOCKER_LIST)])


def spaced() -> Artifact:
    """The same document, written in another way: it must stay as it is."""
    made = image()
    text = json.dumps(json.loads(made.top.data), indent=5, sort_keys=True) + "\n\n"
    return Artifact(made.blobs, [Content(text.encode(), MANIFEST)])


KINDS: dict[str, Callable[[], Artifact]] = {
    "image": image,
    "uncompressed": uncompressed,
    "zero layers": lambda: image(0),
    "index": lambda: index_of(image(), image(architecture="arm64")),
    "index of indexes": lambda: index_of(index_of(image(), image()), index_of(image(), image())),
    "empty index": lambda: Artifact([], [index([], annotations={"a": content(8).hex()})]),
    "artifact": lambda: artifact(KIND),
    "artifact index": lambda: index_of(artifact(KIND), artifact(KIND), artifactType=KIND),
    "artifact without layers": without_layers_but_empty,
    "data": with_data,
    "non-distributable": non_distributable,
    "more fields": with_more_fields,
    "large": large,
    "docker": docker,
    "spaced": spaced,
    "subject": lambda: image(subject=Content(b"missing", MANIFEST).descriptor()),
    "sha512": lambda: index_of(
        image(algorithm="sha512"), image(architecture="arm64", algorithm="sha512"), algorithm="sha512"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_manifest(repository: Repository, kind: str) -> None:
    made = KINDS[kind]()
    for blob in made.blobs:
        repository.push_blob(blob.data, blob.algorithm)
    for each in made.manifests:
        _pushed(repository, each, each.digest)
    # A tag is of the canonical algorithm; which one a registry tells for another is not said.
    if kind != "sha512":
        _pushed(repository, made.top, "a-tag")
        assert repository.tags() == ["a-tag"]
    for blob in made.blobs:
        assert repository.blob(blob.digest).content == blob.data


def _pushed(repository: Repository, what: Content, reference: str) -> None:
    """Push a manifest as clients do that do not tell its length, and pull it from everywhere."""
    headers = {"Content-Type": what.media_type}
    parts = [what.data[at : at + 60_000] for at in range(0, len(what.data), 60_000)]
    answer = repository.request("PUT", f"manifests/{reference}", content=iter(parts), headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["docker-content-digest"] == what.digest
    subject = json.loads(what.data).get("subject")
    assert answer.headers.get("oci-subject") == (subject and subject["digest"])
    accept = {"Accept": f"{what.media_type}, {MANIFEST}, {INDEX}"}
    found = [
        repository.http.get(repository.follow(answer), headers=accept),
        repository.manifest(what.digest),
        repository.manifest(reference),
    ]
    for each in found:
        assert each.status_code == 200, each.text
        assert each.content == what.data
        assert each.headers["content-type"] == what.media_type
        assert each.headers["content-length"] == str(len(what.data))
        assert each.headers["docker-content-digest"] == what.digest
    head = repository.manifest(reference, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == what.media_type
    assert head.headers["content-length"] == str(len(what.data))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("there", [False, True], ids=["missing", "present"])
@pytest.mark.parametrize("kind", ["image", "index"])
def test_a_subject_is_acknowledged(repository: Repository, kind: str, there: bool, algorithm: str) -> None:
    subject = image(algorithm=algorithm)
    if there:
        repository.push(subject)
    if kind == "image":
        made = image(subject=subject.top.descriptor())
    else:
        made = index_of(image(), subject=subject.top.descriptor())
    repository.push(made)
    for reference in (made.top.digest, "tagged"):
        assert repository.put(made.top, reference).headers["oci-subject"] == subject.top.digest


def test_the_type_may_be_told_by_the_header_alone(repository: Repository) -> None:
    made = image()
    document = json.loads(made.top.data)
    del document["mediaType"]
    plain = Content(json.dumps(document).encode(), MANIFEST)
    repository.push(Artifact(made.blobs, [plain]), "a")
    assert repository.manifest("a").content == plain.data
    assert repository.manifest("a").headers["content-type"] == MANIFEST


def test_parameters_of_the_type_are_ignored(repository: Repository) -> None:
    made = image()
    for blob in made.blobs:
        repository.push_blob(blob.data)
    headers = {"Content-Type": f"{MANIFEST}; charset=utf-8"}
    answer = repository.request("PUT", "manifests/a", content=made.top.data, headers=headers)
    assert answer.status_code == 201, answer.text
    assert repository.manifest("a").headers["content-type"] == MANIFEST


def test_a_manifest_with_another_digest_is_refused(repository: Repository) -> None:
    made = image()
    for blob in made.blobs:
        repository.push_blob(blob.data)
    changed = Content(made.top.data + b"  ", MANIFEST)
    assert codes(repository.put(changed, made.top.digest), 400) == {"DIGEST_INVALID"}
    assert repository.manifest(made.top.digest).status_code == 404
    assert repository.manifest(changed.digest).status_code == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_by_digest_may_bring_its_tags(repository: Repository, algorithm: str) -> None:
    # From the specification's next version: tags as parameters, told again in `OCI-Tag`.
    made = image(algorithm=algorithm)
    for blob in made.blobs:
        repository.push_blob(blob.data, algorithm)
    answer = repository.put(made.top, params={"tag": ["b", "a"]})
    assert answer.status_code == 201, answer.text
    told = {each.strip() for value in answer.headers.get_list("oci-tag") for each in value.split(",")}
    assert told == {"a", "b"} == set(repository.tags())
    for tag in told:
        found = repository.manifest(tag)
        assert (found.content, found.headers["docker-content-digest"]) == (made.top.data, made.top.digest)


@pytest.mark.parametrize("digest", ["sha256:baddigeststring", "md5:" + "0" * 32, "sha256:" + "A" * 64])
def test_a_manifest_by_what_is_no_digest(repository: Repository, digest: str) -> None:
    made = image()
    for blob in made.blobs:
        repository.push_blob(blob.data)
    assert codes(repository.put(made.top, digest), 400) <= CODES


@pytest.mark.parametrize("tag", [".a", "-a", "a" * 129, "a:b", "ü", "a b", "a@b"])
def test_what_is_no_tag(repository: Repository, tag: str) -> None:
    made = image()
    repository.push(made)
    assert repository.put(made.top, tag).status_code in {400, 404}
    assert repository.tags() == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nothing",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": 5, "layers": []}',
        b'{"schemaVersion": 2, "config": {"mediaType": "x", "digest": "sha256:bad", "size": 2}, "layers": []}',
        b"[" * 100_000,
        b'{"schemaVersion": 2, "layers": {}}',
    ],
    ids=range(9),
)
def test_what_is_no_manifest(repository: Repository, text: bytes) -> None:
    repository.push(image(), "other")
    answer = repository.put(Content(text, MANIFEST), "a")
    assert codes(answer, 400) <= {"MANIFEST_INVALID", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN"}
    assert repository.tags() == ["other"]


@pytest.mark.parametrize("missing", [CONFIG, f"{LAYER}+gzip"])
def test_a_manifest_whose_blobs_are_missing(repository: Repository, missing: str) -> None:
    made = image()
    for blob in made.blobs:
        if blob.media_type != missing:
            repository.push_blob(blob.data)
    answer = repository.put(made.top, "a")
    # Registries may refuse it; and then with this code.
    assert answer.status_code == 201 or codes(answer, 400, 404) == {"MANIFEST_BLOB_UNKNOWN"}
    assert (repository.manifest("a").status_code == 200) == (answer.status_code == 201)


def test_an_index_whose_manifests_are_missing(repository: Repository) -> None:
    made = index_of(image())
    answer = repository.put(made.top, "a")
    assert answer.status_code == 201 or codes(answer, 400, 404) == {"MANIFEST_BLOB_UNKNOWN"}


def test_a_manifest_may_be_too_large(repository: Repository) -> None:
    made = image(annotations={f"note-{number}": "A" * 10_000 for number in range(1700)})
    for blob in made.blobs:
        repository.push_blob(blob.data)
    answer = repository.put(made.top, "a")
    assert codes(answer, 413) <= {"SIZE_INVALID", "MANIFEST_INVALID"}
    assert repository.manifest("a").status_code == 404


def test_what_is_pushed_again_changes_nothing(repository: Repository) -> None:
    made = image()
    for _ in range(3):
        repository.push(made, "a")
    assert repository.tags() == ["a"]
    assert digest_of(repository.manifest("a").content) == made.top.digest
