"""The resolver for conda's world: py-rattler, asked for a target in a process of its own."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final, cast

from msgspec.structs import replace

from mlenv.core.conda_package import ENDINGS, CondaPackage, InvalidCondaPackage, NoArch
from mlenv.core.digest import Digest, InvalidDigest
from mlenv.core.lock import Artifact, InvalidLock
from mlenv.core.progress import Progress, quantity
from mlenv.core.redact import redact, without_credentials
from mlenv.errors import Unavailable
from mlenv.resolve.conda_channels import ChannelTable, InvalidChannel, addresses
from mlenv.resolve.conda_credentials import ChannelAccess
from mlenv.resolve.conda_diagnosis import Diagnosis
from mlenv.resolve.conda_process import MEMORY, CondaProcess, Refused
from mlenv.resolve.conda_request import AsksTooMuch, CondaRequest, Plan, make_plan
from mlenv.resolve.conda_unreachable import refusing_url
from mlenv.resolve.condarc import NO_SETTINGS, CondaSettings, InvalidCondarc

#: Whole seconds for one request, its answer and all: repodata of a large channel has some 50 MB.
_REQUEST: Final = 120
_RETRIES: Final = 1
#: Stands for where channels are that are only named, where that does not matter.
_NOWHERE: Final = "https://conda.invalid"
#: Most packages that a lock has; a large environment has some 500.
_MOST: Final = 5000


class UnusableRecord(Unavailable):
    """A channel describes a package in a way that nothing can be locked by. `url` is the package's, redacted."""

    hint = "whoever runs the channel can index it anew; or take the package from another channel"
    lasting = True

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{redact(url)[:500]}: {why}")
        self.url, self.why = redact(url), why


class SolversBusy(Unavailable):
    """As many solvers as may run at once here ran for as long as one more would have had."""

    hint = "try again in a while, or ask whoever runs the server for more processes"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many conda packages are solved at the same time: none had ended after {seconds:.0f} s")
        self.seconds = seconds


class CondaResolver:
    """
    Solves with py-rattler.

    Args:
        cache: A directory for what channels sent; its own, safe to share between processes.
        settings: conda's, as `read_settings` gives them.
        stored: Credentials by host, as `read_stored` gives them.
        own: Whether the user's netrc and keyring may be used.
        offline: Whether only what was fetched before is used, whatever the settings say.
        timeout: Seconds for one solution.
        memory: Bytes of address space that the solver may use, or 0 for any.
        at_once: Solvers that run at once; further ones wait, within their time. None for any number.
    """

    def __init__(
        self,
        cache: Path,
        *,
        settings: CondaSettings = NO_SETTINGS,
        stored: Mapping[str, Mapping[str, Any]] | None = None,
        own: bool = True,
        offline: bool = False,
        timeout: float = 600.0,
        memory: int = MEMORY,
        at_once: int | None = None,
    ) -> None:
        self._cache, self._settings, self._stored, self._own = cache, settings, stored or {}, own
        self._offline = offline or settings.offline
        self._timeout, self._memory = timeout, memory
        self.at_once = at_once
        self._room = threading.Semaphore(at_once) if at_once is not None else None
        self._alias: str | None = None

    @property
    def name(self) -> str:
        """`py-rattler 0.28.0`."""
        return f"py-rattler {installed_version('py-rattler')}"

    def channels(self, request: CondaRequest) -> tuple[str, ...]:
        """
        The addresses that a request leads to, without asking any: of channels, in order, and of packages that are named
        by their address, which the solver reads to know what is in them. Raises as `solve`.
        """
        plan = self._plan(request, self._find_alias())[0]
        packages = (each.spec.url for each in plan.asked if each.spec.url is not None)
        return tuple(dict.fromkeys((*addresses(plan.channels), *packages)))

    def check_settings(self) -> None:
        """See that every channel of the settings is one, without starting the solver. Raises `InvalidCondarc`."""
        try:
            _ = ChannelTable(self._settings, self._settings.channel_alias or _NOWHERE).places
        except InvalidChannel as error:
            raise InvalidCondarc("conda's settings", str(error)) from error

    def own_channels(self) -> tuple[str, ...]:
        """Addresses of the machine's own channels (`ChannelTable.own`). Raises `CondaMissing`, `InvalidChannel`."""
        return ChannelTable(self._settings, self._find_alias()).own

    def access(self) -> ChannelAccess:
        """How files of channels are asked for: mirrors and credentials. Raises `CondaMissing`, `InvalidChannel`."""
        return self._access(ChannelTable(self._settings, self._find_alias()))

    def solve(self, request: CondaRequest, *, progress: Progress) -> tuple[CondaPackage, ...]:
        """
        Solve: every package, sorted by name.

        Raises:
            ResolutionFailed: There is no answer; a subclass says which kind of failure, culprit first.
            ExceptionGroup: Several lines are not match specs.
            InvalidChannel, ChannelNotFound, NoCondaPlatform, InvalidCuda, AsksTooMuch: What is asked for can't be.
            ChannelUnreachable, ChannelRefused: A channel did not answer, or not so.
            UnusableRecord: A channel describes a package in a way that it can't be locked by.
            CondaMissing, CondaTimeout, CondaCrashed: The solver itself failed.
            SolversBusy: Others ran all the time.
        """
        title = f"Solving {quantity(len(request.specs), 'conda package')} for {request.target.platform}"
        with progress.step(title) as step, self._in_turn() as process:
            self._alias = process.alias
            plan, table = self._plan(request, process.alias)
            access = self._access(table)
            self._open(process, plan, access, table)
            try:
                records = plan.solve(process)
            except Refused as refused:
                records = self._again(refused, process, plan, access, table)
            found = read_records(records, plan)
            step.note(quantity(len(found), "package"))
        return found

    def _again(
        self,
        refused: Refused,
        process: CondaProcess,
        plan: Plan,
        access: ChannelAccess,
        table: ChannelTable,
    ) -> list[dict[str, Any]]:
        """Once more with what the keyring has, if that was missing. Raises what the failure means."""
        url = refusing_url(refused.text)
        if url is not None and access.ask_keyring(url):
            self._open(process, plan, access, table)
            try:
                return plan.solve(process)
            except Refused as again:
                refused = again
        raise Diagnosis(process, plan, table, offline=self._offline).failure(refused) from None

    @contextmanager
    def _in_turn(self) -> Iterator[CondaProcess]:
        """A process of the solver, as soon as there is room for it; what the wait took is taken from its time."""
        if self._room is None:
            with self._process(self._timeout) as process:
                yield process
            return
        begun = time.monotonic()
        if not self._room.acquire(timeout=self._timeout):
            raise SolversBusy(self._timeout)
        try:
            with self._process(self._timeout - (time.monotonic() - begun)) as process:
                yield process
        finally:
            self._room.release()

    def _process(self, timeout: float) -> CondaProcess:
        return CondaProcess(timeout=timeout, memory=self._memory)

    def _find_alias(self) -> str:
        """Where channels are that are only named, if the settings do not say: rattler knows."""
        alias = self._settings.channel_alias or self._alias
        if alias is None:
            with self._process(self._timeout) as process:
                alias = self._alias = process.alias
        return alias

    def _plan(self, request: CondaRequest, alias: str) -> tuple[Plan, ChannelTable]:
        table = ChannelTable(self._settings, alias)
        return make_plan(request, table, pip=self._settings.add_pip_as_python_dependency), table

    def _access(self, table: ChannelTable) -> ChannelAccess:
        return ChannelAccess(table, self._stored, own=self._own)

    def _open(self, process: CondaProcess, plan: Plan, access: ChannelAccess, table: ChannelTable) -> None:
        # Those of the settings, too: they are asked who else has a package that is nowhere.
        urls = tuple(dict.fromkeys((*addresses(plan.channels), *addresses(map(table.find, table.known)))))
        process.plain = lambda text: access.plain(text, urls)
        self._cache.mkdir(parents=True, exist_ok=True)
        process.ask(
            "open",
            cache=str(self._cache),
            offline=self._offline,
            sharded=True,
            timeout=_REQUEST,
            retries=_RETRIES,
            mirrors=access.mirrors(urls),
            headers=access.headers(urls),
        )


def read_records(records: Sequence[Mapping[str, Any]], plan: Plan) -> tuple[CondaPackage, ...]:
    """The solver's answer, checked. Raises `UnusableRecord`, `AsksTooMuch`."""
    if len(records) > _MOST:
        raise AsksTooMuch("packages are in the solution", len(records), _MOST)
    wanted: dict[str, list[str]] = {}
    for each in plan.asked:
        if not each.seed:
            wanted.setdefault(each.spec.name, []).append(each.line.text)
    found = sorted((_package(each, plan) for each in records), key=lambda each: each.name)
    return tuple(replace(each, requested=wanted[each.name][0]) if each.name in wanted else each for each in found)


def _package(record: Mapping[str, Any], plan: Plan) -> CondaPackage:
    url, name, filename = record["url"], record["name"], record["filename"]
    stem = f"{name}-{record['version']}-{record['build']}"
    if filename not in {f"{stem}{ending}" for ending in ENDINGS}:
        raise UnusableRecord(url, f"the channel describes {filename[:200]!r} as {stem[:200]!r}")
    if record["sha256"] is None or record["size"] is None:
        missing = "sha256" if record["sha256"] is None else "size"
        raise UnusableRecord(url, f"the channel does not tell its {missing}, by which it would be locked")
    if record["subdir"] not in plan.platforms:
        raise UnusableRecord(url, f"it is for {str(record['subdir'])[:50]!r}, not for {' or '.join(plan.platforms)}")
    channel = record["channel"].rstrip("/")
    if channel not in set(addresses(plan.channels)):
        raise UnusableRecord(url, f"it comes from {redact(channel)[:200]}, which was not asked for it")
    try:
        return _made(record, channel)
    except (InvalidCondaPackage, InvalidLock, InvalidDigest) as error:
        raise UnusableRecord(url, str(error)) from error


def _made(record: Mapping[str, Any], channel: str) -> CondaPackage:
    url, filename = record["url"], record["filename"]
    digest = Digest.parse(f"sha256:{record['sha256']}")
    return CondaPackage(
        name=record["name"],
        version=record["version"],
        build=record["build"],
        build_number=record["build_number"],
        subdir=record["subdir"],
        channel=channel,
        artifact=Artifact(filename, record["size"], digest, without_credentials(url)),
        md5=record["md5"],
        depends=tuple(record["depends"]),
        constrains=tuple(record["constrains"]),
        noarch=cast("NoArch | None", record["noarch"]),
        timestamp=record["timestamp"],
        # NOTE: some channels have whole licence texts here.
        license=" ".join((record["license"] or "").split())[:200] or None,
        site_packages=record["site_packages"],
    )
