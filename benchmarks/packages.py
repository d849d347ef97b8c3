"""The environment that both sides build: resolved once, downloaded once, kept in a cache directory."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: What a data scientist asks for, and the interpreter that the base image has.
REQUIREMENTS = ("numpy", "pandas", "scikit-learn", "scipy", "matplotlib", "mlflow-skinny", "fastapi")
PYTHON = "3.11"
#: The small package that changes.
CHANGED = "idna"
#: What an environment may bring along: served, but not asked for.
_SEEDS = ("pip", "setuptools<81")
_PLATFORMS = [f"--platform=manylinux_2_{level}_x86_64" for level in (28, 27, 26, 24, 17, 12, 5)]


@dataclass(frozen=True, slots=True)
class Pins:
    """
    One resolution.

    Attributes:
        first: Every package at its version, with hashes: the text of a requirements file.
        changed: The same with one small package at its version before.
        wheels: The directory of all their wheels.
    """

    first: str
    changed: str
    wheels: Path

    @staticmethod
    def without_hashes(text: str) -> str:
        """The pins alone."""
        return "\n".join(re.findall(r"^[\w.-]+==[^\s\\]+", text, re.MULTILINE)) + "\n"


def pins(cache: Path) -> Pins:
    """Resolve and download, or take what the cache directory holds."""
    first, changed, wheels = cache / "first.txt", cache / "changed.txt", cache / "wheels"
    if not changed.exists():
        wheels.mkdir(parents=True, exist_ok=True)
        _compile(REQUIREMENTS, first)
        version = re.search(rf"^{CHANGED}==(\S+)", first.read_text(), re.MULTILINE)
        assert version is not None
        _compile((*_exact(first.read_text(), without=CHANGED), f"{CHANGED}<{version[1]}"), cache / "changed.part")
        for file in (first, cache / "changed.part"):
            _download(wheels, "--require-hashes", "-r", str(file))
        _download(wheels, *_SEEDS)
        (cache / "changed.part").rename(changed)
    return Pins(first.read_text(), changed.read_text(), wheels)


def _exact(text: str, *, without: str) -> list[str]:
    return [pin for pin in Pins.without_hashes(text).split() if not pin.startswith(f"{without}==")]


def _compile(requirements: tuple[str, ...], target: Path) -> None:
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--only-binary=:all:",
    ]
    command += [f"--python-version={PYTHON}", "--python-platform=x86_64-manylinux_2_28", "-", "-o", str(target)]
    subprocess.run([sys.executable, "-m", *command], input="\n".join(requirements), text=True, check=True)


def _download(wheels: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={PYTHON}", *_PLATFORMS, "--dest", str(wheels), *arguments]
    subprocess.run(command, check=True)
