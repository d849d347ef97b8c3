"""A world for whole commands with conda: a channel on loopback beside the package index, and a base image with glibc."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.conda_channel import CondaChannels, serve_channels
from support.conda_packages import interpreter, program_package, python_package
from support.images import make_image
from support.world import BASE, MINOR, World, make_world

#: What every test has: a Python with a module beside it, and a program.
USUAL = (f"python={MINOR}", "toolbox", "teller")


@dataclass
class CondaWorld(World):
    """A world with conda channels; commands see nothing of this machine's own settings for conda."""

    channels: CondaChannels = field(default_factory=CondaChannels)

    @property
    def channel(self) -> str:
        """The address of its channel."""
        return f"{self.channels.url}/forge"

    def conda(
        self,
        name: str,
        *packages: str,
        pip: tuple[str, ...] = (),
        channels: tuple[str, ...] = (),
        image: str | None = BASE,
        **fields: Any,
    ) -> Path:
        """Write an environment YAML with a conda file beside it, whose packages stand on lines of their own from 3 on."""
        places = ", ".join(json.dumps(each) for each in (*(channels or (self.channel,)), "nodefaults"))
        lines = [f"channels: [{places}]", "dependencies:", *(f"- {json.dumps(each)}" for each in packages)]
        lines += ["- pip:", *(f"  - {json.dumps(each)}" for each in pip)] if pip else []
        (self.directory / f"{name}-conda.yml").write_text("".join(f"{line}\n" for line in lines))
        document: dict[str, Any] = {"name": name, "conda_file": f"{name}-conda.yml", **fields}
        document["indexes"] = [{"name": "local", "url": self.index.simple, "default": True}]
        if image is not None:
            document["image"] = image
        path = self.directory / f"{name}.yml"
        path.write_text(json.dumps(document))
        return path

    def create(self, name: str, *packages: str, **options: Any) -> str:
        """Register it, and give what it is called."""
        return str(self.ok("environment", "create", "-f", str(self.conda(name, *packages, **options)))["name"]) + ":1"


@contextmanager
def make_conda_world(tmp_path: Path) -> Iterator[CondaWorld]:
    """`make_world`, with a channel `forge`, and a base image with a C library and another Python than conda's."""
    with make_world(tmp_path) as plain, serve_channels() as channels:
        channels.add(
            "forge",
            interpreter(f"{MINOR}.2"),
            python_package("pip", "25.0"),
            python_package("toolbox", "1.0", requires=["beta>=1"], depends=("python", "shelf")),
            python_package("toolbox", "1.1", requires=["beta>=1"], depends=("python", "shelf")),
            python_package("shelf", "3.0", module="shelf"),
            python_package("beta", "1.0", files={"site-packages/beta/__init__.py": b"VALUE = 'conda'\n"}),
            program_package(),
        )
        make_image(
            plain.directory / "conda-base",
            [
                {
                    "usr/local/bin/python3.9": b"elf",
                    "etc/os-release": b"ID=example\n",
                    "lib/x86_64-linux-gnu/libc.so.6": b"GNU C Library (Example) stable release version 2.36.\n\0",
                }
            ],
            {"Env": ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.9.1", "CONDA_DEFAULT_ENV=elsewhere"]},
        )
        settings = {
            "HOME": str(tmp_path),
            "CONDARC": str(tmp_path / "no-condarc"),
            "MAMBA_ROOT_PREFIX": "",
            "CONDA_ROOT": "",
        }
        yield CondaWorld(plain.directory, plain.home, plain.index, settings, channels)
