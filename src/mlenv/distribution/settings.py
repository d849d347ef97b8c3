"""How registries are spoken to: which without TLS, whom to trust, how long to wait, how much at once."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from msgspec import Struct

from mlenv.errors import InvalidInput

#: Registries that may do without trusted TLS, and those off the public Internet that a server may reach: host names,
#: with or without a port, separated by commas or spaces.
INSECURE_VARIABLE: Final = "MLENV_INSECURE_REGISTRIES"
LISTED_VARIABLE: Final = "MLENV_REGISTRIES"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")


class RegistrySettings(Struct, frozen=True):
    """
    Attributes:
        insecure: Registries (`host` or `host:port`) that may be spoken to without TLS, or with a certificate that
            nobody vouches for. Those on this machine (127.0.0.0/8, ::1, localhost) may, too, as with docker, unless
            `authority` is given, or the names of registries come from others.
        listed: Where the names of registries come from others, as on a server: those that may be reached though they are
            not on the public Internet. None where they are the user's own, who may reach what they like.
        authority: A PEM file with an authority to trust besides the machine's; None for none.
        certificates: Directories with authorities by host, as docker and podman have them.
        connect: Seconds that a connection may take.
        silent: Seconds that a registry may send nothing.
        attempts: How often something is tried that fails for reasons that may pass.
        chunk: The most that is sent in one request of an upload, in bytes.
        parallel: How many blobs are under way at once.
    """

    insecure: frozenset[str] = frozenset()
    listed: frozenset[str] | None = None
    authority: Path | None = None
    certificates: tuple[Path, ...] = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    connect: float = 10.0
    silent: float = 60.0
    attempts: int = 5
    chunk: int = 64 << 20
    parallel: int = 4

    def is_insecure(self, host: str) -> bool:
        """Whether a registry may do without trusted TLS."""
        if _is_in(host, self.insecure):
            return True
        return self.authority is None and self.listed is None and is_loopback(host)

    def is_guarded(self, host: str) -> bool:
        """Whether a host must be on the public Internet."""
        return self.listed is not None and not _is_in(host, self.listed | self.insecure)


def named_registries(variables: Mapping[str, str], variable: str, more: tuple[str, ...] = ()) -> frozenset[str]:
    """The registries that a variable and flags name. Raises `InvalidInput` for what is no host."""
    found = [*re.split(r"[,\s]+", variables.get(variable, "")), *more]
    for each in filter(None, found):
        if not _HOST.fullmatch(each):
            raise InvalidInput(f"a registry should be HOST or HOST:PORT, not {each!r}")
    return frozenset(each.lower() for each in found if each)


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine by its very name."""
    name = _name(host)
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _is_in(host: str, names: frozenset[str]) -> bool:
    return host in names or _name(host) in names


def _name(host: str) -> str:
    """A host without its port."""
    return re.sub(r":\d+$", "", host)
