"""
Laying out a prefix: a virtual environment (PEP 405) whose files are links into the cache of unpacked wheels.

Everything is written for the place where the prefix will be, while it still is somewhere else.
"""

import filecmp
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlenv.core.layer import plan_layers
from mlenv.core.lock import LOCK_NAME, Lock, LockedPackage
from mlenv.core.progress import Progress
from mlenv.core.wheel import Scheme
from mlenv.core.wheel_record import format_record, hash_of
from mlenv.core.wheel_scripts import rewrite_script
from mlenv.errors import Conflict
from mlenv.run.activation import scripts_directory
from mlenv.run.links import Linker
from mlenv.run.pythons import HostPython
from mlenv.run.unpacked import UnpackedWheels, WheelListing

_ACTIVATE: Final = """\
# For `. bin/activate` in sh, bash and zsh.
deactivate () {{
    PATH="$_MLENV_OLD_PATH"; export PATH
    PS1="${{_MLENV_OLD_PS1-}}"
    unset VIRTUAL_ENV _MLENV_OLD_PATH _MLENV_OLD_PS1
    unset -f deactivate
}}
if [ -n "${{_MLENV_OLD_PATH-}}" ]; then PATH="$_MLENV_OLD_PATH"; PS1="$_MLENV_OLD_PS1"; fi
VIRTUAL_ENV={prefix}; export VIRTUAL_ENV
unset PYTHONHOME
_MLENV_OLD_PATH="$PATH"; _MLENV_OLD_PS1="${{PS1-}}"
PATH="$VIRTUAL_ENV/bin:$PATH"; export PATH
PS1="(mlenv) ${{PS1-}}"
hash -r 2>/dev/null || true
"""


class ClashingFiles(Conflict):
    """Two packages bring a file and a directory of one path."""

    def __init__(self, path: str, package: str) -> None:
        super().__init__(f"{package} brings {path!r}, where another package has something else than a file")
        self.path, self.package = path, package
        self.hint = f"lock without {package}, or without the other package that brings {path!r}"


def lay_out(
    stage: Path, final: Path, lock: Lock, python: HostPython | None, unpacked: UnpackedWheels, progress: Progress
) -> None:
    """
    Fill the directory `stage` with the wheels of what will be the prefix `final`, and with its lock.

    Args:
        stage: Where it is made: an empty directory, or one that has conda's packages.
        final: Where it will be: scripts and `activate` name this path.
        lock: What is in it; every wheel is in `unpacked`.
        python: What it runs on; None where conda's packages bring one, or there is none.
        unpacked: The cache of unpacked wheels.
        progress: Told of the step, and warned of files that two packages bring with unlike content.

    Raises:
        ClashingFiles: Two packages can't be installed together.
    """
    interpreter = scripts_directory(final) / ("python.exe" if sys.platform == "win32" else "python")
    if python is not None:
        _make_virtual_environment(stage, final, python, unpacked.scheme)
    # The order of an image's layers: where two packages bring the same path, the same one wins here and there.
    packages = [each for plan in plan_layers(lock.packages) for each in plan.packages]
    listings = [(each, _listing(unpacked, each)) for each in packages]
    directories = sorted({each for _, listing in listings for each in listing.directories})
    for directory in directories:
        try:
            os.makedirs(stage / directory, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ClashingFiles(directory, _owner(listings, directory)) from error
    link = Linker()
    total = sum(len(listing.files) for _, listing in listings)
    with progress.step("Linking files", total=total) as step:
        for package, listing in listings:
            _link_files(stage, unpacked.entry(package) / "tree", package, listing, link, progress)
            _write_scripts(stage, package, listing, unpacked.scheme, str(interpreter))
            step.advance(len(listing.files))
        step.note({"link": "hard links", "clone": "shared blocks", "copy": "copies"}[link.how])
    _write(stage / LOCK_NAME, lock.to_pylock().encode())


def protect(stage: Path) -> None:
    """Make every directory read-only, so that nobody but root installs into a prefix by mistake."""
    if sys.platform == "win32":
        return
    for directory, _, _ in os.walk(stage, topdown=False):
        os.chmod(directory, 0o555)


def _listing(unpacked: UnpackedWheels, package: LockedPackage) -> WheelListing:
    listing = unpacked.listing(package)
    if listing is None:
        raise Conflict(f"{package.artifact.filename} vanished from {unpacked.directory} while it was used")
    return listing


def _make_virtual_environment(stage: Path, final: Path, python: HostPython, scheme: Scheme) -> None:
    """What `python -m venv --without-pip` makes (PEP 405)."""
    (stage / scheme.packages).mkdir(parents=True)
    scripts = stage / scheme.scripts
    scripts.mkdir()
    settings = {
        "home": str(python.path.parent),
        "include-system-site-packages": "false",
        "version": python.version,
        "executable": str(python.path.resolve()),
        "command": f"{python.path} -m venv {final}",
    }
    _write(stage / "pyvenv.cfg", "".join(f"{name} = {value}\n" for name, value in settings.items()).encode())
    if sys.platform == "win32":
        _copy_launchers(python, scripts)
        return
    os.symlink(python.path, scripts / "python")
    for name in ("python3", f"python{python.minor}"):
        os.symlink("python", scripts / name)
    if sys.platform == "linux":
        os.symlink("lib", stage / "lib64")
    quoted = "'" + str(final).replace("'", "'\"'\"'") + "'"
    _write(scripts / "activate", _ACTIVATE.format(prefix=quoted).encode())


def _copy_launchers(python: HostPython, scripts: Path) -> None:
    """The launchers that the standard library's `venv` copies; they find the interpreter by `pyvenv.cfg`."""
    source = python.prefix / "Lib" / "venv" / "scripts" / "nt"
    for name in ("python", "pythonw"):
        launcher = next(
            (each for each in (source / f"venvlauncher{name[6:]}.exe", source / f"{name}.exe") if each.exists()), None
        )
        if launcher is not None:
            shutil.copyfile(launcher, scripts / f"{name}.exe")


def _link_files(
    stage: Path, tree: Path, package: LockedPackage, listing: WheelListing, link: Linker, progress: Progress
) -> None:
    source, target = f"{tree}{os.sep}", f"{stage}{os.sep}"
    for path in listing.files:
        try:
            link(source + path, target + path)
        except FileExistsError as error:
            linked = os.path.islink(target + path)
            if os.path.isdir(target + path) and not linked:
                raise ClashingFiles(path, package.name) from error
            if linked or not filecmp.cmp(source + path, target + path, shallow=False):
                _take_over(source + path, target + path, link)
                progress.warn(f"{path} is brought by two packages with unlike content; that of {package.name} is used")


def _take_over(source: str, target: str, link: Linker) -> None:
    os.unlink(target)
    link(source, target)


def _write_scripts(stage: Path, package: LockedPackage, listing: WheelListing, scheme: Scheme, python: str) -> None:
    """Scripts with their first line, and RECORD with their hashes."""
    up = "../" * (scheme.packages.count("/") + 1)
    rows = []
    for path, template in listing.scripts:
        content = rewrite_script(template.encode("utf-8", "surrogateescape"), python)
        if sys.platform == "win32":
            path, content = _windows_script(stage, path, content)
        if (stage / path).is_dir():
            raise ClashingFiles(path, package.name)
        _write(stage / path, content, mode=0o555)
        rows.append((up + path, hash_of(content), str(len(content))))
    if package.requested:
        requested = f"{listing.record.rpartition('/')[0]}/REQUESTED"
        _write(stage / requested, b"")
        rows.append((requested.removeprefix(f"{scheme.packages}/"), hash_of(b""), "0"))
    _write(stage / listing.record, listing.rows.encode() + format_record(rows))


def _windows_script(stage: Path, path: str, content: bytes) -> tuple[str, bytes]:
    """Windows runs no `#!` lines: the script gets another name, and a command file of its name runs it."""
    if path.endswith(".py"):
        return path, content
    name = path.rpartition("/")[2]
    _write(stage / f"{path}.cmd", f'@"%~dp0python.exe" "%~dp0{name}-script.py" %*\r\n'.encode())
    return f"{path}-script.py", content


def _write(path: Path, content: bytes, *, mode: int = 0o444) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, mode), "wb") as stream:
        stream.write(content)


def _owner(listings: Sequence[tuple[LockedPackage, WheelListing]], directory: str) -> str:
    return next(package.name for package, listing in listings if directory in listing.directories)
