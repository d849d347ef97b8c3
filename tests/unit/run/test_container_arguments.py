"""What an engine is told, on machines of several kinds."""

import csv
from pathlib import Path

import pytest
from msgspec import structs
from support.images import make_image

from mlenv.build.images import import_image
from mlenv.run.container import ContainerRun, UnmountablePath, client_variables, load_image, run_arguments
from mlenv.run.engines import ContainerEngine, EngineFailed, NoContainerEngine, Surroundings, find_engine
from mlenv.store.oci import OciLayout

_USER = Surroundings(
    uid=1000, gid=100, raises_limits=True, open_files=1024, processes=4096, owns_cgroups=True, init=True
)
_RUN = ContainerRun("sha256:0", ("python", "train.py"), Path("/home/a/project"))


def _engine(name: str, **facts: object) -> ContainerEngine:
    return ContainerEngine(name, f"/usr/bin/{name}", "5.0", structs.replace(_USER, **facts))


@pytest.mark.parametrize(
    ("name", "version", "reads"),
    [
        ("docker", "20.10.24+dfsg1", False),
        ("docker", "23.0.1", True),
        ("docker", "master", True),
        ("podman", "4.3.1", True),
    ],
)
def test_old_dockers_read_no_zstd(name: str, version: str, reads: bool) -> None:
    assert structs.replace(_engine(name), version=version).reads_zstd is reads


def test_podman_of_a_user() -> None:
    assert run_arguments(_engine("podman"), _RUN) == [
        *("/usr/bin/podman", "run", "--rm", "--interactive", "--network=host"),
        *("--log-driver=none", "--security-opt=label=disable", "--userns=keep-id"),
        "--mount=type=bind,source=/home/a/project,destination=/home/a/project",
        *("--workdir", "/home/a/project", "--init", "sha256:0", "python", "train.py"),
    ]


def test_docker_of_a_user() -> None:
    arguments = run_arguments(_engine("docker", init=False), structs.replace(_RUN, gpus="all", terminal=True))
    assert {"--user=1000:100", "--env=HOME=/tmp", "--gpus=all", "--tty", "--init"} <= set(arguments)
    assert arguments[-3:] == ["sha256:0", "python", "train.py"]


def test_root_where_limits_cannot_be_raised() -> None:
    engine = _engine("podman", uid=0, raises_limits=False, owns_cgroups=False)
    arguments = run_arguments(engine, _RUN)
    assert {"--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "--cgroups=disabled"} <= set(arguments)
    assert not [each for each in arguments if each.startswith(("--user", "--userns"))]


def test_without_an_init_python_takes_its_place() -> None:
    arguments = run_arguments(_engine("podman", init=False), _RUN)
    assert "--init" not in arguments
    at = arguments.index("sha256:0")
    assert arguments[at + 1 : at + 3] == ["python", "-ISc"]
    compile(arguments[at + 3], "init", "exec")
    assert arguments[at + 4 :] == ["python", "train.py"]


@pytest.mark.parametrize(
    ("gpus", "expected"), [("all", "--device=nvidia.com/gpu=all"), ("0", "--device=nvidia.com/gpu=0")]
)
def test_podman_is_told_of_devices(gpus: str, expected: str) -> None:
    assert expected in run_arguments(_engine("podman"), structs.replace(_RUN, gpus=gpus))


@pytest.mark.parametrize(
    "path",
    ["/", "/usr", "/etc", "/etc/project", "/opt", "/opt/env", "/opt/env/lib", "/usr/lib/x", "/proc/1", "/home/.."],
)
def test_directories_that_would_hide_the_images_own(path: str) -> None:
    with pytest.raises(UnmountablePath):
        run_arguments(_engine("podman"), structs.replace(_RUN, directory=Path(path)))


@pytest.mark.parametrize("path", ["/home/a", "/etcetera", "/opt/project", "/usr/src/app", '/home/a, "b"', "/home/a=b"])
def test_directories_that_are_mounted(path: str) -> None:
    arguments = run_arguments(_engine("podman"), structs.replace(_RUN, directory=Path(path)))
    [mount] = [each.removeprefix("--mount=") for each in arguments if each.startswith("--mount=")]
    assert next(csv.reader([mount])) == ["type=bind", f"source={path}", f"destination={path}"]


def test_a_directory_is_mounted_once() -> None:
    run = structs.replace(_RUN, mounts=(Path("/data"), Path("/home/a/project")))
    mounts = [each for each in run_arguments(_engine("podman"), run) if each.startswith("--mount=")]
    assert len(mounts) == 2


def _client(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_docker_client_without_its_service_is_no_engine(tmp_path: Path) -> None:
    _client(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(NoContainerEngine, match=r"podman: not installed; docker: .*Cannot connect") as caught:
        find_engine(path=str(tmp_path))
    assert set(caught.value.tried) == {"podman", "docker"}
    _client(tmp_path, "docker", "echo")
    with pytest.raises(NoContainerEngine, match="no service answers"):
        find_engine("docker", path=str(tmp_path))


def test_podman_comes_before_docker_unless_docker_is_asked_for(tmp_path: Path) -> None:
    _client(tmp_path, "podman", "echo 4.3.1")
    _client(tmp_path, "docker", "echo 28.0.0")
    assert (find_engine(path=str(tmp_path)).name, find_engine(path=str(tmp_path)).version) == ("podman", "4.3.1")
    assert find_engine("docker", path=str(tmp_path)).version == "28.0.0"


def test_docker_runs_the_image_itself_whatever_has_its_name_now(tmp_path: Path) -> None:
    """`Train` and `train` are two environments, and one name of an image."""
    blobs = OciLayout(tmp_path / "layout")
    image = make_image(tmp_path / "image", [{"a": b"1"}], {})
    stored = import_image(f"oci:{image}", blobs)
    kept = tmp_path / "kept"
    _client(
        tmp_path / "bin",
        "docker",
        f'case "$1 $2" in "image inspect") grep -qx "$5" {kept} && echo "$5" ;; '
        f'"load --quiet") cat > {tmp_path}/loaded.tar; echo {stored.config_digest} >> {kept} ;; '
        "*) echo 28.0.0 ;; esac",
    )
    kept.touch()
    engine = find_engine("docker", path=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for _ in range(2):
        found = load_image(engine, blobs.root / "blobs", stored.manifest, name="mlenv/train:1")
        assert found == str(stored.config_digest)
    assert kept.read_text().splitlines() == [found]


def test_a_refusal_shows_its_last_line_and_keeps_the_rest(tmp_path: Path) -> None:
    _client(
        tmp_path, "podman", "echo 4.3.1; [ $1 = info ] || { echo warning >&2; echo 'Error: no space' >&2; exit 125; }"
    )
    engine = find_engine(path=str(tmp_path))
    with pytest.raises(EngineFailed, match="podman could not load the image: Error: no space") as caught:
        engine.call(["load"], what="load the image", timeout=10)
    assert caught.value.detail == "warning\nError: no space"


def test_an_image_that_may_have_no_python_runs_the_command_itself() -> None:
    run = ContainerRun("sha256:0", ("cat", "/etc/hosts"), Path("/home/a"), python=None)
    assert run_arguments(_engine("podman", init=False), run)[-3:] == ["sha256:0", "cat", "/etc/hosts"]


def test_values_of_variables_are_not_on_the_command_line_but_those_that_would_steer_the_client() -> None:
    run = structs.replace(_RUN, variables={"TOKEN": "hush", "PATH": "/opt/env/bin", "DOCKER_HOST": "tcp://x"})
    arguments = run_arguments(_engine("podman"), run)
    assert {"--env=TOKEN", "--env=PATH=/opt/env/bin", "--env=DOCKER_HOST=tcp://x"} <= set(arguments)
    assert not [each for each in arguments if "hush" in each]
    assert client_variables(run) == {"TOKEN": "hush"}
