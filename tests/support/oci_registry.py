"""
Debian's `docker-registry` 2.8 as a process on the loopback interface: with or without a password, tokens, or TLS.

    with run_registry(tmp_path) as registry:
        registry.host  # 127.0.0.1:41234
"""

import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from support.processes import end

#: The one account that a registry with a password knows. The registry takes bcrypt only, which Python has not.
USER = "builder"
PASSWORD = "registry-secret"
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuubNCCgMNqYiQA5BMGxm7McAPft53drSm\n"
#: Seconds that the process may take to answer, and to end.
_TIMEOUT = 30.0


@dataclass
class OciRegistry:
    """
    A registry process.

    Attributes:
        directory: Its configuration, its log and its `data`.
        host: `127.0.0.1:PORT`.
        url: `http://…`, or `https://…` with TLS.
        ca: The certificate to trust, with TLS.
        user, password: What basic authentication wants; empty without.
    """

    directory: Path
    host: str
    url: str
    ca: Path | None = None
    user: str = ""
    password: str = ""
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def blobs(self) -> set[str]:
        """The digests of all blobs that it holds."""
        root = self.directory / "data/docker/registry/v2/blobs/sha256"
        return {f"sha256:{path.parent.name}" for path in root.glob("*/*/data")}

    def client(self, **more: Any) -> httpx.Client:
        """A plain HTTP client of it, which shows the password."""
        verify = ssl.create_default_context(cafile=str(self.ca)) if self.ca else True
        auth = (self.user, self.password) if self.user else None
        return httpx.Client(base_url=self.url, verify=verify, auth=auth, trust_env=False, timeout=30, **more)

    def docker_config(self, directory: Path, *hosts: str) -> Path:
        """A `config.json` in a directory, with the account for this registry (or for other hosts)."""
        import base64

        secret = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "config.json"
        path.write_text(json.dumps({"auths": {host: {"auth": secret} for host in hosts or (self.host,)}}))
        return path

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [_program(), "serve", str(self.directory / "config.yml")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _TIMEOUT
        while not self._answers():
            assert self.process.poll() is None, f"docker-registry ended:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"docker-registry does not answer:\n{self.log[-4000:]}"
            time.sleep(0.02)

    def stop(self) -> None:
        """End the process."""
        end(self.process, _TIMEOUT)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return client.get("/v2/").status_code in (200, 401)
        except httpx.TransportError:
            return False


@contextmanager
def run_registry(
    directory: Path,
    *,
    password: bool = False,
    tls: bool = False,
    token: Mapping[str, str] | None = None,
    delete: bool = True,
    port: int | None = None,
) -> Iterator[OciRegistry]:
    """
    A registry that answers; it is stopped when the context ends.

    Args:
        directory: For all its files; made if it is not there.
        password: Basic authentication with `USER` and `PASSWORD`.
        tls: With a certificate of an authority of its own.
        token: Bearer tokens: `realm`, `service`, `issuer` and `rootcertbundle` of docker-registry's configuration.
        delete: Let manifests and blobs be deleted.
        port: Where it listens; None for a free one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    host = f"127.0.0.1:{port}"
    registry = OciRegistry(directory, host, f"{'https' if tls else 'http'}://{host}")
    http: dict[str, Any] = {"addr": host, "secret": hashlib.sha256(str(directory).encode()).hexdigest()}
    document: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")},
            "delete": {"enabled": delete},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http,
    }
    if tls:
        from mlenv.server.tls import ensure

        (directory / "keys").mkdir(exist_ok=True)
        made = ensure(directory / "keys", ["localhost", "127.0.0.1"], now=datetime.now(UTC))
        http["tls"] = {"certificate": str(made.certificate), "key": str(made.key)}
        registry.ca = made.authority
    if password:
        (directory / "htpasswd").write_text(_HTPASSWD)
        document["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
        registry.user, registry.password = USER, PASSWORD
    if token is not None:
        document["auth"] = {"token": dict(token)}
    # JSON is YAML.
    (directory / "config.yml").write_text(json.dumps(document))
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _program() -> str:
    found = shutil.which("docker-registry")
    assert found, "docker-registry is not installed: apt-get install docker-registry"
    return found
