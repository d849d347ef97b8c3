"""A real environment on a real Debian, made by the command line, and what is seen from inside its containers."""

import hashlib
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.index import PackageIndex
from support.world import World

#: One worker builds the image once for all of these tests.
pytestmark = [pytest.mark.online, pytest.mark.container]
_BASE = "example.org/bookworm:1"
_CONDA = """\
dependencies:
  - python=3.11
  - pip
  - pip:
      - scikit-learn>=1.6,<2
      - httpie
"""
_PATH = "/usr/bin:/bin:/somewhere"
_OCI = "application/vnd.oci.image"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def call(*command: str | Path, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=300, errors="replace", **more
    )


def must(*command: str | Path, **more: Any) -> str:
    done = call(*command, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, debian_base: Path, podman_storage: None) -> World:
    root = tmp_path_factory.mktemp("inside")
    made = World(root / "work", root / "home", PackageIndex())
    made.directory.mkdir()
    (made.directory / "conda.yml").write_text(_CONDA)
    document: dict[str, Any] = {"name": "Train_Set", "image": _BASE, "conda_file": "conda.yml"}
    document["environment_variables"] = {"GREETING": 'a=b, "c" é', "PATH": _PATH, "VIRTUAL_ENV": "/elsewhere"}
    (made.directory / "environment.yml").write_text(json.dumps(document))
    made.ok("base", "import", f"oci-archive:{debian_base}", "--name", _BASE)
    made.ok("environment", "create", "-f", "environment.yml")
    made.ok("environment", "build", "Train_Set:1")
    return made


@pytest.fixture(scope="module")
def lock(world: World) -> Any:
    return world.ok("environment", "lock", "Train_Set:1")


@pytest.fixture(scope="module")
def image(world: World) -> str:
    """The image in podman's storage, as it comes out of an OCI archive."""
    world.ok("environment", "export", "Train_Set:1", "--to", "oci-archive:train.tar")
    loaded = must("podman", "load", "--quiet", "--input", world.directory / "train.tar")
    return loaded.partition("Loaded image: ")[2].strip()


def inside(image: str, *command: str) -> str:
    return must("podman", "run", "--rm", "--network=none", image, *command)


def test_the_store_may_hold_any_name_and_an_archive_has_one_that_engines_take(image: str) -> None:
    assert image == "localhost/train_set:1"


def test_pip_sees_what_is_locked_and_nothing_else(image: str, lock: Any) -> None:
    listed = json.loads(inside(image, "pip", "list", "--format=json", "--disable-pip-version-check"))
    locked = {(each["name"], each["version"]) for each in lock["packages"]}
    assert {(re.sub(r"[-_.]+", "-", each["name"]).lower(), each["version"]) for each in listed} == locked
    assert {"scikit-learn", "numpy", "pip", "setuptools", "wheel"} <= {name for name, _ in locked}
    assert inside(image, "pip", "check").strip() == "No broken requirements found."


def test_console_scripts_run(image: str, lock: Any) -> None:
    version = next(each["version"] for each in lock["packages"] if each["name"] == "httpie")
    assert inside(image, "http", "--version").strip() == version
    assert inside(image, "sh", "-c", "command -v http; head -n1 $(command -v http)").split() == [
        "/opt/env/bin/http",
        "#!/opt/env/bin/python",
    ]
    activated = ". /opt/env/bin/activate && echo $PATH && deactivate && echo $PATH"
    path = f"/opt/env/bin:{_PATH}"
    assert inside(image, "sh", "-c", activated).split() == [f"/opt/env/bin:{path}", path]


def test_it_is_a_virtual_environment(image: str) -> None:
    code = (
        "import json, os, site, sys, sysconfig; print(json.dumps([sys.prefix, sys.base_prefix, sys.executable, "
        "site.ENABLE_USER_SITE, sysconfig.get_path('purelib'), os.environ['VIRTUAL_ENV'], os.environ['GREETING'], "
        "os.environ['PATH'], [each for each in sys.path if 'packages' in each]]))"
    )
    packages = "/opt/env/lib/python3.11/site-packages"
    assert json.loads(inside(image, "python", "-c", code)) == [
        "/opt/env",
        "/usr",
        "/opt/env/bin/python",
        False,
        packages,
        "/opt/env",
        'a=b, "c" é',
        f"/opt/env/bin:{_PATH}",
        [packages],
    ]
    for name in ("python", "python3", "python3.11"):
        assert inside(image, f"/opt/env/bin/{name}", "-c", "import sklearn, sys; print(sys.prefix)") == "/opt/env\n"
    assert inside(image, "/usr/bin/python3", "-c", "import sys; print(sys.prefix == sys.base_prefix)") == "True\n"


def test_another_environment_can_be_made_in_it(image: str) -> None:
    ask = "/tmp/v/bin/python -c 'import sys; print(sys.prefix, sys.base_prefix)'"
    made = inside(image, "sh", "-c", f"python -m venv --without-pip /tmp/v && {ask}")
    assert made.split() == ["/tmp/v", "/usr"]
    # Debian takes ensurepip out of its Python: what `python -m venv` says there, it says here.
    refused = call("podman", "run", "--rm", "--network=none", image, "python", "-m", "venv", "/tmp/v")
    assert refused.returncode == 1
    assert "python3-venv" in refused.stdout + refused.stderr


def test_a_first_import_compiles_nothing(image: str) -> None:
    code = "import sklearn.ensemble, numpy, pip, httpie.core"
    # (1) Every module of the environment comes from bytecode that is there, and is taken without a look at the source.
    said = must("podman", "run", "--rm", "--network=none", image, "sh", "-c", f"python -v -c '{code}' 2>&1")
    loaded = [line for line in said.splitlines() if "/opt/env/" in line and line.startswith("# code object from")]
    assert len(loaded) > 400
    assert [line for line in loaded if not line.rstrip("'").endswith(".pyc")] == []
    assert [line for line in said.splitlines() if line.startswith("# wrote")] == []
    # (2) No file comes to be, and none changes.
    script = f"touch /tmp/mark && python -c '{code}' && find /opt /usr -newer /tmp/mark"
    assert inside(image, "sh", "-c", script) == ""
    # (3) So it does not matter that the file system can't be written.
    must("podman", "run", "--rm", "--read-only", "--network=none", image, "python", "-c", code)


def test_check_finds_no_drift_and_then_each_kind_of_it(world: World, image: str) -> None:
    report = world.ok("check", "Train_Set:1", "--engine", "container")
    assert report["drift"] is False, report

    change = (
        "pip uninstall --yes --quiet httpie && echo '# changed' >> /opt/env/lib/python3.11/site-packages/joblib/pool.py"
        " && mv /opt/env/lib/python3.11/site-packages/idna-*.dist-info /opt/env/lib/python3.11/site-packages/idna-0.1.dist-info"
        " && sed -i 's/^Version: .*/Version: 0.1/' /opt/env/lib/python3.11/site-packages/idna-0.1.dist-info/METADATA"
        " && mkdir /opt/env/lib/python3.11/site-packages/stranger-1.dist-info"
        " && printf 'Metadata-Version: 2.1\\nName: stranger\\nVersion: 1\\n' > /opt/env/lib/python3.11/site-packages/stranger-1.dist-info/METADATA"
    )
    must("podman", "run", "--name", "changed", "--network=none", image, "sh", "-c", change)
    must("podman", "commit", "--quiet", "changed", "mlenv-test/changed:1")
    # mlenv looks at any interpreter: here one that stands for the container's, named by `--python`.
    wrapper = world.directory / "python-in-container"
    wrapper.write_text('#!/bin/sh\nexec podman run --rm -i --network=none mlenv-test/changed:1 python "$@"\n')
    wrapper.chmod(0o755)
    done = world.run("check", "Train_Set:1", "--python", str(wrapper))
    assert done.returncode == 1, done.stderr
    found = {each["name"]: each["kind"] for each in json.loads(done.stdout)["findings"] if each["drift"]}
    assert {name: found[name] for name in ("httpie", "joblib", "idna", "stranger")} == {
        "httpie": "missing",
        "joblib": "modified",
        "idna": "version",
        "stranger": "extra",
    }


def test_a_container_runs_what_it_is_told(world: World) -> None:
    code = "import os, sys; open('made', 'w').write(os.environ['GREETING']); sys.exit(3)"
    done = world.run(
        "run", "Train_Set:1", "--engine", "container", "--env", "GREETING=mine", "--", "python", "-c", code
    )
    assert done.returncode == 3, done.stderr
    assert (world.directory / "made").read_text() == "mine"


@pytest.fixture(scope="module")
def layout(world: World, image: str) -> Path:
    """The OCI archive, unpacked."""
    target = world.directory / "layout"
    with tarfile.open(world.directory / "train.tar") as tar:
        tar.extractall(target, filter="data")
    return target


def _blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    """A descriptor's bytes, after a look at the descriptor (image-spec, descriptor.md)."""
    assert _DIGEST.fullmatch(descriptor["digest"])
    data = Path(layout, "blobs/sha256", descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}") == (descriptor["size"], descriptor["digest"])
    return data


def test_the_archive_is_as_the_image_spec_says(layout: Path, lock: Any) -> None:
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_text())
    assert (index["schemaVersion"], index["mediaType"]) == (2, f"{_OCI}.index.v1+json")
    (entry,) = index["manifests"]
    assert entry["mediaType"] == f"{_OCI}.manifest.v1+json"

    manifest = json.loads(_blob(layout, entry))
    assert set(manifest) == {"schemaVersion", "mediaType", "config", "layers", "annotations"}
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, entry["mediaType"])
    assert manifest["config"]["mediaType"] == f"{_OCI}.config.v1+json"
    assert {each["mediaType"] for each in manifest["layers"]} <= {
        f"{_OCI}.layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")
    }
    assert all(isinstance(each, str) for pair in manifest["annotations"].items() for each in pair)

    config = json.loads(_blob(layout, manifest["config"]))
    assert set(config) <= {"created", "author", "architecture", "os", "variant", "config", "rootfs", "history"}
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert _TIME.fullmatch(config["created"])
    assert config["rootfs"]["type"] == "layers"
    count = len(manifest["layers"])
    assert len(config["rootfs"]["diff_ids"]) == count
    assert all(_DIGEST.fullmatch(each) for each in config["rootfs"]["diff_ids"])
    assert len([each for each in config["history"] if not each.get("empty_layer")]) == count
    assert all(_TIME.fullmatch(each["created"]) for each in config["history"])
    inner = config["config"]
    assert set(inner) <= {
        "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal",
    }  # fmt: skip
    names = [each.partition("=")[0] for each in inner["Env"]]
    assert len(names) == len(set(names))
    assert inner["Labels"]["dev.mlenv.lock"] == lock["lock"]
    assert inner["Labels"]["org.opencontainers.image.base.digest"] == lock["base"]
    named = {entry["digest"], manifest["config"]["digest"], *(each["digest"] for each in manifest["layers"])}
    assert {f"sha256:{each.name}" for each in (layout / "blobs/sha256").iterdir()} == named


def test_skopeo_reads_every_form_of_it(world: World, layout: Path) -> None:
    for kind, name in (("docker-archive", "docker.tar"), ("dir", "directory")):
        world.ok("environment", "export", "Train_Set:1", "--to", f"{kind}:{name}")
    sources = [f"oci-archive:{world.directory / 'train.tar'}", f"dir:{world.directory / 'directory'}"]
    sources += [f"docker-archive:{world.directory / 'docker.tar'}"]
    found = [json.loads(must("skopeo", "inspect", source)) for source in sources]
    assert found[0]["Digest"] == found[1]["Digest"] == world.ok("environment", "build", "Train_Set:1")["image"]
    for each in found:
        assert {"VIRTUAL_ENV=/opt/env", f"PATH=/opt/env/bin:{_PATH}"} <= set(each["Env"])
        assert each["Labels"]["dev.mlenv.environment"] == "/opt/env"
    # A copy unpacks every layer and compares it with its diff id.
    must("skopeo", "copy", "--quiet", "--dest-decompress", sources[0], f"dir:{world.directory / 'copied'}")
    loaded = must("podman", "load", "--quiet", "--input", world.directory / "docker.tar")
    assert inside(loaded.partition("Loaded image: ")[2].strip(), "http", "--version")


def test_umoci_unpacks_it(world: World, tmp_path: Path) -> None:
    # NOTE: umoci 0.4 knows no zstd.
    world.ok("environment", "export", "Train_Set:1", "--compression", "gzip", "--to", "oci-archive:gzip.tar")
    with tarfile.open(world.directory / "gzip.tar") as tar:
        tar.extractall(tmp_path / "layout", filter="data")
    assert must("umoci", "list", "--layout", tmp_path / "layout").split() == ["train_set:1"]
    must("umoci", "unpack", "--rootless", "--image", f"{tmp_path / 'layout'}:train_set:1", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs/opt/env"
    assert (root / "bin/http").stat().st_mode & 0o777 == 0o755
    assert (root / "lib/python3.11/site-packages/sklearn/__init__.py").exists()
    process = json.loads((tmp_path / "bundle/config.json").read_text())["process"]
    assert "VIRTUAL_ENV=/opt/env" in process["env"]
