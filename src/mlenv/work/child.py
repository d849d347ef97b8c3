"""
One build, in a process of its own: `python -m mlenv.child`.

What is to be built comes as JSON on stdin. What becomes of it goes, one JSON object a line, to the file descriptor that
`MLENV_REPORTS` names; what is told meanwhile, to stdout, for the log.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from msgspec import Struct
from msgspec.structs import asdict

from mlenv.core.audit import Author
from mlenv.core.disk_faults import disk_fault
from mlenv.core.layer import Compression
from mlenv.core.platform import Platform
from mlenv.core.progress import Step
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.scope import ScopeKey
from mlenv.core.site_policy import SitePolicy
from mlenv.errors import MlenvError, NotFound, may_pass

if TYPE_CHECKING:
    from mlenv.core.environment import EnvironmentVersion
    from mlenv.work.hosting import Hosting, WorkServices

#: The variable that says where the database is: not to be seen in a list of processes, as an argument would be.
DATABASE: Final = "MLENV_DATABASE_URL"
#: Under what id builds are audited: a program's, not that of a principal.
AUTHOR_ID: Final = "worker"


class Order(Struct, frozen=True):
    """What is to be built, where. All of it is plain text."""

    home: str
    scope: str
    build: str
    name: str
    version: str
    platform: str
    compression: str
    options: dict[str, Any] | None
    requested_by: str | None
    policy: dict[str, Any]

    def to_json(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """What `to_json` gave."""
        return cls(**json.loads(data))


def to_policy(document: dict[str, Any]) -> SitePolicy:
    """What a worker said of its site's policy (`msgspec.structs.asdict`)."""
    return SitePolicy(**{**document, "indexes": tuple(document["indexes"])})


def author_of(build: str, requested_by: str | None = None) -> Author:
    """Who makes locks and names images on behalf of a build."""
    by = f" for {requested_by}" if requested_by else ""
    return Author(AUTHOR_ID, f"build {build}{by}")


class Reporter:
    """Progress as lines of a log, and as reports of steps that begin and end."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._guard = threading.Lock()

    def report(self, **facts: Any) -> None:
        """Tell the worker."""
        with self._guard:
            self._file.write(json.dumps(facts).encode() + b"\n")

    def step(
        self, title: str, *, total: int | None = None, unit: Literal["bytes", "items"] = "items"
    ) -> AbstractContextManager[Step]:
        """Start a step."""
        return self._step(title, total, unit)

    @contextmanager
    def _step(self, title: str, total: int | None, unit: str) -> Iterator[Step]:
        amount = f" ({total} {unit})" if total is not None else ""
        say(f"{title}{amount} …")
        self.report(began=title)
        step, started = _Step(), time.monotonic()
        try:
            yield step
        finally:
            self.report(left=title)
        seconds = round(time.monotonic() - started, 3)
        self.report(step=title, seconds=seconds, note=step.text)
        say(f"{title}: {step.text or 'done'} ({seconds:.1f} s)")

    def warn(self, text: str) -> None:
        """Say what the user should know."""
        say(f"warning: {text}")

    def line(self, text: str) -> None:
        say(text)


class _Step:
    text = ""

    def advance(self, amount: int) -> None:
        """Nothing: who reads a log wants lines."""

    def note(self, text: str) -> None:
        self.text = text


def say(text: str) -> None:
    """A line of the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(open_hosted: "Callable[[Path, str | None, SitePolicy], AbstractContextManager[Hosting]]") -> int:
    """Build what stdin says. Returns the exit code: 0 whenever the end was reported."""
    # NOTE: ended by an exception, so that what is half done is removed on the way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    order = Order.parse(sys.stdin.buffer.read())
    reporter = Reporter(int(os.environ.pop("MLENV_REPORTS")))
    try:
        with open_hosted(Path(order.home), os.environ.pop(DATABASE, None), to_policy(order.policy)) as hosted:
            _build(order, hosted, reporter)
    except MlenvError as error:
        _tell(error)
        reporter.report(failed=summary(error), again=may_pass(error))
    except OSError as error:
        if (fault := disk_fault(error)) is None:
            raise
        _tell(fault)
        reporter.report(failed=summary(fault), again=True)
    except ExceptionGroup as group:
        faults = [disk_fault(each) or each for each in leaves(group)]
        for each in faults:
            _tell(each)
        if not all(isinstance(each, MlenvError) for each in faults):
            raise
        again = all(map(may_pass, faults))
        reporter.report(failed="; ".join(map(summary, faults)), again=again)
    return 0


def _build(order: Order, hosted: "Hosting", reporter: Reporter) -> None:
    """Build, and report the image; then push it where the namespace's settings say, if they do."""
    from mlenv.service.builds import to_options

    scope = hosted.site.store.scope(ScopeKey(order.scope))
    if scope is None:
        raise NotFound(f"there is no {order.scope} any more")
    services = hosted.services(scope, author_of(order.build, order.requested_by))
    version = services.registry.version(EnvironmentName(order.name), VersionName(order.version))
    say(f"building {version} for {order.platform}")
    result = services.building.build(
        version,
        Platform.parse(order.platform),
        compression=Compression(order.compression),
        options=to_options(order.options),
        recorded=False,
        progress=reporter,
    )
    # Others pull the image from here, with its base's layers.
    services.building.bring(result.image, reporter)
    what = f"made {result.new_layers} of {result.layers} layers" if result.new_layers else "all layers were there"
    image = str(result.image.manifest.digest)
    say(f"image {image} ({what})")
    reporter.report(image=image)
    prefix = hosted.site.store.scope_settings(scope.key).push_to
    if prefix is not None and (unpushed := _push(prefix, version, order, services, reporter)) is not None:
        reporter.report(image=image, unpushed=unpushed)


def _push(
    prefix: str, version: "EnvironmentVersion", order: Order, services: "WorkServices", reporter: Reporter
) -> str | None:
    """Push what was built. Gives why not, if that failed: it does not undo the build."""
    try:
        pushed = services.pushing.push_built(
            version, Platform.parse(order.platform), services.platforms_of(version), prefix, progress=reporter
        )
    except MlenvError as error:
        _tell(error)
        return summary(error)
    say(f"pushed {pushed.name}@{pushed.digest}")
    return None


def summary(error: BaseException) -> str:
    """What an error says, or else what it is."""
    return str(error) or type(error).__name__


def _tell(error: BaseException) -> None:
    for text in (f"error: {summary(error)}", *advice(error)):
        say(text)


def advice(error: BaseException) -> Iterator[str]:
    """What an error says beyond its first line."""
    for text in (getattr(error, "detail", None), getattr(error, "hint", None)):
        if text:
            yield str(text)


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The errors in a group, and in the groups in it."""
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from leaves(each)
        else:
            yield each
