"""What a base image offers, read from its layers and never run: see `core.facts.BaseFacts`."""

import os
import re
from typing import Final

from msgspec import Struct

from mlenv.build.facts_python import PYTHON_INTERESTS, conda_prefixes, find_pythons
from mlenv.build.facts_system import SYSTEM_INTERESTS, find_cuda, find_cudnn, find_glibc, os_release
from mlenv.build.facts_tree import Listing, Tree, list_layer
from mlenv.build.interface import Blobs
from mlenv.build.validate import environment_of, image_platform
from mlenv.core.digest import Digest
from mlenv.core.facts import BaseFacts
from mlenv.core.image import Descriptor, Image
from mlenv.core.progress import Progress, Silent
from mlenv.threads import in_threads

_INTERESTS: Final = (*SYSTEM_INTERESTS, *PYTHON_INTERESTS)


class FactLimits(Struct, frozen=True):
    """The most that is read: unpacked bytes of a layer, and entries in it."""

    unpacked: int = 128 << 30
    members: int = 3_000_000


def read_facts(
    image: Image, blobs: Blobs, *, progress: Progress | None = None, limits: FactLimits | None = None
) -> BaseFacts:
    """
    Read a base image, whose blobs are stored.

    Raises:
        NotFound: A layer is not there.
        InvalidArchive: A layer is damaged, or exceeds a limit.
        InvalidImage: It is for a platform that mlenv does not know.
    """
    platform = image_platform(image.config, str(image.manifest.digest))
    tree = _read_tree(image, blobs, progress or Silent(), limits or FactLimits())
    variables = environment_of(image.config)
    release = os_release(tree)
    prefixes = conda_prefixes(tree)
    return BaseFacts(
        digest=image.manifest.digest,
        platform=platform,
        os_id=release.get("ID"),
        os_version=release.get("VERSION_ID") or release.get("VERSION_CODENAME"),
        os_name=release.get("PRETTY_NAME"),
        glibc=find_glibc(tree),
        pythons=find_pythons(tree, variables, prefixes),
        cuda=find_cuda(tree, variables),
        cudnn=find_cudnn(tree, variables),
        conda_prefixes=tuple(prefixes),
        layers=len(image.layers),
        size=sum(layer.size for layer, _ in image.layers),
        packages=_count_packages(tree),
    )


def _read_tree(image: Image, blobs: Blobs, progress: Progress, limits: FactLimits) -> Tree:
    total = sum(layer.size for layer, _ in image.layers)
    with progress.step("Reading the base image", total=total, unit="bytes") as step:

        def read(pair: tuple[Descriptor, Digest]) -> Listing:
            layer, _ = pair
            path, what = blobs.path(layer.digest), f"layer {layer.digest}"
            listing = list_layer(path, _INTERESTS, what=what, limit=limits.unpacked, members=limits.members)
            step.advance(layer.size)
            return listing

        tree = Tree()
        # Decompressing leaves the interpreter free; layers are put together in their order.
        for listing in in_threads(read, image.layers, workers=min(4, os.cpu_count() or 1)):
            tree.apply(listing)
    return tree


def _count_packages(tree: Tree) -> int | None:
    """Packages that dpkg, distroless' split form of it, or apk records as installed."""
    if status := tree.fact("/var/lib/dpkg/status"):
        return len(re.findall(rb"^Status: \S+ \S+ installed\s*$", status, re.MULTILINE))
    if split := [each for each in tree.names("/var/lib/dpkg/status.d") if not each.endswith(".md5sums")]:
        return len(split)
    installed = tree.fact("/lib/apk/db/installed")
    return len(re.findall(rb"^P:", installed, re.MULTILINE)) if installed else None
