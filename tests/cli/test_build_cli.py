"""`mlenv environment lock|build|export` as their users see them."""

import json
import tarfile
import tomllib
from pathlib import Path

import pytest
from support.conda_locked import CHANNEL, conda_lock, keep_lock, locked
from support.conda_packages import interpreter, make_package
from support.world import BASE, MINOR, World

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.wiring.embedded import open_embedded


@pytest.fixture(scope="module")
def based(world: World) -> World:
    """The world, with its base image in the store."""
    world.ok("base", "import", "oci:base", "--name", BASE)
    return world


@pytest.fixture(scope="module")
def train(based: World) -> str:
    """A version that can be built."""
    based.ok("environment", "create", "-f", str(based.define("train", "alpha")))
    return "train:1"


def test_a_lock_is_printed_and_made_once(based: World, train: str) -> None:
    first = based.run("environment", "lock", train)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert [(each["name"], each["version"], each["source"]) for each in document["packages"]] == [
        ("alpha", "1.0", False),
        ("beta", "2.0", False),
        ("pip", "25.0", False),
    ]
    assert (document["environment"], document["assumed"], document["as_of"]) == (train, False, None)
    assert document["python"].startswith(f"{MINOR}.")
    again = based.run("environment", "lock", train)
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_a_table_of_a_lock_is_its_packages(based: World, train: str) -> None:
    done = based.run("environment", "lock", train, "-o", "tsv")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(each[:2], len(each)) for each in rows] == [
        (["alpha", "1.0"], 5),
        (["beta", "2.0"], 5),
        (["pip", "25.0"], 5),
    ]
    done = based.run("environment", "lock", train, "-o", "tsv", "--query", "packages[].name")
    assert done.stdout == "alpha\nbeta\npip\n"


def test_conda_packages_of_a_lock_are_told_apart(based: World) -> None:
    based.ok("environment", "create", "-f", str(based.define("both", "alpha")))
    wheel = Artifact("alpha-1.0-py3-none-any.whl", 7, Digest.of(b""), "https://example.org/alpha-1.0-py3-none-any.whl")
    conda = [locked(interpreter()), locked(make_package("zlib", build="h_0", subdir="linux-64"))]
    lock = conda_lock(*conda, wheels=(LockedPackage("alpha", "1.0", wheel),))
    with open_embedded(based.home) as store:
        keep_lock(store, "both", lock)
    document = based.ok("environment", "lock", "both", "--platform", "linux/amd64")
    assert [(each["name"], each["manager"], each.get("build")) for each in document["packages"]] == [
        ("python", "conda", "0"),
        ("zlib", "conda", "h_0"),
        ("alpha", "pypi", None),
    ]
    assert (document["packages"][1]["subdir"], document["packages"][1]["channel"]) == ("linux-64", CHANNEL)
    assert document["size"] == sum(each["size"] for each in document["packages"])
    table = based.run("environment", "lock", "both", "--platform", "linux/amd64", "-o", "tsv")
    size = conda[1].artifact.size
    assert table.stdout.splitlines()[1:] == [
        f"zlib\t1.0\t{size}\tfalse\tconda\th_0\tlinux/amd64",
        "alpha\t1.0\t7\tfalse\tpypi\t\tlinux/amd64",
    ]


def test_a_lock_goes_to_a_file_and_to_stdout(based: World, train: str) -> None:
    done = based.run("environment", "lock", train, "--to", "-")
    document = tomllib.loads(done.stdout)
    assert (document["lock-version"], [each["name"] for each in document["packages"]]) == (
        "1.0",
        ["alpha", "beta", "pip"],
    )
    written = based.run("environment", "lock", train, "--to", "pylock.toml")
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "wrote pylock.toml\n")
    assert (based.directory / "pylock.toml").read_text() == done.stdout
    done = based.run("environment", "lock", train, "--to", "none/pylock.toml")
    assert (done.returncode, done.stderr) == (1, "error: can't write none/pylock.toml: there is no directory none\n")
    done = based.run("environment", "lock", train, "--to", ".")
    assert (done.returncode, done.stderr) == (1, "error: can't write .: it is a directory, expected a file\n")


def test_as_of_is_recorded_and_another_is_refused(based: World) -> None:
    based.ok("environment", "create", "-f", str(based.define("old", "alpha")))
    document = based.ok("environment", "lock", "old", "--as-of", "2025-06-01")
    assert document["as_of"] == "2025-06-01T23:59:59Z"
    assert based.ok("environment", "lock", "old", "--as-of", "2025-06-01")["lock"] == document["lock"]
    done = based.run("environment", "lock", "old", "--as-of", "2024-06-01")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: old:1 is locked for {document['platform']} already: as of 2025-06-01T23:59:59Z\n"
        "hint: a version is locked once: create a new version to lock it in another way\n"
    )
    done = based.run("environment", "lock", "old", "--as-of", "yesterday")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: --as-of: 'yesterday' is not a date")


def test_an_image_is_built_once(based: World, train: str) -> None:
    built = based.run("environment", "build", train)
    assert built.returncode == 0, built.stderr
    document = json.loads(built.stdout)
    assert (document["environment"], document["reused"]) == (train, False)
    assert built.stderr.splitlines()[-1] == f"built {train}: {document['new_layers']} new layers, 0 reused"
    again = based.run("environment", "build", train)
    assert again.stderr == f"{train} is built already\n"
    assert json.loads(again.stdout) == {**document, "reused": True, "new_layers": 0, "steps": []}


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "dir"])
def test_an_image_is_exported_and_overwritten_only_when_told(based: World, train: str, kind: str) -> None:
    target = f"{kind}:{kind}.out"
    document = based.ok("environment", "export", train, "--to", target)
    assert (document["environment"], document["to"]) == (train, target)
    path = based.directory / f"{kind}.out"
    manifest = path / "manifest.json"
    content = manifest.read_bytes() if path.is_dir() else path.read_bytes()
    done = based.run("environment", "export", train, "--to", target)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {kind}.out exists\nhint: choose another name, or overwrite it with --force\n"
    based.ok("environment", "export", train, "--to", target, "--force")
    assert (manifest.read_bytes() if path.is_dir() else path.read_bytes()) == content


def test_an_image_of_a_name_that_images_cannot_have_is_exported(based: World) -> None:
    path = based.define("Train(New)", "beta")
    based.ok("environment", "create", "-f", str(path), "-v", "1+2")
    based.ok("environment", "export", "Train(New)", "--to", "docker-archive:odd.tar")
    with tarfile.open(based.directory / "odd.tar") as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None
        assert json.load(member)[0]["RepoTags"] == ["train-new:1-2"]


def test_a_wrong_target_is_refused_before_anything_is_built(fresh_world: World) -> None:
    fresh_world.ok("environment", "create", "-f", str(fresh_world.define("train", "alpha")))
    done = fresh_world.run("environment", "export", "train", "--to", "train.tar")
    assert (done.returncode, done.stderr) == (
        1,
        "error: can't export to 'train.tar', expected one of oci-archive:PATH, docker-archive:PATH, dir:PATH\n",
    )
    assert fresh_world.index.log == []


def test_a_build_without_its_base_locks_nothing(fresh_world: World) -> None:
    """A lock is made once: it must not be made for a guess when the base can be brought in first."""
    fresh_world.ok("environment", "create", "-f", str(fresh_world.define("train", "alpha")))
    done = fresh_world.run("environment", "build", "train")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"error: the base image {BASE} is not in this store",
        (
            f"hint: `mlenv base pull {BASE}` says what its registry answers; where it can be reached only from elsewhere, "
            f"`skopeo copy docker://{BASE} oci-archive:base.tar` there, and here "
            f"`mlenv base import oci-archive:base.tar --name {BASE}`"
        ),
    ]
    assert fresh_world.index.log == []
    fresh_world.ok("base", "import", "oci:base", "--name", BASE)
    fresh_world.ok("environment", "build", "train")
    assert fresh_world.ok("environment", "lock", "train")["assumed"] is False


def test_a_local_run_needs_no_base_and_its_lock_is_built_on(fresh_world: World) -> None:
    file = str(fresh_world.define("train", "alpha"))
    assert fresh_world.run("run", "-f", file, "--", "true").returncode == 0
    lock = fresh_world.ok("environment", "lock", "train")
    assert lock["assumed"] is True
    fresh_world.ok("base", "import", "oci:base", "--name", BASE)
    assert fresh_world.ok("environment", "build", "train")["lock"] == lock["lock"]


def _create(world: World, name: str, text: str) -> None:
    path = world.directory / f"{name}.yml"
    path.write_text(text)
    world.ok("environment", "create", "-f", str(path))


@pytest.mark.parametrize("command", ["lock", "build"])
def test_what_cannot_be_locked_says_why(based: World, command: str) -> None:
    Path(based.directory, "context").mkdir(exist_ok=True)
    Path(based.directory, "context", "Dockerfile").write_text("RUN true\n")
    _create(based, f"docker-{command}", f"name: docker-{command}\nbuild: {{path: context}}\n")
    done = based.run("environment", command, f"docker-{command}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: Dockerfile, line 1: RUN before the first FROM"


def test_conda_packages_are_taken_from_pypi_when_that_is_asked_for(based: World) -> None:
    pip = f"['--index-url {based.index.simple}', alpha]"
    conda = f"{{channels: [pytorch], dependencies: [python=3.11, 'pytorch::msgpack-python=1.0', {{pip: {pip}}}]}}"
    _create(based, "taken", f"name: taken\nimage: example.org/none:1\nconda_file: {conda}\nresolver: pypi\n")
    done = based.run("environment", "lock", "taken")
    assert done.returncode == 0, done.stderr
    packages = {each["name"]: each["version"] for each in json.loads(done.stdout)["packages"]}
    assert packages | {"msgpack": "1.0.2", "alpha": "1.0"} == packages
    assert "msgpack-python=1.0 is taken from PyPI as msgpack==1.0.*, without the channel pytorch" in done.stderr


def test_a_conda_package_without_a_counterpart_is_refused_at_its_line(based: World) -> None:
    conda = "{dependencies: [python=3.11, ffmpeg, msgpack-python]}"
    _create(based, "kept", f"name: kept\nimage: example.org/none:1\nconda_file: {conda}\nresolver: pypi\n")
    done = based.run("environment", "lock", "kept")
    assert done.returncode == 1
    assert "`resolver: pypi` can't take one package from PyPI" in done.stderr
    assert "ffmpeg: " in done.stderr


def test_a_build_without_an_image_says_how_to_name_one(based: World) -> None:
    based.ok("environment", "create", "-f", str(based.define("imageless", "alpha", image=None)))
    done = based.run("environment", "build", "imageless")
    assert (done.returncode, done.stderr) == (
        1,
        (
            "error: imageless:1 names no base image\n"
            "hint: create a new version with `--image debian:bookworm`, or `image:` in the environment file\n"
        ),
    )


def test_an_image_without_packages_is_its_base(based: World) -> None:
    based.ok("environment", "create", "-n", "plain", "-i", BASE)
    document = based.ok("environment", "build", "plain")
    assert (document["new_layers"], document["layers"]) == (0, 1)
