"""Prefixes of conda packages on disk, as local runs have them, with the lock that they are of."""

from pathlib import Path

from msgspec.structs import replace

from mlenv.core.lock import Lock
from mlenv.core.progress import Silent
from mlenv.run.conda_prefix import lay_out_conda
from mlenv.run.unpacked_conda import UnpackedConda
from support.blobs import DirectoryBlobs
from support.conda_locked import conda_lock, stored
from support.conda_packages import Package


def laid_out(root: Path, *packages: Package) -> tuple[Path, Lock]:
    """A prefix below `root`, and its lock. Files in it may be changed: they are nobody else's."""
    blobs, unpacked = DirectoryBlobs(root / "blobs"), UnpackedConda(root / "conda")
    lock = conda_lock(*(stored(blobs, each) for each in packages))
    unpacked.unpack(list(lock.conda), blobs, staging=root / "staging", progress=Silent())
    prefix = root / "prefix"
    prefix.mkdir()
    lay_out_conda(prefix, prefix, lock.conda, unpacked, Silent())
    return prefix, lock


def without(lock: Lock, name: str) -> Lock:
    """The lock without one of its conda packages."""
    return replace(lock, conda=tuple(each for each in lock.conda if each.name != name))
