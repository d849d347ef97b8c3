"""
A small disk of its own, that can be filled and can fail: an ext4 file system in a file.

It is mounted in a mount namespace of its own (`mount_namespaces(7)`), where only processes see it that are started with
`Disk.prefix`. When these and the keeper of the namespace have ended, nothing of it is left. This needs root.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_FILLING = "filling"


@dataclass
class Disk:
    """
    A mounted disk.

    Attributes:
        image: The file that is the disk.
        inside: Where processes see it that are started with `prefix`.
        keeper: The process that keeps the namespace.
    """

    image: Path
    inside: Path
    keeper: "subprocess.Popen[str]"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with that is to see the disk. It becomes that command, under the same process id."""
        return ("nsenter", f"--target={self.keeper.pid}", "--mount", f"--wd={os.getcwd()}", "--")

    @property
    def here(self) -> Path:
        """Where this process sees it (`proc_pid_root(5)`)."""
        return Path(f"/proc/{self.keeper.pid}/root{self.inside}")

    def fill(self, leave: int = 0) -> None:
        """Write until there is no room left, but for some bytes."""
        with (self.here / _FILLING).open("ab", buffering=0) as file:
            chunk = 1 << 20
            while chunk:
                try:
                    file.write(bytes(chunk))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    chunk //= 2
            os.fsync(file.fileno())
            if leave:
                file.truncate(file.tell() - leave)
                os.fsync(file.fileno())

    def free(self) -> None:
        """Give back what was filled."""
        (self.here / _FILLING).unlink()

    def fail(self) -> None:
        """Have the disk fail as a broken one does: the file system finds an error, and takes no more writes (`ext4(5)`, `abort`)."""
        self.run("mount", "-o", "remount,abort", str(self.inside))

    def repair(self, *options: str) -> None:
        """Mount it again as it was left, when nobody uses it any more, with options such as `ro`."""
        self.run("umount", str(self.inside))
        checked = subprocess.run(["e2fsck", "-p", str(self.image)], capture_output=True, text=True, check=False)
        assert checked.returncode in {0, 1}, checked.stdout + checked.stderr
        self.mount(*options)

    def mount(self, *options: str) -> None:
        """Mount it."""
        given = ",".join(["loop", "errors=remount-ro", *options])
        self.run("mount", "-o", given, str(self.image), str(self.inside))

    def run(self, *command: str) -> str:
        """Run a command that sees the disk, and give what it says."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def make_disk(directory: Path, megabytes: int = 48) -> Iterator[Disk]:
    """A disk, mounted at `disk` in a directory, which only whoever is started with its `prefix` sees."""
    image, inside = directory / "disk.img", directory / "disk"
    inside.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", str(image)], check=True)
    keeper = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        assert keeper.stdout.readline() == "ready\n"
        disk = Disk(image, inside, keeper)
        disk.mount()
        yield disk
    finally:
        with suppress(BrokenPipeError):
            keeper.stdin.close()
        keeper.wait(30)
        keeper.stdout.close()
