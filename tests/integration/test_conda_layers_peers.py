"""Layers of conda packages beside what rattler installs of the same packages, and in a container."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.conda_locked import locked
from support.conda_packages import (
    PLACEHOLDER,
    File,
    Link,
    Package,
    interpreter,
    make_package,
    program_package,
    python_package,
)
from support.images import new_store
from support.tiny_base import make_tiny_base

from mlenv.build.compose import compose_image
from mlenv.build.conda_layers import build_conda_layers, conda_environment_layer
from mlenv.build.export import export_image
from mlenv.build.images import import_image
from mlenv.core.conda_layer import CondaRecipe, plan_conda_layers
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaScheme
from mlenv.core.image import Image
from mlenv.core.layer import Layer, LayerRecipe
from mlenv.core.lock import Lock
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.spec import Spec
from mlenv.run.conda_prefix import lay_out_conda
from mlenv.run.unpacked_conda import UnpackedConda
from mlenv.store.oci import OciLayout

_INSTALLER = Path(__file__).parents[1] / "support" / "rattler_install.py"
_BINARY = b"\x7fELF" + (PLACEHOLDER + "/lib:" + PLACEHOLDER + "/lib64\0tail\0").encode() * 3
_FILES: dict[str, bytes | File | Link] = {
    "lib/libx.so.1": File(_BINARY, 0o755, "binary"),
    "lib/libx.so": Link("libx.so.1"),
    "bin/x": File(f"#!{PLACEHOLDER}/bin/python -u\nprint('{PLACEHOLDER}')\n".encode(), 0o755, "text"),
    "etc/conda/activate.d/x.sh": File(f"export X={PLACEHOLDER}\n".encode(), 0o644, "text"),
    "share/empty": b"",
    "share/" + "deep/" * 40 + "file": b"x" * 5000,
}
PACKAGES = (
    interpreter(),
    program_package(said="from a layer\n", depends=["python"]),
    python_package("tool", entry_points=["tool = tool:main", "t2 = tool:main"], files={"python-scripts/s": File(b"#!/bin/sh\n", 0o755)}),
    make_package("x", subdir="linux-64", files=_FILES, ending="tar.bz2", post_link="exit 1\n"),
)  # fmt: skip


def _rattler(**request: Any) -> Any:
    done = subprocess.run(
        [sys.executable, str(_INSTALLER), json.dumps(request)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> OciLayout:
    return new_store(tmp_path_factory.mktemp("conda-layers"))


@pytest.fixture(scope="module")
def packages(store: OciLayout) -> list[CondaPackage]:
    locks = [locked(each, requested=each.name) for each in PACKAGES]
    for each, lock in zip(PACKAGES, locks, strict=True):
        store.put([each.data], digest=lock.artifact.digest, size=len(each.data), what=each.filename)
    return locks


class Forgetful:
    """A cache of layers that remembers nothing."""

    def get(self, key: object) -> None:
        return None

    def put(self, key: object, layer: Layer) -> None:
        pass

    def remove(self, key: object) -> None:
        pass


@pytest.fixture(scope="module")
def layers(store: OciLayout, packages: list[CondaPackage]) -> list[Layer]:
    recipe = CondaRecipe(CondaScheme.of(packages, "/opt/env"))
    built = build_conda_layers(plan_conda_layers(packages), recipe, blobs=store, cache=Forgetful())
    return [*built, conda_environment_layer(packages, recipe, files={}, blobs=store)]


@pytest.fixture(scope="module")
def unpacked(store: OciLayout, layers: list[Layer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`/opt/env`, as layers make it."""
    root = tmp_path_factory.mktemp("unpacked")
    for layer in layers:
        with (
            open(store.path(layer.digest), "rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as plain,
            tarfile.open(fileobj=plain, mode="r|") as tar,
        ):
            tar.extractall(root, filter="tar")
    return root / "opt" / "env"


def _files(root: Path) -> dict[str, tuple[str, bool, bytes]]:
    """All files but records: path, what a link says, whether it is executable, and the content."""
    found = {}
    for directory, names, files in os.walk(root):
        for path in (Path(directory, each) for each in (*files, *names)):
            name = str(path.relative_to(root))
            if name.startswith("conda-meta") or name == "CACHEDIR.TAG":
                continue
            if path.is_symlink():
                found[name] = (os.readlink(path), False, b"")
            elif path.is_file():
                # Rattler indents the scripts of entry points by a tab, conda by four spaces.
                content = path.read_bytes().replace(b"\t", b"    ")
                found[name] = ("", os.access(path, os.X_OK), content)
    return found


def _offer(directory: Path, *packages: Package) -> list[dict[str, Any]]:
    directory.mkdir()
    for each in packages:
        (directory / each.filename).write_bytes(each.data)
    return [{"path": str(directory / each.filename), "record": each.record} for each in packages]


def test_layers_have_what_rattler_installs(unpacked: Path, tmp_path: Path) -> None:
    offered = _offer(tmp_path / "offered", *PACKAGES)
    theirs = _rattler(packages=offered, prefix=str(tmp_path / "stage"), final="/opt/env", cache=str(tmp_path / "cache"))
    assert _files(unpacked) == _files(tmp_path / "stage")
    ours = _rattler(packages=[], prefix=str(unpacked), final="", cache="")
    assert ours["records"] == theirs["records"]
    assert (unpacked / "conda-meta/history").read_text().startswith("==> ")


def test_a_local_prefix_has_what_rattler_installs(
    store: OciLayout, packages: list[CondaPackage], tmp_path: Path
) -> None:
    cache, prefix = UnpackedConda(tmp_path / "cache"), tmp_path / "prefix"
    cache.unpack(packages, store, staging=tmp_path / "staging", progress=Silent())
    prefix.mkdir()
    lay_out_conda(prefix, prefix, packages, cache, Silent())
    offered = _offer(tmp_path / "offered", *PACKAGES)
    theirs = _rattler(
        packages=offered, prefix=str(tmp_path / "stage"), final=str(prefix), cache=str(tmp_path / "rattler")
    )
    assert _files(prefix) == _files(tmp_path / "stage")
    assert _rattler(packages=[], prefix=str(prefix), final="", cache="")["records"] == theirs["records"]


def _image(base: Image, layers: list[Layer], store: OciLayout) -> Image:
    lock = Lock(Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 36)), (), resolver="none")
    return compose_image(base, layers, spec=Spec(), lock=lock, recipe=LayerRecipe("3.11", None), blobs=store)


@pytest.mark.container
def test_a_program_runs_in_a_container(
    store: OciLayout, layers: list[Layer], tmp_path: Path, podman_storage: None
) -> None:
    base = import_image(f"oci:{make_tiny_base(tmp_path / 'base')}", store)
    path = export_image(_image(base, layers, store), f"oci-archive:{tmp_path / 'env.tar'}", store, name="conda:1")
    run = ["podman", "run", "--rm", "--network=none", f"oci-archive:{path}"]
    script = "teller; teller-too; cat /opt/env/share/teller/where.txt; ls /opt/env/conda-meta"
    said = subprocess.run([*run, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 0, said.stderr
    records = [f"{each.record['name']}-{each.record['version']}-0.json" for each in PACKAGES]
    expected = ["from a layer", "from a layer", "prefix=/opt/env", "history", *sorted(records)]
    assert said.stdout.splitlines() == expected
