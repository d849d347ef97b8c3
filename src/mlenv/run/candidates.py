"""Where interpreters are kept: files that may be a Python, the preferred ones first. Nothing is run here but Windows' `py`."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

_NAME = re.compile(r"python(3(\.\d+)?)?(\.exe)?", re.IGNORECASE)
#: Where conda is usually installed, below the home directory.
_CONDA = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba")


class Candidate(Struct, frozen=True):
    """
    A file that may be an interpreter.

    Attributes:
        path: Absolute.
        source: Who keeps it there.
        trusted: The user named it, so it is run even if it is a script.
    """

    path: Path
    source: str
    trusted: bool = False


def candidates(environment: Mapping[str, str]) -> Iterator[Candidate]:
    """Every file on this machine that may be an interpreter, each file once (links are followed)."""
    seen: set[str] = set()
    for candidate in _all(environment):
        real = os.path.realpath(candidate.path)
        if real not in seen and os.path.isfile(real):
            seen.add(real)
            yield candidate


def _all(environment: Mapping[str, str]) -> Iterator[Candidate]:
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    if sys.executable:
        yield Candidate(Path(sys.executable), "running mlenv")
    for directory in environment.get("PATH", "").split(os.pathsep):
        if directory and os.path.isabs(directory):
            yield from _in(Path(directory), "PATH")
    yield from _below(Path(environment.get("PYENV_ROOT") or home / ".pyenv") / "versions", "pyenv")
    yield from _below(uv_directory(environment, home), "uv")
    roots = [Path(each) for each in (environment.get("CONDA_PREFIX"), environment.get("CONDA_ROOT")) if each]
    for root in [*roots, *(home / each for each in _CONDA), Path("/opt/conda")]:
        yield from _in(_binaries(root), "conda")
        yield from _below(root / "envs", "conda")
    if sys.platform == "darwin":
        yield from _below(Path("/Library/Frameworks/Python.framework/Versions"), "python.org")
        for homebrew in ("/opt/homebrew/bin", "/usr/local/bin"):
            yield from _in(Path(homebrew), "Homebrew")
    if sys.platform == "win32":
        yield from _launcher()


def uv_directory(environment: Mapping[str, str], home: Path) -> Path:
    """Where `uv python install` puts interpreters (uv's documentation, "Storage", Python versions)."""
    if given := environment.get("UV_PYTHON_INSTALL_DIR"):
        return Path(given)
    if sys.platform == "win32":
        return Path(environment.get("APPDATA") or home / "AppData" / "Roaming") / "uv" / "python"
    return Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share") / "uv" / "python"


def _below(directory: Path, source: str) -> Iterator[Candidate]:
    """Installations side by side in one directory, the newest version first."""
    for installation in sorted(_entries(directory), key=_version_key, reverse=True):
        yield from _in(_binaries(directory / installation), source)


def _in(directory: Path, source: str) -> Iterator[Candidate]:
    """Interpreters in one directory, `python3` before `python3.13`, `python` and then the older ones."""
    names = [each for each in _entries(directory) if _NAME.fullmatch(each)]
    for name in sorted(names, key=lambda each: (each != "python3", *(-part for part in _version_key(each)))):
        yield Candidate(directory / name, source)


def _binaries(installation: Path) -> Path:
    return installation if sys.platform == "win32" else installation / "bin"


def _entries(directory: Path) -> Iterable[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return ()


def _version_key(name: str) -> tuple[int, int, int]:
    """The first version in a directory's or command's name, as numbers."""
    match = re.search(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", name)
    return (int(match[1]), int(match[2] or 0), int(match[3] or 0)) if match else (0, 0, 0)


def _launcher() -> Iterator[Candidate]:
    """What the Windows launcher knows of: lines that end in a path (`py --list-paths`)."""
    import subprocess

    try:
        done = subprocess.run(["py", "--list-paths"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in done.stdout.splitlines():
        if match := re.search(r"([A-Za-z]:\\.*\.exe)\s*$", line):
            yield Candidate(Path(match[1]), "py launcher")
