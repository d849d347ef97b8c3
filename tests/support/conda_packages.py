"""Small conda packages for tests (CEP 4 and the `.tar.bz2` form before it): valid by default, spoiled on request, always the same bytes."""

import bz2
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import zstandard

#: What prefixes stand for in files, as long as conda-build makes them: 255 bytes.
PLACEHOLDER: Final = "/opt/placehold" + "_placehold" * 24 + "_"
_MTIME: Final = 1_700_000_000
_TIMESTAMP: Final = 1_700_000_000_000
Ending = Literal["conda", "tar.bz2"]


@dataclass(frozen=True)
class File:
    """A file of a package: its content, its mode, and how its prefix is replaced (`text`, `binary` or not at all)."""

    data: bytes
    mode: int = 0o644
    prefix: Literal["text", "binary"] | None = None
    placeholder: str = PLACEHOLDER


@dataclass(frozen=True)
class Link:
    """A symbolic link of a package."""

    target: str


@dataclass
class Parts:
    """
    What a package is written from; `tamper` may change all of it.

    Attributes:
        index: `info/index.json`.
        paths: `info/paths.json`.
        info: Members of the information part: the two above are made when it is written.
        content: Members of the content part.
        record: What the channel says of the package, over what is true of the written file.
    """

    index: dict[str, Any]
    paths: dict[str, Any]
    info: list[tuple[tarfile.TarInfo, bytes]]
    content: list[tuple[tarfile.TarInfo, bytes]]
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Package:
    """A package as a channel offers it: the file's name and bytes, and its record in `repodata.json`."""

    filename: str
    data: bytes
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """`numpy`."""
        return str(self.record["name"])

    @property
    def subdir(self) -> str:
        """`noarch`, `linux-64`."""
        return str(self.record["subdir"])

    @property
    def sha256(self) -> str:
        """Of the file, as the record has it, in hex."""
        return str(self.record["sha256"])


def member(
    name: str, data: bytes = b"", *, mode: int = 0o644, link: str | None = None
) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive: a regular file, or a symbolic link."""
    info = tarfile.TarInfo(name)
    info.mtime, info.mode, info.size = _MTIME, mode, len(data)
    if link is not None:
        info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
    return info, data


def make_package(
    name: str,
    version: str = "1.0",
    *,
    build: str = "0",
    build_number: int = 0,
    depends: Iterable[str] = (),
    constrains: Iterable[str] = (),
    subdir: str = "noarch",
    noarch: Literal["python", "generic"] | None = None,
    files: Mapping[str, bytes | File | Link] | None = None,
    entry_points: Iterable[str] = (),
    post_link: str | None = None,
    ending: Ending = "conda",
    timestamp: int | None = _TIMESTAMP,
    index: Mapping[str, Any] | None = None,
    tamper: Callable[[Parts], None] | None = None,
) -> Package:
    """
    Write a package.

    Args:
        noarch: `generic` where `subdir` is `noarch` and nothing else is said.
        files: Path and content; without, one text file under `share/`.
        entry_points: `name = module:function`, for `noarch: python`.
        post_link: A script that conda would run after linking.
        timestamp: When it was built, in milliseconds since 1970.
        index: More of `info/index.json`, and of the record.
        tamper: Spoils the parts before they are written.
    """
    entries: dict[str, bytes | File | Link] = dict(files if files is not None else {f"share/{name}.txt": b"hello\n"})
    if post_link is not None:
        entries[f"bin/.{name}-post-link.sh"] = File(post_link.encode(), 0o755)
    described: dict[str, Any] = {
        "name": name,
        "version": version,
        "build": build,
        "build_number": build_number,
        "depends": list(depends),
        "constrains": list(constrains),
        "subdir": subdir,
        "license": "MIT",
    }
    if timestamp is not None:
        described["timestamp"] = timestamp
    if kind := noarch or ("generic" if subdir == "noarch" else None):
        described["noarch"] = kind
    described |= index or {}
    content = [_content(path, each) for path, each in entries.items()]
    paths = [_path_entry(path, each) for path, each in entries.items()]
    info = [
        member("info/files", "".join(f"{path}\n" for path in entries).encode()),
        member("info/about.json", b"{}"),
    ]
    if points := list(entry_points):
        linking = {"noarch": {"type": "python", "entry_points": points}, "package_metadata_version": 1}
        info.append(member("info/link.json", json.dumps(linking).encode()))
    parts = Parts(described, {"paths": paths, "paths_version": 1}, info, content)
    if tamper is not None:
        tamper(parts)
    return _write(f"{name}-{version}-{build}", parts, ending)


def python_package(
    name: str,
    version: str = "1.0",
    *,
    module: str | None = None,
    requires: Iterable[str] = (),
    files: Mapping[str, bytes | File | Link] | None = None,
    **options: Any,
) -> Package:
    """A `noarch: python` package with one module and the metadata of a Python distribution of its name."""
    stem = name.replace("-", "_")
    module = module or stem
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    directory = f"site-packages/{stem}-{version}.dist-info"
    source = f"VERSION = {version!r}\n\n\ndef main():\n    print({name!r}, VERSION)\n"
    content: dict[str, bytes | File | Link] = {
        f"site-packages/{module}/__init__.py": source.encode(),
        f"{directory}/METADATA": metadata.encode(),
        f"{directory}/INSTALLER": b"conda\n",
        f"{directory}/RECORD": b"",
    }
    options.setdefault("depends", ("python",))
    return make_package(name, version, noarch="python", files=content | dict(files or {}), **options)


def interpreter(
    version: str = "3.11.2", *, subdir: str = "linux-64", home: str = "/usr/bin", **options: Any
) -> Package:
    """
    A `python` package without a Python: its `bin/python3.11` hands over to the one at `/usr/bin/python3`.

    That one is told to be this one (PEP 405), so that its prefix is this package's, and modules are looked for there.

    Args:
        home: Where that one is, for what says so.
    """
    minor = ".".join(version.split(".")[:2])
    start = f"import os, sys; os.execv(sys.executable, ['{PLACEHOLDER}/bin/python{minor}', *sys.argv[1:]])"
    script = f'#!/bin/sh\nexec /usr/bin/python3 -ISc "{start}" "$@"\n'
    files: dict[str, bytes | File | Link] = {
        "pyvenv.cfg": f"home = {home}\ninclude-system-site-packages = false\n".encode(),
        f"bin/python{minor}": File(script.encode(), 0o755, "text"),
        "bin/python": Link(f"python{minor}"),
        "bin/python3": Link(f"python{minor}"),
        f"lib/python{minor}/os.py": b"# The standard library of nobody.\n",
    }
    return make_package("python", version, subdir=subdir, files=files, **options)


def program(path: str, *, size: int = 1024) -> bytes:
    """
    A program for Linux on x86-64 that needs nothing: it writes the file at `path` to its output.

    `path` may begin with `PLACEHOLDER`: then it works where the prefix is replaced as in any binary file.

    Args:
        path: Of at most `size` bytes with the zero behind it.
        size: Bytes that the path has room in.
    """
    code = bytes.fromhex(
        "488d3d44000000"  # lea rdi, [rip+0x44]: the path, behind the code
        "31f6b8020000000f05"  # open(path, O_RDONLY)
        "89c74881ec001000004889e6ba0010000031c00f05"  # read(file, stack, 4096)
        "85c07815"  # below zero: fail
        "89c2bf010000004889e6b8010000000f05"  # write(1, stack, what was read)
        "31ffeb05"  # exit(0)
        "bf01000000"  # fail: exit(1)
        "b83c0000000f05"
    )
    code = code[:3] + struct.pack("<i", len(code) - 7) + code[7:]
    body = code + path.encode().ljust(size, b"\0")
    base, headers = 0x400000, 64 + 56
    total = headers + len(body)
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, total, total, 0x1000) + body


def program_package(name: str = "teller", version: str = "1.0", *, said: str = "hello\n", **options: Any) -> Package:
    """A package for linux-64 with a real program, `bin/NAME`, which tells what stands in a file under the prefix."""
    path = f"{PLACEHOLDER}/share/{name}/said.txt"
    files: dict[str, bytes | File | Link] = {
        f"bin/{name}": File(program(path), 0o755, "binary"),
        f"share/{name}/said.txt": said.encode(),
        f"share/{name}/where.txt": File(f"prefix={PLACEHOLDER}\n".encode(), 0o644, "text"),
        f"bin/{name}-script": File(f"#!{PLACEHOLDER}/bin/{name}\n".encode(), 0o755, "text"),
        f"bin/{name}-too": Link(name),
    }
    return make_package(name, version, subdir="linux-64", files=files, **options)


def _content(path: str, each: bytes | File | Link) -> tuple[tarfile.TarInfo, bytes]:
    if isinstance(each, Link):
        return member(path, link=each.target, mode=0o777)
    return member(path, each) if isinstance(each, bytes) else member(path, each.data, mode=each.mode)


def _path_entry(path: str, each: bytes | File | Link) -> dict[str, Any]:
    data = b"" if isinstance(each, Link) else each if isinstance(each, bytes) else each.data
    entry: dict[str, Any] = {
        "_path": path,
        "path_type": "softlink" if isinstance(each, Link) else "hardlink",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_in_bytes": len(data),
    }
    if isinstance(each, File) and each.prefix is not None:
        entry |= {"prefix_placeholder": each.placeholder, "file_mode": each.prefix}
    return entry


def _write(stem: str, parts: Parts, ending: Ending) -> Package:
    described = [
        member("info/index.json", json.dumps(parts.index).encode()),
        member("info/paths.json", json.dumps(parts.paths).encode()),
    ]
    info = [*described, *parts.info]
    if ending == "conda":
        out = io.BytesIO()
        compress = zstandard.ZstdCompressor(3).compress
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, data in (
                ("metadata.json", b'{"conda_pkg_format_version": 2}'),
                (f"pkg-{stem}.tar.zst", compress(_tar(parts.content))),
                (f"info-{stem}.tar.zst", compress(_tar(info))),
            ):
                archive.writestr(zipfile.ZipInfo(name, (2023, 1, 1, 0, 0, 0)), data)
        data = out.getvalue()
    else:
        data = bz2.compress(_tar([*info, *parts.content]))
    record = parts.index | {
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }
    return Package(f"{stem}.{ending}", data, record | parts.record)


def _tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()
