"""What a pushed manifest is, and what it names."""

import json
from typing import Any

import pytest

from mlenv.core.digest import ALGORITHMS, Digest, InvalidDigest
from mlenv.core.image import INDEX_TYPE, MANIFEST_TYPE
from mlenv.core.manifests import MANIFEST_LIMIT, Part, read_manifest
from mlenv.core.repositories import (
    InvalidManifest,
    InvalidRepository,
    InvalidTag,
    ManifestTooLarge,
    order_of_tag,
    parse_repository,
    parse_tag,
)

_DOCKER = "application/vnd.docker.distribution.manifest"


def described(text: str, media_type: str = "application/octet-stream", algorithm: str = "sha256") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(text.encode(), algorithm)), "size": len(text)}


def image(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": described("config", "kind/config"), "layers": [described("layer")], **more}


def read(document: Any, media_type: str | None = None) -> Any:
    return read_manifest(json.dumps(document).encode(), media_type)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_digest_has_an_algorithm(algorithm: str) -> None:
    digest = Digest.of(b"bytes", algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.algorithm == algorithm
    assert (digest == Digest.of(b"bytes")) == (algorithm == "sha256")


@pytest.mark.parametrize("text", ["sha512:" + "0" * 64, "sha256:" + "0" * 128, "sha384:" + "0" * 96, "sha512:"])
def test_a_digest_has_the_length_of_its_algorithm(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


def test_an_image_names_its_configuration_and_layers() -> None:
    found = read(image(annotations={"a": "b"}), MANIFEST_TYPE)
    assert [each.digest for each in found.parts] == [Digest.of(b"config"), Digest.of(b"layer")]
    assert (found.media_type, found.artifact_type, found.annotations) == (MANIFEST_TYPE, "kind/config", {"a": "b"})
    assert found.subject is None


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_layers_that_are_kept_elsewhere_may_be_missing(kind: str) -> None:
    found = read(image(layers=[described("far", kind), described("near")]))
    assert [each.optional for each in found.parts] == [False, True, False]


def test_an_index_names_manifests_and_its_subject_is_no_part() -> None:
    found = read({"schemaVersion": 2, "manifests": [described("one", algorithm="sha512")], "subject": described("s")})
    assert found.parts == (Part(Digest.of(b"one", "sha512"), 3),)
    assert (found.media_type, found.subject, found.artifact_type) == (INDEX_TYPE, Digest.of(b"s"), None)
    assert read({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}).parts == ()


@pytest.mark.parametrize("kind", [MANIFEST_TYPE, f"{_DOCKER}.v2+json"])
def test_what_was_said_counts_where_the_manifest_says_nothing(kind: str) -> None:
    assert read(image(), f"{kind}; charset=utf-8").media_type == kind


@pytest.mark.parametrize(
    ("document", "said", "why"),
    [
        ([], None, "not a JSON object"),
        (image(schemaVersion=1), None, "schemaVersion 1"),
        (image(schemaVersion=True), None, "schemaVersion True"),
        (image(mediaType=INDEX_TYPE), None, "has 'config'"),
        (image(mediaType=MANIFEST_TYPE), INDEX_TYPE, "was sent as"),
        (image(), "application/json", "not kept here"),
        (image(mediaType=5), None, "not kept here"),
        (image(manifests=[]), MANIFEST_TYPE, "has 'manifests'"),
        (image(config=None), None, "no descriptor in 'config'"),
        (image(config={**described("x"), "digest": "md5:x"}), None, "no digest in 'config.digest'"),
        (image(layers={}), None, "'layers' that is no list"),
        (image(layers=[{**described("x"), "size": -1}]), None, r"no size in 'layers\[0\].size'"),
        (image(layers=[{**described("x"), "size": 1 << 63}]), None, r"no size in 'layers\[0\].size'"),
        (image(layers=[described("x"), {**described("x"), "mediaType": None}]), None, r"'layers\[1\].mediaType'"),
        (image(subject="x"), None, "no descriptor in 'subject'"),
        (image(annotations={"a": 1}), None, "annotations"),
        (image(artifactType=[1]), None, "artifactType"),
    ],
)
def test_what_is_no_manifest_says_why(document: Any, said: str | None, why: str) -> None:
    with pytest.raises(InvalidManifest, match=why):
        read(document, said)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(InvalidManifest, match="is not JSON"):
        read_manifest(data)


def test_the_largest_manifest() -> None:
    empty = json.dumps(image(annotations={"a": ""})).encode()
    text = "x" * (MANIFEST_LIMIT - len(empty))
    assert read(image(annotations={"a": text})).annotations == {"a": text}
    with pytest.raises(ManifestTooLarge):
        read(image(annotations={"a": f"{text}x"}))


@pytest.mark.parametrize("text", ["a/b", "team/a.b/c__d/e-f---g", "a" * 127 + "/" + "b" * 127])
def test_names_of_repositories(text: str) -> None:
    assert parse_repository(text) == text


@pytest.mark.parametrize("text", ["", "A/b", "a//b", "/a", "a/", "a/-b", "a/b_", "a/b..c", "a/b___c", "a/" + "b" * 254])
def test_what_is_no_name_of_a_repository(text: str) -> None:
    with pytest.raises(InvalidRepository):
        parse_repository(text)


@pytest.mark.parametrize(
    ("text", "is_tag"),
    [
        ("_x.1-A", True),
        ("9", True),
        ("x" * 128, True),
        ("x" * 129, False),
        (".x", False),
        ("a:b", False),
        ("", False),
        ("é", False),
    ],
)
def test_tags(text: str, is_tag: bool) -> None:
    if is_tag:
        assert parse_tag(text) == text
    else:
        with pytest.raises(InvalidTag):
            parse_tag(text)


def test_tags_are_ordered_with_their_case_aside() -> None:
    assert sorted(["b", "A", "a", "B", "10"], key=order_of_tag) == ["10", "A", "a", "B", "b"]
