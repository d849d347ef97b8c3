"""Names of images in registries, as people write them: `HOST/REPOSITORY[:TAG][@DIGEST]`, or Docker Hub's short ones."""

import re
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.image_name import full_name
from mlenv.errors import InvalidInput

#: Docker Hub's name in image names, and where its registry is.
HUB: Final = "docker.io"
_HUB_REGISTRY: Final = "registry-1.docker.io"

#: Distribution-spec, "Pulling manifests": `<name>` and `<reference>`.
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_LONGEST: Final = 255


class InvalidRemoteName(InvalidInput):
    """Text that should name an image in a registry, and does not."""

    hint = "write it as `HOST/REPOSITORY:TAG`, in lower case, or `HOST/REPOSITORY@sha256:…`"

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"not the name of an image in a registry: {text!r}: {why}")
        self.text = text


class RemoteName(Struct, frozen=True):
    """
    A repository of a registry, and perhaps one image in it.

    Attributes:
        host: With its port, if one is given: `127.0.0.1:5000`, `docker.io`.
        repository: `library/debian`.
        tag: None where none is written.
        digest: The manifest that is meant, whatever the tag points at; None where none is written.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `debian`, `debian:12`, `host/a/b:1`, `host:5000/a@sha256:…`. Raises `InvalidRemoteName`, `InvalidDigest`."""
        host, _, rest = full_name(text.strip()).partition("/")
        rest, at, digest = rest.partition("@")
        repository, colon, tag = rest.partition(":")
        # `full_name` fills in `latest`; here it counts what was written.
        written = ":" in text.partition("@")[0].rpartition("/")[2]
        if not _HOST.fullmatch(host):
            raise InvalidRemoteName(text, f"{host!r} is no host")
        if not _REPOSITORY.fullmatch(repository) or len(repository) > _LONGEST:
            raise InvalidRemoteName(text, f"{repository!r} is no repository")
        if colon and not _TAG.fullmatch(tag):
            raise InvalidRemoteName(text, f"{tag!r} is no tag")
        return cls(host.lower(), repository, tag if written else None, Digest.parse(digest) if at else None)

    def with_tag(self, tag: str) -> "RemoteName":
        """The same repository with another tag, and no digest. Raises `InvalidRemoteName`."""
        if not _TAG.fullmatch(tag):
            raise InvalidRemoteName(f"{self.host}/{self.repository}:{tag}", f"{tag!r} is no tag")
        return replace(self, tag=tag, digest=None)

    def at(self, digest: Digest) -> "RemoteName":
        """One manifest of the same repository."""
        return replace(self, tag=None, digest=digest)

    @property
    def reference(self) -> str:
        """What the registry is asked for: the digest, the tag, or else `latest`."""
        return str(self.digest) if self.digest else self.tag or "latest"

    @property
    def registry(self) -> str:
        """The host that answers: Docker Hub's is not the one in its names."""
        return _HUB_REGISTRY if self.host in {HUB, "index.docker.io"} else self.host

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")
