"""Artifact manifests: as image-spec 1.1 wants them, the same bytes each time, and read with suspicion."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.evidence import (
    CREATED,
    EMPTY,
    MANIFEST_LIMIT,
    PREDICATE_TYPE,
    EvidenceKind,
    InvalidEvidence,
    artifact_manifest,
    parse_artifact,
)
from mlenv.core.image import INDEX_TYPE, MANIFEST_TYPE, Descriptor

IMAGE = Descriptor(MANIFEST_TYPE, Digest.of(b"image"), 1234)
CONTENT = Digest.of(b"content")
NOW = datetime(2026, 11, 22, 18, 5, 0, 999999, tzinfo=UTC)


def manifest(**changes: Any) -> Any:
    document = json.loads(artifact_manifest(EvidenceKind.LOCK, IMAGE, CONTENT, 7))
    return {key: value for key, value in (document | changes).items() if value is not ...}


def encoded(**changes: Any) -> bytes:
    return json.dumps(manifest(**changes)).encode()


def test_a_manifest_follows_the_guidelines_for_artifacts() -> None:
    """image-spec 1.1, manifest.md: `artifactType` with an empty configuration, one layer, and a `subject`."""
    assert json.loads(artifact_manifest(EvidenceKind.LOCK, IMAGE, CONTENT, 7, created=NOW)) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.mlenv.lock.v1",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/toml",
                "digest": str(CONTENT),
                "size": 7,
                "annotations": {"org.opencontainers.image.title": "pylock.toml"},
            }
        ],
        "subject": {"mediaType": MANIFEST_TYPE, "digest": str(IMAGE.digest), "size": 1234},
        "annotations": {CREATED: "2026-11-22T18:05:00Z"},
    }
    assert EMPTY == b"{}"


def test_the_same_document_has_the_same_bytes() -> None:
    found = replace(IMAGE, annotations={"a": "b"}, platform={"os": "linux", "architecture": "amd64"})
    assert artifact_manifest(EvidenceKind.LOG, found, CONTENT, 7) == artifact_manifest(
        EvidenceKind.LOG, IMAGE, CONTENT, 7
    )
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    assert artifact_manifest(EvidenceKind.LOG, IMAGE, CONTENT, 7, created=elsewhere) == artifact_manifest(
        EvidenceKind.LOG, IMAGE, CONTENT, 7, created=NOW
    )
    assert b'annotations":{"org.opencontainers.image.created' not in artifact_manifest(
        EvidenceKind.LOG, IMAGE, CONTENT, 7
    )


@pytest.mark.parametrize("kind", EvidenceKind)
def test_what_is_written_is_read_as_its_kind(kind: EvidenceKind) -> None:
    predicate = "https://slsa.dev/provenance/v1" if kind is EvidenceKind.PROVENANCE else None
    read = parse_artifact(artifact_manifest(kind, IMAGE, CONTENT, 7, created=NOW, predicate=predicate), "it")
    assert (read.kind, read.type, read.subject) == (kind, kind.artifact_type, IMAGE)
    (layer,) = read.layers
    assert (layer.media_type, layer.digest, layer.size) == (kind.media_type, CONTENT, 7)
    assert read.annotations[CREATED] == "2026-11-22T18:05:00Z"


def test_statements_of_others_are_told_from_provenance() -> None:
    data = artifact_manifest(EvidenceKind.PROVENANCE, IMAGE, CONTENT, 7, predicate="https://spdx.dev/Document")
    assert parse_artifact(data, "it").kind is None
    assert parse_artifact(data, "it").predicate == "https://spdx.dev/Document"
    # BuildKit has the annotation at the layer alone.
    document = json.loads(artifact_manifest(EvidenceKind.PROVENANCE, IMAGE, CONTENT, 7))
    document["layers"][0]["annotations"] = {PREDICATE_TYPE: "https://slsa.dev/provenance/v0.2"}
    assert parse_artifact(json.dumps(document).encode(), "it").kind is EvidenceKind.PROVENANCE


def test_what_others_attach_has_the_type_that_they_give_it() -> None:
    """distribution-spec 1.1, "Listing Referrers": without `artifactType`, the configuration's media type counts."""
    config = {"mediaType": "application/vnd.dev.cosign.config.v1+json", "digest": str(CONTENT), "size": 3}
    old = parse_artifact(encoded(artifactType=..., config=config, mediaType=...), "it")
    assert (old.type, old.kind) == ("application/vnd.dev.cosign.config.v1+json", None)
    assert parse_artifact(encoded(artifactType=...), "it").type == ""
    assert parse_artifact(encoded(subject=...), "it").subject is None
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "artifactType": "a/b", "manifests": [], "subject": None}
    read = parse_artifact(json.dumps(index | {"subject": IMAGE.to_dict()}).encode(), "it")
    assert (read.type, read.subject, read.layers) == ("a/b", IMAGE, ())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "is not an image manifest"),
        (b"{}", "is not an image manifest"),
        (b" " * (MANIFEST_LIMIT + 1), "bytes large, at most"),
        (encoded(schemaVersion=1), "is not an image manifest"),
        (encoded(mediaType="application/json"), "is not an image manifest"),
        (encoded(config=...), "config is not a descriptor"),
        (encoded(layers=...), "has no list of at most 1000 layers"),
        (encoded(layers=[{}] * 1001), "has no list of at most 1000 layers"),
        (encoded(layers=[7]), "layers[0] is not a descriptor"),
        (
            encoded(layers=[{"mediaType": "a/b", "digest": "sha256:00", "size": 1}]),
            "layers[0] has a digest 'sha256:00'",
        ),
        (encoded(layers=[{"mediaType": "a/b", "digest": str(CONTENT), "size": -1}]), "has no digest and size"),
        (encoded(layers=[{"mediaType": "a/b", "digest": str(CONTENT), "size": True}]), "has no digest and size"),
        (encoded(layers=[{"mediaType": "a/b", "digest": str(CONTENT), "size": 1.5}]), "has no digest and size"),
        (encoded(layers=[{"mediaType": "x\r\ny", "digest": str(CONTENT), "size": 1}]), "media type"),
        (encoded(subject="sha256:00"), "subject is not a descriptor"),
        (encoded(annotations={"a": 1}), "annotations that are not all text"),
        (encoded(annotations=[]), "annotations that are not all text"),
        (encoded(artifactType={"a": "b"}), "media type"),
        (encoded(artifactType="x" * 300), "media type"),
    ],
)
def test_what_is_none_is_refused_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(InvalidEvidence) as caught:
        parse_artifact(data, "sha256:…")
    assert says in str(caught.value)
    assert str(caught.value).startswith("sha256:…")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
