"""What the registry remembers of work done: builds, images, and uses of environments."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.layer import Compression
from mlenv.core.platform import Platform
from mlenv.core.reference import EnvironmentName, VersionName


class BuildStatus(StrEnum):
    """Where a build stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self not in {BuildStatus.QUEUED, BuildStatus.RUNNING}


class TimedStep(Struct, frozen=True):
    """One finished step of a build: its title, how long it took in seconds, and what came of it in a few words."""

    title: str
    seconds: float
    note: str = ""


class ImageKey(Struct, frozen=True):
    """
    What decides an image to the bit.

    Attributes:
        lock: The lock's digest.
        base: The base image's manifest digest.
        spec: The spec's digest: variables and labels come from it.
        compression: Of the layers that are added.
    """

    lock: Digest
    base: Digest
    spec: Digest
    compression: Compression


class BuildRecord(Struct, frozen=True):
    """
    One attempt to turn a lock into an image.

    Attributes:
        id: Opaque.
        platform: What it was built for.
        image: The manifest's digest, once it succeeded.
        error: One line, if it failed.
        steps: Finished steps, in order.
        queued_at: When it was asked for, if it waited in a queue.
        started_at: When it was begun; for one that is queued, when it was asked for.
        ended_at: All times are UTC.
        compression: Of the layers that are added; None where it was not recorded.
        options: What a queued build was asked for besides, as JSON data.
        priority: 1 is taken first; None if it never waited.
        requested_by: The name of who asked, or None for the store's own user.
        attempts: How often it was begun.
        log: The whole log, once it has ended; None if none was kept.
    """

    id: str
    name: EnvironmentName
    version: VersionName
    platform: Platform
    status: BuildStatus
    started_at: datetime
    ended_at: datetime | None = None
    image: Digest | None = None
    error: str | None = None
    steps: tuple[TimedStep, ...] = ()
    queued_at: datetime | None = None
    compression: Compression | None = None
    options: Mapping[str, Any] | None = None
    priority: int | None = None
    requested_by: str | None = None
    attempts: int = 0
    log: Digest | None = None


class UseRecord(Struct, frozen=True):
    """
    One use of a version: the lineage.

    Attributes:
        id: Opaque.
        kind: What used it: `run`, `shell`, `kernel`.
        engine: `local` or `container`.
        lock: The lock it ran on.
        image: The image it ran in, if it did.
        command: What was run, as given, but for credentials in addresses.
        user, host: Who, and where.
        exit_code: How it ended; None while it runs, or if its end was never seen.
        started_at, ended_at: UTC.
    """

    id: str
    name: EnvironmentName
    version: VersionName
    kind: str
    engine: str
    lock: Digest
    command: tuple[str, ...]
    user: str
    host: str
    started_at: datetime
    image: Digest | None = None
    exit_code: int | None = None
    ended_at: datetime | None = None
