"""Which Debian packages an image has, as dpkg in it has recorded (deb-control(5), dpkg's status file)."""

import json
import re
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from mlenv.build.facts import FactLimits
from mlenv.build.facts_tree import Interest, Tree, list_layer
from mlenv.build.interface import Blobs
from mlenv.core.image import Image

_STATUS: Final = "var/lib/dpkg/status"
_LIMIT: Final = 64 << 20
_FORMAT: Final = "dev.mlenv.debian-packages.v1"
_KEPT: Final = (b"Package", b"Status", b"Version", b"Architecture", b"Source")
_INTEREST: Final = Interest(
    re.compile(re.escape(_STATUS)),
    _LIMIT,
    lambda data: b"\n".join(re.findall(rb"^(?:(?:%s): .*|)$" % b"|".join(_KEPT), data, re.MULTILINE)),
)


class DebianPackage(Struct, frozen=True, order=True):
    """An installed package; `source` is what it was built from, where that is called otherwise."""

    name: str
    architecture: str
    version: str
    source: str | None = None


def debian_packages(image: Image, blobs: Blobs) -> list[DebianPackage]:
    """
    The installed packages, sorted; none in an image that is not Debian's.

    Raises:
        NotFound: A layer is not in the store.
        InvalidArchive: A layer is damaged, or exceeds a limit.
    """
    tree, limits = Tree(), FactLimits()
    for layer, _ in image.layers:
        what = f"layer {layer.digest}"
        tree.apply(
            list_layer(blobs.path(layer.digest), (_INTEREST,), what=what, limit=limits.unpacked, members=limits.members)
        )
    found = []
    for paragraph in (tree.fact(f"/{_STATUS}") or b"").split(b"\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.decode("utf-8", "replace").splitlines() if ": " in line)
        if fields.get("Status", "").endswith(" installed") and {"Package", "Version", "Architecture"} <= fields.keys():
            found.append(
                DebianPackage(fields["Package"], fields["Architecture"], fields["Version"], fields.get("Source"))
            )
    return sorted(found, key=lambda each: (each.name, each.architecture, each.version))


def packages_document(packages: list[DebianPackage]) -> bytes:
    """The list as JSON: the same packages give the same bytes."""
    rows = [{key: value for key, value in asdict(each).items() if value is not None} for each in packages]
    return json.dumps({"format": _FORMAT, "packages": rows}, sort_keys=True, separators=(",", ":")).encode()
