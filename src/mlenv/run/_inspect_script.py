"""
What is installed in the interpreter that runs this file, as one JSON object on stdout.

It needs nothing but the standard library of Python 3.7 or later, so that it can be piped into any interpreter:
`podman run -i IMAGE python - < _inspect_script.py`. With the argument `--no-hash`, files are not read.
"""

import base64
import csv
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from io import StringIO
from typing import Any


def inspect(paths: "list[str]", check_files: bool = True) -> "dict[str, Any]":
    """What lies on `paths` (directories, in the order of import), as plain data."""
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
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        checked = list(pool.map(_check if check_files else _leave, found))
    return {
        "python": ".".join(str(each) for each in sys.version_info[:3]),
        "prefix": sys.prefix,
        "executable": sys.executable,
        "lock": _read(os.path.join(sys.prefix, "pylock.toml")),
        "distributions": checked,
    }


def import_paths() -> "list[str]":
    """`sys.path` without the directory of this script or the current one, which only running it has added."""
    own = os.path.dirname(os.path.abspath(__file__)) if "__file__" in globals() else ""
    return [each for each in sys.path if each and each != own]


def _read(path: str) -> "str | None":
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            return file.read()
    except OSError:
        return None


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
    return dict(entry, recorded=recorded, modified=[], missing=[])


def _check(entry: "dict[str, Any]") -> "dict[str, Any]":
    """Compare files with RECORD (PEP 627). Bytecode and rows without a hash are nobody's promise."""
    root, record = entry["root"], entry["record"]
    modified, missing = [], []
    for row in csv.reader(StringIO(record or "")):
        if not row or row[0].endswith(".pyc") or len(row) < 2 or "=" not in row[1]:
            continue
        algorithm, _, expected = row[1].partition("=")
        try:
            actual = _hash(os.path.join(root, row[0]), algorithm)
        except OSError:
            missing.append(row[0])
            continue
        except ValueError:
            modified.append(row[0])
            continue
        if actual != expected.rstrip("="):
            modified.append(row[0])
    return dict(_leave(entry), modified=modified, missing=missing)


def _hash(path: str, algorithm: str) -> str:
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise ValueError(algorithm)
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while True:
            chunk = file.read(1 << 20)
            if not chunk:
                return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            digest.update(chunk)


if __name__ == "__main__":
    json.dump(inspect(import_paths(), "--no-hash" not in sys.argv), sys.stdout)
