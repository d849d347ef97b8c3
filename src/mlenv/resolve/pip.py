"""The resolver for pip's world: uv, asked for a target, and what is around it."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress, quantity
from mlenv.core.spec import Requirement
from mlenv.resolve.credentials import find_keyring, index_for
from mlenv.resolve.diagnosis import Diagnosis
from mlenv.resolve.explanation import Explanation
from mlenv.resolve.failures import NoWheel, UnlistedFile
from mlenv.resolve.index_http import HttpFetcher
from mlenv.resolve.interface import Resolution, ResolveRequest
from mlenv.resolve.machine_index import MachineIndex
from mlenv.resolve.requirement_lines import Line, parse_lines
from mlenv.resolve.session import Session
from mlenv.resolve.source_build import OLD_SETUPTOOLS, build_wheel
from mlenv.resolve.uv_input import Attempt, pinned_names
from mlenv.resolve.uv_output import Found, FoundFile
from mlenv.resolve.uv_process import Uv
from mlenv.threads import in_threads

#: Runs of uv that one resolution may take before it is given up: each allowed source build costs one.
_ROUNDS: Final = 40


class PipResolver:
    """
    Resolves with uv.

    Args:
        uv_cache: uv's cache directory; safe to share between processes.
        fetcher: Brings sources to build, sizes that an index does not tell, and pages that explain a failure.
        host: This machine, for which compiled packages can be built.
        machine: The index that holds where a spec names none: a mirror of the public one. None takes uv's.
        timeout: Seconds for one run of uv.
        build_timeout: Seconds for one build from source.
        find_python: The path of an interpreter of a minor version (`3.11`) on this machine, or None if there is none;
            builds use it. Without this, uv is asked.
        binary: The uv to run; None finds it.
    """

    def __init__(
        self,
        uv_cache: Path,
        *,
        fetcher: HttpFetcher,
        host: Platform,
        machine: MachineIndex | None = None,
        timeout: float = 600.0,
        build_timeout: float = 1800.0,
        find_python: Callable[[str], str | None] | None = None,
        binary: str | None = None,
    ) -> None:
        self._uv = Uv(uv_cache, binary=binary, variables=machine.credentials if machine else {})
        self._fetcher = fetcher
        self._host = host
        self._find_python = find_python
        self._machine = machine
        self._timeout = timeout
        self._build_timeout = build_timeout

    @property
    def own_index(self) -> str | None:
        """The address of the index that is taken where a spec names none, or None if uv does not tell."""
        return self._machine.index.url if self._machine is not None else self._uv.public_index

    def resolve(self, request: ResolveRequest, *, workdir: Path, progress: Progress) -> Resolution:
        """
        Resolve; see `mlenv.resolve.interface.Resolver`.

        Raises:
            ResolutionFailed: There is no answer.
            ExceptionGroup: Several lines are not requirements.
            IndexUnreachable, CredentialsRefused, UvMissing, UvTimeout: What was needed did not answer.
        """
        if self._machine is not None:
            request = replace(request, sources=self._machine.fill(request.sources))
        lines = parse_lines(request.requirements, request.seeds)
        attempt = Attempt(request, lines, parse_lines(request.constraints))
        public = None if request.sources.default else self._uv.public_index
        session = Session(self._uv, workdir / "uv", public=public, timeout=self._timeout, find_python=self._find_python)
        asked = sum(not each.seed for each in lines)
        title = (
            f"Resolving {quantity(asked, 'requirement')} for Python {request.target.python}, {request.target.platform}"
        )
        with progress.step(title) as step:
            attempt, found = self._solve(session, attempt, progress)
            edges = session.edges(attempt, found)
            wheels = self._describe([each.wheel for each in found if each.wheel], request)
            step.note(quantity(len(found), "package"))
        packages, built = [], {}
        requested = {each.name for each in lines if not each.seed}
        hashes = attempt.hashes
        for each in found:
            source = None
            if each.wheel is not None:
                artifact = wheels[each.wheel.url]
                _require_listed(each, each.wheel.filename, str(artifact.digest), hashes, attempt)
            else:
                path, artifact, source = self._build(each, session, attempt, workdir, progress)
                built[artifact.digest] = path
            package = LockedPackage(
                each.name, each.version, artifact, edges.get(each.name, ()), each.name in requested, source
            )
            packages.append(package)
        return Resolution(tuple(packages), self._uv.version, built)

    def _solve(self, session: Session, attempt: Attempt, progress: Progress) -> tuple[Attempt, tuple[Found, ...]]:
        """
        Run uv until it has an answer: a failure may name source that is allowed, or be the fault of our own seeds.

        Returns:
            The attempt that has an answer, and the answer.
        """
        for _ in range(_ROUNDS):
            outcome = session.run(attempt)
            names = [each.name for each in outcome.found or ()]
            # A pin to an index holds for what is asked for directly only: what turns out to be needed is asked for.
            if pins := _unpinned(attempt, names, outcome.explanation):
                attempt = attempt.with_lines((*attempt.lines, *pins))
                continue
            if outcome.found is not None:
                _tell_builds(attempt, outcome.found, progress)
                return attempt, outcome.found
            following = self._retry(session, attempt, outcome.explanation, progress)
            if following is None:
                break
            attempt = following
        if not outcome.explanation.unreachable and outcome.explanation.refused is None:
            attempt = _without_missing_seeds(session, attempt)
        raise Diagnosis(session, attempt, self._fetcher).failure(outcome.explanation) from None

    def _retry(
        self, session: Session, attempt: Attempt, explanation: Explanation, progress: Progress
    ) -> Attempt | None:
        """What to try after a failure, or None if it stands."""
        request = attempt.request
        if explanation.refused is not None:
            return _asking_keyring(session, attempt, explanation)
        allowed = {
            name
            for name in explanation.no_wheel
            if (request.allow_source_auto or name in request.allow_source) and name not in attempt.source
        }
        if allowed:
            return replace(attempt, source=attempt.source | allowed)
        if explanation.broken_build and attempt.setuptools is None and "pkg_resources" in explanation.text:
            return replace(attempt, setuptools=OLD_SETUPTOOLS)
        seeds = {each.name for each in attempt.lines if each.seed and explanation.mentions(each.name)}
        if not seeds or explanation.unreachable:
            return None
        if missing := seeds.intersection(explanation.not_found):
            progress.warn(f"no index has {', '.join(sorted(missing))}, which comes along as a rule: left out")
            return _without_seeds(attempt, missing)
        loose = attempt.with_lines(
            each.relaxed() if each.name in seeds and each.seed else each for each in attempt.lines
        )
        without = _without_seeds(attempt, seeds)
        for changed in (loose, without):
            if changed != attempt and session.run(changed).found is not None:
                progress.warn(f"{', '.join(sorted(seeds))} as usual does not fit these requirements, and gives way")
                return changed
        return None

    def _build(
        self, found: Found, session: Session, attempt: Attempt, workdir: Path, progress: Progress
    ) -> tuple[Path, Artifact, Artifact]:
        lines = _lines_of(found.name, attempt)
        if found.source is None or found.name not in attempt.source:
            failure = NoWheel(f"{found.name} {found.version} has no wheel that runs on the target", lines=lines)
            failure.projects = (found.name,)
            raise failure
        told = found.source.sha256
        _require_listed(found, found.source.filename, f"sha256:{told}" if told else None, attempt.hashes, attempt)
        with progress.step(f"Building {found.name} {found.version} from source"):
            path, source = build_wheel(
                found,
                found.source,
                attempt=attempt,
                session=session,
                fetcher=self._fetcher,
                host=self._host,
                directory=workdir / "build" / found.name,
                lines=lines,
                timeout=self._build_timeout,
            )
            with path.open("rb") as file:
                digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
        return path, Artifact(path.name, path.stat().st_size, digest, None), source

    def _describe(self, files: Sequence[FoundFile], request: ResolveRequest) -> dict[str, Artifact]:
        """Size and digest of every wheel, by URL; asked for where the index does not tell."""
        artifacts = in_threads(lambda each: self._artifact(each, request), files, workers=8)
        return dict(zip([each.url for each in files], artifacts, strict=True))

    def _artifact(self, file: FoundFile, request: ResolveRequest) -> Artifact:
        if file.sha256 is not None:
            size = file.size if file.size is not None else self._fetcher.size_of(file.url, request.sources)
            return Artifact(file.filename, size, Digest.parse(f"sha256:{file.sha256}"), file.url)
        digest, size = hashlib.sha256(), 0
        for chunk in self._fetcher.stream(file.url, request.sources):
            digest.update(chunk)
            size += len(chunk)
        return Artifact(file.filename, size, Digest(digest.hexdigest()), file.url)


def _asking_keyring(session: Session, attempt: Attempt, explanation: Explanation) -> Attempt | None:
    """The attempt with credentials from the keyring, if it has any for the index that refused."""
    index = index_for(explanation.url or "", attempt.request.sources)
    if index is None or index.url in attempt.guarded or find_keyring() is None:
        return None
    guarded = replace(attempt, guarded=attempt.guarded | {index.url})
    return None if session.run(guarded).explanation.lacks_credentials else guarded


def _without_seeds(attempt: Attempt, names: Collection[str]) -> Attempt:
    return attempt.with_lines(each for each in attempt.lines if not (each.seed and each.name in names))


def _without_missing_seeds(session: Session, attempt: Attempt) -> Attempt:
    """The attempt as it can be judged: a seed that no index has would spoil every trial of what would help."""
    while seeds := [each for each in attempt.lines if each.seed]:
        missing = session.run(attempt.with_lines(seeds)).explanation.not_found
        if not any(each.name in missing for each in seeds):
            break
        attempt = _without_seeds(attempt, missing)
    return attempt


def _unpinned(attempt: Attempt, names: Sequence[str], explanation: Explanation) -> list[Line]:
    """Lines for what is pinned to an index and comes in, or fails to, only through others."""
    direct = {each.name for each in attempt.lines}
    pinned = pinned_names(attempt.request.sources) - direct
    wanted = {name for name in pinned if name in names or (not names and explanation.mentions(name))}
    return [Line(Requirement(name), name, name, seed=True) for name in sorted(wanted)]


def _lines_of(name: str, attempt: Attempt) -> list[Requirement]:
    return [each.source for each in attempt.lines if each.name == name and not each.seed]


def _require_listed(
    found: Found, filename: str, digest: str | None, hashes: Mapping[str, frozenset[str]], attempt: Attempt
) -> None:
    """Let pass what has a hash that the attempt's lines list, or of which they list none. Raises `UnlistedFile`."""
    if found.name not in hashes or digest in hashes[found.name]:
        return
    bounds = [each.source for each in attempt.constraints if each.name == found.name]
    lines = [each for each in (*_lines_of(found.name, attempt), *bounds) if each.hashes]
    got = digest or "unknown, since the index does not tell it"
    failure = UnlistedFile(
        f"{lines[0]}: {filename} is what runs on the target, and has none of the hashes that are listed: it is {got}",
        lines=lines,
        hint="find out why: if it is what you want, list its hash, too; or name the version that the listed ones are of",
    )
    failure.project, failure.filename, failure.digest = found.name, filename, digest
    raise failure


def _tell_builds(attempt: Attempt, found: Sequence[Found], progress: Progress) -> None:
    names = [each.name for each in found if each.wheel is None]
    if attempt.request.allow_source_auto and names:
        progress.warn(f"built from source, since there is no wheel: {', '.join(names)}")
