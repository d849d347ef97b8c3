"""What is known of a base image after reading, never running, it."""

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.platform import Glibc, Platform


class Interpreter(Struct, frozen=True):
    """
    A Python in an image.

    Attributes:
        path: Where it is, absolute inside the image: `/usr/bin/python3.11`.
        version: Its full version: `3.11.2`.
        prefix: Its `sys.base_prefix`: `/usr`.
        conda: Whether it belongs to a conda prefix.
    """

    path: str
    version: str
    prefix: str
    conda: bool = False

    @property
    def minor(self) -> str:
        """`3.11`."""
        return ".".join(self.version.split(".")[:2])


class BaseFacts(Struct, frozen=True):
    """
    What a base image offers, read from its layers.

    Attributes:
        digest: The image manifest's digest, for one platform.
        platform: What it runs on.
        os_id: `ID` of `/etc/os-release`: `debian`; None where there is none.
        os_version: `VERSION_ID`, or `VERSION_CODENAME` where that is missing: `12`.
        os_name: `PRETTY_NAME`.
        glibc: The level of its C library; None if it has none (musl, or scratch).
        pythons: Interpreters, the one on `PATH` first.
        cuda: The CUDA toolkit or runtime it carries: `12.4`.
        cudnn: The cuDNN it carries.
        conda_prefixes: Directories that are conda prefixes.
        layers: How many layers it has.
        size: Compressed bytes of its layers.
        packages: How many operating system packages it records (dpkg, apk or rpm); None if it records none.
    """

    digest: Digest
    platform: Platform
    os_id: str | None = None
    os_version: str | None = None
    os_name: str | None = None
    glibc: Glibc | None = None
    pythons: tuple[Interpreter, ...] = ()
    cuda: str | None = None
    cudnn: str | None = None
    conda_prefixes: tuple[str, ...] = ()
    layers: int = 0
    size: int = 0
    packages: int | None = None
