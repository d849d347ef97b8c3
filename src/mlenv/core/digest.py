"""Content digests: the `sha256:…` names that OCI gives to bytes (image-spec, descriptor.md, "Digests")."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from mlenv.errors import InvalidInput

_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")


class InvalidDigest(InvalidInput):
    """Text that should name some bytes, and does not."""

    hint = "write it as `sha256:` and 64 lowercase hex digits"

    def __init__(self, text: str) -> None:
        super().__init__(f"not a digest: {text!r}")
        self.text = text


class DigestMismatch(InvalidInput):
    """Bytes that are not the ones that were promised."""

    def __init__(self, what: str, *, expected: str, got: str) -> None:
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.what, self.expected, self.got = what, expected, got


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The sha256 name of some bytes."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<hex>`. Raises `InvalidDigest` for anything else."""
        if not (match := _SHA256.fullmatch(text)):
            raise InvalidDigest(text)
        return cls(match[1])

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of bytes that are at hand."""
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
