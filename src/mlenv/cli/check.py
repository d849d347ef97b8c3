"""`mlenv check` and `mlenv diff`."""

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mlenv.cli.arguments import add_reference, to_optional_reference
from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.locking import add_platform, to_platform
from mlenv.cli.printer import Column, Output
from mlenv.core.check import Finding, require_python
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.lock import Lock
from mlenv.core.platform import Platform
from mlenv.core.progress import quantity
from mlenv.core.reference import Reference
from mlenv.errors import InvalidInput, MlenvError

if TYPE_CHECKING:
    from mlenv.remote import Remote
    from mlenv.wiring.embedded import Embedded

#: How many files of a package a table names.
_FILES_SHOWN: Final = 3

# check


class NothingToCompare(InvalidInput):
    """A check was asked for, of a version that says nothing of packages."""

    hint = "check a version that has `conda_file`, `requirements` or the like"

    def __init__(self, version: EnvironmentVersion) -> None:
        super().__init__(f"{version} names no packages, so there is nothing to compare")
        self.version = version


class CheckSettings(Struct, frozen=True):
    """
    What to compare with what.

    Attributes:
        reference: The version whose lock counts, or None for the lock that the interpreter has at its prefix.
        python: The interpreter; None for the active one.
        container: Look into the version's image instead.
    """

    reference: Reference | None
    python: Path | None
    container: bool
    platform: Platform | None


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument(
        "--python",
        type=Path,
        metavar="PATH",
        help="the interpreter to look at, or its environment (default: that of the active environment, or `python` on PATH)",
    )
    parser.add_argument(
        "--engine", choices=("local", "container"), default="local", help="container: look into the version's image"
    )
    add_platform(parser, "whose lock counts (default: this machine's)")


def _check_settings(namespace: argparse.Namespace) -> CheckSettings:
    reference = to_optional_reference(namespace)
    container = namespace.engine == "container"
    if container and reference is None:
        raise UsageError("the image of which environment?", "write NAME:VERSION")
    if container and namespace.python:
        raise UsageError("--python is for --engine local")
    return CheckSettings(reference, namespace.python, container, to_platform(namespace))


def active_python() -> Path | None:
    """The interpreter that `python` means to the user here; None if that is ours, or there is none."""
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if active and (own := _inside(Path(active))) is not None:
        return own
    found = shutil.which("python") or shutil.which("python3")
    return Path(found) if found else None


def _inside(prefix: Path) -> Path | None:
    """The interpreter of an environment."""
    own = (prefix / "bin" / "python", prefix / "Scripts" / "python.exe")
    return next((each for each in own if each.exists()), None)


def _check(settings: CheckSettings, context: Context) -> int:
    store = context.store
    if settings.container:
        assert settings.reference is not None
        version = store.environments.version(settings.reference)
        _require_packages(version)
        known = store.locking.find(version, Platform("linux", store.machine.host_platform.architecture))
        if known is not None:
            require_python(known, str(version))
        inspection, lock = store.running.inspect_container(version, progress=context.progress)
    else:
        from mlenv.run.inspect import installed_in

        named = _named_lock(settings.reference, settings.platform, context) if settings.reference else None
        if named is None and settings.python is None:
            _require_active_python()
        python = settings.python or active_python()
        inspection = installed_in((_inside(python) or python) if python and python.is_dir() else python)
        lock = named or _own_lock(inspection.lock, inspection.prefix)
    report = inspection.check(lock)
    if context.printer.tabular:
        columns = (
            Column("Package", "name"),
            *((Column("Manager", "manager"),) if lock.conda else ()),
            Column("Finding", "kind"),
            Column("Locked", "expected"),
            Column("Found", "found"),
            Column("Files", "files"),
            Column("Drift", "drift"),
        )
        context.printer.data([{**each.to_dict(), "files": _files(each)} for each in report.findings], columns)
    else:
        context.printer.data(report.to_dict())
    where = f"{inspection.executable} (Python {report.python})"
    if report.drift:
        count = sum(1 for each in report.findings if each.drift)
        context.printer.say(
            f"drift: {quantity(count, 'finding')} in {where}, {report.matching} of {report.locked} packages as locked"
        )
    else:
        context.printer.say(f"no drift: {report.matching} of {report.locked} packages as locked in {where}")
    return ExitStatus.FAILED if report.drift else ExitStatus.DONE


def _files(finding: Finding) -> str:
    """The files of a finding, for a cell of a table."""
    more = len(finding.files) - _FILES_SHOWN
    return ", ".join(finding.files[:_FILES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _require_packages(version: EnvironmentVersion) -> None:
    if not version.spec.has_dependencies and version.spec.build is None:
        raise NothingToCompare(version)


def _named_lock(reference: Reference, platform: Platform | None, context: Context) -> Lock:
    """What a version should be."""
    store = context.store
    version = store.environments.version(reference)
    _require_packages(version)
    platform = platform or store.machine.host_platform
    lock = store.locking.find(version, platform)
    if lock is None:
        raise UsageError(f"{version} is not locked for {platform}", f"lock it with `mlenv environment lock {version}`")
    require_python(lock, str(version))
    return store.building.as_built(version, lock)


def _own_lock(text: str | None, prefix: str) -> Lock:
    """What an environment itself says that it should be."""
    if text is None:
        raise UsageError(f"{prefix} has no lock of its own", "say which environment it should be: NAME:VERSION")
    return Lock.from_pylock(text)


def _require_active_python() -> None:
    """Refuse to look at some other Python where the active environment has none."""
    if not (active := os.environ.get("VIRTUAL_ENV")) or not (own := Path(active, "pylock.toml")).is_file():
        return
    from mlenv.api.files import TOML_LIMIT, read_text
    from mlenv.api.problems import Place

    require_python(Lock.from_pylock(read_text(own, Place(str(own)), limit=TOML_LIMIT)), active)


check: Final = Verb(_check_arguments, _check_settings, _check, Output.TABLE)


# diff


class DiffSettings(Struct, frozen=True):
    """Two versions, and the platform whose locks count."""

    old: Reference
    new: Reference
    platform: Platform | None


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="A", help="a version: NAME:VERSION, NAME@LABEL, azureml:…, or an ARM id")
    parser.add_argument("new", metavar="B", help="another")
    add_platform(parser, "whose locks count (default: linux on this machine's architecture)")


def _diff_settings(namespace: argparse.Namespace) -> DiffSettings:
    return DiffSettings(Reference.parse(namespace.old), Reference.parse(namespace.new), to_platform(namespace))


def _lock_to_compare(
    version: EnvironmentVersion, platform: Platform, store: "Embedded | Remote", context: Context
) -> Lock | None:
    """A version's lock, or None, with a warning, where there is none and none can be made: the specs still compare."""
    try:
        lock = store.locking.lock(version, platform, progress=context.progress)
    except MlenvError as error:
        context.printer.warn(f"only the specs are compared, since {version} can't be locked: {error}")
        return None
    try:
        return store.building.as_built(version, lock)
    except MlenvError as error:
        context.printer.warn(f"only the specs are compared: {error}")
        return None


def _diff(settings: DiffSettings, context: Context) -> int:
    from mlenv.cli.difference import render
    from mlenv.core.diff import compare_environments

    stores = [context.store_of(each) for each in (settings.old, settings.new)]
    old, new = (
        store.environments.version(each) for store, each in zip(stores, (settings.old, settings.new), strict=True)
    )
    platform = settings.platform or stores[0].machine.host_platform
    locks = [_lock_to_compare(each, platform, store, context) for store, each in zip(stores, (old, new), strict=True)]
    difference = compare_environments((old.spec, locks[0]), (new.spec, locks[1]))
    if context.printer.output is Output.TABLE and context.printer.tabular:
        context.printer.text(render(old, new, difference))
    else:
        context.printer.data({"old": str(old), "new": str(new), **difference.to_dict()})
    return ExitStatus.DONE


diff: Final = Verb(_diff_arguments, _diff_settings, _diff, Output.TABLE)
