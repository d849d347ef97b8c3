"""Which layers the conda packages of an image are, and by what each is known before it exists."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaScheme
from mlenv.core.digest import Digest
from mlenv.core.layer import MTIME, Compression, grouped
from mlenv.core.spec import canonical_json

#: Changes whenever the bytes of a layer could.
CONDA_RECIPE: Final = 2
#: Packages of at least this many bytes have a layer of their own. They are packed tighter than wheels: less is heavy.
CONDA_HEAVY: Final = 1_000_000
#: If more packages than this are heavy, they share as many buckets. NOTE: the wheels on top may be 73 layers, and the
#: environment is one: with 8 buckets of small packages that is 122, and overlay file systems stop at 127.
CONDA_HEAVY_LIMIT: Final = 40
#: The others share buckets, as wheels do: those of at least so many bytes, in so many buckets.
CONDA_BUCKETS: Final = ((100_000, 4), (0, 4))


class CondaRecipe(Struct, frozen=True):
    """Everything but the packages that decides a layer's bytes: what they are laid out for, and the compression."""

    scheme: CondaScheme
    compression: Compression = Compression.ZSTD


class CondaLayerPlan(Struct, frozen=True):
    """One layer to be: its packages, sorted by name."""

    title: str
    packages: tuple[CondaPackage, ...]

    def key(self, recipe: CondaRecipe) -> Digest:
        """
        By what the finished layer is remembered. The locked Python is in it only where packages are laid out for it.

        The record in `conda-meta/` repeats what the channel says, which may be more than the package itself does.
        """
        scheme = recipe.scheme
        for_python = any(each.noarch == "python" for each in self.packages)
        content = {
            "conda": CONDA_RECIPE,
            "mtime": MTIME,
            "compression": recipe.compression.value,
            "prefix": scheme.prefix,
            "python": [scheme.python, scheme.site_packages] if for_python else None,
            "packages": [_identity(each) for each in self.packages],
        }
        return Digest.of(canonical_json(content).encode())

    @property
    def size(self) -> int:
        """Of the packages, in bytes."""
        return sum(each.artifact.size for each in self.packages)


def _identity(package: CondaPackage) -> list[object]:
    return [
        package.stem,
        package.build_number,
        package.artifact.filename,
        package.artifact.digest.hex,
        package.artifact.size,
        package.artifact.url,
        package.channel,
        package.subdir,
        package.md5,
        list(package.depends),
        list(package.constrains),
        package.noarch,
        package.timestamp,
        package.license,
        package.site_packages,
    ]


def plan_conda_layers(packages: Iterable[CondaPackage]) -> tuple[CondaLayerPlan, ...]:
    """
    Group packages into layers, from the lowest to the highest: heavy ones alone and by name, then the buckets.

    Only names and the sizes in the lock decide, so two environments agree on every layer whose packages they share.
    """
    groups = grouped(
        packages,
        heavy=CONDA_HEAVY,
        heavy_limit=CONDA_HEAVY_LIMIT,
        buckets=CONDA_BUCKETS,
        titles=("heavy conda packages", "conda packages of at least"),
    )
    return tuple(CondaLayerPlan(title, those) for title, those in groups)
