"""Builds that wait in a queue until a worker takes them: ask for one, follow it, cancel it; and how a worker goes on."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from mlenv.core.environment import EnvironmentVersion
from mlenv.core.layer import Compression
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.records import BuildRecord, BuildStatus, TimedStep
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.scope import ScopeKey
from mlenv.errors import InvalidInput, NotFound, Unavailable
from mlenv.faults import reach
from mlenv.service.building import NoBase

if TYPE_CHECKING:
    from mlenv.core.digest import Digest
    from mlenv.service.building import Building
    from mlenv.service.interface import Clock

#: Priorities: the smaller number is taken first.
FIRST_PRIORITY: Final = 1
LAST_PRIORITY: Final = 100
DEFAULT_PRIORITY: Final = 50
#: How long after a build's end its log may still be closed.
LOG_GRACE: Final = timedelta(seconds=10)
#: Most packages that options may name, and most characters of a name.
_SOURCES: Final = 1000
_NAME: Final = 255
#: Most characters of a build argument.
_VALUE: Final = 32_768


class BuildNotFound(NotFound):
    """There is no build of that id here."""

    def __init__(self, id: str) -> None:
        super().__init__(f"there is no build {id[:64]!r} here")
        self.id = id


class InvalidBuildOptions(InvalidInput):
    """A build can't be asked for in this way."""


class LogState(Struct, frozen=True):
    """
    How far a log has come.

    Attributes:
        size: In bytes.
        status: Of the build, or the job.
        whole: Whether nothing more will be added.
    """

    size: int
    status: StrEnum
    whole: bool


class Queue(Protocol):
    """Where builds wait for a worker. What is in it outlives every process."""

    def enqueue(self, scope: ScopeKey, id: str, *, priority: int) -> None:
        """Have a worker make a build. One that is in the queue already is not queued again."""

    def cancel(self, scope: ScopeKey, id: str) -> None:
        """Take a build that was canceled out of the queue. No error if it is not there."""


class BuildLogs(Protocol):
    """Logs of builds, as they are written and ever after."""

    def size(self, id: str, kept: "Digest | None" = None) -> int:
        """How many bytes there are so far. Raises `NotFound` if there is no log."""

    def read(self, id: str, kept: "Digest | None" = None, *, start: int = 0, limit: int = ...) -> bytes:
        """At most `limit` bytes from `start` on; empty at the end. Raises `NotFound` if there is no log."""


class BuildStore(Protocol):
    """Rows of builds of one namespace. Every method is one transaction; changes leave an audit record where it says so."""

    def request(self, build: BuildRecord) -> tuple[BuildRecord, bool]:
        """
        Add a build, unless another of the same version, platform and compression is queued or runs, or made the same
        image: then that one is the answer. New ones are audited.

        Returns:
            The build, and whether it is new.

        Raises:
            EnvironmentNotFound, VersionNotFound: There is nothing to build.
        """

    def build(self, id: str) -> BuildRecord | None:
        """One build, or None."""

    def page(
        self,
        *,
        limit: int,
        after: tuple[datetime, str] | None = None,
        status: BuildStatus | None = None,
        of: tuple[EnvironmentName, VersionName] | None = None,
    ) -> list[BuildRecord]:
        """Builds, the newest first; `after` is start and id of the last one of the page before."""

    def change(
        self, id: str, edit: Callable[[BuildRecord], BuildRecord | None], *, audit: str | None = None
    ) -> BuildRecord | None:
        """
        Replace a build by what `edit` makes of it as it stands; None leaves it as it is.

        Args:
            audit: The action that is audited if something is changed.

        Returns:
            The build as it is then, or None if there is none.
        """


class Builds:
    """The builds of one namespace."""

    def __init__(
        self,
        scope: ScopeKey,
        store: BuildStore,
        building: "Callable[[], Building]",
        queue: Callable[[], Queue],
        logs: Callable[[], BuildLogs],
        *,
        clock: "Clock",
        new_id: Callable[[], str],
        found: Callable[[BuildRecord], object] = lambda _: None,
        requested_by: str | None = None,
    ) -> None:
        """
        Args:
            found: Told of a build whose image is there already, so that no worker sees it, each time it is asked for.
            requested_by: The name of who asks.
        """
        self._scope = scope
        self._store = store
        self._building = building
        self._queue = queue
        self._logs = logs
        self._clock = clock
        self._new_id = new_id
        self._found = found
        self._requested_by = requested_by

    def request(
        self,
        version: EnvironmentVersion,
        platform: Platform,
        compression: Compression = Compression.GZIP,
        options: LockOptions | None = None,
        priority: int = DEFAULT_PRIORITY,
        requested_by: str | None = None,
    ) -> BuildRecord:
        """
        Ask for a version's image. There is one build of it at a time, however many ask; where the image is there
        already, the build has succeeded.

        Args:
            compression: Of the layers; gzip, since what is built here is pulled by whatever tool there is.
            options: How to lock the version, if it is not locked yet.
            priority: From 1, which is taken first, to 100.
            requested_by: The name of who asks, if it is not the one that this was opened for.

        Raises:
            InvalidBuildOptions: The priority is none, or the options are too many.
            DockerfileNotBuilt, NoBase: It can't be built.
            LockDiffers: It is locked already, with other options.
            LockLost: Its lock can't be read.
        """
        self._check(version, options, priority)
        now = self._clock()
        build = BuildRecord(
            id=self._new_id(),
            name=version.name,
            version=version.version,
            platform=platform,
            status=BuildStatus.QUEUED,
            started_at=now,
            queued_at=now,
            compression=compression,
            options=options_document(options),
            priority=priority,
            requested_by=requested_by or self._requested_by,
        )
        if (image := self._building().find(version, platform, compression, options)) is not None:
            digest = image.manifest.digest
            build = replace(build, status=BuildStatus.SUCCEEDED, image=digest, ended_at=now)
        kept, new = self._store.request(build)
        if new and not kept.status.ended:
            # NOTE: should this process die here, or the queue not answer, a worker finds the build and queues it.
            reach("build.requested")
            with suppress(Unavailable):
                self._queue().enqueue(self._scope, kept.id, priority=priority)
        elif kept.status is BuildStatus.SUCCEEDED:
            self._found(kept)
        return kept

    def get(self, id: str) -> BuildRecord:
        """One build. Raises `BuildNotFound`."""
        found = self._store.build(id)
        if found is None:
            raise BuildNotFound(id)
        return found

    def list(
        self,
        *,
        limit: int,
        after: tuple[datetime, str] | None = None,
        status: BuildStatus | None = None,
        of: tuple[EnvironmentName, VersionName] | None = None,
    ) -> list[BuildRecord]:
        """
        Builds, the newest first.

        Args:
            after: `started_at` and `id` of the last one of the page before.
            of: A version; None for all.
        """
        return self._store.page(limit=limit, after=after, status=status, of=of)

    def cancel(self, id: str) -> BuildRecord:
        """
        Cancel a build: it is not begun, or its whole process tree is ended. One that has ended stays as it is.

        Raises:
            BuildNotFound: There is none.
        """
        now = self._clock()

        def edit(build: BuildRecord) -> BuildRecord | None:
            return None if build.status.ended else replace(build, status=BuildStatus.CANCELED, ended_at=now)

        found = self._store.change(id, edit, audit="build.cancel")
        if found is None:
            raise BuildNotFound(id)
        if found.status is BuildStatus.CANCELED:
            # Whoever takes it from a queue that does not answer now finds that it has ended.
            with suppress(Unavailable):
                self._queue().cancel(self._scope, id)
        return found

    # Logs.

    def log_size(self, id: str) -> int:
        """How many bytes of log there are so far; none of a build that was not begun. Raises `BuildNotFound`."""
        build = self.get(id)
        try:
            return self._logs().size(id, build.log)
        except NotFound:
            # It may have become a blob since.
            return self._logs().size(id, kept) if (kept := self.get(id).log) is not None else 0

    def log_state(self, id: str) -> LogState:
        """How far its log has come. Raises `BuildNotFound`."""
        build = self.get(id)
        whole = build.status.ended and build.log is not None
        try:
            size = self._logs().size(id, build.log)
        except NotFound:
            # None was written, or it has become a blob just now.
            build = self.get(id)
            size, whole = self.log_size(id), build.status.ended
        if build.status.ended and build.ended_at is not None:
            # The worker that should have closed it is gone.
            whole = whole or self._clock() - build.ended_at > LOG_GRACE
        return LogState(size, build.status, whole)

    def log(self, id: str, *, start: int = 0, limit: int) -> bytes:
        """At most `limit` bytes of its log from `start` on; empty where it ends for now. Raises `BuildNotFound`."""
        build = self.get(id)
        try:
            return self._logs().read(id, build.log, start=start, limit=limit)
        except NotFound:
            kept = self.get(id).log
            return self._logs().read(id, kept, start=start, limit=limit) if kept is not None else b""

    # For workers. What a worker does is written down only while the build is its own: the attempt it began.

    def begin(self, id: str, *, most: int) -> BuildRecord | None:
        """
        A worker takes a build, one more attempt: it runs from now on. None if there is none, or it has ended.

        Whoever calls has it from the queue, and so knows that no other worker has it.

        Args:
            most: How often a build may be begun, if its worker dies each time; then it has failed.
        """
        now = self._clock()
        begun: list[BuildRecord] = []

        def edit(build: BuildRecord) -> BuildRecord | None:
            begun.clear()
            if build.status.ended:
                return None
            if build.status is BuildStatus.RUNNING and build.attempts >= most:
                error = f"its worker died each time it was begun, {build.attempts} times"
                return replace(build, status=BuildStatus.FAILED, ended_at=now, error=error)
            begun.append(replace(build, status=BuildStatus.RUNNING, started_at=now, attempts=build.attempts + 1))
            return begun[0]

        self._store.change(id, edit)
        return begun[0] if begun else None

    def note_steps(self, build: BuildRecord, steps: Sequence[TimedStep]) -> bool:
        """Keep the steps that are finished so far. False if the build is not the worker's any more."""
        return self._go_on(build, lambda stored: replace(stored, steps=tuple(steps)))

    def put_back(self, build: BuildRecord, error: str | None = None) -> bool:
        """Let a build wait again: its worker leaves, or what it needs can't be reached now, as `error` says."""
        status = BuildStatus.QUEUED
        return self._go_on(build, lambda stored: replace(stored, status=status, error=error))

    def end(
        self, build: BuildRecord, status: BuildStatus, *, image: "Digest | None" = None, error: str | None = None
    ) -> bool:
        """A build has ended. False if it had before, or is not the worker's any more: then nothing is changed."""
        now = self._clock()
        return self._go_on(build, lambda stored: replace(stored, status=status, ended_at=now, image=image, error=error))

    def keep_log(self, id: str, log: "Digest") -> bool:
        """Name the blob that holds the log of a build. False if the build has not ended: then it still grows."""
        kept = self._store.change(id, lambda build: replace(build, log=log) if build.status.ended else None)
        return kept is not None and kept.log == log

    def _go_on(self, build: BuildRecord, edit: Callable[[BuildRecord], BuildRecord]) -> bool:
        done: list[bool] = []

        def guarded(stored: BuildRecord) -> BuildRecord | None:
            done.clear()
            if stored.status is not BuildStatus.RUNNING or stored.attempts != build.attempts:
                return None
            done.append(True)
            return edit(stored)

        self._store.change(build.id, guarded)
        return bool(done)

    def _check(self, version: EnvironmentVersion, options: LockOptions | None, priority: int) -> None:
        if version.spec.image is None and version.spec.build is None:
            raise NoBase(f"{version} names no base image")
        if not FIRST_PRIORITY <= priority <= LAST_PRIORITY:
            raise InvalidBuildOptions(f"priority {priority} is not from {FIRST_PRIORITY} to {LAST_PRIORITY}")
        sources = options.allow_source if options is not None else ()
        if len(sources) > _SOURCES or any(not 0 < len(each) <= _NAME for each in sources):
            raise InvalidBuildOptions(
                f"at most {_SOURCES} packages may be built from source, named in {_NAME} characters"
            )
        arguments = (options.arguments or ()) if options is not None else ()
        if len(arguments) > _SOURCES or any(len(name) > _NAME or len(value) > _VALUE for name, value in arguments):
            raise InvalidBuildOptions(f"at most {_SOURCES} build arguments are taken, of {_VALUE} characters")


def options_document(options: LockOptions | None) -> dict[str, Any] | None:
    """How a build is to be locked, as JSON data."""
    if options is None:
        return None
    return {
        "allow_source": [*options.allow_source],
        "allow_source_auto": options.allow_source_auto,
        "as_of": options.as_of.astimezone(UTC).isoformat() if options.as_of else None,
        "bytecode": options.bytecode,
        "arguments": [list(each) for each in options.arguments] if options.arguments is not None else None,
    }


def to_options(document: "Any | None") -> LockOptions | None:
    """What `options_document` gave."""
    if document is None:
        return None
    as_of = document["as_of"]
    return LockOptions(
        tuple(document["allow_source"]),
        document["allow_source_auto"],
        datetime.fromisoformat(as_of) if as_of else None,
        document["bytecode"],
        # A build that was queued before there were any has none.
        tuple((name, value) for name, value in document["arguments"])
        if document.get("arguments") is not None
        else None,
    )
