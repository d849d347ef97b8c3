"""Which Python packages an image has installed, as read from its layers; and such an image's lock with them in it."""

import json
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.digest import Digest, InvalidDigest
from mlenv.core.lock import Artifact, InvalidLock, Lock, LockedPackage
from mlenv.errors import InvalidInput

#: The annotation of a manifest that has it (image-spec, annotations.md).
ANNOTATION: Final = "dev.mlenv.installed"


class InstalledPackage(Struct, frozen=True):
    """
    One distribution in an image.

    Attributes:
        name: Normalised (PEP 503).
        version: As its metadata says it.
        path: The directory it is imported from, absolute: `/usr/lib/python3/dist-packages`.
        record: What its `RECORD` hashes to, which stands for its files; None if it has none.
        size: Bytes of its files, by its `RECORD`.
    """

    name: str
    version: str
    path: str
    record: Digest | None = None
    size: int = 0


class Installed(Struct, frozen=True):
    """
    What an image has installed.

    Attributes:
        python: The full version of the Python on `PATH`, or None if there is none.
        packages: What that Python imports from first, sorted by name; of one that is there twice, the first.
    """

    python: str | None
    packages: tuple[InstalledPackage, ...]

    def to_json(self) -> str:
        """As it stands in an annotation."""
        rows = [
            [each.name, each.version, each.path, each.record.hex if each.record else None, each.size]
            for each in self.packages
        ]
        return json.dumps({"python": self.python, "packages": rows}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Installed":
        """What `to_json` gave. Raises `InvalidInput` for anything else."""
        try:
            document: dict[str, Any] = json.loads(text)
            packages = tuple(
                InstalledPackage(
                    str(name), str(version), str(path), Digest.parse(f"sha256:{record}") if record else None, int(size)
                )
                for name, version, path, record, size in document["packages"]
            )
            python = document["python"]
            return cls(None if python is None else str(python), packages)
        except (ValueError, TypeError, KeyError, AttributeError, InvalidDigest) as error:
            raise InvalidInput(f"an image's {ANNOTATION} is not what mlenv writes: {error!r}") from error


def with_installed(lock: Lock, installed: Installed) -> Lock:
    """
    The lock of a Dockerfile context, with what its image has installed in the place of packages.

    To be compared and shown, never stored: an artifact's digest is that of its `RECORD`, and it has no address.
    """
    packages = []
    for each in installed.packages:
        name = f"{each.name}-{each.version}.dist-info"
        digest = each.record or Digest.of(name.encode())
        try:
            packages.append(LockedPackage(each.name, each.version, Artifact(name, each.size, digest, None)))
        except InvalidLock:
            continue
    return replace(lock, target=replace(lock.target, python=installed.python or ""), packages=tuple(packages))
