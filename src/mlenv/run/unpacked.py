"""
The cache of unpacked wheels: each wheel once per Python, verified, read-only, with its bytecode, ready to be linked.

    wheels/<sha256>-3.11-pyc/
        tree/       its files, relative to a prefix
        files.json  what a prefix needs to know without listing `tree`: a `WheelListing`

Scripts and RECORD depend on the prefix, so they are not in `tree`; the listing has what they are made from.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from msgspec import Struct
from msgspec.structs import replace

from mlenv import faults
from mlenv.core.lock import LockedPackage
from mlenv.core.progress import Progress, Step
from mlenv.core.wheel import InstalledFile, InstalledTree, InvalidWheel, Scheme, read_wheel
from mlenv.run.found import RECIPE
from mlenv.run.interface import BytecodeCompiler, SourceFile, WheelFiles
from mlenv.run.links import make_durable, remove_tree
from mlenv.threads import in_threads

#: Stands for the interpreter in scripts that are not for a prefix yet.
_NO_PYTHON: Final = "/no-prefix/python"
_NO_PYTHON_LINE: Final = f"#!{_NO_PYTHON}\n".encode()
_TEMPLATE_LINE: Final = "#!python\n"


class WheelListing(Struct, frozen=True):
    """
    What an unpacked wheel brings.

    Attributes:
        directories: Relative to the prefix, parents first.
        files: Relative to the prefix; they are in `tree`.
        scripts: Path and text of scripts whose first line, `#!python`, is to name the interpreter.
        record: Where RECORD goes.
        rows: RECORD's lines, but for those of `scripts`.
    """

    directories: tuple[str, ...]
    files: tuple[str, ...]
    scripts: tuple[tuple[str, str], ...]
    record: str
    rows: str

    def to_json(self) -> str:
        """As it is written in the cache."""
        return json.dumps(
            {
                "directories": self.directories,
                "files": self.files,
                "scripts": self.scripts,
                "record": self.record,
                "rows": self.rows,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        data: dict[str, Any] = json.loads(text)
        return cls(
            directories=tuple(data["directories"]),
            files=tuple(data["files"]),
            scripts=tuple((path, content) for path, content in data["scripts"]),
            record=data["record"],
            rows=data["rows"],
        )


class UnpackedWheels:
    """
    The cache, for one Python.

    Args:
        directory: The cache's directory.
        python: The minor version, `3.11`.
        windows: Whether paths are those of a Windows prefix.
        bytecode: Whether entries have bytecode.
    """

    def __init__(self, directory: Path, *, python: str, windows: bool, bytecode: bool) -> None:
        self.directory = directory
        make = Scheme.windows if windows else Scheme.posix
        self.scheme = make(python, script_python=_NO_PYTHON)
        self._python = python
        self._suffix = f"{python}-{'pyc' if bytecode else 'src'}-{RECIPE}"

    def entry(self, package: LockedPackage) -> Path:
        """Where a package's wheel is unpacked, or will be."""
        return self.directory / f"{package.artifact.digest.hex}-{self._suffix}"

    def listing(self, package: LockedPackage) -> WheelListing | None:
        """What an unpacked wheel brings, or None if it is not there."""
        try:
            return WheelListing.from_json((self.entry(package) / "files.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            # It was damaged from outside; it is made again.
            remove_tree(self.entry(package))
            return None

    def unpack(
        self,
        packages: Sequence[LockedPackage],
        wheels: WheelFiles,
        *,
        staging: Path,
        interpreter: Path,
        compiler: BytecodeCompiler | None,
        progress: Progress,
    ) -> None:
        """
        Unpack wheels that are not there yet.

        Args:
            packages: Which ones.
            wheels: Where the wheels are.
            staging: A directory in the cache's file system that nobody else uses; it is removed by the caller.
            interpreter: What the bytecode is for.
            compiler: Compiles bytecode; None for none.
            progress: Told of both steps.

        Raises:
            InvalidWheel: A wheel is not one that may be installed; nothing of it stays.
        """
        staging.mkdir(parents=True, exist_ok=True)
        largest_first = sorted(packages, key=lambda each: -each.artifact.size)
        total = sum(each.artifact.size for each in packages)
        with progress.step("Unpacking wheels", total=total, unit="bytes") as step:
            trees = in_threads(
                lambda each: self._unpack_one(each, wheels, staging, step),
                largest_first,
                workers=min(8, os.cpu_count() or 1),
            )
        if compiler is not None:
            self._compile(interpreter, staging, largest_first, trees, compiler, progress)
        for package, tree in zip(largest_first, trees, strict=True):
            self._finish(package, tree, staging)
        make_durable(staging)
        for package in largest_first:
            faults.reach("wheel.unpacked")
            with suppress(OSError):
                # Unless another process was first.
                os.rename(staging / self.entry(package).name, self.entry(package))

    def _unpack_one(self, package: LockedPackage, wheels: WheelFiles, staging: Path, step: Step) -> InstalledTree:
        root = staging / self.entry(package).name / "tree"
        root.mkdir(parents=True)
        with wheels.path(package.artifact.digest).open("rb") as file:
            wheel = read_wheel(file, filename=package.artifact.filename)
            # REQUESTED belongs to a lock, not to the wheel: a prefix adds it.
            tree = wheel.install(self.scheme, requested=False)
            made: set[str] = set()
            for part in tree.parts:
                if not _is_template(part):
                    _write(root, part, tree, made)
        step.advance(package.artifact.size)
        return tree

    def _compile(
        self,
        interpreter: Path,
        staging: Path,
        packages: Sequence[LockedPackage],
        trees: Sequence[InstalledTree],
        compiler: BytecodeCompiler,
        progress: Progress,
    ) -> None:
        roots = [staging / self.entry(package).name / "tree" for package in packages]
        sources = [
            SourceFile(root / part.path, root / target, part.path)
            for root, tree in zip(roots, trees, strict=True)
            for part in tree.parts
            if (target := self.bytecode_path(part.path))
        ]
        compiler(interpreter, sources, progress)

    def bytecode_path(self, path: str) -> str | None:
        """Where the import system looks for a module's bytecode (PEP 3147); None for what it does not import."""
        folder, _, name = path.rpartition("/")
        if not path.startswith(f"{self.scheme.packages}/") or not name.endswith(".py"):
            return None
        return f"{folder}/__pycache__/{name[:-3]}.cpython-{self._python.replace('.', '')}.pyc"

    def _finish(self, package: LockedPackage, tree: InstalledTree, staging: Path) -> None:
        """Write the listing, the last thing that the entry lacks."""
        entry = staging / self.entry(package).name
        compiled = []
        for part in tree.parts:
            target = self.bytecode_path(part.path)
            if target and (entry / "tree" / target).exists():
                os.chmod(entry / "tree" / target, 0o444)
                compiled.append(target)
        (entry / "files.json").write_text(_listing(tree.with_bytecode(compiled)).to_json(), "utf-8")


def _is_template(part: InstalledFile) -> bool:
    """Whether a script names the interpreter, so that it is another in every prefix."""
    return part.member is None and part.content.startswith(_NO_PYTHON_LINE)


def _write(root: Path, part: InstalledFile, tree: InstalledTree, made: set[str]) -> None:
    folder = part.path.rpartition("/")[0]
    if folder not in made:
        (root / folder).mkdir(parents=True, exist_ok=True)
        made.add(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(root / part.path, flags, 0o555 if part.executable else 0o444)
    except FileExistsError as error:
        reason = f"{part.path!r} and another file have one name on this file system"
        raise InvalidWheel(tree.wheel.filename, reason) from error
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        for chunk in tree.chunks(part):
            stream.write(chunk)


def _listing(tree: InstalledTree) -> WheelListing:
    scripts = {each.path: each.content for each in tree.parts if _is_template(each)}
    rest = replace(tree, parts=tuple(each for each in tree.parts if each.path not in scripts))
    files = [*(each.path for each in rest.parts), *tree.bytecode]
    directories: set[str] = set()
    for path in [*files, *scripts, tree.record_path]:
        parent = path.rpartition("/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition("/")[0]
    return WheelListing(
        directories=tuple(sorted(directories)),
        files=tuple(sorted(files)),
        scripts=tuple(
            (path, _TEMPLATE_LINE + content[len(_NO_PYTHON_LINE) :].decode("utf-8", "surrogateescape"))
            for path, content in sorted(scripts.items())
        ),
        record=tree.record_path,
        rows=next(each.content for each in rest.files if each.path == tree.record_path).decode(),
    )
