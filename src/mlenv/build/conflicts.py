"""
Which files a layer holds, and what happens where two packages bring one path.

The package that comes later in `install_order` wins: within a layer that is the later name, across layers the higher
layer, as an overlay file system has it. Local runs follow the same order. The files of a layer are listed when it is
written, and the listing is remembered, so that conflicts are found without opening wheels again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import zstandard
from msgspec import Struct, field, json

from mlenv.build.interface import Blobs, LayerCache
from mlenv.core.digest import Digest
from mlenv.core.layer import Layer, LayerPlan, LayerRecipe
from mlenv.core.lock import LockedPackage
from mlenv.core.wheel import InstalledFile, InstalledTree, Scheme, read_wheel

if TYPE_CHECKING:
    from mlenv.build.bytecode import CompiledWheel

MEDIA_TYPE: Final = "application/vnd.mlenv.listing.v1+zstd"
#: What a listing says of a file: its path under the prefix, its hash, and whether it is executable.
Row: TypeAlias = tuple[str, str, bool]
#: Names of packages, and what each brings.
Listed: TypeAlias = tuple[list[str], list[list[Row]]]
#: The largest listing that is read, in bytes.
_LIMIT: Final = 1 << 30


class PathConflict(Struct, frozen=True):
    """Two packages that bring one path with other content. `kept` and `lost` are package names."""

    path: str
    kept: str
    lost: str

    def __str__(self) -> str:
        return f"{self.kept} and {self.lost} both bring {self.path}, with different content: {self.kept}'s is kept"


class Entry(Struct, frozen=True):
    """A file of a layer: which package of the plan it is of, and what it is; None for bytecode of that package."""

    package: int
    size: int
    file: InstalledFile | None


class Merged(Struct):
    entries: dict[str, Entry] = field(default_factory=dict)
    conflicts: list[PathConflict] = field(default_factory=list)


def install_order(plans: Iterable[LayerPlan]) -> tuple[LockedPackage, ...]:
    """All packages, the one that wins a path last."""
    return tuple(package for plan in plans for package in plan.packages)


def find_conflicts(
    plans: Iterable[LayerPlan],
    recipe: LayerRecipe,
    *,
    blobs: Blobs,
    cache: LayerCache | None = None,
    below: Listed = ([], []),
) -> list[PathConflict]:
    """
    Paths that several packages bring with other content, across all layers, and who wins. Nothing is unpacked.

    Args:
        plans: All layers, the lowest first.
        recipe: How they are made.
        blobs: Where wheels and listings are.
        cache: What is remembered; a plan without a listing, and every plan without a cache, has its wheels opened.
        below: What lies below all of them: conda's packages.

    Raises:
        InvalidWheel: A wheel that may not be installed.
        NotFound: A wheel that has to be opened is not there.
    """
    names, listed = list(below[0]), list(below[1])
    for plan in plans:
        names += [each.name for each in plan.packages]
        listed += _recall(plan, recipe, blobs, cache) or _list(plan, recipe, blobs)
    return compare(names, listed)


def compare(names: Sequence[str], listed: Sequence[Sequence[Row]]) -> list[PathConflict]:
    """The same, of what each package brings; the one that wins last."""
    if not (disputed := _disputed([path for rows in listed for path, _, _ in rows])):
        return []
    files = [
        [InstalledFile(path, 0, digest, runs) for path, digest, runs in rows if path in disputed] for rows in listed
    ]
    return merge(files, list(names), []).conflicts


def _disputed(paths: Sequence[str]) -> set[str]:
    """Paths that occur twice, and with a file that is elsewhere a directory, all below it: few, told in milliseconds."""
    files = set(paths)
    directories: set[str] = set()
    for parent in {path.rpartition("/")[0] for path in files}:
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition("/")[0]
    clashing = tuple(f"{each}/" for each in files & directories)
    disputed = {each for each in files if f"{each}/".startswith(clashing)} if clashing else set()
    if len(files) < len(paths):
        disputed |= {path for path, count in Counter(paths).items() if count > 1}
    return disputed


def remember_listing(
    plan: LayerPlan, recipe: LayerRecipe, files: Iterable[Iterable[InstalledFile]], *, blobs: Blobs, cache: LayerCache
) -> None:
    """Keep the files of a layer's packages for `find_conflicts`."""
    rows = [[[each.path, each.hash, each.executable] for each in package] for package in files]
    with blobs.writer() as out:
        out.write(zstandard.ZstdCompressor(level=1).compress(json.encode(rows)))
        digest, size = out.commit()
    cache.put(_key(plan, recipe), Layer(digest, digest, size, MEDIA_TYPE))


@contextmanager
def open_tree(package: LockedPackage, recipe: LayerRecipe, blobs: Blobs) -> Iterator[InstalledTree]:
    """The files that a package becomes; their content can be read while the context lasts."""
    with open(blobs.path(package.artifact.digest), "rb", buffering=0) as file:
        wheel = read_wheel(file, filename=package.artifact.filename)
        scheme = Scheme.posix(recipe.python, script_python=f"{recipe.prefix}/bin/python")
        yield wheel.install(scheme, requested=package.requested)


def _key(plan: LayerPlan, recipe: LayerRecipe) -> Digest:
    return Digest.of(f"listing of {plan.key(recipe)}".encode())


def _recall(plan: LayerPlan, recipe: LayerRecipe, blobs: Blobs, cache: LayerCache | None) -> list[list[Row]]:
    remembered = cache.get(_key(plan, recipe)) if cache is not None else None
    if remembered is None or remembered.media_type != MEDIA_TYPE:
        return []
    with open(blobs.path(remembered.digest), "rb") as file:
        rows: list[list[Row]] = json.decode(
            zstandard.ZstdDecompressor().decompress(file.read(), max_output_size=_LIMIT)
        )
    return rows


def _list(plan: LayerPlan, recipe: LayerRecipe, blobs: Blobs) -> list[list[Row]]:
    listed: list[list[Row]] = []
    for package in plan.packages:
        with open_tree(package, recipe, blobs) as tree:
            listed.append([(each.path, each.hash, each.executable) for each in tree.files])
    return listed


def merge(listed: Sequence[Sequence[InstalledFile]], names: list[str], compiled: "list[CompiledWheel]") -> Merged:
    """Lay packages over each other, the last on top."""
    merged = Merged()
    entries = merged.entries
    for number, files in enumerate(listed):
        for file in files:
            before = entries.get(file.path)
            if before is not None:
                other = before.file
                if other is None or (other.hash == file.hash and other.executable == file.executable):
                    continue
                merged.conflicts.append(PathConflict(file.path, names[number], names[before.package]))
            entries[file.path] = Entry(number, file.size, file)
    _drop_shadowed(merged, names)
    for number, each in enumerate(compiled):
        for path, size in each.files:
            source = entries.get(_source_of(path))
            # NOTE: bytecode that is never checked must not outlive its source: it goes where its source goes.
            if source is not None and source.package == number:
                entries[path] = Entry(number, size, None)
    return merged


def _drop_shadowed(merged: Merged, names: list[str]) -> None:
    """Where one package has a file and another a directory of that name, the last one keeps the path."""
    parents: dict[str, list[str]] = {}
    for path in merged.entries:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in merged.entries:
                parents.setdefault(parent, []).append(path)
            parent = parent.rpartition("/")[0]
    for parent, below in parents.items():
        there = [each for each in below if each in merged.entries]
        file = merged.entries.get(parent)
        if not there or file is None:
            continue
        over = max(merged.entries[each].package for each in there)
        for path in [parent] if over > file.package else there:
            loser = merged.entries.pop(path)
            merged.conflicts.append(PathConflict(path, names[max(over, file.package)], names[loser.package]))


def _source_of(path: str) -> str:
    """`a/__pycache__/b.cpython-311.pyc` → `a/b.py`."""
    folder, _, name = path.rpartition("/__pycache__/")
    return f"{folder}/{name.split('.cpython-')[0]}.py"
