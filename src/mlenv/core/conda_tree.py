"""
Which files of a prefix a conda package becomes.

Most files are what the package has. Some name the prefix they lie in; packages of `noarch: python` are laid out for a
Python, and get scripts for their entry points, as conda does it (CEP 20). Scripts around linking are files like others
and are never run, and `menuinst` has nothing to do on Linux.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct, field

from mlenv.core.conda_archive import CondaArchive
from mlenv.core.conda_contents import CondaContents, PathEntry
from mlenv.core.conda_files import RawFile, read_files
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_prefix import PrefixDoesNotFit, replace_in_binary, replace_in_text, script_for

_SITE_PACKAGES: Final = "site-packages/"
_SCRIPTS: Final = "python-scripts/"
_ACTIVATION: Final = "etc/conda/activate.d/"


class CondaScheme(Struct, frozen=True):
    """
    What the files of a package depend on, besides the package.

    Attributes:
        prefix: Where they will lie, absolute.
        python: The minor version of the locked Python, `3.11`; None if the lock has none.
        site_packages: Where that one keeps packages, relative to the prefix.
    """

    prefix: str
    python: str | None = None
    site_packages: str | None = None

    @property
    def interpreter(self) -> str:
        """What scripts name."""
        return f"{self.prefix}/bin/python{self.python}"

    @classmethod
    def of(cls, packages: Iterable[CondaPackage], prefix: str) -> "CondaScheme":
        """For a lock's packages, of which one may be Python."""
        python = next((each for each in packages if each.name == "python"), None)
        if python is None:
            return cls(prefix)
        minor = ".".join(python.version.split(".")[:2])
        return cls(prefix, minor, python.site_packages or f"lib/python{minor}/site-packages")


class CondaFile(Struct, frozen=True):
    """
    One file of a prefix.

    Attributes:
        path: Relative to the prefix.
        chunks: Its content, which must be read to its end before the next file.
        size: Of the content, in bytes; 0 for links and directories.
        executable: Whether its mode is 755, not 644.
        mtime: As the archive has it, in seconds since 1970; None for what is made here. NOTE: bytecode in packages is
            valid for sources of its time only, so that all of it would be stale had files the time of other layers.
        target: What a symbolic link says, or the path under the prefix that a hard link shares its content with.
        hard: Whether it is a hard link.
        raw: The file of the package that it is; None for what is made here.
    """

    path: str
    chunks: Iterator[bytes]
    size: int = 0
    executable: bool = False
    mtime: int | None = None
    target: str = ""
    hard: bool = False
    raw: RawFile | None = None

    @property
    def patched(self) -> bool:
        """Whether its content depends on the prefix."""
        return self.raw is None or self.raw.entry.placeholder is not None


class CondaTree(Struct):
    """
    A package on its way into a prefix.

    Attributes:
        package: What the lock says of it.
        contents: What it says of itself.
        scheme: What it is laid out for.
        archive: Where its files are; names it in messages.
        hashes: The sha256 of each file's content as it is in the prefix, in hex, by path; grows while files are read.
            For a symbolic link, that of what it says.
    """

    package: CondaPackage
    contents: CondaContents
    scheme: CondaScheme
    archive: CondaArchive
    hashes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `InvalidCondaArchive`: two files would lie at one path, or it is for a Python that the lock lacks."""
        if self._for_python and self.scheme.python is None:
            raise self.archive.fail("is a Python package for any platform, and the lock has no Python")
        found: set[str] = set()
        for path in self.paths():
            if path in found:
                raise self.archive.fail(f"two of its files would be {path!r}")
            found.add(path)

    @property
    def _for_python(self) -> bool:
        return self.contents.noarch == "python"

    def place(self, path: str) -> str:
        """Where a file of the archive goes, relative to the prefix."""
        if self._for_python and path.startswith(_SITE_PACKAGES):
            return f"{self.scheme.site_packages}/{path.removeprefix(_SITE_PACKAGES)}"
        if self._for_python and path.startswith(_SCRIPTS):
            return f"bin/{path.removeprefix(_SCRIPTS)}"
        return path

    def paths(self) -> list[str]:
        """All paths under the prefix, without its record."""
        return [*map(self.place, self.contents.paths), *(f"bin/{each.name}" for each in self.contents.entry_points)]

    @property
    def unrun(self) -> str | None:
        """What to tell of scripts that conda would run, around linking or when it activates; None if there are none."""
        activation = [each for each in self.contents.paths if each.startswith(_ACTIVATION)]
        scripts = (*self.contents.link_scripts, *sorted(activation))
        return f"{self.package.name} has {', '.join(scripts)}: not run" if scripts else None

    def files(self, raws: Iterable[RawFile] | None = None) -> Iterator[CondaFile]:
        """
        Each file and its content.

        Args:
            raws: The package's files, where they were verified before; otherwise they come from the archive.

        Raises:
            InvalidCondaArchive: As `read_files`; and a prefix that does not fit where it is to be put.
        """
        for raw in raws if raws is not None else read_files(self.archive, self.contents):
            yield self._file(raw)
        for point in self.contents.entry_points:
            path, data = f"bin/{point.name}", script_for(point, self.scheme.interpreter)
            yield CondaFile(path, self._hashed(path, iter((data,))), len(data), executable=True)

    def _file(self, raw: RawFile) -> CondaFile:
        entry, path = raw.entry, self.place(raw.entry.path)
        if raw.hard:
            target = self.place(raw.target)
            self.hashes[path] = self.hashes[target]
            return CondaFile(path, iter(()), 0, raw.executable, raw.mtime, target, hard=True, raw=raw)
        if entry.kind != "hardlink":
            if entry.kind == "softlink":
                self.hashes[path] = hashlib.sha256(raw.target.encode()).hexdigest()
            return CondaFile(path, iter(()), 0, mtime=raw.mtime, target=raw.target, raw=raw)
        if entry.placeholder is None:
            return CondaFile(path, self._noted(path, raw), raw.size, raw.executable, raw.mtime, raw=raw)
        if entry.mode == "binary":
            chunks, size = self._binary(raw, entry), raw.size
        else:
            data = self._text(raw, entry)
            chunks, size = iter((data,)), len(data)
        return CondaFile(path, self._hashed(path, chunks), size, raw.executable, raw.mtime, raw=raw)

    def _noted(self, path: str, raw: RawFile) -> Iterator[bytes]:
        """The content as it is, whose hash is known when it has been verified."""
        yield from raw.chunks
        self.hashes[path] = raw.sha256

    def _hashed(self, path: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        hasher = hashlib.sha256()
        for chunk in chunks:
            hasher.update(chunk)
            yield chunk
        self.hashes[path] = hasher.hexdigest()

    def _binary(self, raw: RawFile, entry: PathEntry) -> Iterator[bytes]:
        try:
            yield from replace_in_binary(raw.chunks, entry.placeholder or "", self.scheme.prefix)
        except PrefixDoesNotFit as error:
            raise self.archive.fail(f"{entry.path!r}: {error}") from error

    def _text(self, raw: RawFile, entry: PathEntry) -> bytes:
        placeholder = entry.placeholder or ""
        if len(placeholder) < len(self.scheme.prefix):
            # NOTE: conda would let a text grow; but what any placeholder of today has room for, a shorter one fakes.
            raise self.archive.fail(
                f"{entry.path!r}: built for a prefix of {len(placeholder)} bytes, "
                f"which is too short for {self.scheme.prefix!r}"
            )
        limit = self.archive.limits.metadata
        if raw.size > limit:
            raise self.archive.fail(f"{entry.path!r} is a text of {raw.size} bytes, at most {limit} are allowed")
        return replace_in_text(b"".join(raw.chunks), placeholder, self.scheme.prefix)
