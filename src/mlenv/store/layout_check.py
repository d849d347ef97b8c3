"""Is an OCI image layout whole: every blob what it is called, every name followed to its last layer."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from mlenv.core.digest import ALGORITHMS, Digest, DigestMismatch, InvalidDigest
from mlenv.core.image import INDEX_TYPE, Descriptor
from mlenv.core.progress import Progress, Silent
from mlenv.errors import InvalidInput
from mlenv.store.oci import REF_NAME, OciLayout
from mlenv.threads import in_threads

_CHUNK: Final = 1 << 20


class Problem(Struct, frozen=True):
    """
    Something wrong in a store.

    Attributes:
        kind: `corrupt`, `stray`, `missing`, `unreadable` or `unfinished`.
        what: One line for people.
        path: The file, or None.
        digest: The blob it is about, or None.
        harmless: Nothing that has a name is affected: a leftover that may be removed.
    """

    kind: str
    what: str
    path: Path | None = None
    digest: Digest | None = None
    harmless: bool = False


def check_layout(layout: OciLayout, progress: Progress | None = None) -> list[Problem]:
    """Hash every blob again, follow every name to its last layer, and look for leftovers. Changes nothing."""
    problems = _check_blobs(layout, progress or Silent())
    try:
        entries = layout.entries()
    except InvalidInput as error:
        return [*problems, Problem("unreadable", str(error), layout.root / "index.json")]
    seen: set[Digest] = set()
    for entry in entries:
        label = entry.annotations.get(REF_NAME, str(entry.digest))
        problems += _check_reachable(layout, entry, label, seen)
    for path in layout.sessions.leftovers():
        problems.append(Problem("unfinished", f"{path} was left by a process that died", path, harmless=True))
    return problems


def _check_blobs(layout: OciLayout, progress: Progress) -> list[Problem]:
    directories = [layout.root / "blobs" / algorithm for algorithm in ALGORITHMS]
    paths = [path for each in directories if each.is_dir() for path in sorted(each.iterdir())]
    total = sum(path.stat().st_size for path in paths)
    with progress.step("Verifying blobs", total=total, unit="bytes") as step:

        def check(path: Path) -> Problem | None:
            try:
                digest = Digest.parse(f"{path.parent.name}:{path.name}")
            except InvalidDigest:
                return Problem("stray", f"{path} is not named as a blob", path, harmless=True)
            got = hashlib.new(digest.algorithm)
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    got.update(chunk)
                    step.advance(len(chunk))
            if got.hexdigest() != digest.hex:
                return Problem("corrupt", f"{path} holds {digest.algorithm}:{got.hexdigest()}", path, digest)
            return None

        problems = [each for each in in_threads(check, paths, workers=min(8, os.cpu_count() or 1)) if each]
        step.note(f"{len(paths)} blobs, {len(problems)} problems")
    return problems


def _check_reachable(layout: OciLayout, descriptor: Descriptor, label: str, seen: set[Digest]) -> list[Problem]:
    """Follow an entry to its blobs. An index can't be a part of itself, but one blob may be reached many times."""
    if descriptor.digest in seen:
        return []
    seen.add(descriptor.digest)
    path = layout.place(descriptor.digest)
    if not path.exists():
        return [Problem("missing", f"{label}: {descriptor.digest} is not there", path, descriptor.digest)]
    if (size := path.stat().st_size) != descriptor.size:
        what = f"{label}: {descriptor.digest} has {size} bytes, expected {descriptor.size}"
        return [Problem("corrupt", what, path, descriptor.digest)]
    if descriptor.media_type != INDEX_TYPE and "manifest" not in descriptor.media_type:
        return []
    try:
        document = json.loads(layout.read(descriptor.digest))
        children = [Descriptor.from_dict(each) for each in _children(document)]
    except DigestMismatch:
        return []  # The pass over all blobs has told of it.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
        return [Problem("unreadable", f"{label}: {descriptor.digest}: {error!r}", path, descriptor.digest)]
    return [problem for each in children for problem in _check_reachable(layout, each, label, seen)]


def _children(document: Mapping[str, Any]) -> list[Any]:
    """The descriptors in an index or a manifest."""
    if "manifests" in document:
        return list(document["manifests"])
    return [document["config"], *document["layers"]]
