"""Small wheels for tests: valid by default, spoiled on request."""

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

#: What `tamper` may change before the wheel is written: entries in order, RECORD last.
Entries = list[tuple[zipfile.ZipInfo, bytes]]


def entry(path: str, *, mode: int = 0o100644) -> zipfile.ZipInfo:
    """A deflated zip entry as Unix tools write it."""
    info = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def record_line(path: str, content: bytes) -> str:
    """A line of RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    quoted = '"' + path.replace('"', '""') + '"' if re.search(r'[",\n]', path) else path
    return f"{quoted},sha256={digest},{len(content)}\n"


def make_wheel(
    directory: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    *,
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
    scripts: Mapping[str, bytes] | None = None,
    data: Mapping[str, bytes] | None = None,
    executable: Iterable[str] = (),
    requires: Iterable[str] = (),
    tag: str = "py3-none-any",
    tamper: Callable[[Entries], None] | None = None,
) -> Path:
    """Write what `wheel_bytes` makes of the same arguments into `directory`, which is made."""
    filename, content = wheel_bytes(
        name,
        version,
        files,
        entry_points=entry_points,
        scripts=scripts,
        data=data,
        executable=executable,
        requires=requires,
        tag=tag,
        tamper=tamper,
    )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / filename
    path.write_bytes(content)
    return path


def wheel_bytes(
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    *,
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
    scripts: Mapping[str, bytes] | None = None,
    data: Mapping[str, bytes] | None = None,
    executable: Iterable[str] = (),
    requires: Iterable[str] = (),
    requires_python: str | None = None,
    tag: str = "py3-none-any",
    tamper: Callable[[Entries], None] | None = None,
) -> tuple[str, bytes]:
    """
    Make a wheel: its file name and its bytes.

    Args:
        name: The distribution's name.
        version: Its version.
        files: Content by path; one module by default.
        entry_points: `{"console_scripts": {"name": "module:function"}}`.
        scripts: Content of `.data/scripts` by name.
        data: Content by path below `.data`: `headers/x.h`, `data/share/x`.
        executable: Paths that have the executable bit.
        requires: `Requires-Dist`.
        requires_python: `Requires-Python`.
        tag: Python, ABI and platform.
        tamper: Changes the entries, RECORD among them, before they are written.
    """
    stem = re.sub(r"[-_.]+", "_", name).lower()
    info = f"{stem}-{version}.dist-info"
    content = dict(files if files is not None else {f"{stem}/__init__.py": f"NAME = {name!r}\n".encode()})
    content |= {f"{stem}-{version}.data/scripts/{path}": each for path, each in (scripts or {}).items()}
    content |= {f"{stem}-{version}.data/{path}": each for path, each in (data or {}).items()}
    content[f"{info}/METADATA"] = core_metadata(name, version, requires, requires_python).encode()
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    if entry_points:
        sections = (
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items())
            for group, each in entry_points.items()
        )
        content[f"{info}/entry_points.txt"] = "\n".join(sections).encode()
    lines = [record_line(path, each) for path, each in content.items()]
    record = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    runnable = frozenset(executable)
    entries = [(entry(path, mode=0o100755 if path in runnable else 0o100644), each) for path, each in content.items()]
    entries.append((entry(f"{info}/RECORD"), record))
    if tamper is not None:
        tamper(entries)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for each, data_ in entries:
            archive.writestr(each, data_)
    return f"{stem}-{version}-{tag}.whl", buffer.getvalue()


def core_metadata(name: str, version: str, requires: Iterable[str] = (), requires_python: str | None = None) -> str:
    """METADATA or PKG-INFO (core metadata 2.1)."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    if requires_python:
        lines.append(f"Requires-Python: {requires_python}")
    return "\n".join(lines) + "\n"
