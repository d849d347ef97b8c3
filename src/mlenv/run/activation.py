"""The environment variables under which a command runs in a local prefix: what `activate` does, without a shell."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

#: These name another Python's home, or another environment that a shell has activated.
_OTHERS: Final = frozenset(
    ["PYTHONHOME", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"]
)


def scripts_directory(prefix: Path) -> Path:
    """Where a virtual environment keeps its commands."""
    return prefix / ("Scripts" if sys.platform == "win32" else "bin")


def variables_in(
    prefix: Path, inherited: Mapping[str, str], variables: Iterable[tuple[str, str]] = (), *, conda: bool = False
) -> dict[str, str]:
    """
    The variables for a command in `prefix`.

    Args:
        prefix: A materialised environment.
        inherited: The caller's variables.
        variables: Those of the spec: they win, but a `PATH` among them comes after the prefix's commands.
        conda: Whether conda's packages are in it, and not a virtual environment.
    """
    environment = {name: value for name, value in inherited.items() if name not in _OTHERS} | dict(variables)
    rest = _without(environment.get("PATH", os.defpath), inherited.get("VIRTUAL_ENV"))
    environment["PATH"] = os.pathsep.join([str(scripts_directory(prefix)), *rest])
    environment["CONDA_PREFIX" if conda else "VIRTUAL_ENV"] = str(prefix)
    return environment


def warnings_about(inherited: Mapping[str, str]) -> list[str]:
    """What in the caller's variables makes a run depend on more than the environment, one sentence each."""
    if path := inherited.get("PYTHONPATH"):
        return [f"PYTHONPATH is set ({path}): modules there come before those of the environment"]
    return []


def _without(path: str, virtual_environment: str | None) -> list[str]:
    """The entries of a `PATH`, without those of the virtual environment that was active."""
    entries = path.split(os.pathsep)
    if virtual_environment:
        active = str(scripts_directory(Path(virtual_environment)))
        entries = [each for each in entries if each.rstrip(os.sep) != active]
    return entries
