"""What workers need of a site's store. `mlenv.wiring.hosted.Hosted` is the one there is."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from mlenv.core.audit import Author
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.platform import Platform
from mlenv.core.scope import Scope
from mlenv.core.site_policy import SitePolicy
from mlenv.run.pythons import Pythons
from mlenv.service.attaching import BuiltEvidence
from mlenv.service.building import Building
from mlenv.service.pushing import Pushing
from mlenv.service.running import Running
from mlenv.service.services import Services
from mlenv.service.site import Site
from mlenv.work.logs import Logs
from mlenv.work.queue import DurableQueue


class WorkServices(Services, Protocol):
    """The use cases of a namespace, and what only workers do."""

    @property
    def building(self) -> Building: ...
    @property
    def running(self) -> Running: ...
    @property
    def pythons(self) -> Pythons: ...
    @property
    def evidence(self) -> BuiltEvidence: ...
    @property
    def pushing(self) -> Pushing: ...
    def platforms_of(self, version: EnvironmentVersion) -> tuple[Platform, ...]:
        """What images of a version are built for."""


class WorkerRows(Protocol):
    """Who works, and what should be at work, in all namespaces."""

    def join(self, id: str, host: str, *, now: datetime) -> None:
        """A worker begins."""

    def beat(self, id: str, beat: int) -> bool:
        """A worker lives. False if others have taken it for dead."""

    def beats(self) -> Mapping[str, int]:
        """Every worker's number, which grows while it lives."""

    def leave(self, id: str) -> None:
        """A worker is gone."""

    def waiting(self, *, before: datetime, limit: int) -> list[tuple[str, str, int, int]]:
        """Scope, id, attempts and priority of builds that were queued before a time and have not ended."""


class Hosting(Protocol):
    """A site's store."""

    @property
    def home(self) -> Path: ...
    @property
    def url(self) -> str | None: ...
    @property
    def policy(self) -> SitePolicy: ...
    @property
    def site(self) -> Site: ...
    @property
    def queue(self) -> DurableQueue: ...
    @property
    def logs(self) -> Logs: ...
    @property
    def workers(self) -> WorkerRows: ...
    def services(self, scope: Scope, author: Author | None) -> WorkServices: ...
    def jobs_waiting(self, *, before: datetime, limit: int) -> list[tuple[str, str, int]]:
        """Scope, name and attempts of jobs that were submitted before a time and have not ended."""


class Limits(Struct, frozen=True):
    """
    How much is done at once, and how long it may take.

    Attributes:
        concurrency: Builds at once in one worker process, and jobs at once.
        per_scope: Builds at once of one namespace, in all processes; 0 for no such limit.
        build: Seconds that an attempt at a build may take.
        step: Seconds that a step of it may take.
        attempts: How often a build is begun, at most: again after its worker died, or what it needs can't be reached.
        back_off: Seconds before the second attempt after something could not be reached; each further wait is four
            times the one before, up to `longest_back_off`.
        log: Most bytes of one log; None for no limit.
        kill: Seconds between SIGTERM and SIGKILL.
    """

    concurrency: int = 2
    per_scope: int = 0
    build: float = 7200.0
    step: float = 3600.0
    attempts: int = 5
    back_off: float = 5.0
    longest_back_off: float = 300.0
    log: int | None = None
    kill: float = 5.0
