"""
Jupyter kernel specs: an environment version appears in Jupyter's menu, and starts by `mlenv run`.

The format, and where specs are found, are those of jupyter_client's documentation ("Kernel specs").
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from mlenv.core.lock import Lock
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.errors import Conflict

#: What must be in an environment for it to be a kernel.
_PACKAGE: Final = "ipykernel"
#: Where the store is and which interpreter runs: Jupyter may be started where these are not set.
_KEPT: Final = ("MLENV_HOME", "MLENV_PYTHON")


class NoKernelInside(Conflict):
    """An environment without `ipykernel` can't be a Jupyter kernel."""

    def __init__(self, environment: str) -> None:
        super().__init__(f"{environment} can't be a Jupyter kernel: {_PACKAGE} is not in it")
        self.environment = environment
        self.hint = f"add `{_PACKAGE}` to its pip requirements, create a new version, and install the kernel for that"


class InstalledKernel(Struct, frozen=True):
    """
    A kernel spec on disk.

    Attributes:
        name: By what Jupyter knows it: `jupyter lab --MultiKernelManager.default_kernel_name=NAME`.
        directory: Where `kernel.json` is.
    """

    name: str
    directory: Path


def install_kernel(
    name: EnvironmentName,
    version: VersionName,
    lock: Lock,
    *,
    display_name: str | None = None,
    python: str | None = None,
    prefix: Path | None = None,
    launcher: Sequence[str] = (sys.executable, "-m", "mlenv"),
    environment: Mapping[str, str] = os.environ,
) -> InstalledKernel:
    """
    Write, or replace, the kernel spec of one version.

    Args:
        name, version: The version that it starts.
        lock: What is in it.
        display_name: What Jupyter shows, or None for `NAME:VERSION`.
        python: The interpreter to run it with, as `--python` takes it, or None.
        prefix: Below whose `share/jupyter` it goes, such as a Jupyter server's environment; None for the user's own
            directory, where every Jupyter of the user looks.
        launcher: How mlenv is started.
        environment: Environment variables: they say where the user's directory is.

    Raises:
        NoKernelInside: `ipykernel` is not locked.
    """
    if lock.package(_PACKAGE) is None and lock.conda_package(_PACKAGE) is None:
        raise NoKernelInside(f"{name}:{version}")
    data = prefix / "share" / "jupyter" if prefix else jupyter_data_directory(environment)
    kernel = re.sub(r"[^a-z0-9._-]", "-", f"mlenv-{name}-{version}".lower())
    directory = data / "kernels" / kernel
    options = ["--python", python] if python else []
    spec = {
        "argv": [
            *(*launcher, "run", *options, f"{name}:{version}", "--"),
            *("python", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
        ],
        "display_name": display_name or f"{name}:{version}",
        "language": "python",
        # NOTE: by signal, the kernel would be interrupted twice: Jupyter signals the whole process group, and `mlenv run`
        # passes on what it gets.
        "interrupt_mode": "message",
        "env": {variable: environment[variable] for variable in _KEPT if environment.get(variable)},
        "metadata": {
            "debugger": True,
            "mlenv": {"environment": str(name), "version": str(version), "lock": str(lock.digest)},
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".kernel.json.{os.getpid()}"
    temporary.write_text(json.dumps(spec, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, directory / "kernel.json")
    return InstalledKernel(kernel, directory)


def jupyter_data_directory(environment: Mapping[str, str]) -> Path:
    """The user's data directory, by jupyter_core's rules ("Data files"), which need not be installed here."""
    if given := environment.get("JUPYTER_DATA_DIR"):
        return Path(given)
    if environment.get("JUPYTER_PLATFORM_DIRS", "").lower() not in ("", "0", "no", "n", "false", "off"):
        import platformdirs

        return platformdirs.user_data_path("jupyter", appauthor=False)
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / "Library" / "Jupyter"
    if sys.platform == "win32":
        appdata = environment.get("APPDATA")
        return Path(appdata) / "jupyter" if appdata else home / ".jupyter" / "data"
    shared = environment.get("XDG_DATA_HOME")
    return (Path(shared) if shared else home / ".local" / "share") / "jupyter"
