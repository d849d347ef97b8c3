"""
Real dockers, of Debian's packages: 20.10 of bookworm, and the one of trixie, with buildx and images kept by containerd.

Nothing is installed. The packages are unpacked into the user's cache directory, once, and the service runs in a mount
namespace of its own (`mount_namespaces(7)`) in which they are the root directory. It has no network but this machine's,
no rules for packets, and its own directories. When it ends, nothing of it is left. This needs root.

    docker = dockers("trixie")
    docker.must("info")
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from mlenv.file_lock import FileLock
from support.processes import end

#: What is unpacked of a suite, with all that it depends on.
_PACKAGES = {"bookworm": ("docker.io",), "trixie": ("docker.io", "docker-cli", "docker-buildx")}
#: Makes `/lib` and the like links before anything is unpacked (mmdebstrap(1), "HOOKS").
_MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
#: Seconds that the service may take to answer, and to end.
_TIMEOUT = 60.0
#: The root directory for the service: the packages, with what the kernel tells, its own files, its certificates, and
#: `/tmp`, of which containers may be given directories.
_ENTER = (
    'set -e; mount --make-rprivate /; mount --bind "$1" "$1"; mount -t tmpfs none "$1/etc/docker"; '
    'mkdir "$1/etc/docker/certs.d"; mount --bind "$2/certificates" "$1/etc/docker/certs.d"; '
    'for each in proc sys dev tmp; do mount --rbind "/$each" "$1/$each"; done; mount --bind "$2" "$1/run"; cd "$1"; '
    'root=$1; shift 2; exec chroot "$root" dockerd "$@"'
)


@dataclass
class Docker:
    """
    A service that answers.

    Attributes:
        suite: The packages' suite.
        root: Where the packages are unpacked.
        directory: For all that it writes; `/run` for the service.
        bin: A directory with its client, `docker`, and nothing else.
    """

    suite: str
    root: Path
    directory: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def bin(self) -> Path:
        return self.directory / "bin"

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables with which the client, first in the `PATH`, asks this service and no other."""
        return {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{self.directory}/docker.sock",
            "DOCKER_CONFIG": str(self.directory / "config"),
        }

    def trust(self, host: str, certificate: Path) -> None:
        """Let docker and containerd know a registry (docs.docker.com/engine/security/certificates; containerd's `docs/hosts.md`)."""
        directory = self.directory / "certificates" / host
        directory.mkdir(exist_ok=True)
        shutil.copyfile(certificate, directory / "ca.crt")
        # NOTE: where containerd keeps images, docker asks for tokens with the machine's own authorities only, which it
        # reads when it first needs them.
        with (self.directory / "authorities.pem").open("a") as file:
            file.write(certificate.read_text())
        hosts = self.directory / "hosts" / host / "hosts.toml"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        # NOTE: containerd takes what is on this machine for plain HTTP, unless it is told otherwise.
        hosts.write_text(f'server = "https://{host}"\n[host."https://{host}"]\nca = "{certificate}"\n')

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the client."""
        return self._run(self.bin / "docker", *arguments)

    def must(self, *arguments: str) -> str:
        """Run the client, which must succeed. Returns what it prints."""
        return _printed(self.call(*arguments))

    @property
    def hosts(self) -> Path:
        """What containerd's client calls a directory of hosts."""
        return self.directory / "hosts"

    def containerd(self, *arguments: str) -> str:
        """Run containerd's own client, in a namespace where docker sees nothing. Returns what it prints."""
        address = self.directory / "exec/containerd/containerd.sock"
        return _printed(self._run(self.root / "usr/bin/ctr", f"--address={address}", "--namespace=tests", *arguments))

    def start(self) -> None:
        """Start the service, and wait until it answers."""
        for each in ("bin", "certificates", "config/cli-plugins"):
            (self.directory / each).mkdir(parents=True, exist_ok=True)
        (self.bin / "docker").symlink_to(self.root / "usr/bin/docker")
        for plugin in self.root.glob("usr/libexec/docker/cli-plugins/*"):
            (self.directory / "config/cli-plugins" / plugin.name).symlink_to(plugin)
        # NOTE: podman reads this one, too, where docker's variables are set, and fails without it.
        (self.directory / "config/config.json").write_text("{}")
        settings = {"features": {"containerd-snapshotter": True}} if self.suite != "bookworm" else {}
        (self.directory / "daemon.json").write_text(json.dumps(settings))
        options = ["--config-file=/run/daemon.json", "--data-root=/run/data", "--exec-root=/run/exec"]
        options += ["--pidfile=/run/docker.pid", "--host=unix:///run/docker.sock"]
        options += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        enter = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.root), str(self.directory)]
        with (self.directory / "log").open("ab") as log:
            environment = {**os.environ, "SSL_CERT_FILE": "/run/authorities.pem", "SSL_CERT_DIR": "/nowhere"}
            more: dict[str, Any] = {"env": environment, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen([*enter, *options], **more)
        deadline = time.monotonic() + _TIMEOUT
        while self.call("version").returncode != 0:
            assert self.process.poll() is None, f"dockerd ended:\n{self._log()}"
            assert time.monotonic() < deadline, f"dockerd does not answer:\n{self._log()}"

    def stop(self) -> None:
        """End the service with all that it runs."""
        end(self.process, _TIMEOUT)

    def _run(self, program: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(program), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def _log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-4000:]


def _printed(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
    return done.stdout


def _unpacked(suite: str) -> Path:
    """The packages of a suite, in a directory that looks like a machine's root. Made once, in about 20 seconds."""
    directory = platformdirs.user_cache_path("mlenv-tests", ensure_exists=True)
    root = directory / f"docker-{suite}"
    with FileLock(directory / f"docker-{suite}.lock"):
        if not root.exists():
            made = Path(tempfile.mkdtemp(prefix=f"docker-{suite}-", dir=directory))
            made.chmod(0o755)
            command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--hook-dir={_MERGED}"]
            command += [f"--include={','.join(_PACKAGES[suite])}", suite, str(made)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            for each in ("proc", "sys", "dev", "run", "tmp", "etc/docker"):
                (made / each).mkdir(parents=True, exist_ok=True)
            made.rename(root)
    return root


@contextmanager
def run_docker(suite: str) -> Iterator[Docker]:
    """A service with an empty store; it is stopped when the context ends."""
    assert os.geteuid() == 0, "docker's service is run by root only: run this test as root"
    root = _unpacked(suite)
    # NOTE: not below pytest's own directory, whose path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="mlenv-docker-", dir="/tmp", ignore_cleanup_errors=True) as name:
        docker = Docker(suite, root, Path(name))
        try:
            docker.start()
            yield docker
        finally:
            docker.stop()


@pytest.fixture(scope="session")
def dockers() -> Iterator[Callable[[str], Docker]]:
    """Gives the docker of a suite, which runs until the session ends."""
    with ExitStack() as stack:
        running: dict[str, Docker] = {}

        def find(suite: str) -> Docker:
            if suite not in running:
                running[suite] = stack.enter_context(run_docker(suite))
            return running[suite]

        yield find
