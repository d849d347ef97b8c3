"""
Layers made of conda packages: deterministic tar streams, each made once and remembered by what it is made of.

Files come in the order of their package, since it can be read only once, and that order is as fixed as its bytes. The
record in `conda-meta/`, which has the hashes of all, is the last.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from mlenv.build.compression import LayerStream, open_stream, unlike_reference
from mlenv.build.conflicts import Listed, Row, merge
from mlenv.build.interface import AllHere, Blobs, Incoming, LayerCache
from mlenv.build.missing_layers import make_missing
from mlenv.build.tarball import END, directory_header, file_header, link_header, padding
from mlenv.core.conda_archive import CondaLimits, open_archive
from mlenv.core.conda_contents import PathEntry, read_contents
from mlenv.core.conda_layer import CondaLayerPlan, CondaRecipe
from mlenv.core.conda_meta import HISTORY, history, record, record_path
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaFile, CondaScheme, CondaTree
from mlenv.core.digest import Digest
from mlenv.core.layer import MTIME, Layer
from mlenv.core.progress import Progress, Silent
from mlenv.core.wheel import InstalledFile
from mlenv.core.wheel_record import encode_digest
from mlenv.faults import reach

__all__ = [
    "build_conda_layer",
    "build_conda_layers",
    "conda_environment_layer",
    "list_conda_packages",
    "open_conda_tree",
]


@contextmanager
def open_conda_tree(
    package: CondaPackage, scheme: CondaScheme, blobs: Blobs, *, limits: CondaLimits | None = None
) -> Iterator[CondaTree]:
    """
    The files that a package becomes; they can be read while the context lasts.

    Raises:
        InvalidCondaArchive: It is not the package that is locked, or not one that may be installed.
        NotFound: It is not there.
    """
    with open(blobs.path(package.artifact.digest), "rb", buffering=0) as file:
        archive = open_archive(file, filename=package.artifact.filename, limits=limits)
        if (size := file.seek(0, io.SEEK_END)) != package.artifact.size:
            raise archive.fail(f"has {size} bytes, expected {package.artifact.size} as locked")
        yield CondaTree(package, read_contents(archive, package), scheme, archive)


def build_conda_layer(plan: CondaLayerPlan, recipe: CondaRecipe, *, blobs: Blobs) -> tuple[Layer, list[str]]:
    """
    Write one layer.

    Args:
        plan: Its packages, which are in `blobs`.
        recipe: How it is made.
        blobs: Where packages are, and where the layer goes.

    Returns:
        The layer, and a sentence for each package with scripts that conda would run.

    Raises:
        InvalidCondaArchive: A package that may not be installed; nothing of it is kept.
        NotFound: A package is not in `blobs`.
    """
    with ExitStack() as stack:
        trees = [stack.enter_context(open_conda_tree(each, recipe.scheme, blobs)) for each in plan.packages]
        keeps = _shares(trees)
        with blobs.writer() as out:
            stream = open_stream(recipe.compression, out)
            writer = _LayerWriter(stream, recipe.scheme.prefix.strip("/"))
            for tree, kept in zip(trees, keeps, strict=True):
                writer.add(tree, kept)
            stream.write(END)
            diff_id = stream.close()
            digest, size = out.commit()
        scripts = [tree.unrun for tree in trees if tree.unrun]
    reach("layer.written")
    return Layer(digest, diff_id, size, recipe.compression.media_type), scripts


def build_conda_layers(
    plans: Sequence[CondaLayerPlan],
    recipe: CondaRecipe,
    *,
    blobs: Blobs,
    cache: LayerCache,
    incoming: Incoming | None = None,
    progress: Progress | None = None,
) -> list[Layer]:
    """
    The layers for some plans, in their order: remembered, or else written, several at a time.

    Args:
        incoming: Says when packages are there; None if all are.
        progress: Is told of the work, and warned of scripts that are not run.

    Raises:
        InvalidCondaArchive: A package that may not be installed.
        NotFound: A package is not in `blobs`.
        Incomplete: Not all packages came.
    """
    progress = progress or Silent()
    keys = [plan.key(recipe) for plan in plans]
    found = {key: known for key in keys if (known := cache.get(key)) is not None}
    missing = {key: plan for key, plan in zip(keys, plans, strict=True) if key not in found}
    if not missing:
        return [found[key] for key in keys]
    if reason := unlike_reference(recipe.compression):
        progress.warn(f"layers made here may differ in their bytes from those made elsewhere: {reason}")
    warnings: list[str] = []
    with progress.step(
        "Building conda layers", total=sum(plan.size for plan in missing.values()), unit="bytes"
    ) as step:

        def make(key: Digest) -> Layer:
            layer, scripts = build_conda_layer(missing[key], recipe, blobs=blobs)
            warnings.extend(scripts)
            return layer

        groups = {key: plan.packages for key, plan in missing.items()}
        made = make_missing(make, groups, incoming=incoming or AllHere(), cache=cache, step=step)
        step.note(f"{len(made)} new, {len(found)} reused")
    for warning in sorted(warnings):
        progress.warn(warning)
    found |= made
    return [found[key] for key in keys]


def conda_environment_layer(
    packages: Iterable[CondaPackage], recipe: CondaRecipe, *, files: Mapping[str, str], blobs: Blobs
) -> Layer:
    """
    The topmost layer, with all that depends on more than one package.

    Args:
        packages: All that are locked; `conda-meta/history` names them, and what the user asked for.
        files: Path under the prefix, and text: the lock, for example.
    """
    texts = {**files, HISTORY: history(packages)}
    with blobs.writer() as out:
        stream = open_stream(recipe.compression, out)
        writer = _LayerWriter(stream, recipe.scheme.prefix.strip("/"))
        for path in sorted(texts):
            writer.add_file(path, texts[path].encode())
        stream.write(END)
        diff_id = stream.close()
        digest, size = out.commit()
    return Layer(digest, diff_id, size, recipe.compression.media_type)


def list_conda_packages(plans: Iterable[CondaLayerPlan], recipe: CondaRecipe, *, blobs: Blobs) -> Listed:
    """
    Names of packages and the files that each says it brings, in the order in which they win, for `conflicts.find_conflicts`.

    Of each package, no more is read than what it says of itself.

    Raises:
        InvalidCondaArchive: A package that may not be installed.
        NotFound: A package is not in `blobs`.
    """
    names: list[str] = []
    listed: list[list[Row]] = []
    for package in (each for plan in plans for each in plan.packages):
        with open_conda_tree(package, recipe.scheme, blobs) as tree:
            names.append(package.name)
            listed.append([_row(tree, each) for each in tree.contents.paths.values() if each.kind != "directory"])
            listed[-1] += [(f"bin/{each.name}", str(each), True) for each in tree.contents.entry_points]
    return names, listed


def _row(tree: CondaTree, entry: PathEntry) -> Row:
    """A file, its hash as listings of wheels have it: both can be compared. Where links lead is not known yet."""
    path = tree.place(entry.path)
    if entry.sha256 is None:
        return path, f"unknown, of {tree.package.name}", False
    digest = encode_digest(bytes.fromhex(entry.sha256))
    return path, digest if entry.placeholder is None else f"{digest} built for {entry.placeholder}", False


def _shares(trees: Sequence[CondaTree]) -> list[set[str] | None]:
    """Which paths of each package go into their layer, where a later one has some of them too; None for all."""
    if len(trees) == 1:
        return [None]
    # What the contents are is not known yet: the later package has its way, as it would have anyhow.
    listed = [[InstalledFile(path, 0, str(number)) for path in tree.paths()] for number, tree in enumerate(trees)]
    entries = merge(listed, [tree.package.name for tree in trees], []).entries
    return [{path for path in tree.paths() if entries.get(path, None) and entries[path].package == number}
            for number, tree in enumerate(trees)]  # fmt: skip


class _LayerWriter:
    """Writes packages into one tar."""

    def __init__(self, stream: LayerStream, prefix: str) -> None:
        self._stream, self._prefix = stream, prefix
        self._directories: set[str] = set()

    def add(self, tree: CondaTree, kept: set[str] | None) -> None:
        """Write a package's files, of which `kept` are wanted, and its record."""
        for file in tree.files():
            if kept is None or file.path in kept:
                self._write(tree, file, kept)
            else:
                for _ in file.chunks:
                    pass
        self.add_file(record_path(tree.package), record(tree))

    def add_file(self, path: str, content: bytes) -> None:
        """Write a file that is made here."""
        path = f"{self._prefix}/{path}"
        self._parents(path)
        self._content(path, len(content), iter((content,)), executable=False, mtime=MTIME)

    def _write(self, tree: CondaTree, file: CondaFile, kept: set[str] | None) -> None:
        path = f"{self._prefix}/{file.path}"
        mtime = MTIME if file.mtime is None else file.mtime
        self._parents(path)
        if file.hard:
            if kept is not None and file.target not in kept:
                raise tree.archive.fail(
                    f"{file.path!r} is a hard link to {file.target!r}, which another package brings"
                )
            self._stream.write(link_header(path, f"{self._prefix}/{file.target}", hard=True, mtime=mtime))
        elif file.target:
            self._stream.write(link_header(path, file.target, hard=False, mtime=mtime))
        elif file.raw is not None and file.raw.entry.kind == "directory":
            self._parents(f"{path}/.")
        else:
            self._content(path, file.size, file.chunks, executable=file.executable, mtime=mtime)

    def _content(self, path: str, size: int, chunks: Iterator[bytes], *, executable: bool, mtime: int) -> None:
        self._stream.write(file_header(path, size, executable=executable, mtime=mtime))
        self._stream.add(((chunk, chunk) for chunk in chunks), None)
        if fill := padding(size):
            self._stream.write(fill)

    def _parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        new = []
        while parent and parent not in self._directories:
            self._directories.add(parent)
            new.append(parent)
            parent = parent.rpartition("/")[0]
        for each in reversed(new):
            self._stream.write(directory_header(each))
