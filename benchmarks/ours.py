"""mlenv, through its command line, in a process of its own each time."""

import compileall
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mlenv
from benchmarks.engines import Registry, Setting, clear
from benchmarks.measure import Measurement, measure
from benchmarks.packages import Pins

_DEFINITION = """\
name: bench
version: {version}
image: debian:bookworm
python: "3.11"
requirements: requirements-{version}.txt
"""
_VERSIONS = {"first": "1", "changed": "2"}


@cache
def program() -> str:
    """The `mlenv` that belongs to this interpreter, compiled as an installer leaves it, whatever this machine's variables say."""
    compileall.compile_dir(Path(mlenv.__file__).parent, quiet=1)
    return str(Path(sys.executable).parent / "mlenv")


@dataclass
class Ours:
    """
    mlenv.

    Attributes:
        compression: Of layers: `zstd` or `gzip`.
        bytecode: Whether the image holds compiled bytecode.
        setting: What every contender is given.
    """

    compression: str
    bytecode: bool
    setting: Setting

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"mlenv, {self.compression}"

    @property
    def _environment(self) -> Mapping[str, str]:
        return {"MLENV_HOME": str(self.setting.directory / "home")}

    def fresh(self) -> None:
        """An empty store with the base image in it, and both versions locked: what peers find in their pins."""
        clear(self.setting.directory)
        self.setting.directory.mkdir(parents=True)
        self._run("base", "import", f"oci-archive:{self.setting.base}", "--name", "debian:bookworm")
        for which, version in _VERSIONS.items():
            pins = self.setting.pins.first if which == "first" else self.setting.pins.changed
            requirements = f"--index-url {self.setting.index}\n{Pins.without_hashes(pins)}"
            (self.setting.directory / f"requirements-{version}.txt").write_text(requirements)
            definition = self.setting.directory / f"environment-{version}.yml"
            definition.write_text(_DEFINITION.format(version=version))
            self._run("environment", "create", "--file", str(definition))
            bytecode = () if self.bytecode else ("--no-bytecode",)
            self._run("environment", "lock", f"bench:{version}", *bytecode)

    def build(self, which: str) -> Measurement:
        """Build the image `first` or `changed`."""
        command = ["environment", "build", f"bench:{_VERSIONS[which]}", "--compression", self.compression]
        return self._run(*command, sample=True)

    def push(self, which: str, registry: Registry) -> Measurement:
        """Push `base`, `first` or `changed`, with skopeo."""
        source = f"oci-archive:{self.setting.base}"
        if which != "base":
            layout = self.setting.directory / f"export-{which}"
            clear(layout)
            command = ["environment", "export", f"bench:{_VERSIONS[which]}", "--to", f"dir:{layout}"]
            self._run(*command, "--compression", self.compression)
            source = f"dir:{layout}"
        target = f"docker://{registry.address}/bench:{which}"
        return measure(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", source, target], self._environment)

    def close(self) -> None:
        """Give the disk back."""
        clear(self.setting.directory)

    def _run(self, *arguments: str, sample: bool = False) -> Measurement:
        return measure([program(), *arguments], self._environment, sample=sample)
