"""
What is installed in the interpreter that runs this file, as one JSON object on stdout.

It needs nothing but the standard library of Python 3.7 or later, so that it can be piped into any interpreter:
`podman run -i IMAGE python - < _inspect_script.py`. With the argument `--no-hash`, files are not read.

What it looks at may be damaged, or be made by somebody who means harm: only regular files are read, records up to a
limit, and of what conda has installed nothing that lies outside of the prefix.
"""

import base64
import csv
import hashlib
import json
import os
import re
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from functools import lru_cache
from io import StringIO
from typing import Any, BinaryIO

#: The largest file of metadata that is read, in bytes, and the most records of conda packages.
LIMIT = 64 << 20
MOST = 10_000
_RECORDS = "conda-meta"
_WORD = re.compile(r"[A-Za-z0-9._+!-]{1,255}")
#: Parts that are empty, `.` or `..`, an absolute path, a control character.
_UNSAFE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f]")
_SUM = re.compile("[0-9a-f]{64}")
_METADATA = re.compile(r"(?:.*/)?[^/]+\.(?:dist|egg)-info(?=/|$)")
#: sha256 of nothing, which some tools record of every link.
_EMPTY = hashlib.sha256().hexdigest()
_CHUNK = 200


def inspect(paths: "list[str]", check_files: bool = True) -> "dict[str, Any]":
    """What lies on `paths` (directories, in the order of import) and conda's packages, as plain data."""
    found = []
    seen = set()
    for directory in paths:
        real = os.path.realpath(directory)
        if real in seen or not os.path.isdir(real):
            continue
        seen.add(real)
        for name in sorted(os.listdir(real)):
            if name.endswith((".dist-info", ".egg-info")):
                entry = _distribution(real, name)
                if entry:
                    found.append(entry)
    prefix = _Prefix(sys.prefix)
    records = prefix.records()
    owners = prefix.owners(records)
    for entry in found:
        entry["owner"] = owners.get(entry["path"])
    sums = _Sums()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        checked = list(pool.map(sums.check if check_files else _leave, found))
        wrong = prefix.verdicts(records, sums, pool) if check_files else {}
    for entry in checked:
        right = entry.pop("right")
        entry["covers"] = sorted(path for path, (_, full) in wrong.items() if full in right)
    return {
        "python": ".".join(str(each) for each in sys.version_info[:3]),
        "prefix": sys.prefix,
        "executable": sys.executable,
        "lock": _read(os.path.join(sys.prefix, "pylock.toml")),
        "distributions": checked,
        "conda": [_judged(record, wrong) for record in records],
    }


def import_paths() -> "list[str]":
    """`sys.path` without the directory of this script or the current one, which only running it has added."""
    own = os.path.dirname(os.path.abspath(__file__)) if "__file__" in globals() else ""
    return [each for each in sys.path if each and each != own]


def _open(path: str, follow: bool) -> "BinaryIO":
    """A regular file; anything else could keep its reader waiting, or act. Raises `OSError`, `ValueError`."""
    if not stat.S_ISREG((os.stat if follow else os.lstat)(path).st_mode):
        raise OSError(path + " is no regular file")
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0))), "rb")


def _read(path: str) -> "str | None":
    try:
        with _open(path, True) as file:
            data = file.read(LIMIT + 1)
    except OSError:
        return None
    return data.decode("utf-8", "replace") if len(data) <= LIMIT else None


def _distribution(directory: str, name: str) -> "dict[str, Any] | None":
    """One distribution's facts and its RECORD's text; None if it has no readable name."""
    path = os.path.join(directory, name)
    text = _read(os.path.join(path, "METADATA")) or _read(os.path.join(path, "PKG-INFO")) or _read(path)
    if not text:
        return None
    headers = HeaderParser().parsestr(text, headersonly=True)
    if not headers["Name"] or not headers["Version"]:
        return None
    try:
        direct = json.loads(_read(os.path.join(path, "direct_url.json")) or "{}")
        editable = bool(direct.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        editable = False
    return {
        "name": str(headers["Name"]).strip(),
        "version": str(headers["Version"]).strip(),
        "path": path,
        "editable": editable,
        "record": _read(os.path.join(path, "RECORD")),
        "root": directory,
    }


def _leave(entry: "dict[str, Any]") -> "dict[str, Any]":
    recorded = entry.pop("record") is not None
    entry.pop("root")
    return dict(entry, recorded=recorded, modified=[], missing=[], right=set())


class _Sums:
    """Compares files with their hashes, and reads none twice."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], bytes] = {}

    def of(self, path: str, algorithm: str = "sha256", follow: bool = False) -> bytes:
        """The hash of a regular file. Raises `OSError`, and `ValueError` for an algorithm that is not known."""
        if algorithm not in ("sha256", "sha384", "sha512"):
            raise ValueError(algorithm)
        if (path, algorithm) not in self._known:
            digest = hashlib.new(algorithm)
            with _open(path, follow) as file:
                for chunk in iter(lambda: file.read(1 << 20), b""):
                    digest.update(chunk)
            self._known[path, algorithm] = digest.digest()
        return self._known[path, algorithm]

    def check(self, entry: "dict[str, Any]") -> "dict[str, Any]":
        """Compare files with RECORD (PEP 627). Bytecode and rows without a hash are nobody's promise."""
        root, record = entry["root"], entry["record"]
        modified, missing, right = [], [], {os.path.join(entry["path"], "RECORD")}
        for row in csv.reader(StringIO(record or "")):
            if not row or row[0].endswith(".pyc") or len(row) < 2 or "=" not in row[1]:
                continue
            algorithm, _, expected = row[1].partition("=")
            path = os.path.normpath(os.path.join(root, row[0]))
            try:
                actual = base64.urlsafe_b64encode(self.of(path, algorithm, follow=True)).rstrip(b"=").decode()
            except OSError:
                missing.append(row[0])
                continue
            except ValueError:
                modified.append(row[0])
                continue
            if actual == expected.rstrip("="):
                right.add(path)
            else:
                modified.append(row[0])
        return dict(_leave(entry), modified=modified, missing=missing, right=right)


class _Prefix:
    """An environment in which conda may have installed something."""

    def __init__(self, prefix: str) -> None:
        self._root = os.path.realpath(prefix)
        # Few directories have all the files.
        self._inside = lru_cache(maxsize=None)(self._find_inside)

    def _find_inside(self, directory: str) -> "str | None":
        """Where a directory below the prefix really is; None if links lead out of the prefix."""
        real = os.path.realpath(os.path.join(self._root, directory))
        return real if (real + os.sep).startswith(self._root.rstrip(os.sep) + os.sep) else None

    def records(self) -> "list[dict[str, Any]]":
        """Conda's records, those that can't be read with the problem."""
        directory = os.path.join(self._root, _RECORDS)
        try:
            names = sorted(each for each in os.listdir(directory) if each.endswith(".json"))
        except OSError:
            return []
        if os.path.islink(directory):
            return [_damaged(_RECORDS, "is a link")]
        found = [_record(directory, each) for each in names[:MOST]]
        if len(names) > MOST:
            found.append(_damaged(_RECORDS, f"has {len(names)} records, at most {MOST} are read"))
        return found

    def owners(self, records: "list[dict[str, Any]]") -> "dict[str, str]":
        """Which conda package has brought the metadata of a Python distribution, by its absolute path."""
        owners: dict[str, str] = {}
        for record in records:
            for path in {match.group() for match in map(_METADATA.match, record["rows"]) if match}:
                parent = self._inside(os.path.dirname(path))
                if parent is not None:
                    owners.setdefault(os.path.join(parent, os.path.basename(path)), record["name"])
        return owners

    def verdicts(
        self, records: "list[dict[str, Any]]", sums: _Sums, pool: ThreadPoolExecutor
    ) -> "dict[str, tuple[str, str]]":
        """
        Which recorded files are `missing` or `modified`, by their paths below the prefix, and where they really are.

        Where packages bring one path with unlike content, that of one of them lies there, and is as it should be.
        """
        claims: dict[str, list[tuple[str, str | None]]] = {}
        for record in records:
            for path, claim in record["rows"].items():
                if not path.endswith(".pyc"):
                    claims.setdefault(path, []).append(claim)
        waiting = list(claims.items())

        def judge(start: int) -> "list[tuple[str, tuple[str, str]]]":
            chunk = waiting[start : start + _CHUNK]
            judged = [(path, self._verdict(path, wanted, sums)) for path, wanted in chunk]
            return [(path, verdict) for path, verdict in judged if verdict is not None]

        return {path: verdict for chunk in pool.map(judge, range(0, len(waiting), _CHUNK)) for path, verdict in chunk}

    def _verdict(self, path: str, claims: "list[tuple[str, str | None]]", sums: _Sums) -> "tuple[str, str] | None":
        parent = self._inside(os.path.dirname(path))
        if parent is None:
            return "modified", ""
        full = os.path.join(parent, os.path.basename(path))
        try:
            mode = os.lstat(full).st_mode
        except (OSError, ValueError):
            return "missing", full
        try:
            same = any(self._fits(full, mode, kind, wanted, sums) for kind, wanted in claims)
        except (OSError, ValueError):
            # It is there, and can't be read.
            same = False
        return None if same else ("modified", full)

    def _fits(self, path: str, mode: int, kind: str, wanted: "str | None", sums: _Sums) -> bool:
        if kind == "directory":
            return stat.S_ISDIR(mode)
        if kind == "any":
            return True
        if kind != "softlink":
            return stat.S_ISREG(mode) and (wanted is None or sums.of(path).hex() == wanted)
        if not stat.S_ISLNK(mode):
            return False
        if wanted in (None, _EMPTY, hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()):
            return True
        # Mamba records the content of what is linked to.
        target = os.path.realpath(path)
        return self._inside(target) is not None and sums.of(target).hex() == wanted


def _record(directory: str, filename: str) -> "dict[str, Any]":
    """One of conda's records: what it says of its package, and of each file the kind and the sha256, if it has one."""
    try:
        with _open(os.path.join(directory, filename), False) as file:
            data = file.read(LIMIT + 1)
    except (OSError, ValueError):
        return _damaged(filename, "is no file that can be read")
    if len(data) > LIMIT:
        return _damaged(filename, f"is larger than {LIMIT} bytes")
    try:
        # No number counts, and one of a million digits would take long.
        document = json.loads(data.decode("utf-8"), parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return _damaged(filename, "is not JSON")
    name, version, build = (_word(document, key) for key in ("name", "version", "build"))
    if not (name and version and build):
        return _damaged(filename, "is no record of a package")
    if filename != f"{name}-{version}-{build}.json":
        return _damaged(filename, f"is the record of {name}-{version}-{build}")
    described = document.get("paths_data")
    listed = described.get("paths") if isinstance(described, dict) else None
    recorded = isinstance(listed, list)
    if not isinstance(listed, list):
        # As conda 4.3 and older wrote it.
        files = document.get("files")
        listed = [{"_path": each, "path_type": "any"} for each in (files if isinstance(files, list) else ())]
    rows = {}
    for each in listed:
        row = _row(each)
        if row is None:
            return _damaged(filename, "names a path that is not below the prefix")
        rows[row[0]] = row[1]
    sha256 = document.get("sha256")
    return {
        "file": _RECORDS + "/" + filename,
        "name": name,
        "version": version,
        "build": build,
        "sha256": sha256 if isinstance(sha256, str) and _SUM.fullmatch(sha256) else None,
        "recorded": recorded,
        "problem": None,
        "rows": rows,
    }


def _word(document: Any, key: str) -> "str | None":
    word = document.get(key) if isinstance(document, dict) else None
    return word if isinstance(word, str) and _WORD.fullmatch(word) else None


def _row(each: Any) -> "tuple[str, tuple[str, str | None]] | None":
    """A file's path, kind and sha256 as it should be in the prefix; None if it is no path below it."""
    path = each.get("_path") if isinstance(each, dict) else None
    if not isinstance(path, str) or len(path) > 4096 or _UNSAFE.search(path):
        return None
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return None
    kind, wanted = str(each.get("path_type")), each.get("sha256_in_prefix")
    if wanted is None and kind != "softlink" and not each.get("prefix_placeholder"):
        wanted = each.get("sha256")
    return path, (kind, wanted if isinstance(wanted, str) else None)


def _damaged(filename: str, problem: str) -> "dict[str, Any]":
    """What can be said of a record that can't be used: the package that its file is called after."""
    shown = os.fsencode(filename).decode("utf-8", "replace")
    at = shown if shown == _RECORDS else _RECORDS + "/" + shown
    name = shown[: -len(".json")].rsplit("-", 2)[0] if shown != _RECORDS else shown
    known = {"file": at, "name": name, "version": "", "build": "", "sha256": None}
    return dict(known, recorded=False, problem=problem, rows={})


def _judged(record: "dict[str, Any]", wrong: "dict[str, tuple[str, str]]") -> "dict[str, Any]":
    found: dict[str, list[str]] = {"modified": [], "missing": []}
    for path in sorted(record.pop("rows")):
        if path in wrong:
            found[wrong[path][0]].append(path)
    return dict(record, **found)


if __name__ == "__main__":
    json.dump(inspect(import_paths(), "--no-hash" not in sys.argv), sys.stdout)
