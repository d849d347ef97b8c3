"""Running in a container: the image goes from our store to an engine once, and a command runs in it as if it ran here."""

import csv
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from msgspec import Struct, field

from mlenv.core.digest import Digest
from mlenv.core.image import CONTAINERD_NAME, INDEX_TYPE, MANIFEST_TYPE, Descriptor
from mlenv.core.image_name import full_name
from mlenv.errors import InvalidInput
from mlenv.run.engines import ContainerEngine, EngineFailed

#: Seconds in which an image must be loaded.
_LOAD_TIMEOUT: Final = 1800
_ASK_TIMEOUT: Final = 60
#: The name of an image in an OCI layout (image-spec, annotations.md).
_REF_NAME: Final = "org.opencontainers.image.ref.name"
#: Variables that a client, or the programme loader, looks at itself.
_STEERING: Final = re.compile(
    r"(PATH|HOME|TMPDIR|USER|LOGNAME|LANG|DBUS_.*|LC_.*|LD_.*|XDG_.*|DOCKER_.*|BUILDAH_.*|PODMAN_.*|CONTAINER.*|REGISTRY_.*"
    r"|STORAGE_.*|SSL_.*|(HTTPS?|ALL|NO)_PROXY|GODEBUG|GO[A-Z]+)",
    re.IGNORECASE,
)
#: Directories of an image that nothing mounted may hide, nor lie in.
_SYSTEM: Final = (
    *("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/env", "/proc", "/sbin", "/sys"),
    *("/usr/bin", "/usr/lib", "/usr/local/bin", "/usr/local/lib", "/usr/sbin"),
)


class UnmountablePath(InvalidInput):
    """A directory that can't appear in a container under its own path."""

    hint = "run from a project directory, such as one below your home"

    def __init__(self, path: Path) -> None:
        super().__init__(f"the directory {str(path)!r} would hide the container's own files")
        self.path = path


class ContainerRun(Struct, frozen=True):
    """
    One run in a container.

    Attributes:
        image: What `load_image` gave.
        command: The command and its arguments.
        directory: Where it runs; mounted under its own path, writable.
        mounts: Further directories, each mounted under its own path.
        variables: Environment variables, besides those of the image.
        terminal: Whether stdin and stdout are a terminal.
        gpus: `all`, or a device number or name, or None.
        network: `host`, `none`, or a network of the engine.
        python: The image's interpreter, which stands in for the init of an engine that has none; None where the image
            may have no Python: its command is then the first process itself.
        entry_point: Whether the image's own entry point is given the command; else the command is run as it is.
    """

    image: str
    command: tuple[str, ...]
    directory: Path
    mounts: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    terminal: bool = False
    gpus: str | None = None
    network: str = "host"
    python: str | None = "python"
    entry_point: bool = True


def run_arguments(engine: ContainerEngine, run: ContainerRun) -> list[str]:
    """
    The command line, client first, that runs it: to be handed to `mlenv.run.process.run_command`.

    Raises:
        UnmountablePath: A directory would hide the container's own files.
    """
    arguments = [engine.executable, "run", "--rm", "--interactive", f"--network={run.network}"]
    if run.terminal:
        arguments.append("--tty")
    if not run.entry_point:
        arguments.append("--entrypoint=")
    # The command's output is the caller's: the engine need not keep a copy.
    arguments += ["--log-driver=none", "--security-opt=label=disable"]
    arguments += [*_identity(engine), *_limits(engine), *_gpus(engine, run.gpus)]
    mounts = [_mount(path) for path in dict.fromkeys((run.directory, *run.mounts))]
    arguments += [f"--mount={each}" for each in mounts]
    arguments += ["--workdir", str(run.directory)]
    # NOTE: a name alone takes the value from the client's environment, where other users of the machine can't see it.
    passed = client_variables(run)
    arguments += [
        f"--env={name}" if name in passed else f"--env={name}={run.variables[name]}" for name in sorted(run.variables)
    ]
    command = list(run.command)
    if engine.name == "docker" or engine.here.init:
        arguments.append("--init")
    elif run.python is not None:
        command = [run.python, "-ISc", _init_script(), *command]
    return [*arguments, run.image, *command]


def client_variables(run: ContainerRun) -> dict[str, str]:
    """What the client's environment must hold besides its own: the run's variables, but for those that would steer it."""
    return {name: value for name, value in run.variables.items() if not _STEERING.fullmatch(name)}


def load_image(engine: ContainerEngine, blobs: Path, manifest: Descriptor, *, name: str) -> str:
    """
    Bring an image into the engine's store, unless it is there.

    Args:
        engine: Which.
        blobs: The `blobs` directory of the OCI image layout that has it.
        manifest: The image.
        name: What people will see it called: `mlenv/train:3`. Not what it is found by.

    Returns:
        What the engine knows it by.

    Raises:
        EngineFailed: It could not be loaded.
    """
    document = json.loads((blobs / "sha256" / manifest.digest.hex).read_bytes())
    config = Digest.parse(document["config"]["digest"])
    if engine.name == "podman":
        return _load_by_podman(engine, blobs, manifest, config, name)
    return _load_by_docker(engine, blobs, manifest, document, config, name)


def _load_by_podman(engine: ContainerEngine, blobs: Path, manifest: Descriptor, config: Digest, name: str) -> str:
    """podman calls an image by its configuration's digest, and reads an OCI layout where it lies."""
    try:
        engine.call(["image", "exists", config.hex], what="look for the image", timeout=_ASK_TIMEOUT)
    except EngineFailed:
        with tempfile.TemporaryDirectory(prefix="mlenv-") as directory:
            # NOTE: podman makes a name of the path that it is given, and refuses one that can't be a name.
            layout = Path(directory) / f"mlenv-{config.hex[:12]}"
            layout.mkdir()
            _write_layout(layout, manifest, {_REF_NAME: "image"})
            (layout / "blobs").symlink_to(blobs.resolve(), target_is_directory=True)
            engine.call(
                ["pull", "--quiet", f"oci:{layout.name}:image"],
                what="load the image",
                timeout=_LOAD_TIMEOUT,
                directory=layout.parent,
            )
            engine.call(["untag", config.hex, f"localhost/{layout.name}"], what="name the image", timeout=_ASK_TIMEOUT)
        engine.call(["tag", config.hex, f"localhost/{name}"], what="name the image", timeout=_ASK_TIMEOUT)
    return config.hex


def _load_by_docker(
    engine: ContainerEngine, blobs: Path, manifest: Descriptor, document: Mapping[str, Any], config: Digest, name: str
) -> str:
    """docker takes an archive on stdin; ours is both an OCI layout and what `docker save` of old made."""
    if found := _id_in_docker(engine, config, manifest.digest):
        return found
    with subprocess.Popen(
        [engine.executable, "load", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        with suppress(BrokenPipeError):
            _write_archive(process.stdin, blobs, manifest, document, name)
        with suppress(BrokenPipeError):
            process.stdin.close()
        message = process.stderr.read().decode(errors="replace")
    if process.returncode != 0:
        raise EngineFailed(engine.name, "load the image", message)
    # NOTE: the name may be another image's by now: names of environments are more than those of images.
    return _id_in_docker(engine, config, manifest.digest) or name


def _id_in_docker(engine: ContainerEngine, config: Digest, manifest: Digest) -> str | None:
    """What docker calls the image: by its configuration, or by its manifest where containerd keeps images."""
    for digest in (config, manifest):
        with suppress(EngineFailed):
            arguments = ["image", "inspect", "--format", "{{.Id}}", str(digest)]
            if engine.call(arguments, what="look for the image", timeout=_ASK_TIMEOUT) == str(digest):
                return str(digest)
    return None


def _write_layout(directory: Path, manifest: Descriptor, names: Mapping[str, str]) -> None:
    """`oci-layout` and `index.json` (image-spec, image-layout.md) for one image, whose names are annotations."""
    (directory / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    entry = {
        "mediaType": MANIFEST_TYPE,
        "digest": str(manifest.digest),
        "size": manifest.size,
        "annotations": dict(names),
    }
    (directory / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]})
    )


def _write_archive(
    stream: IO[bytes], blobs: Path, manifest: Descriptor, document: Mapping[str, Any], name: str
) -> None:
    paths = [f"blobs/sha256/{Digest.parse(each['digest']).hex}" for each in document["layers"]]
    config = f"blobs/sha256/{Digest.parse(document['config']['digest']).hex}"
    legacy = json.dumps([{"Config": config, "RepoTags": [name], "Layers": paths}]).encode()
    with tempfile.TemporaryDirectory(prefix="mlenv-") as directory, tarfile.open(fileobj=stream, mode="w|") as archive:
        _write_layout(Path(directory), manifest, {_REF_NAME: name, CONTAINERD_NAME: full_name(name)})
        for file in ("oci-layout", "index.json"):
            archive.add(Path(directory) / file, file)
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(legacy)
        archive.addfile(entry, io.BytesIO(legacy))
        for path in dict.fromkeys([f"blobs/sha256/{manifest.digest.hex}", config, *paths]):
            archive.add(blobs.parent / path if blobs.name == "blobs" else blobs / path.removeprefix("blobs/"), path)


def _identity(engine: ContainerEngine) -> list[str]:
    """What is written to a mounted directory belongs to who runs it."""
    if engine.here.uid <= 0:
        return []
    if engine.name == "podman":
        return ["--userns=keep-id"]
    # There is no such user in the image, so there is no home either.
    return [f"--user={engine.here.uid}:{engine.here.gid}", "--env=HOME=/tmp"]


def _limits(engine: ContainerEngine) -> list[str]:
    """Root's podman asks for limits that root itself may not have, inside another container or a small machine."""
    if engine.name != "podman":
        return []
    here = engine.here
    arguments = [] if here.owns_cgroups else ["--cgroups=disabled"]
    if not here.raises_limits:
        arguments += [
            f"--ulimit=nofile={here.open_files}:{here.open_files}",
            f"--ulimit=nproc={here.processes}:{here.processes}",
        ]
    return arguments


def _gpus(engine: ContainerEngine, gpus: str | None) -> list[str]:
    """NVIDIA devices: docker's own flag, or podman's by the Container Device Interface."""
    if gpus is None:
        return []
    if engine.name == "docker":
        return [f"--gpus={gpus if gpus == 'all' else f'device={gpus}'}"]
    return [f"--device=nvidia.com/gpu={gpus}"]


def _mount(path: Path) -> str:
    """A bind mount, as the comma separated list that `--mount` takes."""
    absolute = os.path.abspath(path)
    if any(f"{each}/".startswith(absolute.rstrip("/") + "/") or absolute.startswith(f"{each}/") for each in _SYSTEM):
        raise UnmountablePath(path)
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(["type=bind", f"source={absolute}", f"destination={absolute}"])
    return out.getvalue()


def _init_script() -> str:
    from importlib import resources

    return resources.files("mlenv.run").joinpath("_init_script.py").read_text("utf-8")
