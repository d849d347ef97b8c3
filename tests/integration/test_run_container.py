"""Commands in real containers, by podman and docker: status, signals, terminal, files, and the image's way into the engine."""

import hashlib
import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.docker import Docker

from mlenv.core.digest import Digest
from mlenv.core.image import MANIFEST_TYPE, Descriptor
from mlenv.run.container import ContainerRun, client_variables, load_image, run_arguments
from mlenv.run.engines import ContainerEngine, find_engine
from mlenv.run.inspect import inspect_by

pytestmark = pytest.mark.container

_PYTHON = Path("/usr/bin/python3")
_TOOLS = ("/bin/sh", "/bin/cat", "/bin/sleep", "/usr/bin/id")
_RUNNER = """
import json, os, sys
from mlenv.run.process import leave, run_command
leave(run_command(json.loads(sys.argv[1]), environment=os.environ))
"""
_SECONDS = 60


@pytest.fixture(scope="module", params=["podman", "bookworm", "trixie"])
def engine(
    request: pytest.FixtureRequest, podman_storage: None, dockers: Callable[[str], Docker]
) -> Iterator[ContainerEngine]:
    """podman, docker 20.10, and a new docker that leaves images to containerd."""
    if request.param == "podman":
        yield find_engine("podman")
        return
    docker = dockers(request.param)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in docker.environment.items():
            patch.setenv(name, value)
        yield find_engine("docker")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI image layout with one image: this machine's own Python and shell."""
    return tmp_path_factory.mktemp("layout")


@pytest.fixture(scope="module")
def manifest(layout: Path) -> Descriptor:
    layer = _blob(layout, _layer())
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"], "Labels": {"made": str(layout)}},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)]},
    }
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _blob(layout, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json").to_dict(),
        "layers": [layer.to_dict()],
    }
    return _blob(layout, json.dumps(document).encode(), MANIFEST_TYPE)


@pytest.fixture(scope="module")
def image(engine: ContainerEngine, layout: Path, manifest: Descriptor) -> str:
    return load_image(engine, layout / "blobs", manifest, name="mlenv/example:1")


def test_an_image_is_loaded_once_and_has_a_name(
    engine: ContainerEngine, layout: Path, manifest: Descriptor, image: str, tmp_path: Path
) -> None:
    names = engine.call(["image", "inspect", "--format", "{{.RepoTags}}", image], what="look", timeout=_SECONDS)
    assert names == ("[localhost/mlenv/example:1]" if engine.name == "podman" else "[mlenv/example:1]")
    shutil.copytree(layout / "blobs" / "sha256", tmp_path / "sha256", ignore=lambda *_: [])
    largest = max((tmp_path / "sha256").iterdir(), key=lambda each: each.stat().st_size)
    largest.unlink()
    assert load_image(engine, tmp_path, manifest, name="mlenv/example:1") == image


def test_status_and_files_are_the_callers(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    done = _run(engine, image, tmp_path, "python3", "-c", "open('made', 'w').write(__import__('os').getcwd()); exit(7)")
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "made").read_text() == str(tmp_path)
    assert (tmp_path / "made").stat().st_uid == os.getuid()


def test_what_is_not_there_ends_as_in_a_shell(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    assert _run(engine, image, tmp_path, "no-such-command").returncode == 127


def test_variables_and_odd_arguments_pass_unchanged(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    odd = ["a b", "", "$HOME", '"', "--flag", "é\n"]
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['GREETING']]))"
    done = _run(engine, image, tmp_path, "python3", "-c", code, *odd, variables={"GREETING": "a=b, c"})
    assert json.loads(done.stdout) == [odd, "a=b, c"]


def test_a_directory_with_a_comma_is_mounted(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    odd = tmp_path / 'a, "b": c'
    odd.mkdir()
    assert _run(engine, image, odd, "sh", "-c", "echo 1 > here").returncode == 0
    assert (odd / "here").exists()


def test_stdin_goes_in_and_comes_out_whole(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    assert _run(engine, image, tmp_path, "cat", stdin=data).stdout == data


def test_a_signal_reaches_the_command(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: exit(9))\nprint('ready', flush=True)\nsignal.pause()"
    )
    with _started(engine, image, tmp_path, "python3", "-c", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(_SECONDS) == 9


def test_a_command_that_handles_no_signal_is_ended_by_it(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    with _started(engine, image, tmp_path, "sh", "-c", "echo ready; exec sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(_SECONDS) == 128 + signal.SIGTERM


def test_control_c_on_a_terminal_interrupts(engine: ContainerEngine, image: str, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGINT, lambda *_: exit(40))\n"
        "print('ready', os.isatty(0), os.isatty(1), flush=True)\nsignal.pause()"
    )
    run = ContainerRun(image, ("python3", "-c", code), tmp_path, terminal=True)
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", _RUNNER, json.dumps(run_arguments(engine, run))])
    seen = b""
    while b"ready True True" not in seen:
        assert select.select([fd], [], [], _SECONDS)[0], seen
        seen += os.read(fd, 4096)
    os.write(fd, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 40
    os.close(fd)


def test_what_is_installed_can_be_asked_from_outside(engine: ContainerEngine, image: str) -> None:
    command = [engine.executable, "run", "--rm", "-i", "--network=none", *_limits(engine), image]
    inspection = inspect_by([*command, "python3", "-"], what="the image")
    assert inspection.prefix == "/usr"
    assert [(each.name, each.version, each.modified) for each in inspection.distributions] == [
        ("example", "1.0", ("example.py",))
    ]


def _limits(engine: ContainerEngine) -> list[str]:
    arguments = run_arguments(engine, ContainerRun("image", (), Path("/home")))
    return [each for each in arguments if each.startswith(("--ulimit", "--cgroups"))]


def _runner(engine: ContainerEngine, run: ContainerRun) -> list[str]:
    return [sys.executable, "-c", _RUNNER, json.dumps(run_arguments(engine, run))]


def _run(
    engine: ContainerEngine,
    image: str,
    directory: Path,
    *command: str,
    stdin: bytes = b"",
    variables: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    run = ContainerRun(image, command, directory, variables=variables or {})
    return subprocess.run(
        _runner(engine, run),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=_SECONDS,
        cwd=directory,
        env={**os.environ, **client_variables(run)},
    )


def _started(engine: ContainerEngine, image: str, directory: Path, *command: str) -> "subprocess.Popen[bytes]":
    run = ContainerRun(image, command, directory)
    return subprocess.Popen(_runner(engine, run), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def _blob(layout: Path, data: bytes, media_type: str = "application/vnd.oci.image.layer.v1.tar") -> Descriptor:
    digest = Digest.of(data)
    path = layout / "blobs" / "sha256" / digest.hex
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Descriptor(media_type, digest, len(data))


def _layer() -> bytes:
    """A tar with Python, its standard library, a shell, what they are linked to, and one damaged distribution."""
    script = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = Path(subprocess.run([_PYTHON, "-Ic", script], capture_output=True, text=True, check=True).stdout.strip())
    binaries = [Path(each) for each in _TOOLS] + [_PYTHON]
    modules = [each for each in (library / "lib-dynload").glob("*.so") if "_tk" not in each.name]
    shared = {line for each in [*binaries, *modules] for line in _linked(each)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted({*map(str, binaries), *shared}):
            archive.add(os.path.realpath(path), path.lstrip("/"))
        archive.add(library, str(library).lstrip("/"), filter=_without_bytecode)
        dist = f"usr/local/lib/{library.name}/dist-packages"
        record = f"example.py,sha256={'A' * 43},1\nexample-1.0.dist-info/RECORD,,\n"
        for name, text in {
            "example.py": "x",
            "example-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: Example\nVersion: 1.0\n",
            "example-1.0.dist-info/RECORD": record,
        }.items():
            entry = tarfile.TarInfo(f"{dist}/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("usr/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "python3"
        archive.addfile(link)
        for directory in ("tmp", "proc", "dev", "sys", "etc"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
    return out.getvalue()


def _linked(path: Path) -> list[str]:
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    return [word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")]


def _without_bytecode(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    left_out = ("__pycache__", "/test", "/idlelib", "/ensurepip", "/config-")
    return None if any(each in entry.name for each in left_out) else entry


def test_digests_of_this_file_are_what_podman_computes(layout: Path, manifest: Descriptor) -> None:
    data = (layout / "blobs" / "sha256" / manifest.digest.hex).read_bytes()
    assert hashlib.sha256(data).hexdigest() == manifest.digest.hex
