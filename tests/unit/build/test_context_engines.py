"""What engines are told. Those that are not on the test machine are held to the flags that their manuals have."""

from pathlib import Path

import pytest

from mlenv.build.context_engines import (
    BuilderTooOld,
    BuildKit,
    EngineBase,
    EngineOrder,
    NoBuilder,
    SandboxedEngine,
    find_context_engine,
    look_for_engines,
)
from mlenv.build.context_sandbox import Sandbox
from mlenv.core.digest import Digest
from mlenv.errors import InvalidInput

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
ORDER = EngineOrder((EngineBase("mlenv-base-0", ONE, TWO, (TWO,)),), (("A", "b c"),), {"token": "s3cret"}, "none")


def test_docker_is_told_by_the_flags_of_buildx() -> None:
    # docs.docker.com/reference/cli/docker/buildx/build
    assert BuildKit("docker", "27.0", "/usr/bin/docker").command(ORDER, Path("/w")) == [
        "/usr/bin/docker", "buildx", "build", "--progress=plain", "--no-cache", "--provenance=false", "--sbom=false",
        "--network=none",
        "--output=type=oci,dest=/w/out/image.tar,oci-mediatypes=true",
        f"--build-context=localhost/mlenv-base-0=oci-layout:///w/bases@{ONE}",
        "--build-arg=A=b c",
        "--secret=id=token,env=MLENV_SECRET_0",
        "--file=/w/Dockerfile",
        "/w/context",
    ]  # fmt: skip


def test_buildctl_is_told_by_its_own_flags() -> None:
    # github.com/moby/buildkit, docs/reference/buildctl.md, and frontend/dockerfile/docs/reference.md
    assert BuildKit("buildctl", "0.16", "buildctl").command(ORDER, Path("/w")) == [
        "buildctl", "build", "--progress=plain", "--no-cache", "--frontend=dockerfile.v0",
        "--local=context=/w/context", "--local=dockerfile=/w", "--opt=filename=Dockerfile",
        "--output=type=oci,dest=/w/out/image.tar,oci-mediatypes=true",
        "--opt=build-arg:SOURCE_DATE_EPOCH=1577836800",
        "--opt=force-network-mode=none",
        "--oci-layout=mlenv-bases=/w/bases",
        f"--opt=context:localhost/mlenv-base-0=oci-layout://mlenv-bases@{ONE}",
        "--opt=build-arg:A=b c",
        "--secret=id=token,env=MLENV_SECRET_0",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["buildah", "podman"])
def test_no_engine_is_told_a_secret_or_may_pull(name: str) -> None:
    commands = SandboxedEngine(name, "9.0").commands(ORDER)
    assert "s3cret" not in repr(commands)
    (build,) = [each for each in commands if "build" in each]
    assert {"--pull=never", "--secret=id=token,src=/secrets/0", "--build-arg=A=b c", "--http-proxy=false"} <= set(build)
    assert not [each for each in build if each.startswith(("--volume", "--device", "--privileged", "--cap-add"))]
    assert "s3cret" not in repr(BuildKit("docker", "27", "docker").command(ORDER, Path("/w")))


@pytest.mark.parametrize(("name", "version"), [("buildah", "1.28.2"), ("podman", "4.3.1")])
def test_a_builder_that_knows_no_here_documents_says_so(name: str, version: str, tmp_path: Path) -> None:
    order = EngineOrder((), documents=True)
    with pytest.raises(BuilderTooOld, match="here-documents"):
        SandboxedEngine(name, version).build(order, Sandbox(tmp_path, tmp_path), say=print, timeout=1)


def test_why_there_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"docker": "exit 1", "buildctl": "echo buildctl x 1.0; test $1 = --version"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (programs / "buildah").write_text("#!/bin/sh\necho buildah version 1.30\n")
    (programs / "buildah").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    found = look_for_engines(None, tmp_path)
    assert found.engine is None
    assert dict(found.others) == {
        "docker": "no service answers",
        "buildctl": "no buildkitd answers",
        "buildah": f"it is at {programs}/buildah, and only what is in /usr is there in a sandbox",
        "podman": "not installed",
    }
    with pytest.raises(NoBuilder, match="podman: not installed"):
        find_context_engine("podman", tmp_path)
    with pytest.raises(InvalidInput, match="no image builder 'kaniko'"):
        find_context_engine("kaniko", tmp_path)


@pytest.mark.parametrize(
    ("store", "builder", "why"),
    [
        ('[["driver-type","io.containerd.snapshotter.v1"]]', "docker", None),
        ('[["Backing Filesystem","extfs"]]', "docker-container", None),
        ('[["Backing Filesystem","extfs"]]', "docker", "its builder writes no OCI images"),
        ('[["Backing Filesystem","extfs"]]', "", "it has no buildx"),
    ],
)
def test_docker_is_taken_if_its_builder_writes_oci_images(
    store: str, builder: str, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What docker 26.1 prints; the real one is in tests/integration/test_docker.py.
    inspected = f"echo 'Name:   default'; echo 'Driver: {builder}'; echo; echo Nodes:" if builder else "exit 1"
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\nif [ $1 = info ]; then echo '27.1|{store}'; else {inspected}; fi\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    found = look_for_engines("docker", tmp_path)
    assert found.engine == (None if why else BuildKit("docker", "27.1", str(program)))
    assert (why or "") in found.others.get("docker", "")
    assert list(found.others) == (["docker"] if why else [])
