"""What an environment is locked for: an operating system, an architecture, and on Linux a glibc level."""

import re
from typing import Final, Self

from msgspec import Struct

from mlenv.errors import InvalidInput

#: Spellings that people use, and the OCI word for each (image-spec, image-index.md, `platform`).
_OS: Final = {
    "linux": "linux",
    "darwin": "darwin",
    "macos": "darwin",
    "osx": "darwin",
    "windows": "windows",
    "win": "windows",
}
_ARCH: Final = {
    "amd64": "amd64", "x86_64": "amd64", "x64": "amd64", "64": "amd64",
    "arm64": "arm64", "aarch64": "arm64",
}  # fmt: skip
_MACHINE: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_TEXT = re.compile(r"([a-z]+)[/-]([a-z0-9_]+)")


class InvalidPlatform(InvalidInput):
    """Text that should name a platform, and does not."""

    hint = "write it as `linux/amd64`, `linux/arm64`, `darwin/arm64`, `darwin/amd64` or `windows/amd64`"

    def __init__(self, text: str) -> None:
        super().__init__(f"not a platform: {text!r}")
        self.text = text


class Platform(Struct, frozen=True, order=True):
    """An operating system and an architecture, in OCI's words: `linux/amd64`."""

    os: str
    architecture: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `linux/amd64`, or the spellings `linux-64`, `linux/x86_64`, `macos/aarch64`. Raises `InvalidPlatform`."""
        match = _TEXT.fullmatch(text.strip().lower())
        if not match or match[1] not in _OS or match[2] not in _ARCH:
            raise InvalidPlatform(text)
        return cls(_OS[match[1]], _ARCH[match[2]])

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    @property
    def machine(self) -> str:
        """The architecture as `uname -m` says it on Linux: `x86_64` or `aarch64`."""
        return _MACHINE[self.architecture]


class Glibc(Struct, frozen=True, order=True):
    """A level of the GNU C library, such as 2.28, which a `manylinux_2_28` wheel needs (PEP 600)."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `2.36`. Raises `InvalidInput`."""
        match = re.fullmatch(r"(\d+)\.(\d+)", text)
        if not match:
            raise InvalidInput(f"not a glibc version: {text!r}, expected something like 2.28")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


#: What a Linux lock assumes of a base that is not at hand.
GLIBC_FLOOR: Final = Glibc(2, 28)


class Target(Struct, frozen=True):
    """
    What a resolver resolves for.

    Attributes:
        platform: Operating system and architecture.
        python: CPython's full version: `3.11.2`.
        glibc: The newest glibc a wheel may need; None except on Linux.
    """

    platform: Platform
    python: str
    glibc: Glibc | None = None

    @property
    def python_minor(self) -> str:
        """`3.11`, whatever the patch release."""
        return ".".join(self.python.split(".")[:2])
