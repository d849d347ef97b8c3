"""What a builder left: only what is what it says becomes an image, and what is new has its times set."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.images import LayoutBuilder, digest_of, make_tar, new_store

from mlenv.build.context_result import NoResult, take_result
from mlenv.build.images import import_image
from mlenv.build.unpacking import InvalidArchive
from mlenv.build.validate import InvalidImage
from mlenv.core.digest import DigestMismatch
from mlenv.core.image import Image
from mlenv.core.layer import MTIME, Compression
from mlenv.core.platform import Platform
from mlenv.core.progress import Silent
from mlenv.store.oci import OciLayout

AMD64 = Platform("linux", "amd64")
BASE = {"etc/os-release": b"ID=example\n"}
NEW = {"src": None, "src/a.py": b"print()\n"}


@pytest.fixture
def store(tmp_path: Path) -> OciLayout:
    return new_store(tmp_path)


@pytest.fixture
def base(store: OciLayout, tmp_path: Path) -> Image:
    builder = LayoutBuilder(tmp_path / "base")
    return import_image(f"oci:{builder.finish(builder.image([BASE]))}", store)


def left(tmp_path: Path, layers: list[Any], config: dict[str, Any] | None = None, **more: Any) -> Path:
    """The directory in which a builder leaves an image."""
    (tmp_path / "out").mkdir()
    builder = LayoutBuilder(tmp_path / "out/image")
    builder.finish(builder.image(layers, config, **more))
    return tmp_path / "out"


def take(out: Path, base: Image, store: OciLayout, **more: Any) -> Image:
    options: dict[str, Any] = {"platform": AMD64, "variables": (), "labels": {}, "compression": Compression.ZSTD}
    names = {"mlenv-base-0": "debian:bookworm"}
    return take_result(out, [base], names, blobs=store, progress=Silent(), **{**options, **more})


def tar_in(store: OciLayout, image: Image, number: int) -> bytes:
    data = store.path(image.layers[number][0].digest).read_bytes()
    return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(data)


def test_layers_of_the_base_are_its_own_and_the_others_get_their_times(
    tmp_path: Path, base: Image, store: OciLayout
) -> None:
    # Some builders leave bytes behind a tar's end, which are a part of what the diff id is of.
    out = left(tmp_path, [BASE, make_tar(NEW) + b"\0" * 10_240], {"Env": ["A=1", "B=2"]})
    image = take(out, base, store, variables=(("B", "3"),), labels={"made": "here"})
    assert image.layers[0] == base.layers[0]
    tar = tar_in(store, image, 1)
    assert str(image.layers[1][1]) == digest_of(tar)
    assert image.config["rootfs"]["diff_ids"] == [str(diff_id) for _, diff_id in image.layers]
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:
        assert {each.mtime for each in read.getmembers()} == {MTIME}
        assert [each.name for each in read.getmembers()] == list(NEW)
    assert image.config["config"] == {"Env": ["A=1", "B=3"], "Labels": {"made": "here"}}
    assert json.loads(store.read(image.manifest.digest))["annotations"]["made"] == "here"


@pytest.mark.parametrize(
    ("layers", "more", "fault"),
    [
        ([BASE, NEW], {"diff_ids": [digest_of(make_tar(BASE)), digest_of(b"another")]}, DigestMismatch),
        ([BASE, NEW], {"architecture": "arm64"}, InvalidImage),
        ([BASE, b"no tar at all" * 100], {}, InvalidArchive),
        ([BASE, make_tar(NEW)[:700]], {}, InvalidArchive),
        ([{"f": b""}] * 128, {}, InvalidImage),
    ],
)
def test_what_is_not_what_it_says_is_refused_and_nothing_of_it_stays(
    tmp_path: Path, base: Image, store: OciLayout, layers: list[Any], more: dict[str, Any], fault: type[Exception]
) -> None:
    before = {each.name for each in (store.root / "blobs/sha256").iterdir()}
    with pytest.raises(fault):
        take(left(tmp_path, layers, **more), base, store)
    assert {each.name for each in (store.root / "blobs/sha256").iterdir()} == before


def test_no_link_is_followed(tmp_path: Path, base: Image, store: OciLayout) -> None:
    out = left(tmp_path, [BASE, NEW])
    (blob,) = [each for each in (out / "image/blobs/sha256").iterdir() if each.name == blob_of(out)]
    blob.rename(tmp_path / "outside")
    blob.symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidImage, match="has no file"):
        take(out, base, store)


def blob_of(out: Path) -> str:
    """The name of the last layer's blob."""
    entry = json.loads((out / "image/index.json").read_text())["manifests"][0]["digest"]
    manifest = json.loads((out / "image/blobs/sha256" / entry.removeprefix("sha256:")).read_text())
    return str(manifest["layers"][-1]["digest"]).removeprefix("sha256:")


def test_a_builder_that_left_nothing_is_told(tmp_path: Path, base: Image, store: OciLayout) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(NoResult, match="is not there"):
        take(tmp_path / "out", base, store)
