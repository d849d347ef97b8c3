"""
Layers made of wheels: deterministic tar streams, each made once and remembered by what it is made of.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mlenv.build.compression import LayerStream, open_stream, unlike_reference
from mlenv.build.conflicts import Entry, PathConflict, find_conflicts, install_order, merge, open_tree, remember_listing
from mlenv.build.interface import AllHere, Blobs, Incoming, LayerCache
from mlenv.build.missing_layers import make_missing
from mlenv.build.tarball import END, directory_header, file_header, padding
from mlenv.core.digest import Digest
from mlenv.core.layer import Layer, LayerPlan, LayerRecipe
from mlenv.core.lock import LockedPackage
from mlenv.core.progress import Progress, Silent
from mlenv.core.wheel import InstalledTree
from mlenv.faults import reach

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from mlenv.build.bytecode import CompiledWheel
    from mlenv.build.compiler import Compiler

__all__ = ["PathConflict", "build_layer", "build_layers", "find_conflicts", "install_order"]


def build_layer(
    plan: LayerPlan,
    recipe: LayerRecipe,
    *,
    blobs: Blobs,
    bytecode: "Callable[[LockedPackage], CompiledWheel] | None" = None,
    cache: LayerCache | None = None,
) -> Layer:
    """
    Write one layer.

    Args:
        plan: Its packages, whose wheels are in `blobs`.
        recipe: How it is made.
        blobs: Where wheels are, and where the layer goes.
        bytecode: Gives the bytecode of a package; needed if the recipe has bytecode.
        cache: Where the list of its files is remembered, for `find_conflicts`; the layer itself is the caller's.

    Raises:
        InvalidWheel: A wheel that may not be installed; nothing of it is kept.
        NotFound: A wheel is not in `blobs`.
    """
    with ExitStack() as stack:
        trees, compiled = [], []
        for package in plan.packages:
            tree = stack.enter_context(open_tree(package, recipe, blobs))
            if bytecode is not None:
                compiled.append(bytecode(package))
                tree = tree.with_bytecode(path for path, _ in compiled[-1].files)
            trees.append(tree)
        listed = [tree.files for tree in trees]
        merged = merge(listed, [each.name for each in plan.packages], compiled)
        contents = [each.contents(blobs) for each in compiled]
        with blobs.writer() as out:
            stream = open_stream(recipe.compression, out)
            _write(stream, merged.entries, trees, contents, recipe.prefix.strip("/"))
            diff_id = stream.close()
            digest, size = out.commit()
    if cache is not None:
        remember_listing(plan, recipe, listed, blobs=blobs, cache=cache)
    reach("layer.written")
    return Layer(digest, diff_id, size, recipe.compression.media_type)


def build_layers(
    plans: Sequence[LayerPlan],
    recipe: LayerRecipe,
    *,
    blobs: Blobs,
    cache: LayerCache,
    compiler: "Compiler | None" = None,
    incoming: Incoming | None = None,
    progress: Progress | None = None,
) -> list[Layer]:
    """
    The layers for some plans, in their order: remembered, or else written, several at a time.

    Args:
        plans: What to build.
        recipe: How; if it has bytecode, `compiler` must be of that version.
        blobs: Where wheels are, or will be, and where layers go.
        cache: What is remembered.
        compiler: Started only if bytecode is missing.
        incoming: Says when wheels are there; None if all are.
        progress: Is told of the work. Conflicts are for `find_conflicts` to tell, which sees all layers.

    Raises:
        InvalidWheel: A wheel that may not be installed.
        CompilerFailed: There is no interpreter for the bytecode.
        Incomplete: Not all wheels came.
    """
    progress = progress or Silent()
    keys = [plan.key(recipe) for plan in plans]
    found = {key: layer for key in keys if (layer := cache.get(key)) is not None}
    missing = {key: plan for key, plan in zip(keys, plans, strict=True) if key not in found}
    if missing:
        if reason := unlike_reference(recipe.compression):
            progress.warn(f"layers made here may differ in their bytes from those made elsewhere: {reason}")
        found |= _build_missing(missing, recipe, blobs, cache, compiler, incoming or AllHere(), len(found), progress)
    return [found[key] for key in keys]


def _build_missing(
    plans: dict[Digest, LayerPlan],
    recipe: LayerRecipe,
    blobs: Blobs,
    cache: LayerCache,
    compiler: "Compiler | None",
    incoming: Incoming,
    reused: int,
    progress: Progress,
) -> dict[Digest, Layer]:
    total = sum(package.artifact.size for plan in plans.values() for package in plan.packages)
    with progress.step("Building layers", total=total, unit="bytes") as step, ExitStack() as stack:
        bytecode: _Compiling | None = None
        if recipe.bytecode and compiler:
            bytecode = stack.enter_context(_compiling(recipe, blobs, cache, compiler))

        def begin(key: Digest) -> None:
            if bytecode:
                bytecode.begin(plans[key].packages)

        def make(key: Digest) -> Layer:
            compiled = bytecode.of if bytecode else None
            return build_layer(plans[key], recipe, blobs=blobs, bytecode=compiled, cache=cache)

        groups = {key: plan.packages for key, plan in plans.items()}
        made = make_missing(make, groups, incoming=incoming, cache=cache, step=step, begin=begin)
        step.note(f"{len(made)} new, {reused} reused")
    return made


class _Compiling:
    """The bytecode of packages, compiled in the background on all cores, in the order in which they are begun."""

    def __init__(self, pool: "Executor", compile_one: "Callable[[LockedPackage], CompiledWheel]") -> None:
        self._pool, self._compile_one = pool, compile_one
        self._pending: dict[str, Future[CompiledWheel]] = {}

    def begin(self, packages: Iterable[LockedPackage]) -> None:
        """Compile these."""
        for each in packages:
            self._pending[each.name] = self._pool.submit(self._compile_one, each)

    def of(self, package: LockedPackage) -> "CompiledWheel":
        """What was begun, once it is done."""
        return self._pending[package.name].result()


@contextmanager
def _compiling(recipe: LayerRecipe, blobs: Blobs, cache: LayerCache, compiler: "Compiler") -> Iterator[_Compiling]:
    """What compiles packages while the context lasts."""
    from concurrent.futures import ThreadPoolExecutor

    from mlenv.build.bytecode import bytecode_key, compile_wheel

    def compile_one(package: LockedPackage) -> "CompiledWheel":
        assert recipe.bytecode is not None
        digest = package.artifact.digest
        key = bytecode_key(digest, recipe.bytecode, prefix=recipe.prefix)
        with open_tree(package, recipe, blobs) as tree:
            return compile_wheel(blobs.path(digest), tree, key=key, compiler=compiler, blobs=blobs, cache=cache)

    with ThreadPoolExecutor(compiler.workers + 1, thread_name_prefix="bytecode") as pool:
        try:
            yield _Compiling(pool, compile_one)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            compiler.close()


def _write(
    stream: LayerStream,
    entries: dict[str, Entry],
    trees: list[InstalledTree],
    contents: list[Iterator[tuple[str, bytes]]],
    prefix: str,
) -> None:
    """The tar: sorted, each directory right before the first file below it."""
    directories: set[str] = set()
    for path in sorted(entries):
        entry = entries[path]
        full = f"{prefix}/{path}"
        _write_parents(stream, full, directories)
        if entry.file is None:
            # Bytecode comes in the order of its paths; what lost its place is passed over.
            content = next(content for each, content in contents[entry.package] if each == path)
            stream.write(file_header(full, entry.size, executable=False))
            stream.write(content)
        else:
            stream.write(file_header(full, entry.size, executable=entry.file.executable))
            stream.add(trees[entry.package].pieces(entry.file), entry.file.member)
        if fill := padding(entry.size):
            stream.write(fill)
    stream.write(END)


def _write_parents(stream: LayerStream, path: str, directories: set[str]) -> None:
    parent = path.rpartition("/")[0]
    new = []
    while parent and parent not in directories:
        directories.add(parent)
        new.append(parent)
        parent = parent.rpartition("/")[0]
    for each in reversed(new):
        stream.write(directory_header(each))
