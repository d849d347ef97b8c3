"""podman, buildah and a registry, each with a storage that is thrown away."""

import base64
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.packages import Pins
from mlenv.server.tls import Certificate

_TOOLS = Path(__file__).parents[1] / "tools"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Engine:
    """How podman runs on this machine: its configuration, and the storage driver that works."""

    configuration: str
    driver: str

    @classmethod
    def find(cls, directory: Path, base: Path) -> "Engine":
        """Ask `tools/podman_here.py`."""
        command = [sys.executable, str(_TOOLS / "podman_here.py"), str(directory), f"oci-archive:{base}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        storage = tomllib.loads((directory / "storage.conf").read_text())
        engine = cls(str(directory / "containers.conf"), storage["storage"]["driver"])
        clear(directory / engine.driver)
        return engine

    def storage(self, directory: Path) -> Mapping[str, str]:
        """The environment variables for an empty storage in `directory`."""
        clear(directory)
        directory.mkdir(parents=True)
        settings = directory / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "{self.driver}"\ngraphroot = "{directory}/root"\nrunroot = "{directory}/run"\n'
        )
        return {"CONTAINERS_CONF": self.configuration, "CONTAINERS_STORAGE_CONF": str(settings)}


@dataclass(frozen=True, slots=True)
class Setting:
    """
    What every contender is given.

    Attributes:
        pins: What to install.
        base: The base image, an OCI archive.
        index: Where packages come from.
        engine: How containers run here.
        directory: Scratch space.
    """

    pins: Pins
    base: Path
    index: str
    engine: Engine
    directory: Path


def clear(directory: Path) -> None:
    """Remove a directory, and the mounts that an engine left in it."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Registry:
    """A container registry on the loopback interface: where it is, and its process."""

    address: str
    pid: int

    def manifest(self, repository: str, tag: str) -> tuple[str, dict[str, Any]]:
        """An image's digest and manifest."""
        url = f"http://{self.address}/v2/{repository}/manifests/{tag}"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": _MANIFEST}), timeout=30) as answer:
            return answer.headers["Docker-Content-Digest"], json.load(answer)

    def blobs(self, repository: str, tag: str) -> Mapping[str, int]:
        """The sizes of what an image consists of, by digest."""
        _, manifest = self.manifest(repository, tag)
        return {each["digest"]: each["size"] for each in (manifest["config"], *manifest["layers"])}


@contextmanager
def registry(directory: Path, certificate: Certificate | None = None) -> Iterator[Registry]:
    """Run Debian's `docker-registry` on a port that is free, with an empty storage; over TLS with a certificate."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        raise SystemExit("docker-registry is not installed: `apt-get install docker-registry`")
    clear(directory)
    directory.mkdir(parents=True)
    port = _free_port()
    settings = directory / "config.json"
    tls = {"certificate": str(certificate.certificate), "key": str(certificate.key)} if certificate else {}
    trust = ssl.create_default_context(cafile=certificate.authority) if certificate else None
    settings.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
                "http": {
                    "addr": f"127.0.0.1:{port}",
                    "secret": base64.b64encode(secrets.token_bytes(16)).decode(),
                    "tls": tls,
                },
            }
        )
    )
    process = subprocess.Popen([program, "serve", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(f"{'https' if certificate else 'http'}://127.0.0.1:{port}/v2/", process, trust)
        yield Registry(f"127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()
        clear(directory)


@contextmanager
def index(wheels: Path) -> Iterator[str]:
    """Serve wheels on the loopback interface, in a process of its own; gives the index URL."""
    command = [sys.executable, "-m", "benchmarks.index", str(wheels)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = process.stdout.readline().strip()
        if not re.fullmatch(r"http://127\.0\.0\.1:\d+/simple/", url):
            raise SystemExit("the local index did not start")
        try:
            yield url
        finally:
            process.stdin.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _await(url: str, process: subprocess.Popen[bytes], trust: ssl.SSLContext | None = None) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1, context=trust).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise SystemExit("the local registry did not start")
