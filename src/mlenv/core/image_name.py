"""Names of images as people write them, and in full, as docker and podman understand both."""

import re
from typing import Final

_DEFAULT_HOST: Final = "docker.io"
_TRANSPORTS: Final = ("oci:", "oci-archive:", "docker-archive:")


def repository_of(name: str) -> str:
    """What an environment's, a workspace's or a registry's name becomes in the name of an image."""
    plain = re.sub(r"[._-]{2,}", "-", re.sub(r"[^a-z0-9._-]+", "-", name.lower()))
    return plain.strip("._-")[:128].rstrip("._-") or "environment"


def tag_of(version: str) -> str:
    """What a version or label becomes in the name of an image."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", version).lstrip(".-")[:128] or "version"


def name_of_version(name: str, version: str) -> str:
    """
    What the image of an environment's version is called: `REPOSITORY:TAG` in the characters that docker takes.

    Environments have freer names than images: `Train(new):1+2` becomes `train-new:1-2`. It is for people to read.
    """
    return f"{repository_of(name)}:{tag_of(version)}"


def is_file_source(text: str) -> bool:
    """Whether the text names an image on disk with a transport (containers-transports(5)), not one in a registry."""
    return text.startswith(_TRANSPORTS)


def local_name(name: str) -> str:
    """The name in full of an image that is on no registry: `localhost/train:1`, as podman has it, unless it has a host."""
    return full_name(name if _has_host(name) else f"localhost/{name}")


def _has_host(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and (re.search(r"[.:]", first) is not None or first == "localhost")


def full_name(text: str) -> str:
    """
    The name in full: `debian:bookworm` is `docker.io/library/debian:bookworm`, `x/y` is `docker.io/x/y:latest`.

    The rule is that of the distribution reference grammar: the first part is a host if it has a `.` or `:`, or is
    `localhost`. A digest is kept as it is.
    """
    name, at, digest = text.partition("@")
    if not _has_host(name):
        name = f"{_DEFAULT_HOST}/{name}" if "/" in name else f"{_DEFAULT_HOST}/library/{name}"
    if not at and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    return name + at + digest
