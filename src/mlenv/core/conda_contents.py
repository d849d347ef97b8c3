"""What a conda package says of itself: `info/index.json`, `info/paths.json` (CEP 34), `info/link.json`, read and checked."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

from msgspec import Struct

from mlenv.core.conda_archive import INDEX, LINK, PATHS, CondaArchive
from mlenv.core.conda_package import CondaPackage, NoArch

PathKind: TypeAlias = Literal["hardlink", "softlink", "directory"]
FileMode: TypeAlias = Literal["text", "binary"]

_KINDS: Final = ("hardlink", "softlink", "directory")
_SHA256: Final = re.compile("[0-9a-f]{64}")
#: Parts that are empty, `.` or `..`, an absolute path, a control character.
_UNSAFE: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f]")
#: `..` at the beginning only: elsewhere it may come back from where another link leads.
_TARGET: Final = re.compile(r"\.|(?:\./)?(?:\.\./)*(?:\.\.|(?!\.\.?(?:/|$))[^/]+(?:/(?!\.\.?(?:/|$))[^/]+)*/?)")
#: What conda keeps its own records in, which no package may bring.
RECORDS: Final = "conda-meta"
_ENTRY_POINT: Final = re.compile(r"\s*([A-Za-z0-9_.+-]+)\s*=\s*([A-Za-z_][\w.]*)\s*:\s*([A-Za-z_][\w.]*)\s*")
#: The scripts that conda runs, or ran once, around linking; `menuinst` needs none.
_SCRIPT: Final = re.compile(r"bin/\.(.+)-(pre-link|post-link|pre-unlink)\.sh")


class PathEntry(Struct, frozen=True):
    """
    One line of `info/paths.json`.

    Attributes:
        path: In the archive.
        kind: A regular file, a symbolic link, or a directory that is made although it is empty.
        sha256: Of the file as it is in the archive, in hex, if it says.
        size: Likewise, in bytes.
        placeholder: The prefix it was built for, to be replaced; None if there is nothing to replace.
        mode: How: in `text` any length will do, in `binary` the length stays.
    """

    path: str
    kind: PathKind
    sha256: str | None = None
    size: int | None = None
    placeholder: str | None = None
    mode: FileMode = "text"


class EntryPoint(Struct, frozen=True):
    """A script that calls a function of a module: `bin/name`."""

    name: str
    module: str
    function: str


class CondaContents(Struct, frozen=True):
    """
    What a package consists of.

    Attributes:
        noarch: As the package itself says.
        paths: By path in the archive.
        entry_points: Scripts to be made, of `noarch: python`.
    """

    noarch: NoArch | None
    paths: Mapping[str, PathEntry]
    entry_points: tuple[EntryPoint, ...]

    @property
    def link_scripts(self) -> tuple[str, ...]:
        """The scripts among its files that conda would run around linking. They are installed, and never run here."""
        return tuple(sorted(path for path in self.paths if _SCRIPT.fullmatch(path)))


def read_contents(archive: CondaArchive, package: CondaPackage) -> CondaContents:
    """
    Read what an opened package says of itself.

    Args:
        package: What the lock says it is.

    Raises:
        InvalidCondaArchive: It says something else than the lock, or what can't be installed.
    """
    index = _document(archive, INDEX)
    for key, expected in (
        ("name", package.name),
        ("version", package.version),
        ("build", package.build),
        ("build_number", package.build_number),
        ("subdir", package.subdir),
    ):
        # Very old packages have no `subdir`.
        if (got := index.get(key)) != expected and not (key == "subdir" and got is None):
            raise archive.fail(f"{key} in it is {got!r}, expected {expected!r} as locked")
    noarch = index.get("noarch")
    if noarch != package.noarch and not (noarch is True and package.noarch == "generic"):
        raise archive.fail(f"noarch in it is {noarch!r}, expected {package.noarch!r} as locked")
    return CondaContents(package.noarch, _paths(archive), _entry_points(archive) if noarch == "python" else ())


def check_conda_path(archive: CondaArchive, path: object) -> str:
    """
    Refuse what is not a relative path below a prefix. Raises `InvalidCondaArchive`.

    Paths that differ by case only are no fault: Linux, the only system these are for, tells them apart, and ncurses,
    which every Python needs, has them.
    """
    try:
        safe = isinstance(path, str) and not _UNSAFE.search(path) and len(path.encode()) <= 3000
    except UnicodeEncodeError:
        safe = False
    if not safe or (len(str(path)) > 63 and any(len(part.encode()) > 255 for part in str(path).split("/"))):
        raise archive.fail(f"{str(path)[:200]!r} is not a path that may be installed")
    assert isinstance(path, str)
    if path.split("/", 1)[0] == RECORDS:
        raise archive.fail(f"{path!r} is where records of installed packages are kept")
    return path


def check_target(archive: CondaArchive, path: str, target: str) -> None:
    """Refuse a symbolic link that leads out of the prefix, or may. Raises `InvalidCondaArchive`."""
    up = target.split("/").count("..")
    if not _TARGET.fullmatch(target) or "\0" in target or not target.isprintable() or up > path.count("/"):
        raise archive.fail(f"{path!r} is a link to {target[:200]!r}, which is not below the prefix")


def _document(archive: CondaArchive, path: str) -> dict[str, Any]:
    try:
        document = json.loads(archive.info[path])
    except (ValueError, RecursionError) as error:
        raise archive.fail(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise archive.fail(f"{path} is not a JSON object")
    return document


def _paths(archive: CondaArchive) -> dict[str, PathEntry]:
    document = _document(archive, PATHS)
    listed = document.get("paths")
    if document.get("paths_version") != 1 or not isinstance(listed, list):
        raise archive.fail(f"{PATHS} has version {document.get('paths_version')!r}, expected 1 and a list of paths")
    if len(listed) > archive.limits.members:
        raise archive.fail(f"{PATHS} has {len(listed)} paths, at most {archive.limits.members} are allowed")
    entries: dict[str, PathEntry] = {}
    for each in listed:
        entry = _path(archive, each)
        if entry.path in entries:
            raise archive.fail(f"{entry.path!r} is in {PATHS} twice")
        entries[entry.path] = entry
    _check_parents(archive, entries.values())
    return entries


def _path(archive: CondaArchive, each: object) -> PathEntry:
    if not isinstance(each, dict):
        raise archive.fail(f"{PATHS} has {each!r:.200} where a path is expected")
    path = check_conda_path(archive, each.get("_path"))
    kind, sha256, size = each.get("path_type"), each.get("sha256"), each.get("size_in_bytes")
    if kind not in _KINDS:
        raise archive.fail(f"{path!r} is a {kind!r:.60} in {PATHS}, expected one of {', '.join(_KINDS)}")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise archive.fail(f"{path!r} has the sha256 {sha256!r:.80} in {PATHS}")
    if size is not None and not (isinstance(size, int) and size >= 0):
        raise archive.fail(f"{path!r} has the size {size!r:.60} in {PATHS}")
    placeholder, mode = each.get("prefix_placeholder") or None, each.get("file_mode") or "text"
    if placeholder is not None and not _is_placeholder(placeholder):
        raise archive.fail(f"{path!r} has the prefix {placeholder!r:.200} to be replaced, expected an absolute path")
    if mode not in ("text", "binary"):
        raise archive.fail(f"{path!r} has the file mode {mode!r:.60} in {PATHS}, expected text or binary")
    if kind != "hardlink":
        # What tools write here for links is of the file that is linked to, of nothing, or of an empty text.
        return PathEntry(path, cast(PathKind, kind))
    return PathEntry(path, "hardlink", sha256, size, placeholder, cast(FileMode, mode))


def _is_placeholder(text: object) -> bool:
    return isinstance(text, str) and text.startswith("/") and text.isprintable() and text.isascii() and len(text) > 1


def _check_parents(archive: CondaArchive, entries: Iterable[PathEntry]) -> None:
    """Nothing may lie below a file or a link: where it would go is for the archive's author to choose."""
    leaves = {each.path for each in entries if each.kind != "directory"}
    seen: set[str] = set()
    for path in sorted({*leaves, *(each.path for each in entries)}):
        parent = path.rpartition("/")[0]
        while parent and parent not in seen:
            if parent in leaves:
                raise archive.fail(f"{path!r} is below {parent!r}, which is no directory")
            seen.add(parent)
            parent = parent.rpartition("/")[0]


def _entry_points(archive: CondaArchive) -> tuple[EntryPoint, ...]:
    if LINK not in archive.info:
        return ()
    noarch = _document(archive, LINK).get("noarch")
    listed = noarch.get("entry_points", []) if isinstance(noarch, dict) else []
    points: dict[str, EntryPoint] = {}
    for each in listed if isinstance(listed, list) else [listed]:
        match = _ENTRY_POINT.fullmatch(each) if isinstance(each, str) else None
        if match is None or match[1].strip(".") == "":
            raise archive.fail(f"the entry point {each!r:.200} is not `name = module:function`")
        if match[1] in points:
            raise archive.fail(f"the entry point {match[1]!r} is in {LINK} twice")
        points[match[1]] = EntryPoint(match[1], match[2], match[3])
    return tuple(points[name] for name in sorted(points))
