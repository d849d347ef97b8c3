"""Wheels from source distributions, built once, when a lock is made (PEP 517)."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.lock import Artifact
from mlenv.core.platform import Platform, Target
from mlenv.core.redact import redact
from mlenv.core.spec import Requirement
from mlenv.core.wheel_tags import rank
from mlenv.resolve.explanation import Explanation
from mlenv.resolve.failures import BuildFailed
from mlenv.resolve.index_http import HttpFetcher
from mlenv.resolve.session import Session
from mlenv.resolve.uv_input import Attempt
from mlenv.resolve.uv_output import Found, FoundFile

_TAIL: Final = 60
#: Old build scripts import `pkg_resources`, which setuptools 81 no longer has.
OLD_SETUPTOOLS: Final = "<81"


def build_wheel(
    found: Found,
    source: FoundFile,
    *,
    attempt: Attempt,
    session: Session,
    fetcher: HttpFetcher,
    host: Platform,
    directory: Path,
    lines: Sequence[Requirement],
    timeout: float,
) -> tuple[Path, Artifact]:
    """
    Build one package's wheel for the target.

    Args:
        found: The package.
        source: Its source distribution.
        attempt: The attempt that found it: its indexes and dates also hold for what the build needs.
        session: Runs uv.
        fetcher: Brings the source.
        host: This machine.
        directory: An empty directory for the source and the wheel.
        lines: The user's lines that asked for it.
        timeout: Seconds for the build.

    Returns:
        The wheel, and the source it was built from.

    Raises:
        BuildFailed: It does not build, or what comes out does not run on the target.
        DigestMismatch: The source is not what the index said.
        Unavailable: The source did not come.
    """
    target = attempt.request.target
    directory.mkdir(parents=True)
    file, artifact = _download(source, attempt, fetcher, directory)
    interpreter = session.python(target.python) if host == target.platform else None
    out = directory / "wheel"
    arguments = [
        *("build", "--wheel", str(file), "--out-dir", str(out), "--python", interpreter or sys.executable),
        *("--config-file", "uv.toml", "--build-constraints", "build-constraints.txt"),
    ]
    done = session.uv.run(arguments, timeout=timeout, workdir=session.configuration(attempt))
    if not done.ok:
        raise build_failure(found.name, found.version, Explanation(done.err), lines)
    wheels = list(out.glob("*.whl"))
    if len(wheels) != 1:
        raise _failed(found.name, found.version, f"the build made {len(wheels)} wheels, expected 1", lines, done.err)
    _check(wheels[0], found, target, host, interpreter, lines)
    return wheels[0], artifact


def build_failure(name: str, version: str, explanation: Explanation, lines: Sequence[Requirement]) -> BuildFailed:
    """The failure for a build's output: the last thing it said first, the end of its log as detail."""
    text = explanation.text
    last = next((line.strip() for line in reversed(text.splitlines()) if _is_error(line)), "the build backend failed")
    return _failed(name, version, last, lines, text)


def _is_error(line: str) -> bool:
    words = line.strip().partition(":")[0]
    return words.endswith(("Error", "Exception", "error", "fatal")) and not line.startswith("error:")


def _failed(name: str, version: str, why: str, lines: Sequence[Requirement], log: str) -> BuildFailed:
    asked = f"{lines[0]}: " if lines else ""
    failure = BuildFailed(
        redact(f"{asked}{name} {version} can't be built from source: {why}".replace("  ", " ")),
        lines=lines,
        hint=f"choose a version of {name} that has a wheel, or have what its build needs on this machine "
        "(a compiler, headers); `--as-of` with a date near its release gives it the build tools of that day",
        detail=redact("\n".join(log.strip().splitlines()[-_TAIL:])),
    )
    failure.project = name
    return failure


def _download(source: FoundFile, attempt: Attempt, fetcher: HttpFetcher, directory: Path) -> tuple[Path, Artifact]:
    """The source distribution, checked against its digest while it streams."""
    file = directory / Path(source.filename).name
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as out:
        for chunk in fetcher.stream(source.url, attempt.request.sources):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    if source.sha256 is not None and digest.hexdigest() != source.sha256:
        raise DigestMismatch(source.filename, expected=f"sha256:{source.sha256}", got=f"sha256:{digest.hexdigest()}")
    return file, Artifact(file.name, size, Digest(digest.hexdigest()), source.url)


def _check(
    wheel: Path, found: Found, target: Target, host: Platform, interpreter: str | None, lines: Sequence[Requirement]
) -> None:
    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        same = name == canonicalize_name(found.name) and version == Version(found.version)
    except (InvalidWheelFilename, InvalidVersion):
        same = False
    if not same:
        raise _failed(found.name, found.version, f"the build made {wheel.name}", lines, "")
    if rank(wheel.name, target) is None or (interpreter is None and not wheel.name.endswith("-none-any.whl")):
        need = f"a {target.platform} machine" if host != target.platform else f"Python {target.python_minor} here"
        raise _failed(
            found.name, found.version, f"it has compiled parts, whose build for this target needs {need}", lines, ""
        )
