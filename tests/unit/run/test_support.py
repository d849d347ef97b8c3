"""Whether a lock can run here, and the variables that a command runs under."""

import os
from pathlib import Path

import pytest

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.run.activation import variables_in, warnings_about
from mlenv.run.pythons import HostPython
from mlenv.run.support import NotSupportedHere, require_support, unsupported_here

_LINUX = Platform("linux", "amd64")
_GLIBC = Glibc(2, 31)


def _python(version: str = "3.11.7", glibc: Glibc | None = _GLIBC, platform: Platform = _LINUX) -> HostPython:
    return HostPython(Path("/usr/bin/python3.11"), version, Path("/usr"), platform, glibc, "test")


def _lock(*tags: str, python: str = "3.11", platform: Platform = _LINUX) -> Lock:
    packages = tuple(
        LockedPackage(f"p{number}", "1", Artifact(f"p{number}-1-cp311-cp311-{tag}.whl", 1, Digest.of(b""), None))
        for number, tag in enumerate(tags)
    )
    return Lock(Target(platform, python, Glibc(2, 28)), packages, "test")


@pytest.mark.parametrize("tag", ["any", "manylinux_2_28_x86_64", "manylinux2014_x86_64", "manylinux_2_31_x86_64"])
def test_what_runs_here(tag: str) -> None:
    assert unsupported_here(_lock(tag), _python()) == []


def test_a_newer_glibc_is_said_before_the_start() -> None:
    lock = _lock("manylinux_2_34_x86_64", "any", "manylinux_2_28_x86_64.manylinux_2_39_x86_64")
    [reason] = unsupported_here(lock, _python())
    assert reason == "p0-1-cp311-cp311-manylinux_2_34_x86_64.whl needs glibc 2.34, and this machine has 2.31"
    with pytest.raises(NotSupportedHere, match=r"needs glibc 2\.34") as caught:
        require_support(lock, _python())
    assert caught.value.hint is not None
    assert "--engine container" in caught.value.hint


def test_another_libc_platform_or_python() -> None:
    assert "does not run with glibc" in unsupported_here(_lock("manylinux_2_28_x86_64"), _python(glibc=None))[0]
    assert unsupported_here(_lock("any"), _python(glibc=None)) == []
    mac = Platform("darwin", "arm64")
    assert unsupported_here(_lock(), _python(platform=mac)) == [
        "it is locked for linux/amd64, and this is darwin/arm64"
    ]
    [reason] = unsupported_here(_lock(python="3.11.2"), _python("3.12.1"))
    assert "Python 3.11" in reason
    assert "3.12.1" in reason
    assert unsupported_here(_lock(python="3.11.2"), _python("3.11.7")) == []


def test_many_reasons_are_not_all_told() -> None:
    reasons = unsupported_here(_lock(*["manylinux_2_39_x86_64"] * 9), _python())
    assert len(reasons) == 4
    assert reasons[-1] == "and 6 more"


@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
def test_variables_are_those_of_an_activated_environment() -> None:
    inherited = {
        "PATH": "/old/bin:/usr/bin",
        "VIRTUAL_ENV": "/old",
        "PYTHONHOME": "/x",
        "CONDA_PREFIX": "/c",
        "KEPT": "1",
    }
    variables = variables_in(Path("/new"), inherited, (("SEED", "7"), ("KEPT", "2")))
    assert variables == {"PATH": "/new/bin:/usr/bin", "VIRTUAL_ENV": "/new", "SEED": "7", "KEPT": "2"}
    assert variables_in(Path("/new"), inherited, (("PATH", "/own"),))["PATH"] == "/new/bin:/own"
    assert inherited["PYTHONHOME"] == "/x"


def test_a_set_pythonpath_is_kept_and_said() -> None:
    inherited = {"PATH": "/bin", "PYTHONPATH": "/lib/mine"}
    assert variables_in(Path("/new"), inherited)["PYTHONPATH"] == "/lib/mine"
    assert "/lib/mine" in warnings_about(inherited)[0]
    assert warnings_about({}) == []
