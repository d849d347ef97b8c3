"""What names what: values of the collection of blobs that nothing names."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from mlenv.core.digest import Digest, InvalidDigest

#: The largest document that is looked through, in bytes. None of ours is larger.
DOCUMENT_LIMIT: Final = 64 << 20
#: What a lock has in its first lines (PEP 751, "lock-version").
_LOCK: Final = b"lock-version"
_HEX: Final = re.compile(rb"\b[0-9a-f]{64}\b")


class Link(Struct, frozen=True):
    """A blob that a repository has, by when it came."""

    workspace: str
    repository: str
    digest: Digest
    created_at: datetime


class Named(Struct, frozen=True):
    """
    What rows name, in one state of the database.

    Attributes:
        digests: Everything in a row that looks like the digest of something to keep.
        layers: Finished layers that are remembered, and could be made again: the blob of each by its key.
        links: Blobs of repositories. They are there to be named by a manifest, and name nothing to keep themselves.
    """

    digests: frozenset[Digest]
    layers: Mapping[Digest, Digest]
    links: tuple[Link, ...]


class Collected(Struct, frozen=True):
    """
    What came of a collection; sizes are in bytes.

    Attributes:
        freed, blobs: Of blobs that nothing named.
        uploads: Of uploads that nobody went on with.
        layers, links: How many remembered layers, and blobs of repositories, were forgotten.
        kept, kept_blobs: Of blobs that are named.
        young, young_blobs: Of blobs that nothing names, which came or were used too short a time ago.
    """

    freed: int
    blobs: int
    uploads: int
    layers: int
    links: int
    kept: int
    kept_blobs: int
    young: int
    young_blobs: int


def may_name(beginning: bytes) -> bool:
    """Whether a blob that begins so may be a manifest, an index or a lock."""
    return beginning[:1] == b"{" or _LOCK in beginning


def named_in(data: bytes) -> Iterator[Digest]:
    """What a manifest, an index (image-spec) or a lock names. What a manifest is about, its subject, it does not keep."""
    if data[:1] != b"{":
        yield from (Digest(each.decode()) for each in _HEX.findall(data))
        return
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    descriptors = [document.get("config")]
    for name in ("layers", "manifests", "blobs"):
        found = document.get(name)
        descriptors += found if isinstance(found, list) else []
    for each in descriptors:
        if isinstance(each, dict) and (digest := _digest(each)) is not None:
            yield digest


def _digest(descriptor: Mapping[str, Any]) -> Digest | None:
    text = descriptor.get("digest")
    try:
        return Digest.parse(text) if isinstance(text, str) else None
    except InvalidDigest:
        return None
