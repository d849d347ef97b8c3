"""Container engines of this machine: podman, docker, and what each needs to be told here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from mlenv.errors import Unavailable

#: Seconds in which an engine must say that it is there.
_TIMEOUT: Final = 20
#: Bit of the capability to raise resource limits (Linux, `capability.h`).
_CAP_SYS_RESOURCE: Final = 24
#: Where podman looks for the init that `--init` runs (containers.conf(5), `init_path`, `helper_binaries_dir`).
_INITS: Final = (
    "/usr/libexec/podman/catatonit",
    "/usr/local/libexec/podman/catatonit",
    "/usr/local/lib/podman/catatonit",
    "/usr/lib/podman/catatonit",
    "/usr/bin/catatonit",
)


class NoContainerEngine(Unavailable):
    """There is neither podman nor docker here, or they do not answer."""

    hint = "install podman (`apt-get install podman`), start docker, or run with `--engine local`"

    def __init__(self, tried: Mapping[str, str]) -> None:
        self.tried = dict(tried)
        super().__init__("no container engine answers: " + "; ".join(f"{name}: {why}" for name, why in tried.items()))


class EngineFailed(Unavailable):
    """An engine that refused what it was asked."""

    def __init__(self, engine: str, what: str, message: str) -> None:
        lines = [line for line in message.strip().splitlines() if line.strip()]
        super().__init__(f"{engine} could not {what}: {lines[-1] if lines else 'no message'}")
        self.engine, self.what = engine, what
        self.detail = "\n".join(lines) or None


class Surroundings(Struct, frozen=True):
    """
    What this machine lets an engine do.

    Attributes:
        uid, gid: Who we are; -1 on Windows.
        raises_limits: Whether resource limits may be raised. Engines run by root ask for high ones by default.
        open_files, processes: The highest limits we may ask for, for `nofile` and `nproc`.
        owns_cgroups: Whether control groups can be made: there is one cgroup 2 tree, or a service manager.
        init: Whether podman has an init to run as the first process.
    """

    uid: int
    gid: int
    raises_limits: bool
    open_files: int
    processes: int
    owns_cgroups: bool
    init: bool


class ContainerEngine(Struct, frozen=True):
    """
    An engine that answers.

    Attributes:
        name: `podman` or `docker`.
        executable: Its client.
        version: The engine's version, not the client's.
        here: What this machine lets it do.
    """

    name: str
    executable: str
    version: str
    here: Surroundings

    @property
    def reads_zstd(self) -> bool:
        """Whether it takes layers that are compressed with zstd. docker does since 23.0 (its release notes)."""
        major = self.version.partition(".")[0]
        return self.name != "docker" or not major.isdigit() or int(major) >= 23

    def call(self, arguments: list[str], *, what: str, timeout: float, directory: Path | None = None) -> str:
        """
        Run the client, and return what it prints.

        Args:
            arguments: After the client's name.
            what: What is being done, for messages: `load the image`.
            timeout: Seconds.
            directory: Where the client runs, or None for here.

        Raises:
            EngineFailed: It refused, or gave no answer in time.
        """
        try:
            done = subprocess.run(
                [self.executable, *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                cwd=directory,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineFailed(self.name, what, str(error)) from error
        if done.returncode != 0:
            raise EngineFailed(self.name, what, done.stderr.decode(errors="replace"))
        return done.stdout.decode(errors="replace").strip()


def find_engine(preferred: str | None = None, *, path: str | None = None) -> ContainerEngine:
    """
    An engine that answers: podman before docker, unless one is preferred.

    Args:
        preferred: `podman` or `docker`, or None for whichever answers.
        path: Where clients are looked up, or None for the `PATH`.

    Raises:
        NoContainerEngine: None answers. A docker client without its service is none.
    """
    tried = {}
    for name in (preferred,) if preferred else ("podman", "docker"):
        executable = shutil.which(name, path=path)
        if executable is None:
            tried[name] = "not installed"
            continue
        template = "{{.Version.Version}}" if name == "podman" else "{{.ServerVersion}}"
        engine = ContainerEngine(name, executable, "", surroundings())
        try:
            answer = engine.call(["info", "--format", template], what="answer", timeout=_TIMEOUT)
        except EngineFailed as error:
            tried[name] = str(error)
            continue
        if answer and "\n" not in answer:
            return ContainerEngine(name, executable, answer, engine.here)
        tried[name] = "no service answers"
    raise NoContainerEngine(tried)


def surroundings() -> Surroundings:
    """Look at this machine, without starting anything."""
    if sys.platform == "win32":
        return Surroundings(-1, -1, True, 0, 0, True, False)
    import resource

    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    with suppress(OSError, ValueError):
        # NOTE: podman holds its own processes to the highest process number, so more can't be asked for.
        highest = int(Path("/proc/sys/kernel/pid_max").read_text())
        processes = highest if processes == resource.RLIM_INFINITY else min(processes, highest)
    return Surroundings(
        uid=os.getuid(),
        gid=os.getgid(),
        raises_limits=_may_raise_limits(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        processes=processes,
        owns_cgroups=os.path.exists("/sys/fs/cgroup/cgroup.controllers") or os.path.isdir("/run/systemd/system"),
        init=any(os.path.exists(each) for each in _INITS),
    )


def _may_raise_limits() -> bool:
    """Whether we hold CAP_SYS_RESOURCE. Someone who is not root has it in no case, and engines know that by themselves."""
    if os.getuid() != 0:
        return True
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    except (OSError, ValueError, IndexError):
        pass
    return True
