"""How a version is to be locked."""

from datetime import datetime

from msgspec import Struct


class LockOptions(Struct, frozen=True):
    """
    How a lock is made.

    Attributes:
        allow_source: Packages that may be built from source, besides those in the spec.
        allow_source_auto: Any package that has no wheel may be.
        as_of: The index is taken as it stood then (UTC).
        bytecode: Whether images hold compiled bytecode.
        arguments: Build arguments of a Dockerfile, sorted by name; None takes those of a lock that is there.
    """

    allow_source: tuple[str, ...] = ()
    allow_source_auto: bool = False
    as_of: datetime | None = None
    bytecode: bool = True
    arguments: tuple[tuple[str, str], ...] | None = None
