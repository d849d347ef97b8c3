"""Content digests: the `sha256:…` names that OCI gives to bytes (image-spec, descriptor.md, "Digests")."""

import hashlib
import re
from typing import Final, Self

from msgspec import Struct

from mlenv.errors import InvalidInput

SHA256: Final = "sha256"
SHA512: Final = "sha512"
#: The algorithms that are known (image-spec, descriptor.md, "Registered algorithms").
ALGORITHMS: Final = (SHA256, SHA512)

_DIGEST: Final = re.compile(r"(?:(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128}))")


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


class Digest(Struct, frozen=True, order=True):
    """
    The name of some bytes, by their content.

    Attributes:
        algorithm: `sha256`, which everything of mlenv's own has, or `sha512`, which other tools may push.
    """

    hex: str
    algorithm: str = SHA256

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<hex>` or `sha512:<hex>`. Raises `InvalidDigest` for anything else."""
        if not (match := _DIGEST.fullmatch(text)):
            raise InvalidDigest(text)
        return cls(match[2]) if match[1] else cls(match[4], SHA512)

    @classmethod
    def of(cls, data: bytes, algorithm: str = SHA256) -> Self:
        """The digest of bytes that are at hand."""
        return cls(hashlib.new(algorithm, data).hexdigest(), algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
