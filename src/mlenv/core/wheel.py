"""
Wheels: what one says of itself, and which files it becomes (PyPA, "Binary distribution format", 1.0).

A wheel is never unpacked as a whole: `read_wheel` reads its directory and metadata, `Wheel.install` says which files it
becomes, and the content of each comes as a stream that is verified against RECORD on the way.
"""

import hashlib
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from typing import BinaryIO, Final

from msgspec import Struct
from msgspec.structs import replace
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from mlenv.core.wheel_archive import Archive, InvalidWheel, Member, Piece, WheelLimits, check_path
from mlenv.core.wheel_record import (
    RecordEntry,
    RecordMismatch,
    check_record,
    encode_digest,
    format_record,
    hash_of,
    parse_record,
)
from mlenv.core.wheel_scripts import parse_entry_points, rewrite_script, script_for

__all__ = ["InstalledFile", "InstalledTree", "InvalidWheel", "Scheme", "Wheel", "WheelLimits", "read_wheel"]

_LIMITS: Final = WheelLimits()
#: What an installer writes itself, whatever the wheel brings under these names (PEP 376, PEP 610).
_OURS: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
_INSTALLER: Final = b"mlenv\n"


class Scheme(Struct, frozen=True):
    """
    Where the kinds of files go, relative to the prefix (`sysconfig`, `posix_prefix` and `nt` in a virtual environment).

    Attributes:
        packages: `purelib` and `platlib`, which are one.
        scripts: Executables.
        headers: The parent of each distribution's headers.
        python: The interpreter that scripts name, absolute.
    """

    packages: str
    scripts: str
    headers: str
    python: str

    @classmethod
    def posix(cls, python: str, *, script_python: str) -> "Scheme":
        """For Linux and macOS, and a minor version such as `3.11`."""
        return cls(f"lib/python{python}/site-packages", "bin", f"include/site/python{python}", script_python)

    @classmethod
    def windows(cls, python: str, *, script_python: str) -> "Scheme":
        """For Windows, and a minor version such as `3.11`."""
        return cls("Lib/site-packages", "Scripts", f"include/site/python{python}", script_python)

    def owns(self, path: str) -> bool:
        """Whether the path belongs to the environment itself, so that no package may bring it."""
        folder, _, name = path.rpartition("/")
        return path == "pyvenv.cfg" or (folder == self.scripts and name.startswith("python") and name[6:7] in "3.w")


class InstalledFile(Struct, frozen=True):
    """
    One file as it lies under the prefix.

    Attributes:
        path: Relative to the prefix, with `/`.
        size: In bytes.
        hash: Its sha256 in unpadded urlsafe base64, as RECORD writes it; empty for RECORD itself.
        executable: Whether its mode is 755, not 644.
        member: Where its content is in the wheel, or None.
        content: Its content where that is made here.
    """

    path: str
    size: int
    hash: str
    executable: bool = False
    member: Member | None = None
    content: bytes = b""

    @property
    def mode(self) -> int:
        """Permission bits."""
        return 0o755 if self.executable else 0o644


class Wheel:
    """
    An opened wheel.

    Attributes:
        filename: Its file name.
        name: The distribution's name as its metadata spells it.
        version: The version as its metadata spells it.
        dist_info: The name of its `.dist-info` directory.
        archive: The zip file.
        record: Its RECORD, by path.
    """

    def __init__(self, archive: Archive) -> None:
        """Check what the wheel says of itself; see `read_wheel`."""
        self.archive = archive
        self.filename = archive.filename
        self.dist_info = _find_dist_info(archive)
        self._check_wheel_version()
        self.name, self.version = self._check_identity()
        self.record = parse_record(self._text("RECORD"), filename=self.filename)
        check_record(self.record, archive.members, dist_info=self.dist_info, filename=self.filename)
        self._check_metadata_hashes()

    def _bytes(self, name: str) -> bytes:
        member = self.archive.members.get(f"{self.dist_info}/{name}")
        if member is None:
            raise InvalidWheel(self.filename, f"there is no {self.dist_info}/{name}")
        return self.archive.read(member)

    def _text(self, name: str) -> str:
        try:
            return self._bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidWheel(self.filename, f"{self.dist_info}/{name} is not UTF-8: {error}") from error

    def _check_wheel_version(self) -> None:
        text = HeaderParser().parsestr(self._text("WHEEL")).get("Wheel-Version", "")
        major = text.strip().partition(".")[0]
        if not major.isdecimal() or int(major) != 1:
            raise InvalidWheel(self.filename, f"Wheel-Version is {text!r}, expected 1.x")

    def _check_identity(self) -> tuple[str, str]:
        """Name and version, which are the same in the file name, in the directory's name and in METADATA."""
        # NOTE: descriptions need not be UTF-8 in old wheels, and installers do not mind; the headers we read are ASCII.
        headers = HeaderParser().parsestr(self._bytes("METADATA").decode("utf-8", "replace"))
        name, version = headers.get("Name", "").strip(), headers.get("Version", "").strip()
        folder_name, _, folder_version = self.dist_info.removesuffix(".dist-info").partition("-")
        try:
            file_name, file_version, _, _ = parse_wheel_filename(self.filename)
            if not canonicalize_name(name) == canonicalize_name(folder_name) == file_name:
                raise InvalidWheel(
                    self.filename, f"the name inside is {name!r} in {self.dist_info}, expected {file_name!r}"
                )
            if not Version(version) == Version(folder_version.replace("_", "-")) == file_version:
                raise InvalidWheel(
                    self.filename, f"the version inside is {version!r} in {self.dist_info}, expected '{file_version}'"
                )
        except InvalidWheelFilename as error:
            raise InvalidWheel(self.filename, "not a wheel's file name") from error
        except InvalidVersion as error:
            raise InvalidWheel(self.filename, f"not a version in it: {error}") from error
        return name, version

    def _check_metadata_hashes(self) -> None:
        """What was read so far came before RECORD was known."""
        for name in ("WHEEL", "METADATA"):
            path = f"{self.dist_info}/{name}"
            for _ in self._verified(self.archive.members[path], self.record.get(path)):
                pass

    def _verified(self, member: Member, entry: RecordEntry | None) -> Iterator[Piece]:
        """The pieces of a member. Raises `RecordMismatch` after the last one if RECORD has another hash."""
        if entry is None or entry.algorithm is None:
            yield from self.archive.pieces(member)
            return
        hasher = hashlib.new(entry.algorithm)
        for piece in self.archive.pieces(member):
            hasher.update(piece[1])
            yield piece
        if encode_digest(hasher.digest()) != entry.hash:
            raise RecordMismatch(self.filename, f"the content of {member.name!r} has another hash than RECORD says")

    def pieces(self, member: Member) -> Iterator[Piece]:
        """
        A member's stored bytes and its content, in step, a chunk at a time.

        Raises:
            RecordMismatch: Known after the last piece: the content is not what RECORD says.
            InvalidWheel: The content is not what the zip file's directory says.
        """
        return self._verified(member, self.record.get(member.name))

    def install(self, scheme: Scheme, *, requested: bool) -> "InstalledTree":
        """
        Say which files the wheel becomes.

        Args:
            scheme: Where they go.
            requested: Whether the user asked for this distribution by name (PEP 376, `REQUESTED`).

        Raises:
            InvalidWheel: Two of them would lie at one path, or one where none may.
        """
        files: dict[str, InstalledFile] = {}
        for member in self.archive.members.values():
            if (file := self._place(member, scheme)) is not None:
                self._add(files, file, scheme)
        if f"{self.dist_info}/entry_points.txt" in self.archive.members:
            for entry in parse_entry_points(self._text("entry_points.txt"), filename=self.filename):
                # NOTE: pip and uv let a generated script replace one of the same name that the wheel ships.
                files.pop(path := f"{scheme.scripts}/{entry.name}", None)
                self._add(files, _generated(path, script_for(entry, scheme.python), executable=True), scheme)
        info = f"{scheme.packages}/{self.dist_info}"
        self._add(files, _generated(f"{info}/INSTALLER", _INSTALLER), scheme)
        if requested:
            self._add(files, _generated(f"{info}/REQUESTED", b""), scheme)
        _check_clashes(files, self.filename)
        return InstalledTree(self, scheme, tuple(files.values()), f"{info}/RECORD")

    def _add(self, files: dict[str, InstalledFile], file: InstalledFile, scheme: Scheme) -> None:
        if scheme.owns(file.path):
            raise InvalidWheel(self.filename, f"it would replace {file.path!r} of the environment")
        if files.setdefault(file.path, file) is not file:
            raise InvalidWheel(self.filename, f"it would install two files at {file.path!r}")

    def _place(self, member: Member, scheme: Scheme) -> InstalledFile | None:
        """Where a member goes; None for what is written anew."""
        top, _, rest = member.name.partition("/")
        if not top.endswith(".data"):
            if top == self.dist_info and rest in _OURS:
                return None
            return self._file(f"{scheme.packages}/{member.name}", member)
        kind, _, rest = rest.partition("/")
        check_path(self.filename, rest)
        if kind in ("purelib", "platlib"):
            return self._file(f"{scheme.packages}/{rest}", member)
        if kind == "scripts":
            return self._script(f"{scheme.scripts}/{rest}", member, scheme)
        if kind == "headers":
            return self._file(f"{scheme.headers}/{canonicalize_name(self.name)}/{rest}", member)
        if kind == "data":
            return self._file(rest, member)
        raise InvalidWheel(self.filename, f"{member.name!r} is in a scheme that there is not: {kind!r}")

    def _file(self, path: str, member: Member, *, executable: bool = False) -> InstalledFile:
        entry = self.record.get(member.name)
        if entry is not None and entry.algorithm == "sha256":
            digest = entry.hash
        else:
            hasher = hashlib.sha256()
            for _, plain in self.pieces(member):
                hasher.update(plain)
            digest = encode_digest(hasher.digest())
        return InstalledFile(path, member.size, digest, executable or member.executable, member)

    def _script(self, path: str, member: Member, scheme: Scheme) -> InstalledFile:
        pieces = self.archive.pieces(member)
        if not next(pieces, (b"", b""))[1].startswith(b"#!python"):
            return self._file(path, member, executable=True)
        if member.size > self.archive.limits.metadata:
            raise InvalidWheel(self.filename, f"{member.name!r} is a script of {member.size} bytes")
        data = b"".join(plain for _, plain in self.pieces(member))
        return _generated(path, rewrite_script(data, scheme.python), executable=True)


class InstalledTree(Struct, frozen=True):
    """
    The files that a wheel becomes.

    Attributes:
        wheel: The wheel, whose file must stay open while content is read.
        scheme: Where the kinds of files go.
        parts: All files but RECORD, in no order.
        record_path: Where RECORD goes.
        bytecode: Paths of compiled files that will lie beside; RECORD lists them without hash, as pip does.
    """

    wheel: Wheel
    scheme: Scheme
    parts: tuple[InstalledFile, ...]
    record_path: str
    bytecode: frozenset[str] = frozenset()

    def with_bytecode(self, paths: Iterable[str]) -> "InstalledTree":
        """The same tree, with these compiled files in RECORD. Their content is the caller's."""
        return replace(self, bytecode=frozenset(paths))

    @property
    def files(self) -> list[InstalledFile]:
        """All files, RECORD among them, sorted by path. What we compile replaces what the wheel ships in its place."""
        parts = [each for each in self.parts if each.path not in self.bytecode] if self.bytecode else self.parts
        return sorted([*parts, _generated(self.record_path, self._record())], key=lambda each: each.path)

    def _record(self) -> bytes:
        """RECORD for what is installed, relative to its own parent's parent (PEP 376)."""
        base = self.scheme.packages + "/"
        up = "../" * base.count("/")
        rows = [
            (each.path, f"sha256={each.hash}", str(each.size)) for each in self.parts if each.path not in self.bytecode
        ]
        rows += [(path, "", "") for path in (self.record_path, *self.bytecode)]
        return format_record(
            (path[len(base) :] if path.startswith(base) else up + path, digest, size) for path, digest, size in rows
        )

    def pieces(self, file: InstalledFile) -> Iterator[Piece]:
        """A file's stored bytes, empty if its content is made here, and its content; see `Wheel.pieces`."""
        if file.member is None:
            return iter([(b"", file.content)])
        return self.wheel.pieces(file.member)

    def chunks(self, file: InstalledFile) -> Iterator[bytes]:
        """A file's content, at most 1 MiB at a time, verified when the last chunk is taken; see `Wheel.pieces`."""
        return (plain for _, plain in self.pieces(file))


def read_wheel(file: BinaryIO, *, filename: str, limits: WheelLimits = _LIMITS) -> Wheel:
    """
    Open a wheel.

    Args:
        file: Its bytes, seekable; it must stay open as long as the wheel is used, by one thread at a time.
        filename: Its file name, which says its name and version.
        limits: What it may unpack to.

    Raises:
        InvalidWheel: It is not a wheel that may be installed; `RecordMismatch` and `WheelTooLarge` among the reasons.
    """
    return Wheel(Archive(file, filename=filename, limits=limits))


def _find_dist_info(archive: Archive) -> str:
    folders = sorted({name.partition("/")[0] for name in archive.members if "/" in name})
    found = [each for each in folders if each.endswith(".dist-info")]
    if len(found) != 1:
        names = " and ".join(found) or "none"
        raise InvalidWheel(archive.filename, f"a wheel has one .dist-info directory, here there is: {names}")
    return found[0]


def _generated(path: str, content: bytes, *, executable: bool = False) -> InstalledFile:
    return InstalledFile(path, len(content), hash_of(content), executable, None, content)


def _check_clashes(files: dict[str, InstalledFile], filename: str) -> None:
    """No file may lie where another needs a directory. The archive was checked; the schemes may still bring two together."""
    parents: set[str] = set()
    for path in files:
        parent = path.rpartition("/")[0]
        while parent and parent not in parents:
            parents.add(parent)
            parent = parent.rpartition("/")[0]
    if clash := next((path for path in files if path in parents), None):
        raise InvalidWheel(filename, f"{clash!r} would be both a file and a directory")
