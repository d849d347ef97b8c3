"""The bytes of conda packages count as those of wheels do: what a lock names is needed, kept, and told of when damaged."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.conda_locked import LINUX, conda_lock, keep_lock, locked
from support.conda_packages import interpreter, make_package

from mlenv.core.digest import Digest
from mlenv.core.environment import Definition
from mlenv.core.evidence import EvidenceKind
from mlenv.core.image import MANIFEST_TYPE, Descriptor, Image
from mlenv.core.layer import Compression
from mlenv.core.progress import Silent
from mlenv.core.reference import EnvironmentName, Reference
from mlenv.core.spec import Spec
from mlenv.service.evidence import Evidence
from mlenv.wiring.embedded import Embedded, open_embedded
from mlenv.wiring.hosted import Hosted

ZLIB = make_package("zlib")
DIGEST = Digest(ZLIB.sha256)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Embedded]:
    """A store with an environment that is locked, and the bytes of one of its packages."""
    with open_embedded(tmp_path / "store") as made:
        made.environments.create(Definition(EnvironmentName("tools"), Spec(image="example.org/x:1")))
        keep_lock(made, "tools", conda_lock(locked(ZLIB), locked(interpreter())))
        made.blobs.put([ZLIB.data], digest=DIGEST, size=len(ZLIB.data), what=ZLIB.filename)
        yield made


def test_verify_says_who_needs_a_damaged_package(store: Embedded) -> None:
    # One that was not fetched yet can be fetched when it is needed.
    assert store.verifying.verify(progress=Silent()) == []
    path = store.blobs.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(b"x" * len(ZLIB.data))
    [finding] = store.verifying.verify(progress=Silent())
    assert finding.harm
    assert finding.text.endswith("which is needed by the lock of tools:1 for linux/amd64"), finding.text


def test_collect_keeps_what_a_lock_names(store: Embedded) -> None:
    store.blobs.put([b"nobody's"], digest=Digest.of(b"nobody's"), size=8, what="garbage")
    for path in (store.home / "oci" / "blobs").glob("*/*"):
        os.utime(path, (1, 1))
    with Hosted(store.home) as hosted:
        collected = hosted.collecting.collect(timedelta(hours=24), progress=Silent())
    assert (collected.blobs, collected.freed) == (1, 8)
    assert store.blobs.has(DIGEST)


def test_evidence_of_an_image_of_conda_packages(store: Embedded) -> None:
    layer = Descriptor(Compression.GZIP.media_type, Digest.of(b"layer"), 5)
    image = Image(Descriptor(MANIFEST_TYPE, Digest.of(b"image"), 5), {}, Digest.of(b"config"), ((layer, layer.digest),))
    version = store.environments.version(Reference.parse("tools:1"))
    evidence = Evidence(store.registry, store.blobs, builder="0.1.0").of(version, LINUX, image)
    found = {each.kind: each.data for each in evidence}
    assert set(found) == {EvidenceKind.LOCK, EvidenceKind.SPEC, EvidenceKind.PROVENANCE}
    provenance = found[EvidenceKind.PROVENANCE]
    assert isinstance(provenance, bytes)
    definition = json.loads(provenance)["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["compression"] == "gzip"
    assert ZLIB.filename in {each["name"] for each in definition["resolvedDependencies"]}
