"""
Azure's own client, unmodified, in virtual environments of its own, driven over pipes.

A `Client` is a process that keeps the library imported, since importing it takes seconds. Tests hand it pieces of
Python, in which `client` is the workspace's `MLClient`, `registry` the registry's, and what they give to `result` comes
back as JSON.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
from uv import find_uv_bin

from mlenv.core.scope import DEFAULT_GROUP, DEFAULT_SUBSCRIPTION
from mlenv.file_lock import FileLock
from support.server import Server

#: The releases that are tried: the newest, and the oldest that installs. The oldest does not name all it needs.
NEWEST: Final = "1.35.2"
OLDEST: Final = "1.30.0"
_PACKAGES: Final = {
    NEWEST: (f"azure-ai-ml=={NEWEST}", "azure-identity"),
    OLDEST: (f"azure-ai-ml=={OLDEST}", "azure-identity", "six"),
}
_DRIVER: Final = Path(__file__).with_name("azure_driver.py")
#: Seconds that one piece of Python may take.
_TIMEOUT: Final = 240


def azure_python(version: str) -> Path:
    """The interpreter of a virtual environment with a release of the client, made once and kept in the user's cache."""
    directory = platformdirs.user_cache_path("mlenv-tests", ensure_exists=True)
    environment = directory / f"azure-ai-ml-{version}-{sys.version_info[0]}.{sys.version_info[1]}"
    marker = environment / ".made"
    with FileLock(directory / f"azure-{version}.lock"):
        if not marker.exists():
            uv = find_uv_bin()
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment], check=True)
            python = environment / "bin" / "python"
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *_PACKAGES[version]], check=True)
            marker.touch()
    return environment / "bin" / "python"


class AzureError(AssertionError):
    """
    What the client raised.

    Attributes:
        kind: The exception's name: `ResourceExistsError`.
        status: HTTP's, if it has one.
        code, text: Of the error in the answer, if it has one; otherwise of the exception.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(f"{answer['kind']}: {answer['text']}\n{answer['trace']}")
        self.kind: str = answer["kind"]
        self.status: int | None = answer["status"]
        self.code: str = answer["code"]
        self.text: str = answer["text"]


@dataclass
class Client:
    """A process with Azure's client in it."""

    process: "subprocess.Popen[str]"
    log: Path

    def run(self, code: str, **values: object) -> Any:
        """
        Run a piece of Python there, with names for it to use.

        Returns:
            What it gave to `result`.

        Raises:
            AzureError: What it raised.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"code": textwrap.dedent(code), "values": values}) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, f"the client's process ended:\n{self.log.read_text()[-4000:]}"
        answer = json.loads(line)
        if "kind" in answer:
            raise AzureError(answer)
        return answer["result"]


@contextmanager
def azure_client(
    server: Server,
    directory: Path,
    *,
    version: str = NEWEST,
    workspace: str = "default",
    registry: str | None = None,
    token: str | None = None,
) -> Iterator[Client]:
    """A process of the client that is connected to a server, as its users connect it."""
    settings = {
        "base": server.url,
        "token": token or server.token,
        "subscription": DEFAULT_SUBSCRIPTION,
        "group": DEFAULT_GROUP,
        "workspace": workspace,
        "registry": registry,
    }
    home = directory / f"azure-{version}-{workspace}"
    home.mkdir(parents=True, exist_ok=True)
    # The first of these processes keeps the bytecode of what all import: compiling it takes most of their time.
    hidden = ("AZURE", "MLENV_", "PYTHONDONTWRITEBYTECODE")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(hidden)},
        "REQUESTS_CA_BUNDLE": str(server.ca),
        "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
        "HOME": str(home),
        "NO_PROXY": "127.0.0.1",
    }
    log = home / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [azure_python(version), "-P", "-W", "ignore", _DRIVER, json.dumps(settings), str(_TIMEOUT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=home,
            env=environment,
        )
        try:
            yield Client(process, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
