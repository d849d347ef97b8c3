import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace
from support.images import make_image, new_store

from mlenv.build.compose import compose_image, environment_layer
from mlenv.build.images import import_image, load_image
from mlenv.build.validate import InvalidImage
from mlenv.core.digest import Digest
from mlenv.core.facts import Interpreter
from mlenv.core.image import Image
from mlenv.core.layer import MTIME, Compression, Layer, LayerRecipe
from mlenv.core.lock import Lock
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.spec import Spec
from mlenv.store.layout_check import check_layout
from mlenv.store.oci import OciLayout

LOCK = Lock(Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 36)), (), resolver="uv 1.0")
PYTHON = Interpreter("/usr/bin/python3.11", "3.11.2", "/usr")
RECIPE = LayerRecipe("3.11", "3.11.2")


@pytest.fixture
def store(tmp_path: Path) -> OciLayout:
    return new_store(tmp_path)


@pytest.fixture
def base(tmp_path: Path, store: OciLayout) -> Image:
    config = {
        "Env": ["PATH=/usr/bin:/bin", "LANG=C", "PYTHONHOME=/wrong"],
        "Cmd": ["bash"],
        "Labels": {"vendor": "example.org"},
        "WorkingDir": "/work",
    }
    return import_image(str(make_image(tmp_path / "base", [{"etc/os-release": b"ID=x"}], config)), store)


def tar_of(layer: Layer, store: OciLayout) -> bytes:
    data = store.read(layer.digest)
    if layer.media_type.endswith("gzip"):
        return gzip.decompress(data)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize("compression", list(Compression))
def test_the_environment_layer_is_a_virtual_environment(store: OciLayout, compression: Compression) -> None:
    layer = environment_layer(LOCK, PYTHON, replace(RECIPE, compression=compression), blobs=store)
    assert layer.media_type == compression.media_type
    data = tar_of(layer, store)
    assert Digest.of(data) == layer.diff_id
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {each.name: each for each in tar.getmembers()}
        lock = tar.extractfile("opt/env/pylock.toml")
        config = tar.extractfile("opt/env/pyvenv.cfg")
        assert lock is not None
        assert config is not None
        assert lock.read().decode() == LOCK.to_pylock()
        settings = dict(line.split(" = ") for line in config.read().decode().splitlines())
    assert settings["home"] == "/usr/bin"
    assert settings["version"] == "3.11.2"
    assert settings["include-system-site-packages"] == "false"
    links = {name: each.linkname for name, each in members.items() if each.issym()}
    assert links == {
        "opt/env/bin/python": "/usr/bin/python3.11",
        "opt/env/bin/python3": "python",
        "opt/env/bin/python3.11": "python",
        "opt/env/lib64": "lib",
    }
    assert members["opt/env/lib/python3.11/site-packages"].isdir()
    assert list(members) == sorted(members)
    assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in members.values()} == {
        (MTIME, 0, 0, "", "")
    }


def test_a_real_interpreter_takes_it_for_a_virtual_environment(tmp_path: Path, store: OciLayout) -> None:
    real = os.path.realpath(sys.executable)
    minor = f"3.{sys.version_info[1]}"
    interpreter = Interpreter(real, sys.version.split()[0], sys.base_prefix)
    prefix = str(tmp_path / "env")
    layer = environment_layer(LOCK, interpreter, LayerRecipe(minor, None, prefix=prefix), blobs=store)
    with tarfile.open(fileobj=io.BytesIO(tar_of(layer, store))) as tar:
        tar.extractall("/", members=[each for each in tar.getmembers() if f"/{each.name}".startswith(prefix)])
    code = "import sys, sysconfig; print(sys.prefix, sys.base_prefix, sysconfig.get_path('purelib'))"
    found = subprocess.run([f"{prefix}/bin/python3", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [prefix, sys.base_prefix, f"{prefix}/lib/python{minor}/site-packages"]
    script = f". {prefix}/bin/activate; echo $VIRTUAL_ENV; command -v python; deactivate; echo ${{VIRTUAL_ENV:-none}}; echo $PATH"
    lines = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True, env={"PATH": "/bin"})
    assert lines.stdout.split() == [prefix, f"{prefix}/bin/python", "none", "/bin"]


def test_an_image_is_the_base_and_the_layers(base: Image, store: OciLayout) -> None:
    layer = environment_layer(LOCK, PYTHON, RECIPE, blobs=store)
    spec = Spec(image="base", environment_variables=(("LANG", "C.UTF-8"), ("MODEL", "a=b")))
    image = compose_image(base, [layer], spec=spec, lock=LOCK, recipe=RECIPE, blobs=store)
    config = image.config["config"]
    assert config["Env"] == [
        "PATH=/opt/env/bin:/usr/bin:/bin",
        "LANG=C.UTF-8",
        "MODEL=a=b",
        "VIRTUAL_ENV=/opt/env",
    ]
    assert (config["Cmd"], config["WorkingDir"]) == (["bash"], "/work")
    assert config["Labels"] == {
        "vendor": "example.org",
        "org.opencontainers.image.base.digest": str(base.manifest.digest),
        "dev.mlenv.lock": str(LOCK.digest),
        "dev.mlenv.environment": "/opt/env",
    }
    assert [diff_id for _, diff_id in image.layers] == [base.layers[0][1], layer.diff_id]
    assert image.config["rootfs"]["diff_ids"] == [str(base.layers[0][1]), str(layer.diff_id)]
    assert len(image.config["history"]) == 2
    assert load_image(image.manifest, store) == image
    store.set_name("env", image.manifest)
    assert check_layout(store) == []


def test_the_same_arguments_make_the_same_image(base: Image, store: OciLayout, tmp_path: Path) -> None:
    def compose(lock: Lock, spec: Spec) -> Digest:
        layer = environment_layer(lock, PYTHON, RECIPE, blobs=store)
        return compose_image(base, [layer], spec=spec, lock=lock, recipe=RECIPE, blobs=store).manifest.digest

    assert compose(LOCK, Spec()) == compose(LOCK, Spec())
    assert compose(LOCK, Spec(environment_variables=(("A", "b"),))) != compose(LOCK, Spec())
    assert compose(replace(LOCK, resolver="another"), Spec()) != compose(LOCK, Spec())


def test_the_activated_path_stays_first(base: Image, store: OciLayout) -> None:
    spec = Spec(environment_variables=(("PATH", "/mine"), ("VIRTUAL_ENV", "/elsewhere")))
    image = compose_image(base, [], spec=spec, lock=LOCK, recipe=RECIPE, blobs=store)
    assert image.config["config"]["Env"] == ["PATH=/opt/env/bin:/mine", "LANG=C", "VIRTUAL_ENV=/opt/env"]


def test_no_more_layers_than_can_be_mounted(base: Image, store: OciLayout) -> None:
    layer = environment_layer(LOCK, PYTHON, RECIPE, blobs=store)
    compose_image(base, [layer] * 126, spec=Spec(), lock=LOCK, recipe=RECIPE, blobs=store)
    with pytest.raises(InvalidImage, match="the base has 1 layers and 127 are added, at most 127"):
        compose_image(base, [layer] * 127, spec=Spec(), lock=LOCK, recipe=RECIPE, blobs=store)


def test_the_history_agrees_with_the_layers_whatever_the_base_says(base: Image, store: OciLayout) -> None:
    def history(past: list[dict[str, object]]) -> list[dict[str, object]]:
        told = replace(base, config={**base.config, "history": past})
        layer = environment_layer(LOCK, PYTHON, RECIPE, blobs=store)
        image = compose_image(told, [layer], spec=Spec(), lock=LOCK, recipe=RECIPE, blobs=store)
        document = json.loads(store.read(image.config_digest))
        found: list[dict[str, object]] = document["history"]
        return found

    assert [
        each.get("created_by") for each in history([{"created_by": "a"}, {"created_by": "b", "empty_layer": True}])
    ] == [
        "a",
        "b",
        "mlenv",
    ]
    assert [each.get("created_by") for each in history([{"created_by": "a"}] * 5)] == ["base", "mlenv"]
