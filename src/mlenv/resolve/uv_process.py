"""Running uv: where its binary is, what of the surroundings it sees, and how it is stopped."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from mlenv.errors import Unavailable

#: What uv may know of this machine: credentials of indexes, certificates, proxies, and how hard to try. Not which
#: indexes, versions or strategies someone set up for other work.
_KEPT_UV: Final = re.compile(
    r"UV_(INDEX_\w+_(USERNAME|PASSWORD)|NATIVE_TLS|SYSTEM_CERTS|INSECURE_HOST|HTTP_\w+|REQUEST_TIMEOUT|CONCURRENT_\w+|CREDENTIALS_DIR)"
)
#: The variable that says how often uv repeats a request that fails.
RETRIES: Final = "UV_HTTP_RETRIES"
_DROPPED: Final = re.compile(
    r"UV_.*|PIP_.*|PYTHON(?!_KEYRING).*|__PYVENV_LAUNCHER__|VIRTUAL_ENV.*|CONDA_.*|SETUPTOOLS_.*|FORCE_COLOR"
)
#: What files made by a build are dated (https://reproducible-builds.org/specs/source-date-epoch/): 2020-01-01, UTC.
_SOURCE_DATE_EPOCH: Final = "1577836800"
#: Seconds that a stopped process has to end by itself.
_GRACE: Final = 2.0


class UvMissing(Unavailable):
    """There is no uv to run."""

    hint = "install it beside mlenv: `pip install uv`"
    lasting = True

    def __init__(self) -> None:
        super().__init__("the `uv` program was not found, neither in this Python's environment nor on PATH")


class UvTimeout(Unavailable):
    """uv did not end within its limit."""

    hint = "pin more of the requirements, so that fewer versions have to be tried; or try again if the index is slow"
    status = 504

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} did not end within {seconds:.0f} s")
        self.seconds = seconds


class Finished(Struct, frozen=True):
    """How a run of uv ended: its exit code, and all it wrote."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether it did what it was asked for."""
        return self.code == 0


def find_uv() -> str:
    """The uv that comes with this Python's environment, or else the one on PATH. Raises `UvMissing`."""
    try:
        from uv import find_uv_bin

        return os.fspath(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
        if found is None:
            raise UvMissing from None
        return found


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that uv, and builds under it, may see."""
    kept = {
        name: value for name, value in environment.items() if _KEPT_UV.fullmatch(name) or not _DROPPED.fullmatch(name)
    }
    return kept | {"NO_COLOR": "1", "SOURCE_DATE_EPOCH": _SOURCE_DATE_EPOCH}


class Uv:
    """
    One uv binary with its cache.

    Args:
        cache: Its directory.
        binary: The program; None finds it.
        variables: Given to it besides those of this process: credentials.
    """

    def __init__(
        self, cache: Path, *, binary: str | None = None, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._variables = variables
        self._cache = cache
        self._binary = binary
        self._version: str | None = None
        self._public: str | None = None

    @property
    def version(self) -> str:
        """`uv 0.9.0`."""
        if self._version is None:
            self._version = " ".join(self.run(["--version"], timeout=30.0).out.split()[:2]) or "uv"
        return self._version

    @property
    def public_index(self) -> str | None:
        """The address of the index that uv takes by default, as its own help tells it."""
        if self._public is None:
            text = self.run(["pip", "compile", "--help"], timeout=30.0).out
            match = re.search(r"default package index \(by default:\s+<(https://[^\s>]+)>", text)
            self._public = match[1] if match else ""
        return self._public or None

    def run(
        self, arguments: Sequence[str], *, timeout: float, workdir: Path | None = None, retries: int | None = None
    ) -> Finished:
        """
        Run uv to its end. It, and what it started, ends when this returns or raises.

        Args:
            arguments: What follows `uv`.
            timeout: Seconds.
            workdir: Its working directory.
            retries: How often a request that fails is repeated, if the user sets no `UV_HTTP_RETRIES`; None for as uv
                does.

        Raises:
            UvMissing: There is no uv.
            UvTimeout: It took longer.
        """
        self._binary = self._binary or find_uv()
        variables = {**os.environ, **self._variables}
        if retries is not None:
            variables.setdefault(RETRIES, str(retries))
        common = ["--cache-dir", str(self._cache), "--color", "never", "--no-progress", "--no-python-downloads"]
        try:
            process = subprocess.Popen(
                [self._binary, *arguments, *common],
                cwd=workdir,
                env=clean_environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=sys.platform != "win32",
            )
        except OSError as error:
            raise UvMissing from error
        with process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException as error:
                _end_tree(process)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise UvTimeout(f"`uv {' '.join(arguments[:2])}`", timeout) from None
                raise
        return Finished(process.returncode, out, err)


def _end_tree(process: subprocess.Popen[str]) -> None:
    """End a process and everything it started: politely, then by force."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
