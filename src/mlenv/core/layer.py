"""Which layers an image is made of, and by what each is known before it exists."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.spec import canonical_json

#: Changes whenever the bytes of a layer could, or which packages share one, so that nothing made by an older recipe is taken
#: for something new.
RECIPE: Final = 3
#: Where the environment lives in every image.
PREFIX: Final = "/opt/env"
#: The time stamp of every file: 2020-01-01T00:00:00Z, in seconds. Not 0, which zip and some tools can't hold.
MTIME: Final = 1577836800
#: Wheels of at least this many bytes have a layer of their own.
HEAVY: Final = 4_000_000
#: The others share buckets, chosen by a hash of the name: those of at least so many bytes, in so many buckets. A change
#: of a small package, which is the most frequent one, makes a small layer anew.
BUCKETS: Final = ((400_000, 3), (100_000, 4), (0, 4))
#: If more wheels than this are heavy, they share as many buckets: overlay file systems stop at 127 layers.
HEAVY_LIMIT: Final = 64


class Compression(StrEnum):
    """How layer blobs are compressed (image-spec, layer.md, media types)."""

    ZSTD = "zstd"
    GZIP = "gzip"

    @property
    def media_type(self) -> str:
        """The OCI media type of a layer so compressed."""
        return f"application/vnd.oci.image.layer.v1.tar+{self.value}"


class LayerRecipe(Struct, frozen=True):
    """
    Everything but the wheels that decides a layer's bytes.

    Attributes:
        python: The minor version, `3.11`: it names `site-packages`.
        bytecode: The full version of the interpreter whose bytecode is included, `3.11.2`; None for no bytecode.
        compression: How the blob is compressed.
        prefix: Where the files live in the image.
    """

    python: str
    bytecode: str | None
    compression: Compression = Compression.ZSTD
    prefix: str = PREFIX


class LayerPlan(Struct, frozen=True):
    """One layer to be: its packages, sorted by name."""

    title: str
    packages: tuple[LockedPackage, ...]

    def key(self, recipe: LayerRecipe) -> Digest:
        """By what the finished layer is remembered: the recipe and the wheels, and nothing of this machine."""
        content = {
            "recipe": RECIPE,
            "mtime": MTIME,
            "python": recipe.python,
            "bytecode": recipe.bytecode,
            "compression": recipe.compression.value,
            "prefix": recipe.prefix,
            "wheels": [[each.artifact.filename, each.artifact.digest.hex, each.requested] for each in self.packages],
        }
        return Digest.of(canonical_json(content).encode())


class Layer(Struct, frozen=True):
    """
    A finished layer.

    Attributes:
        digest: Of the blob as stored.
        diff_id: Of the tar inside it.
        size: Of the blob, in bytes.
        media_type: The blob's OCI media type.
    """

    digest: Digest
    diff_id: Digest
    size: int
    media_type: str


def plan_layers(packages: Iterable[LockedPackage]) -> tuple[LayerPlan, ...]:
    """
    Group packages into layers, from the lowest to the highest: heavy wheels alone and by name, then the buckets.

    Only names and the sizes in the lock decide, so two environments agree on every layer whose packages they share.
    """
    groups = grouped(packages, heavy=HEAVY, heavy_limit=HEAVY_LIMIT, buckets=BUCKETS, titles=("heavy", "at least"))
    return tuple(LayerPlan(title, those) for title, those in groups)


def count_layers(lock: Lock) -> int:
    """How many layers the packages of a lock become."""
    count = len(plan_layers(lock.packages))
    if lock.conda:
        from mlenv.core.conda_layer import plan_conda_layers

        count += len(plan_conda_layers(lock.conda))
    return count


class Sized(Protocol):
    """What layers are made of: wheels, and conda packages."""

    @property
    def name(self) -> str: ...

    @property
    def artifact(self) -> Artifact: ...


S = TypeVar("S", bound=Sized)


def grouped(
    packages: Iterable[S], *, heavy: int, heavy_limit: int, buckets: Sequence[tuple[int, int]], titles: tuple[str, str]
) -> Iterator[tuple[str, tuple[S, ...]]]:
    """
    Packages in groups with a title each: heavy ones alone and by name, then the buckets.

    Args:
        heavy: Bytes from which a package has a group of its own.
        heavy_limit: If more are heavy, they share as many buckets.
        buckets: Of the others: from so many bytes, in so many buckets, from the largest down.
        titles: What buckets are called: of heavy packages, and of those of so many bytes.
    """
    ordered = sorted(packages, key=lambda each: each.name)
    large = [each for each in ordered if each.artifact.size >= heavy]
    if len(large) > heavy_limit:
        yield from _buckets(titles[0], large, heavy_limit)
    else:
        yield from ((each.name, (each,)) for each in large)
    above = heavy
    for least, count in buckets:
        those = [each for each in ordered if least <= each.artifact.size < above]
        yield from _buckets(f"{titles[1]} {least} bytes", those, count)
        above = least


def _buckets(title: str, packages: Iterable[S], count: int) -> Iterator[tuple[str, tuple[S, ...]]]:
    """The buckets that are not empty, in the order of their numbers; in each, packages stay as they were sorted."""
    buckets: dict[int, list[S]] = {}
    for each in packages:
        number = int.from_bytes(hashlib.sha256(each.name.encode()).digest()[:8], "big") % count
        buckets.setdefault(number, []).append(each)
    for number in sorted(buckets):
        yield f"{title}, bucket {number}", tuple(buckets[number])
