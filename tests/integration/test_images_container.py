"""Images made and exported here, as skopeo, umoci and podman see them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.docker import Docker
from support.images import LayoutBuilder, new_store

from mlenv.build.compose import compose_image, environment_layer
from mlenv.build.debian import create_debian_base
from mlenv.build.export import export_image
from mlenv.build.facts import read_facts
from mlenv.build.images import import_image
from mlenv.core.image import Image
from mlenv.core.layer import Compression, LayerRecipe
from mlenv.core.lock import Lock
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.spec import Spec
from mlenv.store.layout_check import check_layout
from mlenv.store.oci import OciLayout

pytestmark = pytest.mark.container

_ASK = "import os, sys; print(sys.prefix, sys.base_prefix, os.environ['VIRTUAL_ENV'], os.environ['MODEL'])"


def run(*command: str | Path) -> str:
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> OciLayout:
    return new_store(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def base(store: OciLayout, debian_base: Path) -> Image:
    return import_image(f"oci-archive:{debian_base}", store)


def compose(base: Image, store: OciLayout, compression: Compression = Compression.ZSTD) -> Image:
    lock = Lock(Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 36)), (), resolver="none")
    recipe = LayerRecipe("3.11", None, compression)
    layer = environment_layer(lock, read_facts(base, store).pythons[0], recipe, blobs=store)
    spec = Spec(environment_variables=(("MODEL", "small"),))
    return compose_image(base, [layer], spec=spec, lock=lock, recipe=recipe, blobs=store)


@pytest.fixture(scope="module")
def image(base: Image, store: OciLayout) -> Image:
    image = compose(base, store)
    store.set_name("env", image.manifest)
    return image


def test_facts_of_a_real_debian(base: Image, store: OciLayout) -> None:
    facts = read_facts(base, store)
    assert (facts.os_id, facts.os_version, facts.glibc) == ("debian", "12", Glibc(2, 36))
    assert [(each.path, each.version) for each in facts.pythons] == [("/usr/bin/python3.11", "3.11.2")]
    assert facts.packages is not None
    assert facts.packages > 80


def test_skopeo_reads_the_store_and_every_export(tmp_path: Path, image: Image, store: OciLayout) -> None:
    digest = str(image.manifest.digest)
    exports = [f"{kind}:{tmp_path / kind}" for kind in ("oci-archive", "dir", "docker-archive")]
    for target in exports:
        export_image(image, target, store, name="env:1")
    sources = [f"oci:{store.root}:env", *exports]
    found = [json.loads(run("skopeo", "inspect", source)) for source in sources]
    assert [each["Digest"] == digest for each in found] == [True, True, True, False]
    assert {each["Architecture"] for each in found} == {"amd64"}
    assert all("VIRTUAL_ENV=/opt/env" in each["Env"] for each in found)
    # A copy unpacks each layer and compares it with its diff id.
    for number, source in enumerate(sources):
        run("skopeo", "copy", "--quiet", "--dest-decompress", source, f"dir:{tmp_path / f'copy{number}'}")


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_podman_loads_and_runs_it(tmp_path: Path, image: Image, store: OciLayout, kind: str) -> None:
    name = f"mlenv-test/{kind}:1"
    path = export_image(image, f"{kind}:{tmp_path / 'env.tar'}", store, name=name)
    assert name in run("podman", "load", "--quiet", "--input", path)
    found = run("podman", "run", "--rm", "--network=none", name, "python", "-c", _ASK)
    assert found.split() == ["/opt/env", "/usr", "/opt/env", "small"]
    links = run(
        "podman", "run", "--rm", "--network=none", name, "sh", "-c", "readlink -f /opt/env/lib64 $(which python3.11)"
    )
    assert links.split() == ["/opt/env/lib", "/usr/bin/python3.11"]


@pytest.mark.parametrize(
    ("suite", "kind"), [("bookworm", "docker-archive"), ("trixie", "docker-archive"), ("trixie", "oci-archive")]
)
def test_docker_loads_and_runs_it(
    tmp_path: Path, image: Image, store: OciLayout, suite: str, kind: str, dockers: Callable[[str], Docker]
) -> None:
    docker = dockers(suite)
    name = f"mlenv-test/{kind}:1"
    path = export_image(image, f"{kind}:{tmp_path / 'env.tar'}", store, name=name)
    name = name if kind == "docker-archive" else f"localhost/{name}"
    assert docker.must("load", "--quiet", "--input", str(path)).split() == ["Loaded", "image:", name]
    found = docker.must("run", "--rm", "--network=none", name, "python", "-c", _ASK)
    assert found.split() == ["/opt/env", "/usr", "/opt/env", "small"]


def test_umoci_unpacks_it(tmp_path: Path, base: Image, store: OciLayout) -> None:
    # NOTE: umoci 0.4 knows no zstd, so the base comes through a docker archive, whose layers are plain.
    path = export_image(base, f"docker-archive:{tmp_path / 'base.tar'}", store)
    image = compose(import_image(f"docker-archive:{path}", store), store, Compression.GZIP)
    store.set_name("plain", image.manifest)
    run("umoci", "unpack", "--rootless", "--image", f"{store.root}:plain", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    assert (root / "opt/env/bin/python").readlink() == Path("/usr/bin/python3.11")
    assert "home = /usr/bin" in (root / "opt/env/pyvenv.cfg").read_text()


def test_what_skopeo_converts_is_imported(tmp_path: Path, image: Image, store: OciLayout) -> None:
    # skopeo 1.9 makes no Docker image of zstd layers, so these go by plain ones.
    plain = f"docker-archive:{tmp_path / 'plain.tar'}"
    export_image(image, plain, store)
    for form in ("v2s2", "oci"):
        run("skopeo", "copy", "--quiet", "--format", form, "--dest-compress", plain, f"dir:{tmp_path / form}")
        again = import_image(f"oci:{_layout_of(tmp_path / form, tmp_path / f'{form}.oci')}", store)
        assert ("docker" in again.manifest.media_type) == (form == "v2s2")
        assert {layer.media_type for layer, _ in again.layers} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
        assert [diff_id for _, diff_id in again.layers] == [diff_id for _, diff_id in image.layers]
    saved = tmp_path / "saved.tar"
    run("skopeo", "copy", "--quiet", plain, f"docker-archive:{saved}:env:1")
    again = import_image(f"{saved}:env:1", store)
    assert [diff_id for _, diff_id in again.layers] == [diff_id for _, diff_id in image.layers]


def _layout_of(directory: Path, target: Path) -> Path:
    """An OCI layout of what is in skopeo's `dir:` format."""
    builder = LayoutBuilder(target)
    for path in directory.iterdir():
        if len(path.name) == 64:
            builder.blob(path.read_bytes(), "")
    manifest = (directory / "manifest.json").read_bytes()
    return builder.finish(builder.blob(manifest, json.loads(manifest)["mediaType"]))


def _packages(base: Image, store: OciLayout) -> str:
    """What a Debian base was made of."""
    return str(json.loads(store.read(base.manifest.digest))["annotations"]["dev.mlenv.base.packages"])


def test_a_debian_base_is_the_same_twice_and_starts_from_its_bytecode(
    base: Image, store: OciLayout, tmp_path: Path
) -> None:
    def create(name: str) -> tuple[Image, OciLayout]:
        directory = tmp_path / name
        directory.mkdir()
        made = new_store(directory)
        return create_debian_base("bookworm", blobs=made, workdir=directory), made

    one, made = create("one")
    # The base of the other tests was made in the same way, by another process. It may have been kept from a day on
    # which Debian had other packages.
    two = base if _packages(base, store) == _packages(one, made) else create("two")[0]
    assert one == two
    assert check_layout(made) == []
    facts = read_facts(one, made)
    assert [each.version for each in facts.pythons] == ["3.11.2"]
    assert (facts.os_version, facts.layers) == ("12", 1)
    assert facts.size < 60_000_000
    image = export_image(one, f"oci-archive:{tmp_path / 'base.tar'}", made, name="mlenv-test/base:1")
    run("podman", "load", "--quiet", "--input", image)
    ask = "import encodings, json, sys; print([m.__cached__ for m in (encodings, json) if open(m.__cached__, 'rb').read(8)[4] != 1])"
    assert run("podman", "run", "--rm", "--network=none", "mlenv-test/base:1", "python3", "-c", ask) == "[]\n"
    run("podman", "run", "--rm", "--network=none", "mlenv-test/base:1", "sh", "-c", "test ! -e /usr/share/perl5/File")


def test_the_same_base_and_lock_are_the_same_image(base: Image, image: Image, store: OciLayout, tmp_path: Path) -> None:
    other = new_store(tmp_path)
    path = export_image(base, f"oci-archive:{tmp_path / 'base.tar'}", store)
    again = compose(import_image(str(path), other), other)
    assert again == image
