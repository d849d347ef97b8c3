"""A small world for whole commands: a package index on loopback, a base image, a store, and the command line in processes."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import commands
from support.images import make_image
from support.index import PackageIndex, serve

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = "example.org/base:1"


@dataclass
class World:
    """
    Where commands run.

    Attributes:
        directory: Their working directory.
        home: Their store.
        index: The only package index there is.
    """

    directory: Path
    home: Path
    index: PackageIndex
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str, fault: str | None = None, **more: Any) -> "subprocess.Popen[str]":
        """Start a command line. `fault` names the point at which it is killed."""
        environment = {**os.environ, **self.environment, "MLENV_HOME": str(self.home), "MLENV_OUTPUT": "json"}
        environment.pop("MLENV_FAULT", None)
        if fault:
            environment["MLENV_FAULT"] = fault
        return commands.start(
            *arguments,
            env=environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(self, *arguments: str, fault: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command line to its end."""
        process = self.start(*arguments, fault=fault)
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ok(self, *arguments: str) -> Any:
        """Run a command line that must succeed; gives the data it prints, or None."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def define(self, name: str, *requirements: str, image: str | None = BASE, **fields: Any) -> Path:
        """Write an environment YAML that takes its packages from the index."""
        document: dict[str, Any] = {"name": name, "requirements": list(requirements), "python": MINOR, **fields}
        document["indexes"] = [{"name": "local", "url": self.index.simple, "default": True}]
        if image is not None:
            document["image"] = image
        path = self.directory / f"{name}.yml"
        path.write_text(json.dumps(document))
        return path

    def verify(self) -> None:
        """The store is whole."""
        done = self.run("store", "verify")
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def make_world(tmp_path: Path) -> Iterator[World]:
    """A world with `pip` and a few packages in its index, and a base image, as a layout on disk and in the store."""
    directory = tmp_path / "work"
    directory.mkdir()
    with serve() as index:
        index.wheel("pip", "25.0", files={"pip/__init__.py": "", "pip/__main__.py": "print('pip')\n"})
        index.wheel("msgpack", "1.0.2")
        index.wheel("msgpack", "1.1")
        index.wheel("alpha", "1.0", requires=["beta"], files={"alpha/__init__.py": "from beta import VALUE\n"})
        index.wheel("beta", "1.0", files={"beta/__init__.py": "VALUE = 42\n"})
        index.wheel("beta", "2.0", files={"beta/__init__.py": "VALUE = 43\n"})
        world = World(directory, tmp_path / "home", index)
        make_image(
            directory / "base",
            [{f"usr/local/bin/python{MINOR}": b"elf", "etc/os-release": b"ID=example\n"}],
            {"Env": ["PATH=/usr/local/bin:/usr/bin", f"PYTHON_VERSION={platform.python_version()}"]},
        )
        yield world
