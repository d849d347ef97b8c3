import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.images import make_image, new_store

from mlenv.build.export import TargetExists, export_image
from mlenv.build.images import import_image
from mlenv.core.digest import Digest
from mlenv.core.image import Image
from mlenv.errors import InvalidInput, MlenvError
from mlenv.store.layout_check import check_layout
from mlenv.store.oci import OciLayout

LAYERS = [{"etc/os-release": b"ID=debian\n"}, {"opt/file": b"x" * 5000}]


@pytest.fixture
def store(tmp_path: Path) -> OciLayout:
    return new_store(tmp_path)


@pytest.fixture(params=["plain", "gzip", "zstd"])
def image(request: pytest.FixtureRequest, tmp_path: Path, store: OciLayout) -> Image:
    return import_image(str(make_image(tmp_path / "image", LAYERS, compression=request.param)), store)


def test_an_oci_archive_is_read_back_as_the_same_image(tmp_path: Path, store: OciLayout, image: Image) -> None:
    path = export_image(image, f"oci-archive:{tmp_path / 'sub/env.tar'}", store, name="env:1")
    other = new_store(tmp_path / "other")
    assert import_image(f"oci-archive:{path}:env:1", other) == image
    assert check_layout(other) == []
    assert [each.name for each in path.parent.iterdir()] == ["env.tar"]


def test_a_docker_archive_holds_plain_layers(tmp_path: Path, store: OciLayout, image: Image) -> None:
    path = export_image(image, f"docker-archive:{tmp_path / 'env.tar'}", store, name="team/env")
    with tarfile.open(path) as tar:
        names = tar.getnames()
        [entry] = json.load(tar.extractfile("manifest.json") or pytest.fail("no manifest"))
    assert entry["RepoTags"] == ["team/env:latest"]
    assert entry["Layers"] == [f"{diff_id.hex}.tar" for _, diff_id in image.layers]
    assert set(names) == {*entry["Layers"], entry["Config"], "manifest.json"}
    again = import_image(f"docker-archive:{path}:team/env", new_store(tmp_path / "other"))
    assert [diff_id for _, diff_id in again.layers] == [diff_id for _, diff_id in image.layers]
    assert again.config_digest == image.config_digest


def test_a_directory_holds_manifest_and_blobs(tmp_path: Path, store: OciLayout, image: Image) -> None:
    path = export_image(image, f"dir:{tmp_path / 'env'}", store)
    assert Digest.of((path / "manifest.json").read_bytes()) == image.manifest.digest
    blobs = {each.name: Digest.of(each.read_bytes()).hex for each in path.iterdir() if len(each.name) == 64}
    assert blobs == {hex: hex for hex in [image.config_digest.hex, *(layer.digest.hex for layer, _ in image.layers)]}
    assert (path / "version").read_text() == "Directory Transport Version: 1.1\n"


def content(path: Path) -> Iterable[bytes]:
    return [each.read_bytes() for each in sorted(path.iterdir())] if path.is_dir() else [path.read_bytes()]


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "dir"])
def test_the_same_image_gives_the_same_bytes_and_nothing_is_overwritten(
    tmp_path: Path, store: OciLayout, image: Image, kind: str
) -> None:
    one = export_image(image, f"{kind}:{tmp_path / 'one'}", store, name="env:1")
    two = export_image(image, f"{kind}:{tmp_path / 'two'}", store, name="env:1")
    assert content(one) == content(two)
    with pytest.raises(TargetExists, match="one exists") as caught:
        export_image(image, f"{kind}:{tmp_path / 'one'}", store)
    assert "--force" in (caught.value.hint or "")
    assert export_image(image, f"{kind}:{tmp_path / 'one'}", store, name="env:1", force=True) == one
    assert content(one) == content(two)


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "dir"])
def test_what_fails_leaves_nothing(tmp_path: Path, store: OciLayout, image: Image, kind: str) -> None:
    store.remove(image.layers[-1][0].digest)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MlenvError):
        export_image(image, f"{kind}:{tmp_path / 'out'}", store)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("env.tar", None),
        ("tar:env", None),
        ("dir:", None),
        ("dir:x", "Upper Case"),
        ("dir:x", "a" * 300),
        ("dir:x", ""),
    ],
)
def test_what_is_no_target_or_name_is_refused(store: OciLayout, image: Image, target: str, name: str | None) -> None:
    with pytest.raises(InvalidInput):
        export_image(image, target, store, name=name)
