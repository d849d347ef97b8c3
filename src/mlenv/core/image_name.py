"""Names of images as people write them, and in full, as docker and podman understand both."""

import re
from typing import Final

_DEFAULT_HOST: Final = "docker.io"
_TRANSPORTS: Final = ("oci:", "oci-archive:", "docker-archive:")


def name_of_version(name: str, version: str) -> str:
    """
    What the image of an environment's version is called: `REPOSITORY:TAG` in the characters that docker takes.

    Environments have freer names than images: `Train(new):1+2` becomes `train-new:1-2`. It is for people to read.
    """
    repository = re.sub(r"[^a-z0-9._-]+|[._-]{2,}", "-", name.lower()).strip("._-")[:128].rstrip("._-")
    tag = re.sub(r"[^A-Za-z0-9_.-]+", "-", version).lstrip(".-")[:128]
    return f"{repository or 'environment'}:{tag or 'version'}"


def is_file_source(text: str) -> bool:
    """Whether the text names an image on disk with a transport (containers-transports(5)), not one in a registry."""
    return text.startswith(_TRANSPORTS)


def full_name(text: str) -> str:
    """
    The name in full: `debian:bookworm` is `docker.io/library/debian:bookworm`, `x/y` is `docker.io/x/y:latest`.

    The rule is that of the distribution reference grammar: the first part is a host if it has a `.` or `:`, or is
    `localhost`. A digest is kept as it is.
    """
    name, at, digest = text.partition("@")
    first, slash, _ = name.partition("/")
    if not slash or not (re.search(r"[.:]", first) or first == "localhost"):
        name = f"{_DEFAULT_HOST}/{name}" if slash else f"{_DEFAULT_HOST}/library/{name}"
    if not at and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    return name + at + digest
