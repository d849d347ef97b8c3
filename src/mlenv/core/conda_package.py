"""One conda package in a lock, to exact bytes."""

import re
from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from mlenv.core.lock import Artifact
from mlenv.core.match_spec import SUBDIRS
from mlenv.core.platform import Platform
from mlenv.core.redact import has_credentials, redact
from mlenv.errors import InvalidInput

#: What packages that fit every platform say of themselves (conda's `index.json`, `noarch`).
NoArch = Literal["python", "generic"]
#: The directory of a channel for packages that fit every platform.
NOARCH: Final = "noarch"
#: What a package's file ends in: the newer kind first.
ENDINGS: Final = (".conda", ".tar.bz2")

# NOTE: these three, with a hyphen between, are the name of a file, which is taken apart at the last two hyphens.
_NAME: Final = re.compile(r"(?!\.\.?$)[a-z0-9_.][a-z0-9_.-]*")
_VERSION: Final = re.compile(r"[A-Za-z0-9._+!]+")
_BUILD: Final = re.compile(r"[A-Za-z0-9._+]+")
_ADDRESS: Final = re.compile(r"(?:https?://[^\s/#\"<>\\\x00-\x1f\x7f]|file:///)[^\s#\"<>\\\x00-\x1f\x7f]*")
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,4000}")
_PATH: Final = re.compile(r"(?!\.\.?(?:/|$))[\w.+-]+(?:/(?!\.\.?(?:/|$))[\w.+-]+)*", re.ASCII)
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_LONGEST: Final = 255


class InvalidCondaPackage(InvalidInput):
    """What a channel or a lock says of a conda package is not what packages are like."""

    hint = "it is what the channel, or whoever wrote the lock, says: ask there"

    def __init__(self, name: str, key: str, value: object) -> None:
        super().__init__(f"a conda package {redact(name)[:100]!r} with {key} = {redact(repr(value))[:200]}")
        self.name, self.key = name, key


class CondaPackage(Struct, frozen=True):
    """
    One conda package at one build. The fields are those of a channel's `repodata.json` (CEP 36), but for `requested`.

    Raises `InvalidCondaPackage` for values that no package has: they come from channels and other people's locks.

    Attributes:
        name: In lower case.
        version: As conda writes it.
        build: The build string, `py311h8a3a540_0`.
        build_number: Of that build.
        subdir: The channel's directory: `linux-64`, `linux-aarch64` or `noarch`.
        channel: The channel's URL, without credentials and subdirectory, without a slash at its end.
        artifact: The `.conda` or `.tar.bz2` file, which is called like the package; its URL is always given.
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

    def __post_init__(self) -> None:
        for key, pattern in (("name", _NAME), ("version", _VERSION), ("build", _BUILD)):
            self._check(key, bool(pattern.fullmatch(getattr(self, key))))
        self._check("name", len(self.artifact.filename) <= _LONGEST)
        self._check("build_number", self.build_number >= 0)
        self._check("subdir", self.subdir in SUBDIRS)
        self._check("channel", _is_address(self.channel) and not self.channel.endswith("/"))
        if self.artifact.filename not in {f"{self.stem}{ending}" for ending in ENDINGS}:
            raise InvalidCondaPackage(self.name, "a file called", self.artifact.filename)
        if self.artifact.url is None or not _is_address(self.artifact.url):
            raise InvalidCondaPackage(self.name, "url", self.artifact.url)
        self._check("md5", self.md5 is None or bool(_MD5.fullmatch(self.md5)))
        self._check("noarch", self.noarch in (None, "python", "generic"))
        self._check("timestamp", self.timestamp is None or self.timestamp >= 0)
        self._check("site_packages", self.site_packages is None or bool(_PATH.fullmatch(self.site_packages)))
        for key in ("depends", "constrains"):
            self._check(key, all(map(_LINE.fullmatch, getattr(self, key))))
        for key in ("license", "requested"):
            value = getattr(self, key)
            self._check(key, value is None or (bool(_LINE.fullmatch(value)) and not has_credentials(value)))

    def _check(self, key: str, good: bool) -> None:
        if not good:
            raise InvalidCondaPackage(self.name, key, getattr(self, key))

    @property
    def stem(self) -> str:
        """What its file and its record in `conda-meta/` are called, without the ending."""
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def url(self) -> str:
        """Where its file is."""
        assert self.artifact.url is not None
        return self.artifact.url


def channels_of(packages: Iterable[CondaPackage]) -> tuple[str, ...]:
    """The channels that something comes from."""
    return tuple(dict.fromkeys(each.channel for each in packages))


def subdir_of(platform: Platform) -> str:
    """The directory of a channel for a platform's packages: `linux-64`, `linux-aarch64`."""
    system = {"linux": "linux", "darwin": "osx", "windows": "win"}[platform.os]
    arm = "aarch64" if platform.os == "linux" else "arm64"
    return f"{system}-{'64' if platform.architecture == 'amd64' else arm}"


def _is_address(url: str) -> bool:
    return bool(_ADDRESS.fullmatch(url)) and not has_credentials(url)
