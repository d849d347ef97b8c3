"""
What every test may rely on.

No test touches the user's store, nor reaches beyond the loopback interface unless it is marked `online`. Tests that
are marked `container` get a podman that works on this machine, with a storage of its own. Nothing is skipped: where a
tool is missing, the tests that need it fail.
"""

import compileall
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
import pytest_socket

from mlenv.file_lock import FileLock

pytest_plugins = ["support.docker", "support.oci_client", "support.postgres"]

_REPOSITORY = Path(__file__).parents[1]
_TOOLS = _REPOSITORY / "tools"
_LOOPBACK = ["127.0.0.1", "::1", "localhost"]


def pytest_configure(config: pytest.Config) -> None:
    """
    Compile the program once, and let no signal be ignored, as is the way of a terminal.

    Where `PYTHONDONTWRITEBYTECODE` is set, each of a thousand processes would compile what it imports, which takes
    longer than what most of them are started for. A shell lets what it starts in the background ignore SIGINT and
    SIGQUIT, `nohup` SIGHUP; and the processes of the tests, which test signals, would inherit that.
    """
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(_REPOSITORY / "src", quiet=2)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test connect to this machine only, unless it is `online`. `pytest_socket` lifts this again."""
    if item.get_closest_marker("online") is None:
        pytest_socket.socket_allow_hosts(_LOOPBACK, allow_unix_socket=True)


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store that all tests of the session may share; the user's own is never touched."""
    home = tmp_path_factory.mktemp("mlenv-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLENV_HOME", str(home))
        for name in [each for each in os.environ if each.startswith("MLENV_") and each != "MLENV_HOME"]:
            patch.delenv(name)
        yield home


@pytest.fixture
def mlenv_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store for one test."""
    home = tmp_path / "mlenv-home"
    monkeypatch.setenv("MLENV_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Real files of the wild, which lie beside the checkout."""
    directory = _REPOSITORY.parent / "shared" / "corpus"
    assert directory.is_dir(), f"the corpus is not at {directory}"
    return directory


@pytest.fixture(scope="session")
def debian_base() -> Path:
    """
    A Debian bookworm image with Python 3.11, as an OCI archive.

    Made once, in about 40 seconds, and kept in the user's cache directory until what makes it changes.
    """
    program = _TOOLS / "debian_base.py"
    sources = [program, *(_REPOSITORY / "src" / "mlenv" / "build" / name for name in ("debian.py", "assemble.py"))]
    key = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()[:16]
    directory = platformdirs.user_cache_path("mlenv-tests", ensure_exists=True)
    file = directory / f"bookworm-{key}.tar"
    with FileLock(directory / "bookworm.lock"):
        if not file.exists():
            subprocess.run([sys.executable, str(program), str(file)], check=True, stdout=subprocess.DEVNULL)
    return file


@pytest.fixture(scope="session")
def podman_storage(debian_base: Path) -> Iterator[None]:
    """Set podman up for this machine, with an empty storage that goes when the session ends."""
    # NOTE: not below pytest's own directory, whose path is too long for podman.
    directory = Path(tempfile.mkdtemp(prefix="mlenv-podman-", dir="/tmp"))
    command = [sys.executable, str(_TOOLS / "podman_here.py"), str(directory), f"oci-archive:{debian_base}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        with pytest.MonkeyPatch.context() as patch:
            for line in found.stdout.splitlines():
                name, _, value = line.removeprefix("export ").partition("=")
                patch.setenv(name, shlex.split(value)[0])
            yield
            subprocess.run(["podman", "rmi", "--all", "--force"], capture_output=True, check=False)
    finally:
        for mount in _mounts_below(directory):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def _podman_for_container_tests(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("container") is not None:
        request.getfixturevalue("podman_storage")


def _mounts_below(directory: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [mount for mount in reversed(mounts) if mount.startswith(f"{directory}/")]
