"""
What a source distribution says it needs, read without running anything of it.

Only to tell beforehand what allowing a build would lead to: a build may say otherwise (PEP 643), and then has the say.
"""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from email.parser import HeaderParser
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

_LIMIT: Final = 1 << 20


def declared_needs(filename: str, data: bytes) -> tuple[str, ...]:
    """
    The requirements in `PKG-INFO` (core metadata) or else setuptools' `requires.txt`; none if it has neither.

    Args:
        filename: The distribution's file name.
        data: The whole file.
    """
    try:
        members = dict(_members(filename, data))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError):
        return ()
    for text in (text for path, text in members.items() if path.count("/") == 1 and path.endswith("/PKG-INFO")):
        if found := HeaderParser().parsestr(text).get_all("Requires-Dist"):
            return _valid(found)
    for text in (text for path, text in members.items() if path.endswith(".egg-info/requires.txt")):
        return _valid(_unconditional(text))
    return ()


def _members(filename: str, data: bytes) -> Iterator[tuple[str, str]]:
    wanted = ("/PKG-INFO", ".egg-info/requires.txt")
    if filename.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.filename.endswith(wanted) and info.file_size <= _LIMIT:
                    yield info.filename, archive.read(info).decode("utf-8", "replace")
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(wanted) and member.size <= _LIMIT:
                file = tar.extractfile(member)
                if file is not None:
                    yield member.name, file.read().decode("utf-8", "replace")


def _unconditional(text: str) -> list[str]:
    """The lines before the first section of `requires.txt`: sections are extras and markers."""
    found = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            break
        if line and not line.startswith("#"):
            found.append(line)
    return found


def _valid(lines: list[str]) -> tuple[str, ...]:
    found = []
    for line in lines:
        try:
            parsed = Requirement(line)
        except InvalidRequirement:
            continue
        if parsed.url is None:
            found.append(str(parsed))
    return tuple(found)
