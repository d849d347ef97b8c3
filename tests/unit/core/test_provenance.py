"""Provenance: an in-toto statement that anyone can read, with all that went into an image, and the same bytes each time."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.conda_locked import conda_lock, locked
from support.conda_packages import interpreter, make_package, python_package
from support.in_toto import check_statement

from mlenv.core.conda_layer import CONDA_RECIPE
from mlenv.core.digest import Digest
from mlenv.core.evidence import InvalidEvidence
from mlenv.core.image import MANIFEST_TYPE, Descriptor
from mlenv.core.layer import RECIPE, Compression
from mlenv.core.lock import Artifact, Lock, LockedBase, LockedContext, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.provenance import (
    BUILD_TYPE,
    CONTEXT_BUILD_TYPE,
    EMBEDDED_BUILDER,
    SERVER_BUILDER,
    BuildFacts,
    image_url,
    provenance,
)
from mlenv.core.records import BuildRecord, BuildStatus
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import Origin, Requirement, Spec

NOW = datetime(2026, 11, 22, 18, 5, 0, 123456, tzinfo=UTC)
IMAGE = Descriptor(MANIFEST_TYPE, Digest.of(b"image"), 1234, {"org.opencontainers.image.ref.name": "train:1"})
BASE = Digest.of(b"base")
WHEEL = Artifact(
    "numpy-2.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", 10, Digest.of(b"numpy"), "HTTPS://Files.Example.org/A/n.whl"
)
BUILT = Artifact("old-1.0-py3-none-any.whl", 20, Digest.of(b"built"), None)
SOURCE = Artifact("old-1.0.tar.gz", 30, Digest.of(b"source"), "https://files.example.org/old-1.0.tar.gz")
LOCK = Lock(
    Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 36)),
    (
        LockedPackage("numpy", "2.1.0", WHEEL, requested=True),
        LockedPackage("old", "1.0", BUILT, built_from=SOURCE),
    ),
    "uv 0.9.0",
    BASE,
    "2025-06-01T23:59:59Z",
    "3.11.2",
)
SPEC = Spec(image="debian:bookworm", requirements=(Requirement("numpy", Origin("/home/user/req.txt", 3)),))
RECORD = BuildRecord(
    "0123456789abcdef",
    EnvironmentName("train"),
    VersionName("1"),
    Platform("linux", "amd64"),
    BuildStatus.SUCCEEDED,
    NOW,
    NOW + timedelta(seconds=4),
    queued_at=NOW - timedelta(seconds=1),
    image=IMAGE.digest,
    log=Digest.of(b"log"),
)
FACTS = BuildFacts(SPEC, LOCK, BASE, Compression.GZIP, "0.1.0", RECORD)


def statement(facts: BuildFacts = FACTS) -> Any:
    document = json.loads(provenance([IMAGE], facts))
    check_statement(document)
    return document


def dependencies(facts: BuildFacts = FACTS) -> dict[str, Any]:
    found = statement(facts)["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {each["name"]: each for each in found}


def test_the_subject_is_the_image_wherever_it_was_found() -> None:
    assert statement()["subject"] == [{"digest": {"sha256": IMAGE.digest.hex}, "mediaType": MANIFEST_TYPE}]
    assert provenance([IMAGE], FACTS) == provenance([replace(IMAGE, annotations={})], FACTS)


def test_the_parameters_say_what_was_asked_for() -> None:
    definition = statement()["predicate"]["buildDefinition"]
    assert definition["buildType"] == BUILD_TYPE
    assert definition["externalParameters"] == {
        "spec": {"image": "debian:bookworm", "requirements": [{"text": "numpy"}]},
        "platform": "linux/amd64",
        "compression": "gzip",
        "lockOptions": {"asOf": "2025-06-01T23:59:59Z", "bytecode": True, "fromSource": ["old"]},
    }
    assert definition["internalParameters"] == {
        "recipe": str(RECIPE),
        "prefix": "/opt/env",
        "python": "3.11.2",
        "bytecodePython": "3.11.2",
        "glibc": "2.36",
        "resolver": "uv 0.9.0",
    }


def test_every_file_is_a_dependency_with_its_hash() -> None:
    found = dependencies()
    assert set(found) == {"base", "pylock.toml", WHEEL.filename, BUILT.filename, SOURCE.filename}
    assert found["base"]["digest"] == {"sha256": BASE.hex}
    assert found["base"]["uri"].startswith(f"pkg:oci/debian@sha256%3A{BASE.hex}?")
    assert found["pylock.toml"]["digest"] == {"sha256": LOCK.digest.hex}
    assert found[WHEEL.filename]["uri"] == "https://files.example.org/A/n.whl"
    assert found[WHEEL.filename]["digest"] == {"sha256": WHEEL.digest.hex}
    assert found[SOURCE.filename]["uri"] == SOURCE.url
    assert found[BUILT.filename]["annotations"] == {"dev.mlenv.builtFrom": str(SOURCE.digest)}
    assert found[BUILT.filename]["uri"] == "pkg:pypi/old@1.0?file_name=old-1.0-py3-none-any.whl"


def test_every_conda_package_is_a_dependency_with_its_address_hash_and_purl() -> None:
    other = "https://conda.example.org/label%2Fdev/other"
    packages = (
        locked(interpreter()),
        locked(make_package("zlib", "1.3+1!2", build="h_0", subdir="linux-64", ending="tar.bz2"), channel=other),
        locked(python_package("tool")),
    )
    wheel = LockedPackage("numpy", "2.1.0", WHEEL, requested=True)
    lock = replace(conda_lock(*packages, wheels=(wheel,)), resolver="py-rattler 0.28.0, uv 0.9.0")
    facts = replace(FACTS, lock=lock)
    internal = statement(facts)["predicate"]["buildDefinition"]["internalParameters"]
    assert internal["channels"] == ["https://conda.example.org/main", other]
    assert (internal["resolver"], internal["condaRecipe"]) == ("py-rattler 0.28.0, uv 0.9.0", str(CONDA_RECIPE))
    found = dependencies(facts)
    assert set(found) == {"base", "pylock.toml", WHEEL.filename, *(each.artifact.filename for each in packages)}
    for each in packages:
        described = found[each.artifact.filename]
        assert (described["uri"], described["digest"]) == (each.url, {"sha256": each.artifact.digest.hex})
    assert found["zlib-1.3+1!2-h_0.tar.bz2"]["annotations"] == {
        "dev.mlenv.purl": "pkg:conda/zlib@1.3%2B1%212?build=h_0&channel=other&subdir=linux-64&type=tar.bz2"
    }
    assert found["tool-1.0-0.conda"]["annotations"] == {
        "dev.mlenv.purl": "pkg:conda/tool@1.0?build=0&channel=main&subdir=noarch&type=conda"
    }


def test_an_environment_without_python_has_none_in_its_provenance() -> None:
    facts = replace(FACTS, lock=conda_lock(locked(make_package("zlib"))))
    internal = statement(facts)["predicate"]["buildDefinition"]["internalParameters"]
    assert "python" not in internal


def test_of_a_dockerfile_its_context_and_its_images_are_known() -> None:
    other = LockedBase("example.org/tools:1", Digest.of(b"tools"), Platform("linux", "arm64"))
    context = LockedContext(
        Digest.of(b"context"), "docker/Dockerfile", (LockedBase("debian:bookworm", BASE), other), (("MODE", "fast"),)
    )
    lock = Lock(Target(Platform("linux", "amd64"), ""), (), "buildah 1.28", BASE, context=context)
    facts = replace(FACTS, lock=lock, compression=None)
    definition = statement(facts)["predicate"]["buildDefinition"]
    assert definition["buildType"] == CONTEXT_BUILD_TYPE
    parameters = definition["externalParameters"]
    assert (parameters["dockerfile"], parameters["arguments"]) == ("docker/Dockerfile", {"MODE": "fast"})
    found = dependencies(facts)
    assert list(found) == ["pylock.toml", "context", "debian:bookworm", "example.org/tools:1"]
    assert found["context"]["digest"] == {"sha256": context.digest.hex}
    assert "arch=arm64" in found["example.org/tools:1"]["uri"]


def test_the_run_is_the_one_that_was_recorded() -> None:
    details = statement()["predicate"]["runDetails"]
    assert details["builder"] == {"id": SERVER_BUILDER, "version": {"mlenv": "0.1.0"}}
    assert details["metadata"] == {
        "invocationId": "0123456789abcdef",
        "startedOn": "2026-11-22T18:05:00Z",
        "finishedOn": "2026-11-22T18:05:04Z",
    }
    assert details["byproducts"] == [
        {"name": "build.log", "digest": {"sha256": Digest.of(b"log").hex}, "mediaType": "text/plain"}
    ]


def test_without_a_record_there_are_no_times() -> None:
    assert statement(replace(FACTS, record=None))["predicate"]["runDetails"] == {
        "builder": {"id": EMBEDDED_BUILDER, "version": {"mlenv": "0.1.0"}}
    }
    at_once = statement(replace(FACTS, record=replace(RECORD, queued_at=None, log=None)))
    assert at_once["predicate"]["runDetails"]["builder"]["id"] == EMBEDDED_BUILDER
    assert "byproducts" not in at_once["predicate"]["runDetails"]


def test_nothing_but_the_arguments_counts() -> None:
    assert provenance([IMAGE], FACTS) == provenance([IMAGE], replace(FACTS))
    elsewhere = replace(SPEC, requirements=(Requirement("numpy", Origin("C:\\other\\requirements.txt", 1)),))
    assert provenance([IMAGE], replace(FACTS, spec=elsewhere)) == provenance([IMAGE], FACTS)
    assert b"/home/user" not in provenance([IMAGE], FACTS)
    assert provenance([IMAGE], replace(FACTS, compression=None)) != provenance([IMAGE], FACTS)


@pytest.mark.parametrize(
    "url",
    ["https://user:secret@files.example.org/n.whl", "https://files.example.org/n.whl?X-Amz-Signature=secret"],
)
def test_a_credential_is_never_written(url: str) -> None:
    package = LockedPackage("numpy", "2.1.0", replace(WHEEL, url=url))
    with pytest.raises(InvalidEvidence, match="credential") as caught:
        provenance([IMAGE], replace(FACTS, lock=replace(LOCK, packages=(package,))))
    assert "secret" not in str(caught.value)


def test_a_base_in_a_file_or_unknown_has_no_address() -> None:
    base = dependencies(replace(FACTS, spec=replace(SPEC, image="oci-archive:/home/user/base.tar")))["base"]
    assert base == {"name": "base", "digest": {"sha256": BASE.hex}, "mediaType": MANIFEST_TYPE}
    assert "base" not in dependencies(replace(FACTS, base=None))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("debian:bookworm", "pkg:oci/debian@{}?arch=amd64&repository_url=docker.io/library/debian&tag=bookworm"),
        ("127.0.0.1:5000/team/Base", "pkg:oci/base@{}?arch=amd64&repository_url=127.0.0.1:5000/team/Base&tag=latest"),
        (f"example.org/a/b@{BASE}", "pkg:oci/b@{}?arch=amd64&repository_url=example.org/a/b"),
        (f"example.org:1/b@{BASE}", "pkg:oci/b@{}?arch=amd64&repository_url=example.org:1/b"),
    ],
)
def test_an_image_as_a_package_url(name: str, expected: str) -> None:
    assert image_url(name, BASE, "amd64") == expected.format(f"sha256%3A{BASE.hex}")
