"""The Pythons of this machine: which there are, and which of them an environment can run on."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from mlenv.core.platform import Glibc, InvalidPlatform, Platform, Target
from mlenv.core.python_version import admits, is_bare, minor_of
from mlenv.errors import InvalidInput, NotFound
from mlenv.run.candidates import Candidate, candidates
from mlenv.run.probe import Prober, UnusablePython

#: Names an interpreter for all runs, when no option does.
VARIABLE: Final = "MLENV_PYTHON"


class HostPython(Struct, frozen=True):
    """
    An interpreter of this machine that environments can be made with.

    Attributes:
        path: The interpreter itself: no shim, and not a virtual environment's link.
        version: Its full version: `3.11.7`.
        prefix: Its `sys.base_prefix`.
        platform: What it runs on.
        glibc: The level of the C library it runs with; None except on Linux with glibc.
        source: How it was found: `PATH`, `pyenv`, …
    """

    path: Path
    version: str
    prefix: Path
    platform: Platform
    glibc: Glibc | None
    source: str

    @property
    def minor(self) -> str:
        """`3.11`."""
        return minor_of(self.version)

    @property
    def target(self) -> Target:
        """What to lock for, to run on it."""
        return Target(self.platform, self.version, self.glibc)

    def __str__(self) -> str:
        return f"{self.version} ({self.path})"


class SkippedPython(Struct, frozen=True):
    """An interpreter that was found and can't be used, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class NoSuitablePython(NotFound):
    """There is no interpreter here that would do."""

    def __init__(self, wanted: str | None, found: Iterable[HostPython], skipped: Iterable[SkippedPython]) -> None:
        self.wanted, self.found, self.skipped = wanted, tuple(found), tuple(skipped)
        there = ", ".join(str(each) for each in self.found) or "none"
        super().__init__(f"no Python {wanted or 'that can be used'} on this machine; found: {there}")
        install = wanted if wanted and is_bare(wanted) else (f"'{wanted}'" if wanted else "3.11")
        self.hint = f"install one with `uv python install {install}`, or name one with `--python PATH`"
        self.detail = "\n".join(f"skipped {each}" for each in self.skipped) or None


class UnsuitablePython(InvalidInput):
    """The interpreter that was named is not what the environment needs."""

    def __init__(self, given: str, reason: str, hint: str | None = None) -> None:
        super().__init__(f"Python {given!r} can't be used: {reason}")
        self.given, self.reason, self.hint = given, reason, hint


class Pythons:
    """
    The interpreters of this machine, looked up as they are asked for.

    Args:
        cache: The directory in which `pythons.json` remembers probes; it is made when needed.
        environment: Environment variables.
    """

    def __init__(self, cache: Path, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._prober = Prober(cache / "pythons.json")
        self._skipped: list[SkippedPython] = []

    def find(self) -> list[HostPython]:
        """All that can be used, the preferred ones first; `skipped` tells of the others."""
        with self._prober:
            return list(self._iterate())

    @property
    def skipped(self) -> tuple[SkippedPython, ...]:
        """What was found on the way and can't be used."""
        return tuple(self._skipped)

    def choose(self, wanted: str | None = None, explicit: str | None = None) -> HostPython:
        """
        The interpreter to use.

        Args:
            wanted: What the environment asks for: `3.11`, `3.11.4` (met by any 3.11, by an equal one first), a
                specifier set, or None.
            explicit: What the user asks for: a path, a command's name, or one of the forms above. The environment
                variable `MLENV_PYTHON` has the same meaning.

        Raises:
            NoSuitablePython: There is none.
            UnsuitablePython: The one that was asked for is not what is wanted, or can't be used.
        """
        explicit = explicit or self._environment.get(VARIABLE) or None
        with self._prober:
            if explicit is None:
                return self._first(wanted)
            if is_bare(explicit) or explicit[0] in "<>=!~":
                python = self._first(explicit)
                if explicit.count(".") == 2 and is_bare(explicit) and python.version != explicit:
                    raise NoSuitablePython(explicit, self._iterate(), self._skipped)
            else:
                python = self._named(explicit)
        if not admits(wanted, python.version):
            # NOTE: a whole version is met by any patch release of it.
            would_do = minor_of(wanted) if wanted and is_bare(wanted) else wanted
            raise UnsuitablePython(
                explicit,
                f"it is {python.version}, and the environment is for {would_do}",
                f"leave out `--python` (and ${VARIABLE}), or name a Python {would_do}",
            )
        return python

    def _first(self, wanted: str | None) -> HostPython:
        fitting = None
        for python in self._iterate():
            if python.version == wanted or (wanted and wanted.count(".") < 2 and admits(wanted, python.version)):
                return python
            if fitting is None and admits(wanted, python.version):
                fitting = python
                if wanted is None or not is_bare(wanted):
                    return python
        if fitting is None:
            raise NoSuitablePython(wanted, self._iterate(), self._skipped)
        return fitting

    def _named(self, given: str) -> HostPython:
        path = Path(given).expanduser()
        if path.is_dir():
            path = next((each for each in _inside(path) if each.exists()), path)
        elif path.parent == Path() and not path.exists():
            command = shutil.which(given, path=self._environment.get("PATH"))
            path = Path(command) if command else path
        if not path.is_file():
            raise UnsuitablePython(given, "there is no such file or command", "give the path of an interpreter")
        try:
            return self._host(Candidate(path.absolute(), "as named", trusted=True))
        except UnusablePython as error:
            raise UnsuitablePython(given, error.reason) from error

    def _iterate(self) -> Iterator[HostPython]:
        seen: set[Path] = set()
        self._skipped.clear()
        for candidate in candidates(self._environment):
            try:
                python = self._host(candidate)
            except UnusablePython as error:
                self._skipped.append(SkippedPython(candidate.path, error.reason))
                continue
            real = python.path.resolve()
            if real not in seen:
                seen.add(real)
                yield python

    def _host(self, candidate: Candidate) -> HostPython:
        facts = self._prober.probe(candidate)
        if reason := _objection(facts):
            raise UnusablePython(reason)
        try:
            host = Platform.parse(f"{facts['system']}/{facts['machine']}")
        except InvalidPlatform as error:
            raise UnusablePython(f"it runs on {facts['system']} {facts['machine']}") from error
        glibc = str(facts["glibc"] or "").partition("glibc ")[2].split("-")[0]
        return HostPython(
            path=Path(facts["executable"]),
            version=facts["version"],
            prefix=Path(facts["prefix"]),
            platform=host,
            glibc=Glibc.parse(glibc) if glibc else None,
            source=candidate.source,
        )


def _objection(facts: Mapping[str, Any]) -> str | None:
    """Why environments can't be made with an interpreter, or None."""
    if facts["implementation"] != "CPython":
        return f"it is {facts['implementation']}, and locks are made for CPython"
    if facts["free_threaded"]:
        return "it is free-threaded, and needs wheels of its own"
    if facts["debug"]:
        return "it is a debug build"
    if facts["bits"] != 64:
        return f"it is a {facts['bits']}-bit build"
    if facts["release"] != "final":
        return f"it is {facts['version']} {facts['release']}, not a final release"
    if int(facts["version"].split(".")[0]) < 3 or int(facts["version"].split(".")[1]) < 6:
        return f"it is {facts['version']}, and the oldest that is supported is 3.6"
    return None


def _inside(directory: Path) -> tuple[Path, ...]:
    """Where an interpreter is in an installation or a virtual environment."""
    if sys.platform == "win32":
        return (directory / "python.exe", directory / "Scripts" / "python.exe")
    return (directory / "bin" / "python3", directory / "bin" / "python")
