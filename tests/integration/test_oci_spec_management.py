"""The OCI distribution specification, "Content Management": what is deleted, and what stays."""

import pytest
from support.oci_client import CODES, Registry, Repository, artifact, codes, content, digest_of, image, index_of

ALGORITHMS = ["sha256", "sha512"]
KIND = "application/vnd.example.thing.v1"


def test_a_deleted_tag_is_gone_and_its_manifest_stays(repository: Repository) -> None:
    made = image()
    repository.push(made, "a")
    repository.push(made, "b")
    assert repository.manifest("a", "DELETE").status_code == 202
    for method in ("GET", "HEAD"):
        assert repository.manifest("a", method).status_code == 404
        assert repository.manifest("b", method).status_code == 200
        assert repository.manifest(made.top.digest, method).status_code == 200
    assert repository.tags() == ["b"]
    assert repository.blob(made.blobs[0].digest).status_code == 200


def test_a_deleted_last_tag_leaves_the_manifest(repository: Repository) -> None:
    made = image()
    repository.push(made, "a")
    assert repository.manifest("a", "DELETE").status_code == 202
    assert repository.tags() == []
    assert repository.manifest(made.top.digest).content == made.top.data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_deleted_manifest_takes_its_tags_along(repository: Repository, algorithm: str) -> None:
    made, other = image(algorithm=algorithm), image()
    repository.push(made, "a" if algorithm == "sha256" else None)
    repository.push(made, "b" if algorithm == "sha256" else None)
    repository.push(other, "other")
    assert repository.manifest(made.top.digest, "DELETE").status_code == 202
    for reference in ("a", "b", made.top.digest):
        assert repository.manifest(reference).status_code == 404
        assert repository.manifest(reference, "HEAD").status_code == 404
    assert repository.tags() == ["other"]
    assert repository.manifest("other").content == other.top.data
    # Blobs are deleted by themselves.
    assert all(repository.blob(each.digest).content == each.data for each in made.blobs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_deleted_blob_is_gone(repository: Repository, algorithm: str) -> None:
    data, other = content(), content()
    digest = repository.push_blob(data, algorithm)
    repository.push_blob(other)
    assert repository.blob(digest, "DELETE").status_code == 202
    assert repository.blob(digest).status_code == 404
    assert repository.blob(digest, "HEAD").status_code == 404
    assert repository.blob(digest, headers={"Range": "bytes=0-9"}).status_code == 404
    assert repository.blob(digest_of(other)).content == other
    assert codes(repository.blob(digest, "DELETE"), 404) == {"BLOB_UNKNOWN"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("empty", [b"", b"{}"])
def test_what_was_deleted_may_come_again(repository: Repository, empty: bytes, algorithm: str) -> None:
    for _ in range(2):
        digest = repository.push_blob(empty, algorithm)
        assert repository.blob(digest).content == empty
        assert repository.blob(digest, "DELETE").status_code == 202
        assert repository.blob(digest, "HEAD").status_code == 404
    made = image()
    for _ in range(2):
        repository.push(made, "a")
        assert repository.manifest("a").content == made.top.data
        assert repository.manifest(made.top.digest, "DELETE").status_code == 202
        assert repository.manifest("a").status_code == 404


def test_everything_of_an_index_in_reverse(repository: Repository) -> None:
    made = index_of(index_of(image(), image()), image())
    repository.push(made, "a")
    assert repository.manifest("a", "DELETE").status_code == 202
    for each in reversed(made.manifests):
        assert repository.manifest(each.digest).content == each.data
        assert repository.manifest(each.digest, "DELETE").status_code == 202
        assert repository.manifest(each.digest, "HEAD").status_code == 404
    for blob in made.blobs:
        assert repository.blob(blob.digest, "DELETE").status_code == 202
        assert repository.blob(blob.digest, "HEAD").status_code == 404
    # Of a repository with nothing in it, a registry may know as little as of one that never was.
    assert repository.request("GET", "tags/list").status_code in {200, 404}


@pytest.mark.parametrize("pushed", [False, True], ids=["no such repository", "a repository"])
def test_what_is_not_there_cannot_be_deleted(repository: Repository, pushed: bool) -> None:
    if pushed:
        repository.push(image(), "other")
    for reference in ("missing", digest_of(b"missing"), digest_of(b"missing", "sha512")):
        assert codes(repository.manifest(reference, "DELETE"), 404) <= {"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}
    assert codes(repository.blob(digest_of(b"missing"), "DELETE"), 404) <= {"BLOB_UNKNOWN", "NAME_UNKNOWN"}


def test_a_repository_keeps_what_is_deleted_from_another(registry: Registry) -> None:
    one, other = registry.repository(), registry.repository()
    made = image()
    one.push(made, "a")
    other.push(made, "a")
    assert one.manifest(made.top.digest, "DELETE").status_code == 202
    for blob in made.blobs:
        assert one.blob(blob.digest, "DELETE").status_code == 202
    assert one.manifest("a").status_code == 404
    assert other.manifest("a").content == made.top.data
    assert all(other.blob(each.digest).content == each.data for each in made.blobs)


def test_a_deleted_referrer_is_no_longer_told(repository: Repository) -> None:
    subject = image()
    one, two = (artifact(KIND, subject=subject.top.descriptor()) for _ in range(2))
    for each in (subject, one, two):
        repository.push(each)
    repository.put(one.top, "tagged")
    assert repository.manifest("tagged", "DELETE").status_code == 202
    assert {each["digest"] for each in repository.referrers(subject.top.digest)} == {one.top.digest, two.top.digest}
    assert repository.manifest(one.top.digest, "DELETE").status_code == 202
    for kind in (None, KIND):
        assert [each["digest"] for each in repository.referrers(subject.top.digest, kind)] == [two.top.digest]
    repository.push(one)
    assert len(repository.referrers(subject.top.digest)) == 2


def test_referrers_outlive_their_subject(repository: Repository) -> None:
    subject = image()
    referrer = artifact(KIND, subject=subject.top.descriptor())
    repository.push(subject)
    repository.push(referrer, "kept")
    assert repository.manifest(subject.top.digest, "DELETE").status_code == 202
    assert repository.manifest("kept").content == referrer.top.data
    assert [each["digest"] for each in repository.referrers(subject.top.digest)] == [referrer.top.digest]


def test_a_manifest_after_its_blob_was_deleted(repository: Repository) -> None:
    made = image()
    repository.push(made, "a")
    gone = made.blobs[1].digest
    answer = repository.blob(gone, "DELETE")
    # Registries may keep what a manifest names.
    assert answer.status_code == 202 or codes(answer, 400, 403, 405, 409) <= CODES
    assert (repository.blob(gone, "HEAD").status_code == 404) == (answer.status_code == 202)
    assert repository.manifest("a").content == made.top.data
    again = repository.put(made.top, "b")
    assert again.status_code == 201 or codes(again, 400, 404) == {"MANIFEST_BLOB_UNKNOWN"}


@pytest.mark.parametrize("path", ["tags/list", "referrers/" + digest_of(b""), "blobs/uploads/", ""])
def test_what_nobody_deletes(repository: Repository, path: str) -> None:
    repository.push(image(), "a")
    assert repository.request("DELETE", path).status_code in {404, 405}
    assert repository.tags() == ["a"]
