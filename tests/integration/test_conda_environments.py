"""Conda files that need conda, through whole commands: lock, build, run, check, and what goes wrong."""

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.conda_packages import File, Package, Parts, make_package, member, program_package, python_package
from support.conda_world import USUAL, CondaWorld, make_conda_world
from support.images import make_image
from support.oci_registry import run_registry
from support.world import BASE, MINOR

from mlenv.build.validate import load_image
from mlenv.core.digest import Digest
from mlenv.core.lock import Lock
from mlenv.store.oci import OciLayout

_ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
_CODE = "import sys, toolbox, shelf, alpha, beta; print(sys.prefix, toolbox.VERSION, shelf.VERSION, alpha.VALUE)"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CondaWorld]:
    with make_conda_world(tmp_path_factory.mktemp("conda")) as made:
        made.ok("base", "import", "oci:conda-base", "--name", BASE)
        made.create("both", *USUAL, "beta", pip=("alpha",))
        yield made


@pytest.fixture(scope="module")
def prepared(world: CondaWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores to be copied: one in which `both` is created, and one in which it is locked, too."""
    root = tmp_path_factory.mktemp("conda-stores")
    made = replace(world, home=root / "created")
    made.ok("base", "import", "oci:conda-base", "--name", BASE)
    made.ok("environment", "create", "-f", "both.yml")
    shutil.copytree(made.home, root / "locked")
    replace(world, home=root / "locked").ok("environment", "lock", "both:1")
    return {"created": root / "created", "locked": root / "locked"}


def locked(world: CondaWorld, name: str) -> Lock:
    """A lock as it is written to a file."""
    path = world.directory / "written.toml"
    world.ok("environment", "lock", name, "--to", str(path))
    return Lock.from_pylock(path.read_text())


def refused(world: CondaWorld, *command: str) -> list[str]:
    """The lines of the error of a command that must fail."""
    done = world.run("--quiet", *command)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


# The lock.


def test_one_lock_holds_both(world: CondaWorld) -> None:
    lock = locked(world, "both:1")
    conda = {each.name: (each.version, each.requested) for each in lock.conda}
    assert conda == {
        "beta": ("1.0", "beta"),
        "pip": ("25.0", None),
        "python": (f"{MINOR}.2", f"python={MINOR}"),
        "shelf": ("3.0", None),
        "teller": ("1.0", "teller"),
        "toolbox": ("1.1", "toolbox"),
    }
    # alpha needs beta, which conda provides.
    assert [(each.name, each.version) for each in lock.packages] == [("alpha", "1.0")]
    assert (lock.target.python, str(lock.target.glibc)) == (f"{MINOR}.2", "2.36")
    assert lock.base is not None
    assert lock.resolver.startswith("py-rattler ")
    assert ", uv " in lock.resolver
    assert all(each.url.startswith(f"{world.channel}/") for each in lock.conda)


def test_a_lock_is_made_once(world: CondaWorld) -> None:
    before = world.ok("environment", "lock", "both:1")["lock"]
    world.channels.log.clear()
    world.index.log.clear()
    assert world.ok("environment", "lock", "both:1")["lock"] == before
    assert (world.channels.log, world.index.log) == ([], [])


@pytest.mark.parametrize("name", ["pixi.lock", "conda-lock.yml", "explicit.txt"])
def test_a_lock_is_written_for_other_tools(world: CondaWorld, name: str) -> None:
    packages = ("shelf",) if name != "explicit.txt" else USUAL
    made = world.create(f"for-{name.partition('.')[0]}", *packages)
    world.ok("environment", "lock", made, "--to", name)
    assert f"{world.channel}/noarch/shelf-3.0-0.conda" in (world.directory / name).read_text()


def test_the_python_of_the_environment_file_wins(world: CondaWorld) -> None:
    made = world.create("wins", "python=2.7", "shelf", python=f"{MINOR}.2")
    assert locked(world, made).target.python == f"{MINOR}.2"


def test_what_the_target_offers_is_the_base_images_and_the_files(world: CondaWorld) -> None:
    world.channels.add(
        "forge",
        make_package("needs-cuda", depends=("__cuda >=12.1", "__glibc >=2.36")),
        make_package("needs-much", depends=("__glibc >=2.37",)),
    )
    assert locked(world, world.create("gpu", "needs-cuda", cuda="12.4")).conda_package("needs-cuda") is not None
    error = refused(world, "environment", "lock", world.create("no-gpu", "needs-cuda"))
    assert error[0] == "error: no-gpu-conda.yml:3: needs-cuda: needs __cuda>=12.1: the target has no __cuda"
    error = refused(world, "environment", "lock", world.create("new-glibc", "needs-much"))
    assert "needs __glibc>=2.37" in error[0]
    assert "2.36" in error[0]


def test_packages_that_came_later_are_not_seen(world: CondaWorld) -> None:
    world.channels.add("forge", make_package("grows", "1.0"), make_package("grows", "2.0", timestamp=1_750_000_000_000))
    made = world.create("as-of", "grows")
    assert world.ok("environment", "lock", made, "--as-of", "2024-06-01")["as_of"] == "2024-06-01T23:59:59Z"
    found = locked(world, made).conda_package("grows")
    assert found is not None
    assert found.version == "1.0"


# Images.


def layers_of(world: CondaWorld, name: str, *options: str) -> tuple[dict[str, Any], list[Any], OciLayout]:
    """What a build says, its image's layers above the base's, and the store's bytes."""
    built = world.ok("environment", "build", name, *options)
    layout = OciLayout(world.home / "oci")
    image = load_image(Digest.parse(built["image"]), layout)
    return built, [layer for layer, _ in image.layers[1:]], layout


def test_an_image_has_both_below_one_prefix(world: CondaWorld) -> None:
    built, layers, layout = layers_of(world, "both:1")
    names: dict[str, tarfile.TarInfo] = {}
    for layer in layers:
        data = zstandard.ZstdDecompressor().decompressobj().decompress(layout.path(layer.digest).read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names |= {each.name: each for each in tar}
    packages = f"opt/env/lib/python{MINOR}/site-packages"
    for path in ("toolbox/__init__.py", "beta/__init__.py", "alpha/__init__.py", "alpha-1.0.dist-info/RECORD"):
        assert f"{packages}/{path}" in names
    assert {"opt/env/bin/teller", "opt/env/pylock.toml", "opt/env/conda-meta/history"} <= names.keys()
    assert "opt/env/conda-meta/toolbox-1.1-0.json" in names
    # Its Python is conda's: none of the base's.
    assert names["opt/env/bin/python"].linkname == f"python{MINOR}"
    assert f"{packages}/beta-2.0.dist-info" not in names
    config = json.loads(layout.read(_config(layout, built["image"])))
    environment = dict(each.split("=", 1) for each in config["config"]["Env"])
    assert environment["CONDA_PREFIX"] == "/opt/env"
    assert environment["PATH"] == "/opt/env/bin:/usr/local/bin:/usr/bin"
    assert environment.keys().isdisjoint({"VIRTUAL_ENV", "CONDA_DEFAULT_ENV"})


def _config(layout: OciLayout, image: str) -> Any:
    return Digest.parse(json.loads(layout.read(Digest.parse(image)))["config"]["digest"])


def test_one_changed_package_is_one_layer(world: CondaWorld) -> None:
    _, before, _ = layers_of(world, world.create("new", *USUAL, pip=("alpha",)))
    built, after, _ = layers_of(world, world.create("old", *USUAL, "toolbox=1.0", pip=("alpha",)))
    # The package's, and the environment's own.
    assert len([each for each in after if each not in before]) == 2
    assert built["new_layers"] == 1
    assert world.ok("environment", "build", "old:1")["reused"] is True


def test_the_same_lock_is_the_same_image(world: CondaWorld, tmp_path: Path) -> None:
    """Whatever the directory, the umask, the clock's zone, the locale, the hash seed, and what is in the store."""
    expected = {
        each: world.ok("environment", "build", "both:1", "--compression", each)["image"] for each in ("zstd", "gzip")
    }
    other = replace(world, home=tmp_path / "öther home")
    other.environment = world.environment | {
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "77",
        "SOURCE_DATE_EPOCH": "1",
    }
    umask = os.umask(0o077)
    try:
        other.ok("base", "import", "oci:conda-base", "--name", BASE)
        other.ok("environment", "create", "-f", "both.yml")
        other.ok("environment", "lock", "both:1")
        found = {each: other.ok("environment", "build", "both:1", "--compression", each)["image"] for each in expected}
    finally:
        os.umask(umask)
    assert found == expected
    other.verify()


def test_scripts_around_linking_are_named_and_not_run(world: CondaWorld) -> None:
    trap = world.directory / "trap"
    activation = {"etc/conda/activate.d/linked.sh": b"export LINKED=1\n"}
    world.channels.add("forge", make_package("linked", post_link=f"#!/bin/sh\ntouch {trap}\n", files=activation))
    made = world.create("linked", "linked")
    built = world.run("environment", "build", made)
    assert built.returncode == 0, built.stderr
    assert "linked has bin/.linked-post-link.sh, etc/conda/activate.d/linked.sh: not run" in built.stderr
    ran = world.run("run", made, "--", "true")
    assert ran.returncode == 0, ran.stderr
    assert "linked has bin/.linked-post-link.sh, etc/conda/activate.d/linked.sh: not run" in ran.stderr
    assert not trap.exists()


def test_a_wheel_over_a_conda_file_is_said(world: CondaWorld) -> None:
    stray = {"site-packages/alpha/__init__.py": b"VALUE = 'stray'\n"}
    world.channels.add("forge", python_package("stray", files=stray))
    made = world.create("over", *USUAL, "stray", pip=("alpha",))
    built = world.run("environment", "build", made)
    path = f"lib/python{MINOR}/site-packages/alpha/__init__.py"
    assert f"alpha and stray both bring {path}, with different content: alpha's is kept" in built.stderr
    ran = world.run("run", made, "--", "python", "-c", "import alpha; print(alpha.VALUE)")
    assert (ran.returncode, ran.stdout) == (0, "43\n"), ran.stderr


def test_a_base_without_a_c_library_is_refused(world: CondaWorld) -> None:
    make_image(world.directory / "bare", [{"etc/os-release": b"ID=bare\n"}], {"Env": []})
    world.ok("base", "import", "oci:bare", "--name", "example.org/bare:1")
    error = refused(world, "environment", "build", world.create("on-bare", *USUAL, image="example.org/bare:1"))
    assert error[0].startswith("error: example.org/bare:1 has no glibc, and python-")
    assert error[1] == "hint: take a base image with glibc, such as Debian's, in a new version"


def test_a_lock_that_assumed_its_base_is_held_against_it(world: CondaWorld) -> None:
    """Without a base at hand a floor is assumed, and the base that comes is older."""
    made = world.create("assumed", *USUAL, image="example.org/old:1")
    assert str(locked(world, made).target.glibc) == "2.28"
    libc = b"GNU C Library (Example) stable release version 2.17.\n\0"
    make_image(world.directory / "old-base", [{"lib64/libc.so.6": libc}], {"Env": []})
    world.ok("base", "import", "oci:old-base", "--name", "example.org/old:1")
    error = refused(world, "environment", "build", made)
    assert error[0] == "error: example.org/old:1 has glibc 2.17, and conda's packages are locked for 2.28"


# Local runs.


def test_a_local_run_has_condas_python_and_everything_else(world: CondaWorld) -> None:
    ran = world.run("run", "both:1", "--", "python", "-c", _CODE)
    assert ran.returncode == 0, ran.stderr
    prefix, *values = ran.stdout.split()
    assert values == ["1.1", "3.0", "conda"]
    assert Path(prefix).parent == world.home / "prefixes"
    assert world.run("run", "both:1", "--", "teller").stdout == "hello\n"
    again = world.run("run", "both:1", "--", "sh", "-c", 'echo "$CONDA_PREFIX $VIRTUAL_ENV"')
    assert (again.stdout, again.stderr) == (f"{prefix} \n", "")
    compiled = {
        each.name.partition(".")[0] for each in Path(prefix, f"lib/python{MINOR}/site-packages/shelf").rglob("*.pyc")
    }
    assert compiled == {"__init__"}
    assert not os.stat(prefix).st_mode & stat.S_IWUSR
    source = next(world.home.glob("cache/conda/*/tree/share/teller/said.txt"))
    assert os.path.samefile(source, f"{prefix}/share/teller/said.txt")


def test_a_local_prefix_is_checked_clean_and_its_damage_is_found(
    world: CondaWorld, prepared: dict[str, Path], tmp_path: Path
) -> None:
    other = replace(world, home=tmp_path / "home")
    shutil.copytree(prepared["locked"], other.home)
    prefix = Path(other.run("run", "both:1", "--", "python", "-c", _CODE).stdout.split()[0])
    report = other.ok("check", "both:1", "--python", str(prefix / "bin" / "python"))
    assert (report["drift"], report["locked"], report["matching"], report["findings"]) == (False, 7, 7, [])
    module = prefix / f"lib/python{MINOR}/site-packages/toolbox/__init__.py"
    module.parent.chmod(0o755)
    module.unlink()
    done = other.run("check", "both:1", "--python", str(prefix / "bin" / "python"))
    found = [(each["manager"], each["kind"], each["name"]) for each in json.loads(done.stdout)["findings"]]
    assert (done.returncode, found) == (1, [("conda", "modified", "toolbox")])


def test_a_difference_tells_conda_from_pip(world: CondaWorld) -> None:
    world.create("with-conda", *USUAL, "beta")
    world.create("with-pip", *USUAL, pip=("beta==1.0",))
    found = world.ok("diff", "with-conda", "with-pip")["packages"]
    assert {(each["manager"], each["kind"], each["name"]) for each in found} == {
        ("conda", "removed", "beta"),
        ("pypi", "added", "beta"),
    }


def test_an_environment_needs_no_python(world: CondaWorld) -> None:
    made = world.create("bare-tools", "teller")
    assert locked(world, made).target.python == ""
    assert world.run("run", made, "--", "teller").stdout == "hello\n"
    assert world.ok("environment", "build", made)["image"].startswith("sha256:")
    error = refused(world, "check", made)
    assert error[0] == "error: bare-tools:1 has no Python, and only an interpreter can say what is installed"


def test_another_python_is_refused(world: CondaWorld) -> None:
    error = refused(world, "run", "both:1", "--python", MINOR, "--", "python", "-V")
    assert error[0] == f"error: Python '{MINOR}' can't be used: conda's packages bring Python {MINOR}.2"
    assert error[1].startswith("hint: leave `--python` out")


def test_a_run_on_a_machine_that_is_too_old_says_so(world: CondaWorld) -> None:
    world.channels.add("forge", make_package("futuristic", depends=("__glibc >=2.99",)))
    libc = b"GNU C Library (Example) stable release version 2.99.\n\0"
    make_image(world.directory / "future", [{"lib64/libc.so.6": libc}], {"Env": []})
    world.ok("base", "import", "oci:future", "--name", "example.org/future:1")
    made = world.create("future", "futuristic", image="example.org/future:1")
    error = refused(world, "run", made, "--", "true")
    assert error[0].startswith(
        "error: this environment can't run here: futuristic-1.0-0.conda needs glibc 2.99, and this machine has "
    )


# What goes wrong.


def test_a_clash_of_pip_and_conda_names_both_lines(world: CondaWorld) -> None:
    made = world.create("clash", *USUAL, "beta", pip=("beta==2.0",))
    error = refused(world, "environment", "lock", made)
    assert error[0] == "error: clash-conda.yml:8: beta==2.0: conda gives beta 1.0 (clash-conda.yml:6: beta)"
    assert "ask conda for `beta=2.0`" in error[-1]


def test_an_unknown_package_is_at_its_line_with_near_names(world: CondaWorld) -> None:
    error = refused(world, "environment", "lock", world.create("typo", f"python={MINOR}", "toolbx"))
    assert error[0].startswith("error: typo-conda.yml:4: toolbx: ")
    assert "toolbox" in error[-1]


def test_a_channel_that_does_not_answer_is_named(world: CondaWorld) -> None:
    made = world.create("silent", *USUAL, channels=("http://127.0.0.1:9/none",))
    error = refused(world, "environment", "lock", made)
    assert error[0].startswith("error: http://127.0.0.1:9/none")


def test_pip_without_cpython_has_no_place(world: CondaWorld) -> None:
    place = "lib/pypy3.9/site-packages"
    pypy = make_package(
        "python", "3.9.18", build="0_73_pypy", subdir="linux-64", index={"python_site_packages_path": place}
    )
    world.channels.add("other", pypy, python_package("pip", "25.0"))
    made = world.create(
        "pypy", "python=3.9", "pip", "teller", pip=("alpha",), channels=(f"{world.channels.url}/other", world.channel)
    )
    error = refused(world, "environment", "lock", made)
    assert error[0] == "error: the `pip:` section can't be installed: conda gives python-3.9.18-0_73_pypy"


def _traversal(parts: Parts) -> None:
    parts.content.append(member("../../../../tmp/mlenv-evil", b"x"))


def _lying(parts: Parts) -> None:
    parts.paths["paths"][0]["sha256"] = "0" * 64


HOSTILE: dict[str, tuple[Callable[[], Package], str]] = {
    "traversal": (lambda: make_package("evil-traversal", tamper=_traversal), "'../../../../tmp/mlenv-evil'"),
    "lying": (lambda: make_package("evil-lying", tamper=_lying), "evil-lying"),
    "short": (
        lambda: make_package("evil-short", files={"bin/x": File(b"/p\0", 0o755, "binary", "/p")}),
        "too short for",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("command", ["build", "run"])
def test_a_hostile_package_is_refused_and_nothing_of_it_stays(world: CondaWorld, kind: str, command: str) -> None:
    make, why = HOSTILE[kind]
    package = make()
    world.channels.add("forge", package)
    made = world.create(f"evil-{kind}-{command}", package.name)
    arguments = ("environment", "build", made) if command == "build" else ("run", made, "--", "true")
    error = refused(world, *arguments)
    assert error[0].startswith(f"error: {package.filename}: ")
    assert why in error[0]
    assert error[1].startswith("hint: do not install it")
    assert not (world.home / "oci" / "blobs" / "sha256" / package.sha256).exists()
    assert list((world.home / "cache" / "conda").glob(f"{package.sha256}-*")) == []
    assert not Path("/tmp/mlenv-evil").exists()


def test_other_bytes_than_locked_are_never_stored(world: CondaWorld) -> None:
    changing = program_package("changing", said="first\n")
    world.channels.add("forge", changing)
    made = world.create("changing", "changing")
    world.ok("environment", "lock", made)
    path = f"/forge/linux-64/{changing.filename}"
    world.channels.answers[path] = (200, program_package("changing", said="other\n").data)
    try:
        error = refused(world, "environment", "build", made)
    finally:
        del world.channels.answers[path]
    assert error[0].startswith(f"error: {changing.filename}")
    assert not (world.home / "oci" / "blobs" / "sha256" / changing.sha256).exists()
    assert world.ok("environment", "build", made)["image"].startswith("sha256:")


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("lock", "lock.written"),
        ("lock", "blob.kept"),
        ("build", "packages.fetched"),
        ("build", "layer.written"),
        ("build", "layer.cached"),
        ("build", "image.written"),
        ("run", "conda.unpacked"),
        ("run", "wheel.unpacked"),
        ("run", "prefix.staged"),
    ],
)
def test_a_killed_command_leaves_a_whole_store_and_can_be_repeated(
    world: CondaWorld, prepared: dict[str, Path], tmp_path: Path, command: str, fault: str
) -> None:
    other = replace(world, home=tmp_path / "home")
    shutil.copytree(prepared["created" if command == "lock" else "locked"], other.home)
    arguments = (
        ("run", "both:1", "--", "python", "-c", _CODE) if command == "run" else ("environment", command, "both:1")
    )
    killed = other.run(*arguments, fault=fault)
    assert killed.returncode == -signal.SIGKILL, f"{fault} was not reached: {killed.stderr}"
    other.verify()
    assert other.run(*arguments).returncode == 0
    other.verify()
    assert [each.name for place in ("prefixes", "cache/conda") for each in (other.home / place).glob(".staging*")] == []


def test_four_processes_build_and_run_at_once(world: CondaWorld, prepared: dict[str, Path], tmp_path: Path) -> None:
    other = replace(world, home=tmp_path / "home")
    shutil.copytree(prepared["created"], other.home)
    commands = [("environment", "build", "both:1"), ("run", "both:1", "--", "python", "-c", _CODE)] * 2
    processes: list[subprocess.Popen[str]] = [other.start(*each) for each in commands]
    ended = [(each.communicate(), each.returncode) for each in processes]
    assert [code for _, code in ended] == [0] * 4, [err for (_, err), _ in ended]
    other.verify()


def test_one_changed_package_is_one_layer_in_another_registry(world: CondaWorld, tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry") as registry:
        place = f"{registry.host}/team/conda"
        for name, more in (("pushed", ()), ("pushed-again", ("toolbox=1.0",))):
            world.create(name, *USUAL, *more, pip=("alpha",))
            before = registry.blobs
            world.ok("environment", "push", f"{name}:1", f"{place}:{name}", "--insecure-registry", registry.host)
        # The package's layer, the environment's, the configuration and the manifest; and what is attached to it.
        new = registry.blobs - before
        with registry.client() as client:
            image = client.get(f"/v2/team/conda/manifests/{name}", headers=_ACCEPT).json()
        layers = {each["digest"] for each in image["layers"]}
        assert len(layers & new) == 2
        found = (
            "environment",
            "evidence",
            f"{name}:1",
            "--from",
            f"{place}:{name}",
            "--insecure-registry",
            registry.host,
        )
        world.ok(*found, "--type", "provenance", "--output-file", "provenance.json")
        assert "toolbox-1.0-0.conda" in (world.directory / "provenance.json").read_text()
