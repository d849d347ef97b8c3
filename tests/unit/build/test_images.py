import gzip
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.images import (
    CONFIG,
    INDEX,
    MANIFEST,
    TAR,
    Files,
    Hardlink,
    LayoutBuilder,
    Symlink,
    archive_of,
    digest_of,
    docker_archive,
    make_image,
    make_tar,
    name,
    new_store,
    platform,
)

from mlenv.build.images import ImageLimits, ImageNotFound, import_image
from mlenv.build.unpacking import InvalidArchive
from mlenv.build.validate import InvalidImage
from mlenv.core.digest import DigestMismatch
from mlenv.core.platform import Platform
from mlenv.errors import InvalidInput, MlenvError
from mlenv.store.layout_check import check_layout
from mlenv.store.oci import OciLayout

LAYERS: list[Files] = [{"etc": None, "etc/os-release": b"ID=debian\n"}, {"opt/file": b"x" * 5000}]
ARM = Platform("linux", "arm64")


@pytest.fixture
def store(tmp_path: Path) -> OciLayout:
    return new_store(tmp_path)


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "image")


@pytest.mark.parametrize("compression", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["oci", "oci-archive", "path", "archive path", "compressed archive"])
def test_an_image_is_the_same_however_it_comes(tmp_path: Path, store: OciLayout, compression: str, kind: str) -> None:
    directory = make_image(tmp_path / "image", LAYERS, {"Env": ["A=b"]}, compression=compression)
    archive = archive_of(directory, tmp_path / "image.tar")
    (tmp_path / "image.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))
    sources = {
        "oci": f"oci:{directory}",
        "oci-archive": f"oci-archive:{archive}",
        "path": str(directory),
        "archive path": str(archive),
        "compressed archive": str(tmp_path / "image.tar.gz"),
    }
    image = import_image(sources[kind], store)
    [entry] = json.loads((directory / "index.json").read_text())["manifests"]
    assert str(image.manifest.digest) == entry["digest"]
    assert image.config["config"]["Env"] == ["A=b"]
    assert [str(diff_id) for _, diff_id in image.layers] == [digest_of(make_tar(each)) for each in LAYERS]
    assert all(store.has(layer.digest) for layer, _ in image.layers)
    assert check_layout(store) == []


def test_tags_choose(builder: LayoutBuilder, store: OciLayout) -> None:
    one = builder.image([LAYERS[0]], **name("one"))
    two = builder.image([LAYERS[1]], **name("registry.example.org/two:2.0"))
    root = builder.finish(one, two)
    assert str(import_image(f"oci:{root}:one", store).manifest.digest) == one["digest"]
    assert str(import_image(f"{root}:registry.example.org/two:2.0", store).manifest.digest) == two["digest"]
    with pytest.raises(ImageNotFound, match="no image 'three'") as caught:
        import_image(f"oci:{root}:three", store)
    assert caught.value.available == ("one", "registry.example.org/two:2.0")
    with pytest.raises(ImageNotFound, match="holds several images") as caught:
        import_image(f"oci:{root}", store)
    assert caught.value.hint == "there is: one, registry.example.org/two:2.0"


def test_a_path_may_have_colons(tmp_path: Path, store: OciLayout) -> None:
    directory = make_image(tmp_path / "a:b", LAYERS)
    assert import_image(f"oci:{directory}", store) == import_image(str(directory), store)


@pytest.mark.parametrize("nested", [False, True])
def test_platforms_choose(builder: LayoutBuilder, store: OciLayout, nested: bool) -> None:
    amd = builder.image([LAYERS[0]], **platform("amd64"))
    arm = builder.image([LAYERS[0]], architecture="arm64", **platform("arm64"))
    odd = builder.document({"attestation": True}, MANIFEST, **platform("unknown"))
    root = builder.finish(builder.index(amd, arm, odd)) if nested else builder.finish(amd, arm, odd)
    assert str(import_image(f"oci:{root}", store, platform=ARM).manifest.digest) == arm["digest"]
    with pytest.raises(ImageNotFound, match="several platforms") as caught:
        import_image(f"oci:{root}", store)
    assert caught.value.available == ("linux/amd64", "linux/arm64")
    with pytest.raises(ImageNotFound, match="no image for windows/amd64"):
        import_image(f"oci:{root}", store, platform=Platform("windows", "amd64"))


def test_the_only_platform_needs_no_choice(builder: LayoutBuilder, store: OciLayout) -> None:
    odd = builder.document({}, MANIFEST, **platform("unknown"))
    root = builder.finish(builder.index(builder.image(LAYERS, **platform("amd64")), odd))
    assert len(import_image(f"oci:{root}", store).layers) == 2


def test_a_platform_that_the_configuration_denies_is_not_there(builder: LayoutBuilder, store: OciLayout) -> None:
    root = builder.finish(builder.image(LAYERS))
    with pytest.raises(ImageNotFound, match="no image for linux/arm64"):
        import_image(f"oci:{root}", store, platform=ARM)


def test_docker_manifests_keep_their_digest(builder: LayoutBuilder, store: OciLayout) -> None:
    docker = "application/vnd.docker."
    tar = make_tar(LAYERS[0])
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{docker}distribution.manifest.v2+json",
        "config": builder.document(config, f"{docker}container.image.v1+json"),
        "layers": [builder.blob(gzip.compress(tar), f"{docker}image.rootfs.diff.tar.gzip")],
    }
    entry = builder.document(manifest, f"{docker}distribution.manifest.v2+json")
    image = import_image(str(builder.finish(entry)), store)
    assert (str(image.manifest.digest), image.manifest.media_type) == (entry["digest"], manifest["mediaType"])
    assert [layer.media_type for layer, _ in image.layers] == [f"{TAR}+gzip"]


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("prefix", ["docker-archive:", ""])
def test_docker_archives_become_oci_images(tmp_path: Path, store: OciLayout, prefix: str, links: bool) -> None:
    layers = [*LAYERS, LAYERS[-1]]
    path = docker_archive(tmp_path / "saved.tar", layers, links=links)
    image = import_image(f"{prefix}{path}", store)
    assert [layer.media_type for layer, _ in image.layers] == [TAR] * 3
    assert [layer.digest for layer, _ in image.layers] == [diff_id for _, diff_id in image.layers]
    assert json.loads(store.read(image.manifest.digest))["mediaType"] == MANIFEST
    assert import_image(f"{prefix}{path}:env:1", store) == image
    with pytest.raises(ImageNotFound, match="no image 'other'"):
        import_image(f"{prefix}{path}:other", store)


def test_a_docker_archive_with_other_bytes_is_refused(tmp_path: Path, store: OciLayout) -> None:
    path = docker_archive(tmp_path / "saved.tar", LAYERS)
    path.write_bytes(path.read_bytes().replace(b"ID=debian", b"ID=sneaky"))
    with pytest.raises(DigestMismatch, match=r"0/layer\.tar"):
        import_image(str(path), store)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "1/layer.tar"])
@pytest.mark.parametrize("link", [Symlink, Hardlink])
def test_links_never_lead_out_of_an_archive(
    tmp_path: Path, store: OciLayout, target: str, link: type[Symlink] | type[Hardlink]
) -> None:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest_of(b"")]}}
    entry = {"Config": "c.json", "Layers": ["1/layer.tar"]}
    files: Files = {
        "1/layer.tar": link(target),
        "c.json": json.dumps(config).encode(),
        "manifest.json": json.dumps([entry]).encode(),
    }
    (tmp_path / "evil.tar").write_bytes(make_tar(files))
    with pytest.raises(InvalidImage, match=re.escape("has no file '1/layer.tar'")):
        import_image(f"docker-archive:{tmp_path / 'evil.tar'}", store)


def break_layer_bytes(builder: LayoutBuilder) -> dict[str, Any]:
    entry = builder.image(LAYERS, compression="plain")
    path = builder.root / "blobs/sha256" / digest_of(make_tar(LAYERS[1]))[7:]
    path.write_bytes(path.read_bytes().replace(b"xx", b"xy"))
    return entry


def break_diff_id(builder: LayoutBuilder) -> dict[str, Any]:
    return builder.image(LAYERS, diff_ids=[digest_of(make_tar(LAYERS[0])), digest_of(b"another")])


def break_diff_count(builder: LayoutBuilder) -> dict[str, Any]:
    return builder.image(LAYERS, diff_ids=[digest_of(make_tar(LAYERS[0]))])


def break_manifest_bytes(builder: LayoutBuilder) -> dict[str, Any]:
    entry = builder.image(LAYERS)
    path = builder.root / "blobs/sha256" / entry["digest"][7:]
    path.write_bytes(path.read_bytes().replace(b"gzip", b"zstd"))
    return entry


def lose_layer(builder: LayoutBuilder) -> dict[str, Any]:
    entry = builder.image(LAYERS, compression="plain")
    (builder.root / "blobs/sha256" / digest_of(make_tar(LAYERS[1]))[7:]).unlink()
    return entry


def lose_manifest(builder: LayoutBuilder) -> dict[str, Any]:
    return {"mediaType": MANIFEST, "digest": digest_of(b"nowhere"), "size": 7}


def traverse(builder: LayoutBuilder) -> dict[str, Any]:
    return {"mediaType": MANIFEST, "digest": "sha256:../../../../etc/passwd", "size": 7}


def deep_json(builder: LayoutBuilder) -> dict[str, Any]:
    return builder.blob(b"[" * 100_000, MANIFEST)


def large_json(builder: LayoutBuilder) -> dict[str, Any]:
    return builder.blob(b'{"a":"' + b"x" * (4 << 20) + b'"}', MANIFEST)


def deep_index(builder: LayoutBuilder) -> dict[str, Any]:
    entry = builder.image(LAYERS)
    for _ in range(5):
        entry = builder.index(entry)
    return entry


def self_index(builder: LayoutBuilder) -> dict[str, Any]:
    digest = digest_of(b"cycle")
    document = {"schemaVersion": 2, "manifests": [{"mediaType": INDEX, "digest": digest, "size": 5}]}
    (builder.root / "blobs/sha256" / digest[7:]).write_text(json.dumps(document))
    return {"mediaType": INDEX, "digest": digest, "size": len(json.dumps(document))}


def schema_one(builder: LayoutBuilder) -> dict[str, Any]:
    return builder.document({"schemaVersion": 1}, MANIFEST)


def no_image(builder: LayoutBuilder) -> dict[str, Any]:
    config = builder.blob(b"{}", "application/vnd.example.chart+json")
    return builder.document({"schemaVersion": 2, "config": config, "layers": []}, MANIFEST)


def foreign_layer(builder: LayoutBuilder) -> dict[str, Any]:
    layer = builder.blob(b"", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    document = {"schemaVersion": 2, "config": builder.blob(b"{}", CONFIG), "layers": [layer]}
    return builder.document(document, MANIFEST)


def negative_size(builder: LayoutBuilder) -> dict[str, Any]:
    return builder.image(LAYERS) | {"size": -1}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (break_layer_bytes, DigestMismatch, "layer sha256"),
        (break_diff_id, DigestMismatch, "unpacked: expected"),
        (break_diff_count, InvalidImage, "has 1 diff ids, expected 2"),
        (break_manifest_bytes, DigestMismatch, "expected sha256"),
        (lose_layer, InvalidImage, "can't read blobs/sha256"),
        (lose_manifest, InvalidImage, "can't read blobs/sha256"),
        (traverse, InvalidImage, "not a digest"),
        (deep_json, InvalidImage, "not JSON"),
        (large_json, InvalidImage, "larger than 4194304 bytes"),
        (deep_index, InvalidImage, "an index in an index"),
        (self_index, DigestMismatch, "expected sha256"),
        (schema_one, InvalidImage, "schemaVersion 1, expected 2"),
        (no_image, InvalidImage, "not a container image"),
        (foreign_layer, InvalidImage, r"foreign\.diff\.tar\.gzip"),
        (negative_size, InvalidImage, "size -1"),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_what_is_wrong_is_refused_and_names_nothing(
    tmp_path: Path,
    builder: LayoutBuilder,
    store: OciLayout,
    make: Any,
    error: type[MlenvError],
    message: str,
    archived: bool,
) -> None:
    root = builder.finish(make(builder))
    source = f"oci-archive:{archive_of(root, tmp_path / 'a.tar')}" if archived else f"oci:{root}"
    if archived and make in (lose_layer, lose_manifest):
        message = "has no file 'blobs/sha256"
    with pytest.raises(error, match=message):
        import_image(source, store)
    assert [each for each in check_layout(store) if each.kind != "unfinished"] == []


def test_a_bomb_stops_at_the_limit(builder: LayoutBuilder, store: OciLayout) -> None:
    root = builder.finish(builder.image([{"zeros": bytes(50_000_000)}]))
    with pytest.raises(InvalidArchive, match="unpacks to more than 1000000 bytes"):
        import_image(str(root), store, limits=ImageLimits(unpacked=1_000_000))


def test_too_many_layers_are_refused(builder: LayoutBuilder, store: OciLayout) -> None:
    root = builder.finish(builder.image([{f"f{number}": b""} for number in range(4)]))
    with pytest.raises(InvalidImage, match="has 4 layers, at most 3"):
        import_image(str(root), store, limits=ImageLimits(layers=3))


def test_a_layer_that_is_cut_off_is_refused(builder: LayoutBuilder, store: OciLayout) -> None:
    tar = make_tar(LAYERS[1])
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest_of(tar)]}}
    layer = builder.blob(gzip.compress(tar)[:-20], f"{TAR}+gzip")
    manifest = {"schemaVersion": 2, "config": builder.document(config, CONFIG), "layers": [layer]}
    with pytest.raises(InvalidArchive, match="can't be decompressed"):
        import_image(str(builder.finish(builder.document(manifest, MANIFEST))), store)


def test_an_archive_with_a_name_twice_is_refused(tmp_path: Path, store: OciLayout) -> None:
    archive = archive_of(make_image(tmp_path / "image", LAYERS), tmp_path / "a.tar")
    with tarfile.open(archive, "a") as tar:
        tar.add(tmp_path / "image/index.json", "./index.json")
    with pytest.raises(InvalidArchive, match=r"has 'index\.json' twice"):
        import_image(str(archive), store)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("oci:", InvalidInput),
        ("oci:/nowhere", ImageNotFound),
        ("/nowhere/at/all:tag", ImageNotFound),
        ("oci-archive:{directory}", InvalidInput),
        ("oci:{file}", InvalidInput),
        ("{file}", InvalidArchive),
        ("docker-archive:{file}", InvalidArchive),
    ],
)
def test_what_is_no_source_is_told(tmp_path: Path, store: OciLayout, source: str, error: type[MlenvError]) -> None:
    (tmp_path / "file").write_text("not an archive, but text that is longer than a block" * 20)
    with pytest.raises(error):
        import_image(source.format(directory=tmp_path, file=tmp_path / "file"), store)
