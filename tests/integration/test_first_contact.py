"""The first thing a person does: the README's command, and a Jupyter kernel."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel
from support.world import MINOR, World, make_world

_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as made:
        yield made


def test_a_directory_with_an_azure_environment_and_a_script_runs(world: World) -> None:
    """As the README has it: an environment YAML that names a conda file, whose packages are from pip alone."""
    (world.directory / "conda.yml").write_text(
        f"channels: [conda-forge]\ndependencies:\n- python={MINOR}\n- pip\n- pip:\n"
        f"  - --index-url {world.index.simple}\n  - alpha\n"
    )
    (world.directory / "environment.yml").write_text(
        "$schema: https://example.org/environment.schema.json\nname: train\nimage: debian:bookworm\n"
        "conda_file: conda.yml\ntags: {team: vision}\n"
    )
    (world.directory / "train.py").write_text(
        "import sys, alpha\nprint('epochs', sys.argv[2], 'value', alpha.VALUE)\nopen('model', 'w').write('done')\n"
    )
    world.index.wheel("setuptools", "80.0", files={"pkg_resources/__init__.py": ""})
    world.index.wheel("wheel", "0.45")
    command = ("run", "--file", "environment.yml", "--", "python", "train.py", "--epochs", "3")
    first = world.run(*command)
    assert (first.returncode, first.stdout) == (0, "epochs 3 value 43\n"), first.stderr
    assert (world.directory / "model").read_text() == "done"
    told = [re.sub(r"[\d.]+", "N", line.split(" … ")[0]) for line in first.stderr.splitlines()]
    assert told[0] == "created train:N"
    assert [line.split()[0] for line in told[1:]] == ["Resolving", "Fetching", "Unpacking", "Compiling", "Linking"]
    asked = len(world.index.log)
    second = world.run(*command)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "using train:1\n")
    assert len(world.index.log) == asked, "a second run asks no index"
    world.verify()


@pytest.mark.online
def test_the_readmes_first_command_trains_a_model(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(.*?)\n```", (_REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert block is not None
    command = block[1].rpartition(" && ")[2].removeprefix(".venv/bin/mlenv ").split()
    environment = {**os.environ, "MLENV_HOME": str(tmp_path / "home")}
    for expected in ("created sklearn-train:1", "using sklearn-train:1"):
        done = subprocess.run(
            [sys.executable, "-m", "mlenv", *command, "--output", str(tmp_path)],
            cwd=_REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert re.match(r"(epoch \d: accuracy 0\.8\d\d\n){3}scikit-learn 1\.", done.stdout), done.stdout
        assert done.stderr.splitlines()[0] == expected
    assert (tmp_path / "model.joblib").stat().st_size > 100


@pytest.mark.online
def test_an_installed_kernel_runs_code_in_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(world.directory / "jupyter"))
    (world.directory / "requirements.txt").write_text("ipykernel\n")
    world.ok("environment", "create", "-n", "notebook", "-f", "requirements.txt")
    installed = world.ok("kernel", "install", "notebook:1", "--display-name", "Notebook")
    assert (installed["kernel"], installed["environment"]) == ("mlenv-notebook-1", "notebook:1")
    manager, client = start_new_kernel(kernel_name=installed["kernel"], startup_timeout=120)
    try:
        texts: list[str] = []
        reply = client.execute_interactive(
            "import sys; print(sys.prefix)",
            timeout=60,
            output_hook=lambda message: texts.append(message["content"].get("text", "")),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok"
    assert Path("".join(texts).strip()).parent == world.home / "prefixes"


def test_a_kernel_needs_ipykernel(world: World) -> None:
    world.ok("environment", "create", "-f", str(world.define("train", "alpha", image=None)))
    done = world.run("kernel", "install", "train")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2:] == [
        "error: train:1 can't be a Jupyter kernel: ipykernel is not in it",
        ("hint: add `ipykernel` to its pip requirements, create a new version, and install the kernel for that"),
    ]
