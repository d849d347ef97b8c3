"""What people use today: a Dockerfile that installs pinned requirements, built by buildah."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.engines import Registry, Setting, clear
from benchmarks.measure import Measurement, measure
from mlenv.resolve.uv_process import find_uv

_DOCKERFILE = """\
FROM localhost/base:latest
COPY requirements.txt /tmp/requirements.txt
RUN {install}
ENV PATH=/opt/env/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin VIRTUAL_ENV=/opt/env
"""
_OPTIONS = "--no-deps --require-hashes --index-url {index} -r /tmp/requirements.txt"
_PIP = "{quiet}python3 -m venv /opt/env && {quiet}/opt/env/bin/pip install -q --no-cache-dir {compile} " + _OPTIONS
_UV = "uv venv -q /opt/env && uv pip install -q --python /opt/env {compile} " + _OPTIONS


@dataclass
class Buildah:
    """
    buildah with pip or uv.

    Attributes:
        installer: `pip` or `uv`.
        bytecode: Whether the image holds compiled bytecode.
        cached: Whether uv's cache is kept between builds, outside of the image.
        setting: What every contender is given.
    """

    installer: str
    bytecode: bool
    cached: bool
    setting: Setting
    _environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in the table."""
        cache = ", cache kept" if self.cached else ""
        command = {"pip": "pip install", "uv": "uv pip install"}[self.installer]
        return f"buildah, {command}{cache}"

    def fresh(self) -> None:
        """An empty storage with the base image in it."""
        self._environment = self.setting.engine.storage(self.setting.directory / "storage")
        base = ["skopeo", "copy", f"oci-archive:{self.setting.base}", "containers-storage:localhost/base:latest"]
        measure(base, self._environment)
        clear(self.setting.directory / "cache")
        (self.setting.directory / "cache").mkdir()

    def build(self, which: str) -> Measurement:
        """Build the image `first` or `changed`."""
        context = self.setting.directory / "context"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        (context / "requirements.txt").write_text(
            self.setting.pins.first if which == "first" else self.setting.pins.changed
        )
        (context / "Dockerfile").write_text(_DOCKERFILE.format(install=self._install()))
        command = ["buildah", "build", "--quiet", "--layers", "--isolation=chroot", "--network=host"]
        command += ["--volume", f"{find_uv()}:/usr/local/bin/uv:ro"]
        if self.cached:
            command += ["--volume", f"{self.setting.directory}/cache:/var/cache/uv"]
        return measure([*command, "--tag", f"localhost/bench:{which}", str(context)], self._environment, sample=True)

    def push(self, which: str, registry: Registry) -> Measurement:
        """Push `base`, `first` or `changed`."""
        source = "localhost/base:latest" if which == "base" else f"localhost/bench:{which}"
        target = f"docker://{registry.address}/bench:{which}"
        command = ["buildah", "push", "--quiet", "--format=oci", "--tls-verify=false", source, target]
        return measure(command, self._environment)

    def close(self) -> None:
        """Give the disk back."""
        clear(self.setting.directory)

    def _install(self) -> str:
        if self.installer == "pip":
            quiet = "" if self.bytecode else "PYTHONDONTWRITEBYTECODE=1 "
            compiling = "" if self.bytecode else "--no-compile"
            return _PIP.format(quiet=quiet, compile=compiling, index=self.setting.index)
        compiling = "--compile-bytecode" if self.bytecode else ""
        caching = "export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy" if self.cached else "export UV_NO_CACHE=1"
        return f"{caching} && " + _UV.format(compile=compiling, index=self.setting.index)
