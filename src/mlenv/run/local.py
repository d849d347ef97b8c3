"""Running without a container: a lock becomes a read-only prefix on this machine, made once and found again at once."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mlenv import faults
from mlenv.core.lock import Lock
from mlenv.core.progress import Progress
from mlenv.errors import Unavailable
from mlenv.file_lock import FileLock, Timeout
from mlenv.run.found import Prefix, interpreter_of, is_whole, prefix_path
from mlenv.run.interface import BytecodeCompiler, WheelFiles
from mlenv.run.links import make_durable, remove_tree
from mlenv.run.prefix import lay_out, protect
from mlenv.run.pythons import HostPython
from mlenv.run.support import require_support
from mlenv.run.unpacked import UnpackedWheels

#: Seconds to wait for another process that makes the same prefix.
_PATIENCE: Final = 1800
_STAGING: Final = ".staging-"


class PrefixBusy(Unavailable):
    """Another process has been making the same prefix for too long."""

    hint = "look whether another `mlenv` hangs, end it, and run again"

    def __init__(self, prefix: Path) -> None:
        super().__init__(f"another process has been making {prefix} for more than {_PATIENCE} seconds")
        self.prefix = prefix


def materialise(
    lock: Lock,
    python: HostPython | None,
    *,
    wheels: WheelFiles,
    cache: Path,
    prefixes: Path,
    compiler: BytecodeCompiler | None,
    progress: Progress,
) -> Prefix:
    """
    The prefix for a lock; it is made if it is not there. Any number of processes may ask for it at once.

    Args:
        lock: What is in it.
        python: What it runs on; None where conda's packages bring a Python, or there is none.
        wheels: Where the lock's wheels and conda packages are; asked only for those that are not in the cache.
        cache: A directory for unpacked packages, best in the same file system as `prefixes`.
        prefixes: The directory of all prefixes.
        compiler: Compiles bytecode where the lock wants it; None for none.
        progress: Told of the steps.

    Raises:
        NotSupportedHere: The lock can't run on this machine or this Python.
        InvalidPackage: A package is not one that may be installed.
        ClashingFiles: Two packages can't be installed together.
        PrefixBusy: Another process has been making it for too long.
    """
    final = prefix_path(lock, python, prefixes)
    if is_whole(final, python):
        return Prefix(final, python, reused=True)
    require_support(lock, python)
    prefixes.mkdir(parents=True, exist_ok=True)
    unpacked = UnpackedWheels(
        cache / "wheels",
        python=lock.target.python_minor,
        windows=lock.target.platform.os == "windows",
        bytecode=lock.bytecode is not None and compiler is not None,
    )
    places = (cache / "conda", unpacked.directory, prefixes)
    for each in places:
        each.mkdir(parents=True, exist_ok=True)
    with _alone(final):
        if is_whole(final, python):
            return Prefix(final, python, reused=True)
        _sweep(places, final)
        below, unpacking, stage = (each / f"{_STAGING}{final.name}" for each in places)
        try:
            stage.mkdir()
            count = 0
            if lock.conda:
                count = _lay_out_conda(stage, final, lock, places[0], below, wheels, compiler, progress)
            if missing := [each for each in lock.packages if unpacked.listing(each) is None]:
                unpacked.unpack(
                    missing,
                    wheels,
                    staging=unpacking,
                    interpreter=python.path if python is not None else interpreter_of(stage),
                    compiler=compiler if lock.bytecode is not None else None,
                    progress=progress,
                )
            lay_out(stage, final, lock, python, unpacked, progress)
            protect(stage)
            make_durable(stage)
            faults.reach("prefix.staged")
            # What is left of a prefix whose interpreter has gone, or that somebody has damaged, makes way.
            remove_tree(final)
            os.rename(stage, final)
            faults.reach("prefix.kept")
        finally:
            for each in (below, unpacking, stage):
                remove_tree(each)
    return Prefix(final, python, reused=False, unpacked=count + len(missing))


def _lay_out_conda(
    stage: Path,
    final: Path,
    lock: Lock,
    cache: Path,
    unpacking: Path,
    files: WheelFiles,
    compiler: BytecodeCompiler | None,
    progress: Progress,
) -> int:
    """Conda's packages, with the bytecode that conda itself would compile; gives how many had to be unpacked."""
    from mlenv.core.conda_archive import InvalidCondaArchive
    from mlenv.run.conda_prefix import lay_out_conda, sources_to_compile
    from mlenv.run.unpacked_conda import UnpackedConda

    unpacked = UnpackedConda(cache)
    missing = [each for each in lock.conda if not unpacked.has(each)]
    if missing:
        unpacked.unpack(missing, files, staging=unpacking, progress=progress)
    try:
        lay_out_conda(stage, final, lock.conda, unpacked, progress)
    except InvalidCondaArchive as error:
        # What does not fit this prefix was good enough to be unpacked.
        for each in lock.conda:
            if each.artifact.filename == error.filename:
                remove_tree(unpacked.entry(each))
        raise
    if compiler is not None and (sources := sources_to_compile(stage, lock.conda)):
        compiler(interpreter_of(stage), sources, progress)
    return len(missing)


@contextmanager
def _alone(final: Path) -> Iterator[None]:
    """Hold the lock under which one prefix is made."""
    try:
        with FileLock(_lock_file(final), timeout=_PATIENCE):
            yield
    except Timeout as error:
        raise PrefixBusy(final) from error


def _lock_file(final: Path) -> Path:
    return final.parent / f".{final.name}.lock"


def _sweep(places: Iterable[Path], own: Path) -> None:
    """Remove what processes that died have left: stages that nobody holds the lock of."""
    for stage in [stage for place in places for stage in place.glob(f"{_STAGING}*")]:
        final = own.parent / stage.name.removeprefix(_STAGING)
        if final == own:
            remove_tree(stage)
            continue
        with suppress(Timeout), FileLock(_lock_file(final), timeout=0):
            remove_tree(stage)
