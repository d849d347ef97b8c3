"""
Find out how podman runs on this machine, and write that down for podman to read.

    eval "$(python tools/podman_here.py DIRECTORY oci-archive:FILE)"

An ordinary machine needs nothing. A machine inside a sandbox may forbid what podman takes for granted: raising limits,
making control groups, making a network, an overlay on an overlay. Each way that is known is tried on a small image,
the ordinary one first; the first that starts a container is written to DIRECTORY as `containers.conf` and
`storage.conf`, with an image storage of its own, and named on stdout as two shell variables to export.
"""

import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

#: crun refuses a version 2 hierarchy that is mounted beside version 1 and has controllers, so it is hidden from it.
_RUNTIME = """\
#!/bin/sh
exec unshare --mount --propagation private sh -c 'umount /sys/fs/cgroup/unified && exec {crun} "$@"' crun "$@"
"""
#: How many open files and processes a container asks for at most where raising limits is forbidden.
_LIMIT = 4096
#: podman's own clean-up refuses a longer `runroot`; each container then ends 20 seconds after its command.
_RUNROOT_LIMIT = 50
_HYBRID = Path("/sys/fs/cgroup/unified/cgroup.controllers")


def _storage(directory: Path, driver: str) -> str:
    return f'[storage]\ndriver = "{driver}"\ngraphroot = "{directory}/{driver}"\nrunroot = "{directory}/run"\n'


def _confined(directory: Path) -> str:
    """Settings, in addition to `[engine]`, for a machine that grants no limits, control groups or networks beyond those that it has."""
    limits = []
    for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(number)[1]
        limit = _LIMIT if hard == resource.RLIM_INFINITY else min(hard, _LIMIT)
        limits.append(f'"{name}={limit}:{limit}"')
    lines = ['cgroup_manager = "cgroupfs"', 'events_logger = "none"']
    crun = shutil.which("crun")
    if crun and _HYBRID.exists():
        wrapper = directory / "crun-without-unified"
        wrapper.write_text(_RUNTIME.format(crun=crun))
        wrapper.chmod(0o755)
        lines += ['runtime = "crun"', "[engine.runtimes]", f'crun = ["{wrapper}"]']
    lines += ["[containers]", f"default_ulimits = [{', '.join(limits)}]", 'cgroups = "disabled"', 'netns = "host"']
    return "\n".join(lines) + "\n"


def podman_here(directory: Path, image: str) -> Mapping[str, str]:
    """
    The environment variables with which podman starts `image` on this machine.

    Raises:
        RuntimeError: It does in no known way; the message holds what podman said each time. Or the directory's path is
            too long for podman.
    """
    if len(f"{directory}/run") > _RUNROOT_LIMIT:
        raise RuntimeError(f"a path of at most {_RUNROOT_LIMIT - len('/run')} characters is needed, not {directory}")
    directory.mkdir(parents=True, exist_ok=True)
    containers, storage = directory / "containers.conf", directory / "storage.conf"
    variables = {"CONTAINERS_CONF": str(containers), "CONTAINERS_STORAGE_CONF": str(storage)}
    # What runs is noted here, and locked here, apart from what other podmans on this machine note in the usual place:
    # by default all of them take the same few locks in shared memory, and wait for each other's containers.
    engine = f'[engine]\nlock_type = "file"\ntmp_dir = "{directory}/tmp"\n'
    said = []
    for driver in ("overlay", "vfs"):
        containers.write_text(engine)
        storage.write_text(_storage(directory, driver))
        pulled = _podman(variables, "pull", "--quiet", image)
        said.append(pulled.stderr)
        for settings in ("", _confined(directory)) if pulled.returncode == 0 else ():
            containers.write_text(f"{engine}{settings}")
            started = _podman(variables, "run", "--rm", pulled.stdout.strip(), "true")
            if started.returncode == 0:
                return variables
            said.append(started.stderr)
    raise RuntimeError("podman starts no container here:\n" + "".join(said))


def _podman(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(["podman", *arguments], env=environment, capture_output=True, text=True, check=False)


def main() -> None:
    """Print the variables as shell commands."""
    directory, image = sys.argv[1:]
    for name, value in podman_here(Path(directory).resolve(), image).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    main()
