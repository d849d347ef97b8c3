"""
The cache of unpacked conda packages: each package once, verified, read-only, ready to be linked.

    conda/<sha256>-1/
        tree/       its files, as the archive has them
        info/       what it says of itself
        files.json  its files: what a prefix needs to know without opening the archive

Nothing in it depends on a prefix or on a Python: files that name their prefix are written for each prefix anew.

NOTE: rattler could do this. It would install what it reads with its own readers, which see other things in a spoiled
archive than the ones that checked it, it would end the process on some, and its records name directories of this
machine. Here the files of an image and of a local prefix come from the same code.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mlenv import faults
from mlenv.core.conda_archive import CondaArchive, CondaLimits, open_archive
from mlenv.core.conda_contents import CondaContents, read_contents
from mlenv.core.conda_files import RawFile, read_files
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaScheme, CondaTree
from mlenv.core.progress import Progress, Step
from mlenv.errors import Conflict
from mlenv.run.interface import WheelFiles
from mlenv.run.links import make_durable, remove_tree
from mlenv.threads import in_threads

#: Changes whenever an entry could look otherwise.
_RECIPE: Final = 1
_CHUNK: Final = 1 << 20


class UnpackedConda:
    """The cache, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def entry(self, package: CondaPackage) -> Path:
        """Where a package is unpacked, or will be."""
        return self.directory / f"{package.artifact.digest.hex}-{_RECIPE}"

    def has(self, package: CondaPackage) -> bool:
        """Whether a package is unpacked."""
        return (self.entry(package) / "files.json").exists()

    def unpack(self, packages: Sequence[CondaPackage], files: WheelFiles, *, staging: Path, progress: Progress) -> None:
        """
        Unpack packages that are not there yet.

        Args:
            packages: Which ones.
            files: Where their files are.
            staging: A directory in the cache's file system that nobody else uses; it is removed by the caller.
            progress: Told of the step.

        Raises:
            InvalidCondaArchive: A package is not one that may be installed; nothing of it stays.
            NotFound: A package's file is not there.
        """
        staging.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        largest_first = sorted(packages, key=lambda each: -each.artifact.size)
        total = sum(each.artifact.size for each in packages)
        with progress.step("Unpacking conda packages", total=total, unit="bytes") as step:
            in_threads(
                lambda each: self._unpack_one(each, files, staging, step),
                largest_first,
                workers=min(8, os.cpu_count() or 1),
            )
        make_durable(staging)
        for package in largest_first:
            faults.reach("conda.unpacked")
            with suppress(OSError):
                # Unless another process was first.
                os.rename(staging / self.entry(package).name, self.entry(package))

    def _unpack_one(self, package: CondaPackage, files: WheelFiles, staging: Path, step: Step) -> None:
        entry = staging / self.entry(package).name
        (entry / "tree").mkdir(parents=True)
        (entry / "info").mkdir()
        with open(files.path(package.artifact.digest), "rb", buffering=0) as file:
            archive = open_archive(file, filename=package.artifact.filename)
            if (size := file.seek(0, io.SEEK_END)) != package.artifact.size:
                raise archive.fail(f"has {size} bytes, expected {package.artifact.size} as locked")
            contents = read_contents(archive, package)
            made: set[str] = set()
            rows = [_keep(f"{entry}/tree/", raw, archive, made) for raw in read_files(archive, contents)]
        for path, data in archive.info.items():
            (entry / path).write_bytes(data)
        (entry / "files.json").write_text(json.dumps(rows), "utf-8")
        step.advance(package.artifact.size)

    def open(self, package: CondaPackage, scheme: CondaScheme) -> tuple[CondaTree, Iterator[RawFile]]:
        """
        What an unpacked package becomes, and its files.

        Raises:
            Conflict: It is not there, or was damaged from outside.
            InvalidCondaArchive: It can't be laid out so.
        """
        entry = self.entry(package)
        try:
            info = {f"info/{each.name}": each.read_bytes() for each in (entry / "info").iterdir()}
            rows: list[dict[str, Any]] = json.loads((entry / "files.json").read_text("utf-8"))
            archive = CondaArchive(package.artifact.filename, CondaLimits(), info, io.BytesIO())
            contents = read_contents(archive, package)
            files = [_recalled(entry / "tree", row, contents) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            remove_tree(entry)
            raise Conflict(f"{package.artifact.filename} vanished from {self.directory} while it was used") from error
        return CondaTree(package, contents, scheme, archive), iter(files)

    def source(self, package: CondaPackage, file: RawFile) -> str:
        """Where the content of a file is."""
        return f"{self.entry(package)}/tree/{file.entry.path}"


def _keep(root: str, raw: RawFile, archive: CondaArchive, made: set[str]) -> dict[str, object]:
    """Write a file, if it has content of its own, and say what it is."""
    path = raw.entry.path
    if raw.entry.kind == "hardlink" and not raw.hard:
        folder = path.rpartition("/")[0]
        if folder not in made:
            os.makedirs(root + folder, exist_ok=True)
            made.add(folder)
        try:
            descriptor = os.open(root + path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o555 if raw.executable else 0o444)
        except FileExistsError as error:
            raise archive.fail(f"{path!r} and another file have one name on this file system") from error
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            for chunk in raw.chunks:
                stream.write(chunk)
        os.utime(root + path, (raw.mtime, raw.mtime))
    return {
        "path": path,
        "size": raw.size,
        "executable": raw.executable,
        "mtime": raw.mtime,
        "target": raw.target,
        "hard": raw.hard,
        "sha256": raw.sha256,
    }


def _recalled(tree: Path, row: dict[str, Any], contents: CondaContents) -> RawFile:
    path = row["path"]
    return RawFile(
        contents.paths[path],
        _read(tree / path),
        size=row["size"],
        executable=row["executable"],
        mtime=row["mtime"],
        target=row["target"],
        hard=row["hard"],
        sha256=row["sha256"],
    )


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
