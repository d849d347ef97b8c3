"""Headers and XML of the blob dialect (Azure Storage, "Blob service REST API")."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from email.utils import format_datetime
from typing import Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct

from mlenv.core.files import StoredFile
from mlenv.errors import InvalidInput

#: What the longest list of blocks measures, in bytes: 50,000 of them.
BLOCK_LIST_LIMIT: Final = 8 << 20
_META: Final = "x-ms-meta-"
_RANGE: Final = re.compile(r"bytes=(?P<first>\d{1,18})-(?P<last>\d{1,18})?")
_METADATA_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class NotOfThisDialect(InvalidInput):
    """A request that the blob service has and this server does not, or that makes no sense."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


class BadMetadata(InvalidInput):
    """The name or value of metadata that can't be kept."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"metadata {name[:100]!r}: expected a name of letters, digits and `_`, and a value of plain text"
        )


class NoSuchRange(InvalidInput):
    """A range that is no range, or lies beyond a file's end."""

    status = 416

    def __init__(self, text: str, size: int) -> None:
        super().__init__(f"range {text[:100]!r}: the file has {size} bytes")


class Part(Struct, frozen=True):
    """Which bytes of a file are wanted: from `first` to `last`, both counted."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many there are."""
        return self.last - self.first + 1


def metadata_in(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The metadata in a request's headers. Raises `BadMetadata`."""
    found = {}
    for name, value in headers:
        if not name.lower().startswith(_META):
            continue
        short = name[len(_META) :].lower()
        if not _METADATA_NAME.fullmatch(short) or not all(each.isprintable() for each in value):
            raise BadMetadata(short)
        found[short] = value
    return found


def headers_of(file: StoredFile) -> dict[str, str]:
    """What is said of a file in headers."""
    return {
        "ETag": file.etag,
        "Last-Modified": format_datetime(file.modified_at, usegmt=True),
        "x-ms-creation-time": format_datetime(file.created_at, usegmt=True),
        "x-ms-blob-type": "BlockBlob",
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "false",
        "Accept-Ranges": "bytes",
        **{f"{_META}{name}": value for name, value in file.metadata.items()},
    }


def part_of(headers: Mapping[str, str], size: int) -> Part | None:
    """The range that is asked for (`x-ms-range` before `Range`); None for all. Raises `NoSuchRange`."""
    text = headers.get("x-ms-range") or headers.get("range")
    if not text:
        return None
    match = _RANGE.fullmatch(text.strip())
    if match is None or int(match["first"]) >= size:
        raise NoSuchRange(text, size)
    last = min(int(match["last"]), size - 1) if match["last"] else size - 1
    if last < int(match["first"]):
        raise NoSuchRange(text, size)
    return Part(int(match["first"]), last)


def read_block_list(data: bytes) -> list[str]:
    """The blocks that a file is to be made of ("Put Block List"). Raises `NotOfThisDialect`."""
    try:
        if b"<!" in data:
            raise NotOfThisDialect("a list of blocks has no declarations")
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise NotOfThisDialect(f"not a list of blocks: {error}") from error
    if root.tag != "BlockList" or any(each.tag not in {"Latest", "Uncommitted", "Committed"} for each in root):
        raise NotOfThisDialect("not a list of blocks: expected BlockList with Latest, Uncommitted and Committed")
    return [check_block_id((each.text or "").strip()) for each in root]


def check_block_id(text: str) -> str:
    """Refuse what is no block's id: base64 of at most 64 bytes. Raises `NotOfThisDialect`."""
    try:
        size = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not 0 < size <= 64:
        raise NotOfThisDialect(f"blockid: {text[:100]!r} is not base64 of 1 to 64 bytes")
    return text


def list_document(
    container: str, files: Sequence[StoredFile | str], *, prefix: str, marker: str, next_marker: str, metadata: bool
) -> str:
    """A page of a container's files; texts among them are directories ("List Blobs")."""
    entries = "".join(
        f"<BlobPrefix><Name>{_text(each)}</Name></BlobPrefix>" if isinstance(each, str) else _blob(each, metadata)
        for each in files
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName={quoteattr(_plain(container))}>'
        f"<Prefix>{_text(prefix)}</Prefix><Marker>{_text(marker)}</Marker>"
        f"<Blobs>{entries}</Blobs><NextMarker>{_text(next_marker)}</NextMarker></EnumerationResults>"
    )


def _blob(file: StoredFile, metadata: bool) -> str:
    properties = (
        f"<Creation-Time>{format_datetime(file.created_at, usegmt=True)}</Creation-Time>"
        f"<Last-Modified>{format_datetime(file.modified_at, usegmt=True)}</Last-Modified>"
        f"<Etag>{file.etag.strip(chr(34))}</Etag><Content-Length>{file.size}</Content-Length>"
        "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType>"
        "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
    )
    texts = "".join(f"<{name}>{_text(value)}</{name}>" for name, value in file.metadata.items()) if metadata else ""
    more = f"<Metadata>{texts}</Metadata>" if metadata else ""
    return f"<Blob><Name>{_text(file.path)}</Name><Properties>{properties}</Properties>{more}</Blob>"


def _plain(text: str) -> str:
    """Without what no XML can have."""
    return "".join(each for each in text if each.isprintable())


def _text(text: str) -> str:
    return escape(_plain(text))
