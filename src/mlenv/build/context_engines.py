"""
The image builders that a machine may have, and how each is told what to build.

BuildKit, through docker or by itself, builds in containers of its own. buildah and podman are run in a sandbox
(`context_sandbox.py`), in which they need no more than a `chroot` for a step. None is given a base by name: all find
those that the lock names under names made here, and fetch nothing.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from mlenv.build.context import CONTEXT, DOCKERFILE
from mlenv.build.context_sandbox import Sandbox, run_in_sandbox, run_listening, why_no_isolation
from mlenv.core.digest import Digest
from mlenv.core.layer import MTIME
from mlenv.errors import InvalidInput, Unavailable

#: In the order in which they are tried.
ENGINES: Final = ("docker", "buildctl", "buildah", "podman")
#: What a build may reach: nothing, or what this machine can.
NETWORKS: Final = ("none", "default")
_TIMEOUT: Final = 20
#: What `docker info` is asked: which version its service has, and how it keeps images.
_DOCKER: Final = "{{.ServerVersion}}|{{json .DriverStatus}}"
_CONTAINERD: Final = "io.containerd.snapshotter"
_OWN_BUILDER: Final = re.compile(r"^Driver:\s+docker$", re.MULTILINE)
_BUILDERS: Final = "`docker buildx create --use` makes one that does, as does docker's containerd image store"
#: Files of a sandbox with settings of containers/storage and containers/image.
_STORAGE: Final = "/conf/storage.conf"
_CONTAINERS: Final = "/conf/containers.conf"
_REGISTRIES: Final = "/conf/registries.conf"


class NoBuilder(Unavailable):
    """Nothing on this machine can build a Dockerfile."""

    hint = "install buildah (`apt-get install buildah`) or podman, or start docker; `mlenv doctor` says more"

    def __init__(self, tried: Mapping[str, str]) -> None:
        super().__init__("no image builder is at hand: " + "; ".join(f"{name}: {why}" for name, why in tried.items()))
        self.tried = dict(tried)


class BuilderTooOld(InvalidInput):
    """A Dockerfile with something that the builder does not know."""

    def __init__(self, name: str, version: str, what: str, since: str) -> None:
        super().__init__(f"{name} {version} does not know {what}, which the Dockerfile has")
        self.hint = f"use {name} {since} or newer, or BuildKit"


class EngineBase(Struct, frozen=True):
    """A base image in the layout `bases/`: what the Dockerfile calls it, its manifest, its configuration, its diff ids."""

    name: str
    manifest: Digest
    config: Digest
    diff_ids: tuple[Digest, ...]


class EngineOrder(Struct, frozen=True):
    """
    What to build, in a sandbox's directory: `Dockerfile`, `context/`, and the layout `bases/`.

    Attributes:
        arguments: Build arguments, in order.
        secrets: The values of secrets, by their ids.
        network: `none` or `default`.
        documents: Whether the Dockerfile has here-documents.
    """

    bases: tuple[EngineBase, ...]
    arguments: tuple[tuple[str, str], ...] = ()
    secrets: Mapping[str, str] | None = None
    network: str = "none"
    documents: bool = False


class ContextEngine(Protocol):
    """An image builder. What it makes is an OCI layout `out/image`, or an archive `out/image.tar` of one."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...

    def build(self, order: EngineOrder, sandbox: Sandbox, *, say: Callable[[str], None], timeout: float) -> None:
        """
        Build.

        Raises:
            BuilderFailed, BuildTooSlow, BuilderTooOld: There is no image.
            NoIsolation: Nothing can be built here.
        """


class SandboxedEngine(Struct, frozen=True):
    """buildah or podman, which have the same options."""

    name: str
    version: str

    def build(self, order: EngineOrder, sandbox: Sandbox, *, say: Callable[[str], None], timeout: float) -> None:
        since = (1, 33) if self.name == "buildah" else (4, 8)
        if order.documents and _numbers(self.version) < since:
            raise BuilderTooOld(self.name, self.version, "here-documents", ".".join(map(str, since)))
        secrets = {f"/secrets/{number}": value for number, value in enumerate((order.secrets or {}).values())}
        place = Sandbox(sandbox.directory, sandbox.root, {**_settings(), **secrets}, order.network)
        # NOTE: what stands under its digest in the target is not written again: the base's layers are ours already.
        blobs = sandbox.directory / "out/image/blobs/sha256"
        blobs.mkdir(parents=True)
        for base in order.bases:
            for diff_id in base.diff_ids:
                (blobs / diff_id.hex).touch()
        run_in_sandbox(place, self.commands(order), builder=self.name, variables=_variables(), say=say, timeout=timeout)

    def commands(self, order: EngineOrder) -> list[list[str]]:
        """The command lines, in order."""
        client = [self.name] if self.name == "buildah" else _PODMAN
        commands = []
        for base in order.bases:
            commands.append([*client, "pull", "--quiet", f"oci:/build/bases:{base.name}"])
            commands.append([*client, "tag", base.config.hex, f"localhost/{base.name}"])
        build = [*client, "build", "--pull=never", "--isolation=chroot", "--format=oci", "--no-cache"]
        build += ["--layers=false", "--http-proxy=false", "--identity-label=false", f"--timestamp={MTIME}"]
        build += ["--ignorefile=/conf/dockerignore", f"--file=/build/{DOCKERFILE}", "--tag=localhost/mlenv-result"]
        build += [f"--build-arg={name}={value}" for name, value in order.arguments]
        build += [f"--secret=id={id},src=/secrets/{number}" for number, id in enumerate(order.secrets or {})]
        commands.append([*build, f"/build/{CONTEXT}"])
        commands.append([*client, "push", "--quiet", "localhost/mlenv-result", "oci:/build/out/image:mlenv-result"])
        return commands


class BuildKit(Struct, frozen=True):
    """BuildKit, through `docker buildx` (`name` is `docker`) or `buildctl`. Steps run in its own containers."""

    name: str
    version: str
    executable: str

    def build(self, order: EngineOrder, sandbox: Sandbox, *, say: Callable[[str], None], timeout: float) -> None:
        # What BuildKit would take for patterns: they are applied already.
        (sandbox.directory / f"{DOCKERFILE}.dockerignore").touch()
        secrets = {f"MLENV_SECRET_{number}": value for number, value in enumerate((order.secrets or {}).values())}
        run_listening(
            self.command(order, sandbox.directory),
            name=self.name,
            environment={**_client_variables(), "SOURCE_DATE_EPOCH": str(MTIME), **secrets},
            say=say,
            timeout=timeout,
        )

    def command(self, order: EngineOrder, directory: Path) -> list[str]:
        """The command line (docs.docker.com/reference/cli/docker/buildx/build; buildctl's `docs/reference/buildctl.md`)."""
        # NOTE: not `rewrite-timestamp=true`, which rewrites layers of bases as well (moby/buildkit#4805), and is not
        # known to all: `context_result.py` sets times.
        output = f"type=oci,dest={directory}/out/image.tar,oci-mediatypes=true"
        ids = [(f"id={id},env=MLENV_SECRET_{number}") for number, id in enumerate(order.secrets or {})]
        if self.name == "docker":
            command = [self.executable, "buildx", "build", "--progress=plain", "--no-cache", "--provenance=false"]
            command += ["--sbom=false", f"--network={order.network}", f"--output={output}"]
            command += [
                f"--build-context=localhost/{each.name}=oci-layout://{directory}/bases@{each.manifest}"
                for each in order.bases
            ]
            command += [f"--build-arg={name}={value}" for name, value in order.arguments]
            command += [f"--secret={each}" for each in ids]
            return [*command, f"--file={directory}/{DOCKERFILE}", f"{directory}/{CONTEXT}"]
        command = [self.executable, "build", "--progress=plain", "--no-cache", "--frontend=dockerfile.v0"]
        command += [f"--local=context={directory}/{CONTEXT}", f"--local=dockerfile={directory}"]
        command += [f"--opt=filename={DOCKERFILE}", f"--output={output}"]
        command += [f"--opt=build-arg:SOURCE_DATE_EPOCH={MTIME}"]
        if order.network == "none":
            command.append("--opt=force-network-mode=none")
        if order.bases:
            command.append(f"--oci-layout=mlenv-bases={directory}/bases")
        command += [
            f"--opt=context:localhost/{each.name}=oci-layout://mlenv-bases@{each.manifest}" for each in order.bases
        ]
        command += [f"--opt=build-arg:{name}={value}" for name, value in order.arguments]
        return [*command, *(f"--secret={each}" for each in ids)]


class FoundEngines(Struct, frozen=True):
    """
    What was found on a machine.

    Attributes:
        engine: What builds, or None.
        others: Why not, of those that come before it, and, if there is none, of all.
    """

    engine: ContextEngine | None
    others: Mapping[str, str]


def look_for_engines(preferred: str | None, workdir: Path) -> FoundEngines:
    """
    The first engine that answers and that can build here.

    Raises:
        InvalidInput: There is no engine of the preferred name.
    """
    if preferred is not None and preferred not in ENGINES:
        raise InvalidInput(f"there is no image builder {preferred!r}: expected one of {', '.join(ENGINES)}")
    others: dict[str, str] = {}
    for name in (preferred,) if preferred else ENGINES:
        found = _look_at(name, workdir)
        if not isinstance(found, str):
            return FoundEngines(found, others)
        others[name] = found
    return FoundEngines(None, others)


def find_context_engine(preferred: str | None, workdir: Path) -> ContextEngine:
    """As `look_for_engines`. Raises `NoBuilder` where there is none."""
    found = look_for_engines(preferred, workdir)
    if found.engine is None:
        raise NoBuilder(found.others)
    return found.engine


def _look_at(name: str, workdir: Path) -> ContextEngine | str:
    """An engine, or why it can't be used."""
    executable = shutil.which(name)
    if executable is None:
        return "not installed"
    if name == "docker":
        return _look_at_docker(executable)
    if name == "buildctl":
        answer = _ask([executable, "--version"])
        if answer is None or _ask([executable, "debug", "workers"]) is None:
            return "no buildkitd answers"
        return BuildKit(name, _version(answer), executable)
    answer = _ask([executable, "--version"])
    if answer is None:
        return "it does not run"
    if not executable.startswith(("/usr/", "/bin/")):
        return f"it is at {executable}, and only what is in /usr is there in a sandbox"
    return why_no_isolation(workdir, name) or SandboxedEngine(name, _version(answer))


def _look_at_docker(executable: str) -> ContextEngine | str:
    """
    docker with a builder that writes OCI images.

    The one of docker's own service does where containerd keeps its images, others do in any case
    (docs.docker.com/build/builders/drivers, “Docker driver”; docs.docker.com/engine/storage/containerd).
    """
    version, _, status = (_ask([executable, "info", "--format", _DOCKER]) or "").partition("|")
    if not version:
        return "no service answers"
    if (builder := _ask([executable, "buildx", "inspect"])) is None:
        return "it has no buildx"
    if _OWN_BUILDER.search(builder) and _CONTAINERD not in status:
        return f"its builder writes no OCI images ({_BUILDERS})"
    return BuildKit("docker", version, executable)


def _ask(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def _version(answer: str) -> str:
    """The first word of an answer that begins with a digit."""
    return next((word for word in answer.split() if word[:1].isdigit()), "0")


def _numbers(version: str) -> tuple[int, int]:
    parts = [int(part) if part.isdigit() else 0 for part in version.split("-")[0].split(".")]
    major, minor, *_ = [*parts, 0, 0]
    return major, minor


def _client_variables() -> dict[str, str]:
    """What a client of BuildKit needs of our variables: where its service is, and its own settings."""
    names = ["PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"]
    names += ["BUILDX_BUILDER", "BUILDX_CONFIG", "BUILDKIT_HOST", "XDG_RUNTIME_DIR"]
    return {name: os.environ[name] for name in names if name in os.environ}


def _settings() -> dict[str, str]:
    """Settings of containers/storage and containers/image, in the place of the machine's (containers.conf(5) and others)."""
    return {
        "/etc/containers/policy.json": '{"default":[{"type":"insecureAcceptAnything"}]}',
        _REGISTRIES: 'unqualified-search-registries = []\nshort-name-mode = "disabled"\n',
        _STORAGE: '[storage]\ndriver = "overlay"\ngraphroot = "/build/storage"\nrunroot = "/build/run/storage"\n'
        'rootless_storage_path = "/build/storage"\n',
        _CONTAINERS: '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nlock_type = "file"\n'
        'tmp_dir = "/build/run/tmp"\n[containers]\ncgroups = "disabled"\nnetns = "host"\n[network]\n'
        'network_backend = "cni"\n',
        "/conf/dockerignore": "",
    }


def _variables() -> dict[str, str]:
    return {
        "CONTAINERS_CONF": _CONTAINERS,
        "CONTAINERS_STORAGE_CONF": _STORAGE,
        "CONTAINERS_REGISTRIES_CONF": _REGISTRIES,
        "XDG_RUNTIME_DIR": "/build/run",
        # The namespace that they would make for themselves is there (containers/storage, `pkg/unshare`).
        "_CONTAINERS_USERNS_CONFIGURED": "done",
        "_CONTAINERS_ROOTLESS_UID": "1",
        "_CONTAINERS_ROOTLESS_GID": "1",
    }


_PODMAN: Final = ["podman", "--root=/build/storage", "--runroot=/build/run/storage", "--cgroup-manager=cgroupfs"]
