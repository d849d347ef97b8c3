"""
Removes blobs that nothing names, while other processes read, write and use blobs.

Who is about to use a blob that is there marks it as used (`OciLayout.has`), which is seen here: a blob is taken aside by
a rename, looked at once more, and put back if it was marked meanwhile. After the rename nobody finds it any more, so
whoever comes later brings it anew.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlenv.core.collecting import DOCUMENT_LIMIT, may_name
from mlenv.core.digest import ALGORITHMS, Digest, InvalidDigest
from mlenv.store.oci import OciLayout

_BEGINNING = 1024


class Sweep:
    """A `service.collecting.Bytes` over a layout."""

    def __init__(self, layout: OciLayout) -> None:
        self._layout = layout
        self._aside = layout.root / "aside"

    def recover(self) -> None:
        """Put back what a sweep that died had taken aside."""
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._aside):
                algorithm, _, rest = entry.name.partition("-")
                with suppress(InvalidDigest):
                    self._restore(Path(entry.path), Digest.parse(f"{algorithm}:{rest}"))

    def blobs(self) -> Iterator[tuple[Digest, int, float]]:
        """Every blob: its size in bytes, and when it came or was last used (seconds since the epoch)."""
        for algorithm in ALGORITHMS:
            with suppress(FileNotFoundError):
                for entry in os.scandir(self._layout.root / "blobs" / algorithm):
                    with suppress(InvalidDigest, FileNotFoundError):
                        found = entry.stat()
                        yield Digest.parse(f"{algorithm}:{entry.name}"), found.st_size, found.st_mtime

    def names(self) -> Iterator[Digest]:
        """What the layout's own index names."""
        return (each.digest for each in self._layout.entries())

    def document(self, digest: Digest) -> bytes | None:
        """A blob that may name others; None if it can't, or is not there."""
        with suppress(FileNotFoundError), self._layout.place(digest).open("rb") as file:
            beginning = file.read(_BEGINNING)
            if may_name(beginning) and os.fstat(file.fileno()).st_size <= DOCUMENT_LIMIT:
                return beginning + file.read()
        return None

    def used(self, digest: Digest) -> float | None:
        """When a blob came or was last used; None if it is not there."""
        with suppress(FileNotFoundError):
            return self._layout.place(digest).stat().st_mtime
        return None

    def remove(self, digest: Digest, *, before: float) -> int | None:
        """Remove a blob that was last used before a time. Returns its size in bytes; None if it is used after all."""
        used = self.used(digest)
        if used is None or used >= before:
            return None
        aside = self._aside / f"{digest.algorithm}-{digest.hex}"
        try:
            self._aside.mkdir(mode=0o700, exist_ok=True)
            os.replace(self._layout.place(digest), aside)
        except FileNotFoundError:
            return None
        found = aside.stat()
        if found.st_mtime >= before:
            self._restore(aside, digest)
            return None
        aside.chmod(0o600)
        aside.unlink()
        return found.st_size

    def _restore(self, aside: Path, digest: Digest) -> None:
        """Put a blob back, unless it was brought anew meanwhile."""
        with suppress(FileExistsError):
            os.link(aside, self._layout.place(digest))
        aside.unlink(missing_ok=True)
