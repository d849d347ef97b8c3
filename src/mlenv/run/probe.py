"""Asking an interpreter what it is, once: the answer is remembered until the file changes."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from mlenv.run.candidates import Candidate

#: Changes whenever the probing script's answer does.
_FORMAT: Final = 1
#: Seconds in which an interpreter must answer.
_TIMEOUT: Final = 10
_FACTS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "version": str,
    "release": str,
    "implementation": str,
    "executable": str,
    "prefix": str,
    "system": str,
    "machine": str,
    "bits": int,
    "glibc": (str, type(None)),
    "debug": bool,
    "free_threaded": bool,
}


class UnusablePython(Exception):
    """A file that is no interpreter we could use. Never leaves this package."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Prober:
    """
    Probes interpreters and remembers their answers in a JSON file, which is written when its context ends.

    An entry counts as long as the interpreter's file has the same size and time of change, and this machine the same
    C library. Two processes that write at once lose one's news, never the file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] | None = None
        self._changed = False

    def __enter__(self) -> Self:
        if self._known is None:
            self._known = _load(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            # A cache that can't be written is no reason to stop.
            with suppress(OSError):
                _save(self._file, self._known or {})
            self._changed = False

    def probe(self, candidate: Candidate) -> Mapping[str, Any]:
        """
        The facts of an interpreter.

        Raises:
            UnusablePython: It is a script (such as a pyenv shim, whose answer depends on the directory it is called
                from), does not start, or is none.
        """
        path = os.path.realpath(candidate.path)
        try:
            state = os.stat(path)
        except OSError as error:
            raise UnusablePython(f"it can't be read: {error.strerror}") from error
        if not candidate.trusted and _is_script(path):
            raise UnusablePython("it is a script that chooses among others, such as a pyenv shim")
        if candidate.trusted and _is_script(path):
            return _ask(str(candidate.path))
        known = self._known if self._known is not None else {}
        entry = known.get(path)
        if not isinstance(entry, dict) or entry.get("state") != [state.st_mtime_ns, state.st_size]:
            entry = {"state": [state.st_mtime_ns, state.st_size]}
            try:
                entry["facts"] = _ask(path)
            except UnusablePython as error:
                entry["reason"] = error.reason
            known[path] = entry
            self._changed = True
        if "facts" not in entry:
            raise UnusablePython(entry.get("reason", "it did not answer"))
        facts: Mapping[str, Any] = entry["facts"]
        return facts


def _ask(path: str) -> dict[str, Any]:
    # NOTE: what is known already should not wait for these imports.
    import subprocess
    from importlib import resources

    script = resources.files("mlenv.run").joinpath("_probe_script.py").read_text("utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment.pop("__PYVENV_LAUNCHER__", None)
    try:
        # NOTE: the script stands on the command line, so no file's
        # directory comes before the standard library.
        done = subprocess.run(
            [path, "-I", "-S", "-c", script],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
            cwd=os.path.dirname(path) or None,
            env=environment,
        )
        facts = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise UnusablePython("it did not answer as Python 3.6 or later does") from error
    if not _is_facts(facts):
        raise UnusablePython("it did not answer as Python 3.6 or later does")
    return facts  # type: ignore[no-any-return]


def _is_facts(facts: Any) -> bool:
    return isinstance(facts, dict) and all(isinstance(facts.get(name), kind) for name, kind in _FACTS.items())


def _is_script(path: str) -> bool:
    if sys.platform == "win32":
        return False
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _load(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
        if document["format"] == _FORMAT and document["libc"] == _libc():
            known = document["pythons"]
            return {path: each for path, each in known.items() if "facts" not in each or _is_facts(each["facts"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _save(file: Path, known: Mapping[str, Any]) -> None:
    import tempfile

    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": _FORMAT, "libc": _libc(), "pythons": known}
    descriptor, temporary = tempfile.mkstemp(prefix=".pythons-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(document, stream)
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _libc() -> str | None:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return None
