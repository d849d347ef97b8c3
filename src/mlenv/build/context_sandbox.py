"""
Where an image builder of this machine runs: in a directory of its own, with nothing else of the machine to be seen.

`context_jail.py` says what that is. Here it is prepared, started, listened to, and ended. See docs/contexts.md.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from msgspec import Struct, field

from mlenv.errors import InvalidInput, Unavailable

#: Users of a build that root begins: they own nothing on any machine (above what systemd gives to containers).
USERS: Final = (1_879_048_192, 65_536)
#: Programs and libraries, and what the dynamic linker reads. No other file of the machine is there.
_SYSTEM: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
    "/etc/alternatives",
)
#: What is there besides where a build has a network.
_ONLINE: Final = ("/etc/ssl", "/etc/ca-certificates", "/etc/pki", "/etc/nsswitch.conf")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The longest line of a log that is kept whole, in bytes.
_LINE: Final = 1 << 16
_PROBE: Final = 30.0


class BuilderFailed(InvalidInput):
    """
    A builder that ended without an image.

    Attributes:
        code: What it exited with.
    """

    def __init__(self, name: str, code: int, last: Sequence[str]) -> None:
        lines = [line for line in last if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        super().__init__(f"{name} failed (exit code {code}): {(errors or lines or ['it said nothing'])[-1].strip()}")
        self.code = code
        self.detail = "\n".join(lines) or None


class BuildTooSlow(InvalidInput):
    """A build that took longer than it may."""

    hint = "give it more time with MLENV_BUILD_TIMEOUT, in seconds"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the Dockerfile took longer than {seconds:g} seconds, the limit of a build")
        self.seconds = seconds


class NoIsolation(Unavailable):
    """This machine does not let a builder be kept apart from it."""

    hint = "see docs/contexts.md, “Where it runs”; a machine with docker's BuildKit needs nothing of this"

    def __init__(self, why: str) -> None:
        super().__init__(f"a Dockerfile can't be built in isolation here: {why}")
        self.why = why


class Sandbox(Struct, frozen=True):
    """
    A place to build in.

    Attributes:
        directory: All that a builder may write to; `/build` for it.
        root: An empty directory, where its file system is put together.
        files: Small files that it gets besides, by their paths there; secrets among them. Never on disk.
        network: `none` or `default`.
    """

    directory: Path
    root: Path
    files: Mapping[str, str] = field(default_factory=dict)
    network: str = "none"


@contextmanager
def open_sandbox(workdir: Path, builder: str) -> Iterator[Sandbox]:
    """
    A place for one build, which is gone when the context ends.

    Args:
        builder: `buildah` or `podman`, which knows how somebody who is not root has many users.
    """
    with TemporaryDirectory(dir=workdir, prefix="context-", ignore_cleanup_errors=True) as name:
        directory = Path(name) / "build"
        for each in ("bases", "out", "storage", "tmp", "run", "home"):
            (directory / each).mkdir(parents=True)
        root = Path(name) / "root"
        root.mkdir()
        try:
            yield Sandbox(directory, root)
        finally:
            with suppress(OSError, subprocess.SubprocessError):
                if os.geteuid() != 0:
                    # What its users wrote is theirs.
                    remove = [*_entry(builder), "rm", "-rf", str(directory)]
                    subprocess.run(remove, capture_output=True, timeout=600, check=False)


def run_in_sandbox(
    sandbox: Sandbox,
    commands: Sequence[Sequence[str]],
    *,
    builder: str,
    variables: Mapping[str, str],
    say: Callable[[str], None],
    timeout: float,
) -> None:
    """
    Run commands, one after the other, until one fails.

    Args:
        builder: Its name, as for `open_sandbox`.
        variables: All environment variables, besides `PATH` and `HOME`.
        say: Is told every line, as it comes.
        timeout: Seconds that all of them may take together.

    Raises:
        NoIsolation: They can't be run here.
        BuilderFailed: One of them failed.
        BuildTooSlow: They took too long; nothing of them runs any more.
    """
    root = os.geteuid() == 0
    order = {
        "root": str(sandbox.root),
        "build": str(sandbox.directory),
        "users": USERS if root else None,
        "network": sandbox.network,
        "readonly": ["context", "bases"],
        "system": [*_SYSTEM, *(_ONLINE if sandbox.network != "none" else ())],
        "files": {**_etc(sandbox.network), **sandbox.files},
        "environment": {"PATH": _PATH, "HOME": "/build/home", "TMPDIR": "/build/tmp", **variables},
        "commands": [list(each) for each in commands],
    }
    if root:
        _give(sandbox.directory, USERS[0])
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("context_jail.py"))]
    run_listening(
        [*([] if root else _entry(builder)), *program],
        stdin=json.dumps(order).encode(),
        name=builder,
        # NOTE: nothing of ours: variables hold tokens, and addresses of databases.
        environment={"PATH": os.environ.get("PATH", _PATH), **({} if root else _own_variables())},
        say=say,
        timeout=timeout,
    )


def run_listening(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    name: str,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    timeout: float,
) -> None:
    """Run a command to its end, or end it with all that it started. Arguments and errors as of `run_in_sandbox`."""
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise NoIsolation(f"{command[0]}: {error.strerror}") from error
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    last: list[str] = []
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(stdin)
        for line in _lines(process.stdout):
            say(line)
            last = [*last[-19:], line]
        code = process.wait()
    finally:
        timer.cancel()
        _kill(process)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if late.is_set() and code != 0:
        raise BuildTooSlow(timeout)
    if code == 125 and any(line.startswith("can't isolate") for line in last):
        raise NoIsolation(last[-1].partition(": ")[2])
    if code != 0:
        raise BuilderFailed(name, code, last)


def why_no_isolation(workdir: Path, builder: str) -> str | None:
    """Why nothing can be isolated on this machine; None if it can. It takes a tenth of a second."""
    try:
        with open_sandbox(workdir, builder) as sandbox:
            run_in_sandbox(
                sandbox, [["/usr/bin/env", "true"]], builder=builder, variables={}, say=lambda _: None, timeout=_PROBE
            )
    except (NoIsolation, BuilderFailed, BuildTooSlow) as error:
        return getattr(error, "why", None) or str(error)
    return None


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a command with its group. What is in a process namespace ends with the first process there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines as they come. One without an end is cut."""
    while line := stream.readline(_LINE):
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _entry(builder: str) -> list[str]:
    """How somebody who is not root gets users of their own (`subuid(5)`)."""
    return [shutil.which(builder) or builder, "unshare"]


def _own_variables() -> dict[str, str]:
    """What `unshare` of a builder needs to know who we are."""
    return {name: os.environ[name] for name in ("HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR") if name in os.environ}


def _give(directory: Path, user: int) -> None:
    """Let a directory with all in it, but for what is read only, belong to somebody."""
    for parent, directories, files in os.walk(directory):
        if Path(parent) == directory:
            directories.remove("bases")
        for each in (*directories, *files):
            os.chown(os.path.join(parent, each), user, user, follow_symlinks=False)
    os.chown(directory, user, user)


def _etc(network: str) -> dict[str, str]:
    """The little of `/etc` that programs look for."""
    files = {
        "/etc/passwd": "root:x:0:0:root:/build/home:/bin/sh\nbuild:x:1:1:build:/build/home:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/:/bin/false\n",
        "/etc/group": "root:x:0:\nbuild:x:1:\nnogroup:x:65534:\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "/etc/resolv.conf": "",
        "/etc/hostname": "build\n",
    }
    if network != "none":
        for path in ("/etc/hosts", "/etc/resolv.conf"):
            with suppress(OSError):
                files[path] = Path(path).read_text("utf-8", "replace")
    return files
