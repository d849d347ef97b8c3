"""Laying out a conda environment: links into the cache of unpacked packages, and files written for this prefix."""

import filecmp
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlenv.core.conda_layer import plan_conda_layers
from mlenv.core.conda_meta import HISTORY, history, record, record_path
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaFile, CondaScheme, CondaTree
from mlenv.core.progress import Progress
from mlenv.run.interface import SourceFile
from mlenv.run.links import Linker
from mlenv.run.prefix import ClashingFiles
from mlenv.run.unpacked_conda import UnpackedConda


def lay_out_conda(
    stage: Path, final: Path, packages: Sequence[CondaPackage], unpacked: UnpackedConda, progress: Progress
) -> None:
    """
    Fill the directory `stage` with the conda packages of what will be the prefix `final`.

    Args:
        stage: Where it is made; there are no conda packages in it yet.
        final: Where it will be: files name this path.
        packages: All that are locked; each is in `unpacked`.
        unpacked: The cache of unpacked packages.
        progress: Told of the step, and warned of files that two packages bring with unlike content, and of scripts that
            are not run.

    Raises:
        ClashingFiles: Two packages can't be installed together.
        InvalidCondaArchive: A package does not fit this prefix: it was built for a shorter one.
        Conflict: A package vanished from the cache.
    """
    scheme = CondaScheme.of(packages, str(final))
    writer = _PrefixWriter(stage, unpacked, progress)
    # The order of an image's layers: where two packages bring the same path, the same one wins here and there.
    ordered = [each for plan in plan_conda_layers(packages) for each in plan.packages]
    with progress.step("Linking conda packages", total=len(ordered), unit="items") as step:
        for package in ordered:
            tree, raws = unpacked.open(package, scheme)
            for file in tree.files(raws):
                writer.add(tree, file)
            writer.write(record_path(package), (record(tree),), package.name)
            if tree.unrun:
                progress.warn(tree.unrun)
            step.advance(1)
        step.note({"link": "hard links", "clone": "shared blocks", "copy": "copies"}[writer.link.how])
    writer.write(HISTORY, (history(packages).encode(),), "")


def sources_to_compile(stage: Path, packages: Sequence[CondaPackage]) -> list[SourceFile]:
    """The Python files of a prefix that have no bytecode yet: those of packages for any Python, as conda has it."""
    scheme = CondaScheme.of(packages, "/")
    if scheme.python is None or scheme.site_packages != f"lib/python{scheme.python}/site-packages":
        # Not CPython, or one without a global lock: how it calls its bytecode is not ours to know.
        return []
    tag = f"cpython-{scheme.python.replace('.', '')}"
    found = []
    for package in packages:
        if package.noarch == "python":
            for path in json.loads((stage / record_path(package)).read_bytes())["files"]:
                source = stage / path
                if path.startswith(f"{scheme.site_packages}/") and path.endswith(".py") and not source.is_symlink():
                    target = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
                    found.append(SourceFile(source, target, path))
    return found


class _PrefixWriter:
    def __init__(self, stage: Path, unpacked: UnpackedConda, progress: Progress) -> None:
        self.link = Linker()
        self._stage, self._unpacked, self._progress = f"{stage}/", unpacked, progress
        self._directories: set[str] = set()

    def add(self, tree: CondaTree, file: CondaFile) -> None:
        """Put one file of a package in its place."""
        raw, target, name = file.raw, self._stage + file.path, tree.package.name
        if raw is not None and raw.entry.kind == "directory":
            self._parents(f"{file.path}/.", name)
            return
        self._parents(file.path, name)
        if raw is None or (file.patched and not file.hard and not file.target):
            self.write(file.path, file.chunks, name, executable=file.executable, mtime=file.mtime)
            return
        # Not to be read again: it was verified when it was unpacked.
        tree.hashes.setdefault(file.path, raw.sha256)
        if os.path.lexists(target):
            self._make_way(file, tree, target)
        if file.hard:
            os.link(self._stage + file.target, target)
        elif file.target:
            os.symlink(file.target, target)
        else:
            self.link(self._unpacked.source(tree.package, raw), target)

    def write(
        self, path: str, chunks: Iterable[bytes], name: str, *, executable: bool = False, mtime: int | None = None
    ) -> None:
        """Write a file that is this prefix's own."""
        self._parents(path, name)
        target = self._stage + path
        if os.path.lexists(target):
            if os.path.isdir(target) and not os.path.islink(target):
                raise ClashingFiles(path, name)
            self._progress.warn(f"{path} is brought by two packages; that of {name} is used")
            os.unlink(target)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o555 if executable else 0o444)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            for chunk in chunks:
                stream.write(chunk)
        if mtime is not None:
            os.utime(target, (mtime, mtime))

    def _make_way(self, file: CondaFile, tree: CondaTree, target: str) -> None:
        """Take away what another package put there."""
        if os.path.isdir(target) and not os.path.islink(target):
            raise ClashingFiles(file.path, tree.package.name)
        same = False
        if os.path.islink(target):
            same = bool(file.target) and not file.hard and os.readlink(target) == file.target
        elif file.raw is not None and not file.target:
            same = filecmp.cmp(self._unpacked.source(tree.package, file.raw), target, shallow=False)
        if not same:
            used = f"that of {tree.package.name} is used"
            self._progress.warn(f"{file.path} is brought by two packages with unlike content; {used}")
        os.unlink(target)

    def _parents(self, path: str, name: str) -> None:
        """
        Make the directories above a path.

        A link in their place is refused: what lies below it would go where another package says.
        """
        parent = path.rpartition("/")[0]
        if not parent or parent in self._directories:
            return
        self._parents(parent, name)
        try:
            os.mkdir(self._stage + parent)
        except FileExistsError as error:
            if os.path.islink(self._stage + parent) or not os.path.isdir(self._stage + parent):
                raise ClashingFiles(parent, name) from error
        self._directories.add(parent)
