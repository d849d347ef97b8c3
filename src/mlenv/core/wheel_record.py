"""RECORD: which files a distribution consists of (PyPA, "Recording installed projects"; PEP 376, PEP 627)."""

import binascii
import csv
import hashlib
import io
import posixpath
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from mlenv.core.wheel_archive import InvalidWheel, Member

#: The hashes that a wheel's RECORD may use (PyPA, "Binary distribution format": sha256 or better).
#: Each with the length of its base64.
_ALGORITHMS: Final = {"sha256": 43, "sha384": 64, "sha512": 86}
_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
#: Signatures of RECORD, which it can't list.
_SIGNATURES: Final = ("RECORD.jws", "RECORD.p7s")


class RecordMismatch(InvalidWheel):
    """A wheel whose RECORD says something else than what is in it."""


class RecordEntry(Struct, frozen=True):
    """
    One line of a wheel's RECORD.

    Attributes:
        algorithm: `sha256`, `sha384` or `sha512`; None if the line has no hash, and nothing can be verified.
        hash: The digest in unpadded urlsafe base64, as RECORD writes it.
        size: In bytes, or None if the line does not say.
    """

    algorithm: str | None
    hash: str
    size: int | None


def encode_digest(digest: bytes) -> str:
    """A digest as RECORD writes it: unpadded urlsafe base64."""
    return binascii.b2a_base64(digest, newline=False).translate(_URLSAFE).rstrip(b"=").decode()


def hash_of(data: bytes) -> str:
    """The sha256 of bytes, as RECORD writes it."""
    return encode_digest(hashlib.sha256(data).digest())


def parse_record(text: str, *, filename: str) -> dict[str, RecordEntry]:
    """Read a RECORD. Paths are brought to the form `a/b`. Raises `RecordMismatch` for what can't be read."""
    entries: dict[str, RecordEntry] = {}
    try:
        for row in csv.reader(io.StringIO(text, newline="")):
            if not row or row[0].endswith("/"):
                continue
            path, hash_text, size_text = (*row, "", "")[:3]
            if "./" in path or "//" in path:
                path = posixpath.normpath(path)
            entry = _entry(hash_text, size_text)
            if entries.setdefault(path, entry) != entry:
                raise RecordMismatch(filename, f"RECORD lists {path!r} twice, and differently")
    except (csv.Error, ValueError) as error:
        raise RecordMismatch(filename, f"RECORD can't be read: {error}") from error
    return entries


def _entry(hash_text: str, size_text: str) -> RecordEntry:
    size = int(size_text) if size_text else None
    if not hash_text:
        return RecordEntry(None, "", size)
    algorithm, _, value = hash_text.partition("=")
    value = value.rstrip("=")
    if (length := _ALGORITHMS.get(algorithm)) is None:
        raise ValueError(f"{algorithm!r} is not a hash that a wheel may use")
    if len(value) != length:
        raise ValueError(f"{value!r} is not a {algorithm} in urlsafe base64")
    return RecordEntry(algorithm, value, size)


def check_record(entries: dict[str, RecordEntry], members: dict[str, Member], *, dist_info: str, filename: str) -> None:
    """
    Compare RECORD with the list of files and their sizes; hashes are compared when content is read.

    Raises:
        RecordMismatch: A file is not listed, a listed file is not there, or a size differs.
    """
    exempt = {f"{dist_info}/{name}" for name in ("RECORD", *_SIGNATURES)}
    for name, member in members.items():
        entry = entries.get(name)
        if entry is None:
            if name not in exempt:
                raise RecordMismatch(filename, f"{name!r} is not in RECORD")
        elif entry.size is not None and entry.size != member.size and name not in exempt:
            raise RecordMismatch(filename, f"{name!r} has {member.size} bytes, RECORD says {entry.size}")
    for path in entries:
        if path not in members and path not in exempt:
            raise RecordMismatch(filename, f"RECORD lists {path!r}, which is not there")


def format_record(rows: Iterable[tuple[str, str, str]]) -> bytes:
    """RECORD text for rows of path, hash and size, sorted by path; a row without hash and size has empty strings."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(sorted(rows))
    return out.getvalue().encode()
