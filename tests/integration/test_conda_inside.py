"""An environment of conda's and pip's packages on a real Debian, made by the command line, and seen from inside."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.conda_world import USUAL, CondaWorld, make_conda_world

pytestmark = pytest.mark.container
_BASE = "example.org/bookworm:1"
_CODE = (
    "import alpha, beta, importlib.metadata, json, os, sys, toolbox; "
    "names = {each.name: each.version for each in importlib.metadata.distributions()}; "
    "print(json.dumps([sys.prefix, os.environ['CONDA_PREFIX'], toolbox.VERSION, alpha.VALUE, beta.__file__, names]))"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, debian_base: Path, podman_storage: None) -> Iterator[CondaWorld]:
    with make_conda_world(tmp_path_factory.mktemp("conda-inside")) as made:
        made.ok("base", "import", f"oci-archive:{debian_base}", "--name", _BASE)
        made.create("both", *USUAL, "beta", pip=("alpha",), image=_BASE)
        made.ok("environment", "build", "both:1")
        yield made


@pytest.fixture(scope="module")
def image(world: CondaWorld) -> str:
    """The image in podman's storage, as it comes out of an OCI archive."""
    world.ok("environment", "export", "both:1", "--to", "oci-archive:both.tar")
    done = subprocess.run(
        ["podman", "load", "--quiet", "--input", str(world.directory / "both.tar")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.partition("Loaded image: ")[2].strip()


def inside(image: str, *command: str) -> str:
    done = subprocess.run(
        ["podman", "run", "--rm", "--network=none", image, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_is_condas_and_sees_both(image: str) -> None:
    packages = "/opt/env/lib/python3.11/site-packages"
    assert json.loads(inside(image, "python", "-c", _CODE)) == [
        "/opt/env",
        "/opt/env",
        "1.1",
        "conda",
        f"{packages}/beta/__init__.py",
        {"alpha": "1.0", "beta": "1.0", "pip": "25.0", "shelf": "3.0", "toolbox": "1.1"},
    ]


def test_programs_find_their_prefix(image: str) -> None:
    assert inside(image, "sh", "-c", "teller; teller-too; cat /opt/env/share/teller/where.txt") == (
        "hello\nhello\nprefix=/opt/env\n"
    )


def test_it_is_checked_clean_from_inside(world: CondaWorld) -> None:
    done = world.run("check", "both:1", "--engine", "container")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["drift"] is False
    assert report["locked"] == report["matching"] == 7


def test_a_run_in_a_container_is_a_run_in_the_environment(world: CondaWorld) -> None:
    done = world.run("run", "both:1", "--engine", "container", "--", "python", "-c", "import sys, toolbox; sys.exit(7)")
    assert done.returncode == 7, done.stderr
