"""One conda package in a lock, to exact bytes."""

from dataclasses import dataclass
from typing import Final, Literal

from mlenv.core.lock import Artifact

#: What packages that fit every platform say of themselves (conda's `index.json`, `noarch`).
NoArch = Literal["python", "generic"]
#: The directory of a channel for packages that fit every platform.
NOARCH: Final = "noarch"


@dataclass(frozen=True, slots=True)
class CondaPackage:
    """
    One conda package at one build. The fields are those of a channel's `repodata.json` (CEP 36), but for `requested`.

    Attributes:
        name: In lower case.
        version: As conda writes it.
        build: The build string, `py311h8a3a540_0`.
        build_number: Of that build.
        subdir: The channel's directory: `linux-64`, `linux-aarch64` or `noarch`.
        channel: The channel's URL, without credentials and subdirectory, without a slash at its end.
        artifact: The `.conda` or `.tar.bz2` file.
        md5: In hex, where the channel gives it: conda-lock and old clients know no other sum.
        depends: What it needs, as match specs, in the channel's order.
        constrains: What it allows beside it, likewise.
        noarch: Whether its files have still to be laid out for a Python.
        timestamp: When it was built, in milliseconds since 1970, where the channel tells.
        license: As the channel gives it.
        site_packages: Where its Python keeps packages, if it is a Python that says so (CEP 17).
        requested: The match spec by which the user asked for it; None for what others need.
    """

    name: str
    version: str
    build: str
    build_number: int
    subdir: str
    channel: str
    artifact: Artifact
    md5: str | None = None
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: NoArch | None = None
    timestamp: int | None = None
    license: str | None = None
    site_packages: str | None = None
    requested: str | None = None

    @property
    def stem(self) -> str:
        """What its file and its record in `conda-meta/` are called, without the ending."""
        return f"{self.name}-{self.version}-{self.build}"
