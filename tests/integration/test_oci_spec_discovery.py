"""The OCI distribution specification, "Content Discovery": tags and referrers."""

from collections.abc import Callable

import pytest
from support.oci_client import (
    INDEX,
    Artifact,
    Content,
    Repository,
    artifact,
    codes,
    content,
    digest_of,
    image,
    index_of,
)

ALGORITHMS = ["sha256", "sha512"]
ONE, TWO = "application/vnd.example.one.v1", "application/vnd.example.two.v1"


def test_tags_are_listed_in_order(repository: Repository) -> None:
    made = image()
    repository.push(made)
    for tag in ("c", "a", "10", "b", "2", "latest"):
        assert repository.put(made.top, tag).status_code == 201
    assert repository.tags() == ["10", "2", "a", "b", "c", "latest"]


def test_the_order_of_tags_is_of_no_case_and_total(repository: Repository) -> None:
    made = image()
    repository.push(made)
    names = ["B", "a", "C", "b", "_x", "A"]
    for tag in names:
        assert repository.put(made.top, tag).status_code == 201
    found = repository.tags()
    assert sorted(found) == sorted(names)
    assert [each.lower() for each in found] == sorted(each.lower() for each in names)


def test_tags_come_in_pages(repository: Repository) -> None:
    made = image()
    repository.push(made)
    names = sorted(f"t{number:02}" for number in range(11))
    for tag in names:
        assert repository.put(made.top, tag).status_code == 201
    assert repository.tags(n=4) == names[:4]
    assert repository.tags(n=4, last="t03") == names[4:8]
    assert repository.tags(last="t08") == names[9:]
    assert repository.tags(n=100) == names
    assert repository.tags(n=3, last="t10") == []
    # A tag need not be there for the list to go on after it.
    assert repository.tags(n=2, last="t04x") == names[5:7]


def test_pages_lead_to_each_other(repository: Repository) -> None:
    made = image()
    repository.push(made)
    names = ["Z", "a", "b.1", "b_1", "x", "y-1"]
    for tag in names:
        assert repository.put(made.top, tag).status_code == 201
    found: list[str] = []
    answer = repository.request("GET", "tags/list", params={"n": "2"})
    while True:
        assert answer.status_code == 200
        found += answer.json()["tags"]
        if "next" not in answer.links:
            break
        answer = repository.http.get(answer.request.url.join(answer.links["next"]["url"]))
    assert sorted(found) == sorted(names)
    assert found == repository.tags()


def test_no_tags_are_asked_for(repository: Repository) -> None:
    repository.push(image(), "a")
    answer = repository.request("GET", "tags/list", params={"n": "0"})
    assert answer.status_code == 200
    assert not answer.json()["tags"]
    assert "link" not in answer.headers


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "9" * 40])
def test_a_number_that_is_none(repository: Repository, number: str) -> None:
    repository.push(image(), "a")
    answer = repository.request("GET", "tags/list", params={"n": number})
    assert answer.status_code in {200, 400}
    assert answer.status_code == 400 or answer.json()["tags"] == ["a"]


def test_a_repository_without_tags(repository: Repository) -> None:
    repository.push(image())
    assert repository.tags() == []


def test_a_repository_that_is_not_there_has_no_tags(repository: Repository) -> None:
    answer = repository.request("GET", "tags/list")
    assert answer.status_code in {200, 404}
    assert answer.status_code == 404 or not answer.json()["tags"]


def test_a_tag_moves(repository: Repository) -> None:
    one, two = image(), image()
    repository.push(one, "a")
    repository.push(two, "a")
    assert repository.manifest("a").content == two.top.data
    assert repository.manifest(one.top.digest).content == one.top.data
    assert repository.tags() == ["a"]


def test_nothing_refers_to_what_is_not_there(repository: Repository) -> None:
    # Never 404, which would mean that the registry does not know referrers; not even of no repository.
    assert repository.referrers(digest_of(content())) == []
    assert repository.referrers(digest_of(content(), "sha512"), ONE) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_image_that_refers_to_an_image(repository: Repository, algorithm: str) -> None:
    subject = image(algorithm=algorithm)
    referrer = image(subject=subject.top.descriptor(), annotations={"a": "1"}, algorithm=algorithm)
    repository.push(subject)
    repository.push(referrer)
    (found,) = repository.referrers(subject.top.digest)
    # What has no type of its own has that of its configuration.
    expected = referrer.top.descriptor(artifactType="application/vnd.oci.image.config.v1+json", annotations={"a": "1"})
    assert found == expected


def _index(kind: str, subject: Content) -> Artifact:
    return index_of(image(), image(), artifactType=kind, subject=subject.descriptor(), annotations={"kind": kind})


def _artifact(kind: str, subject: Content) -> Artifact:
    return artifact(kind, subject=subject.descriptor(), annotations={"kind": kind})


@pytest.mark.parametrize("make", [_index, _artifact], ids=["indexes", "artifacts"])
def test_referrers_are_chosen_by_type(repository: Repository, make: Callable[[str, Content], Artifact]) -> None:
    subject = image()
    repository.push(subject, "subject")
    made = {kind: make(kind, subject.top) for kind in (ONE, TWO)}
    for kind, each in made.items():
        repository.push(each, kind.rpartition(".")[0].rpartition(".")[2])
    expected = {kind: each.top.descriptor(artifactType=kind, annotations={"kind": kind}) for kind, each in made.items()}
    found = {each["artifactType"]: each for each in repository.referrers(subject.top.digest)}
    assert found == expected
    for kind in made:
        assert repository.referrers(subject.top.digest, kind) == [expected[kind]]
    assert repository.referrers(subject.top.digest, "application/vnd.example.three") == []


def test_the_filter_is_said_only_if_asked_for(repository: Repository) -> None:
    subject = image()
    repository.push(subject)
    answer = repository.request("GET", f"referrers/{subject.top.digest}")
    assert answer.status_code == 200
    assert "artifactType" not in answer.headers.get("oci-filters-applied", "")


def test_an_index_without_a_type_has_none(repository: Repository) -> None:
    subject = image()
    referrer = index_of(image(), subject=subject.top.descriptor())
    repository.push(subject)
    repository.push(referrer)
    (found,) = repository.referrers(subject.top.digest)
    assert found == referrer.top.descriptor()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_refers_may_come_before_its_subject(repository: Repository, algorithm: str) -> None:
    subject = image(algorithm=algorithm)
    referrer = artifact(ONE, subject=subject.top.descriptor(), algorithm=algorithm)
    repository.push(referrer)
    assert [each["digest"] for each in repository.referrers(subject.top.digest)] == [referrer.top.digest]
    assert repository.manifest(subject.top.digest).status_code == 404
    repository.push(subject)
    assert [each["digest"] for each in repository.referrers(subject.top.digest)] == [referrer.top.digest]


def test_referrers_of_referrers(repository: Repository) -> None:
    subject = image()
    middle = artifact(ONE, subject=subject.top.descriptor())
    last = artifact(TWO, subject=middle.top.descriptor())
    for each in (subject, middle, last):
        repository.push(each)
    assert [each["digest"] for each in repository.referrers(subject.top.digest)] == [middle.top.digest]
    assert [each["digest"] for each in repository.referrers(middle.top.digest)] == [last.top.digest]


def test_what_is_pushed_twice_refers_once(repository: Repository) -> None:
    subject = image()
    referrer = artifact(ONE, subject=subject.top.descriptor())
    repository.push(subject)
    for tag in ("a", "b", None):
        repository.push(referrer, tag)
    assert len(repository.referrers(subject.top.digest)) == 1


def test_many_referrers_are_all_told(repository: Repository) -> None:
    subject = image()
    repository.push(subject)
    made = artifact(ONE)
    for each in made.blobs:
        repository.push_blob(each.data)
    expected = set()
    for number in range(120):
        notes = {"n": str(number), "text": "x" * 2000}
        config, blob = made.blobs
        document = artifact_manifest(config, blob, subject.top, notes)
        answer = repository.put(document)
        assert answer.status_code == 201
        expected.add(document.digest)
    assert {each["digest"] for each in repository.referrers(subject.top.digest)} == expected
    assert {each["digest"] for each in repository.referrers(subject.top.digest, ONE)} == expected


def artifact_manifest(config: Content, blob: Content, subject: Content, notes: dict[str, str]) -> Content:
    from support.oci_client import manifest

    return manifest(
        config.descriptor(),
        [blob.descriptor()],
        artifactType=ONE,
        subject=subject.descriptor(),
        annotations=notes,
    )


@pytest.mark.parametrize("digest", ["sha256:baddigeststring", "latest", "sha256:", "md5:" + "0" * 32])
def test_referrers_of_what_is_no_digest(repository: Repository, digest: str) -> None:
    repository.push(image())
    answer = repository.request("GET", f"referrers/{digest}")
    assert "DIGEST_INVALID" in codes(answer, 400)


def test_referrers_are_an_index(repository: Repository) -> None:
    answer = repository.request("GET", f"referrers/{digest_of(content())}")
    assert answer.headers["content-type"] == INDEX
    assert answer.json() == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
