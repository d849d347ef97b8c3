import base64
import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.wheels import Entries, entry, make_wheel, record_line

from mlenv.core.wheel import InstalledTree, InvalidWheel, Scheme, WheelLimits, read_wheel
from mlenv.core.wheel_archive import WheelTooLarge
from mlenv.core.wheel_record import RecordMismatch

_SCHEME = Scheme.posix("3.11", script_python="/opt/env/bin/python")
_SITE = "lib/python3.11/site-packages"
_DEFAULT = WheelLimits()


def _tree(path: Path, *, requested: bool = False, scheme: Scheme = _SCHEME) -> InstalledTree:
    return read_wheel(io.BytesIO(path.read_bytes()), filename=path.name).install(scheme, requested=requested)


def _contents(tree: InstalledTree) -> dict[str, bytes]:
    return {file.path: b"".join(tree.chunks(file)) for file in tree.files}


def _read_all(path: Path, *, limits: WheelLimits = _DEFAULT) -> dict[str, bytes]:
    wheel = read_wheel(io.BytesIO(path.read_bytes()), filename=path.name, limits=limits)
    return _contents(wheel.install(_SCHEME, requested=False))


def test_every_kind_of_file_goes_where_a_virtual_environment_has_it(tmp_path: Path) -> None:
    path = make_wheel(
        tmp_path,
        "Some.Pkg",
        "1.0",
        {"some_pkg/__init__.py": b"x = 1\n", "some_pkg/tool.sh": b"#!/bin/sh\n"},
        entry_points={"console_scripts": {"hi": "some_pkg:main [extra]"}, "gui_scripts": {"win": "some_pkg.a:b.c"}},
        scripts={"old": b"#!pythonw -x\r\nprint(1)\n", "binary": b"\x7fELF"},
        data={"headers/a/x.h": b"h", "data/share/y": b"y", "purelib/pure.py": b"", "platlib/plat.py": b"1"},
        executable=["some_pkg/tool.sh"],
    )
    tree = _tree(path, requested=True)
    assert {file.path: file.mode for file in tree.files} == {
        "bin/binary": 0o755,
        "bin/hi": 0o755,
        "bin/old": 0o755,
        "bin/win": 0o755,
        "include/site/python3.11/some-pkg/a/x.h": 0o644,
        f"{_SITE}/plat.py": 0o644,
        f"{_SITE}/pure.py": 0o644,
        f"{_SITE}/some_pkg/__init__.py": 0o644,
        f"{_SITE}/some_pkg/tool.sh": 0o755,
        f"{_SITE}/some_pkg-1.0.dist-info/INSTALLER": 0o644,
        f"{_SITE}/some_pkg-1.0.dist-info/METADATA": 0o644,
        f"{_SITE}/some_pkg-1.0.dist-info/RECORD": 0o644,
        f"{_SITE}/some_pkg-1.0.dist-info/REQUESTED": 0o644,
        f"{_SITE}/some_pkg-1.0.dist-info/WHEEL": 0o644,
        f"{_SITE}/some_pkg-1.0.dist-info/entry_points.txt": 0o644,
        "share/y": 0o644,
    }
    contents = _contents(tree)
    assert contents["bin/old"] == b"#!/opt/env/bin/python\nprint(1)\n"
    assert contents["bin/binary"] == b"\x7fELF"
    assert contents["bin/win"].startswith(b"#!/opt/env/bin/python\nimport sys\nfrom some_pkg.a import b\n")
    assert b"sys.exit(b.c())" in contents["bin/win"]
    assert contents[f"{_SITE}/some_pkg-1.0.dist-info/INSTALLER"] == b"mlenv\n"


def test_record_is_written_anew_and_true(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", entry_points={"console_scripts": {"hi": "pkg:main"}})
    tree = _tree(path).with_bytecode([f"{_SITE}/pkg/__pycache__/__init__.cpython-311.pyc"])
    contents = _contents(tree)
    lines = contents[f"{_SITE}/pkg-1.0.dist-info/RECORD"].decode().splitlines()
    assert lines == sorted(lines)
    assert "pkg/__pycache__/__init__.cpython-311.pyc,," in lines
    assert "pkg-1.0.dist-info/RECORD,," in lines
    for line in lines:
        name, digest, size = line.rsplit(",", 2)
        if digest:
            content = contents["bin/hi" if name == "../../../bin/hi" else f"{_SITE}/{name}"]
            encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={encoded}", str(len(content)))
    assert len(lines) == len(contents) + 1


def test_a_long_interpreter_path_goes_by_way_of_sh(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", entry_points={"console_scripts": {"hi": "pkg:main"}})
    python = "/a b/" + "x" * 150 + "/python"
    tree = _tree(path, scheme=Scheme.posix("3.11", script_python=python))
    assert _contents(tree)["bin/hi"].startswith(f"#!/bin/sh\n'''exec' '{python}' \"$0\" \"$@\"\n' '''\n".encode())


def test_windows_has_its_own_places(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", scripts={"run": b"#!python\n"})
    tree = _tree(path, scheme=Scheme.windows("3.11", script_python="C:\\env\\python.exe"))
    assert {"Lib/site-packages/pkg/__init__.py", "Scripts/run"} <= {file.path for file in tree.files}


@pytest.mark.parametrize("path", ["Ünïcödé/ﬁle.txt", "Case/File", "case/file", 'a,b/c"d', "x" * 200 + "/y", "e\u0301"])
def test_names_are_kept_as_they_are(tmp_path: Path, path: str) -> None:
    wheel = make_wheel(tmp_path, "pkg", files={path: b"1", "pkg.py": b""})
    assert _read_all(wheel)[f"{_SITE}/{path}"] == b"1"


def test_a_large_file_comes_in_chunks(tmp_path: Path) -> None:
    data = b"".join(hashlib.sha256(bytes([number % 256, number // 256])).digest() for number in range(60_000)) * 3
    tree = _tree(make_wheel(tmp_path, "pkg", files={"big.bin": data}))
    file = next(each for each in tree.files if each.path.endswith("big.bin"))
    chunks = list(tree.chunks(file))
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= 1 << 20


def test_lines_of_record_without_hash_are_taken(tmp_path: Path) -> None:
    def tamper(entries: Entries) -> None:
        entries.append((entry("pkg/cached.pyc"), b"pyc"))
        entries[-2] = (entries[-2][0], entries[-2][1] + b"pkg/cached.pyc,,\npkg/,,\n")

    contents = _read_all(make_wheel(tmp_path, "pkg", tamper=tamper))
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"pyc").digest()).decode().rstrip("=")
    assert f"pkg/cached.pyc,sha256={digest},3\n" in contents[f"{_SITE}/pkg-1.0.dist-info/RECORD"].decode()


def _append(path: str, content: bytes = b"x", *, mode: int = 0o100644) -> Callable[[Entries], None]:
    """One more file, listed in RECORD."""

    def tamper(entries: Entries) -> None:
        info, record = entries.pop()
        entries.append((entry(path, mode=mode), content))
        entries.append((info, record + record_line(path, content).encode()))

    return tamper


def _edit(old: bytes, new: bytes, *, where: str = "RECORD") -> Callable[[Entries], None]:
    """Other bytes in one file, with RECORD following unless it is RECORD itself."""

    def tamper(entries: Entries) -> None:
        for number, (info, content) in enumerate(entries):
            if info.filename.endswith(where):
                assert old in content
                changed = content.replace(old, new)
                entries[number] = (info, changed)
                if where != "RECORD":
                    record = entries[-1][1].decode()
                    line, better = record_line(info.filename, content), record_line(info.filename, changed)
                    entries[-1] = (entries[-1][0], record.replace(line, better).encode())

    return tamper


def _drop(name: str) -> Callable[[Entries], None]:
    def tamper(entries: Entries) -> None:
        entries[:] = [each for each in entries if not each[0].filename.endswith(name)]
        record = b"".join(line for line in entries[-1][1].splitlines(True) if name.encode() not in line)
        entries[-1] = (entries[-1][0], record)

    return tamper


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_append("../evil"), "'../evil' is not a path"),
        (_append("a/../../evil"), "is not a path"),
        (_append("/etc/passwd"), "'/etc/passwd' is not a path"),
        (_append("C:/evil"), "is not a path"),
        (_append("a\\b"), "is not a path"),
        (_append("a//b"), "is not a path"),
        (_append("a/./b"), "is not a path"),
        (_append("a\nb"), "is not a path"),
        (_append("x" * 256), "too long"),
        (_append("d/" * 1600 + "x"), "too long"),
        (_append("pkg-1.0.data/data/C:/x"), "is not a path"),
        (_append("pkg-1.0.data/data/../x"), "is not a path"),
        (_append("link", b"/etc", mode=0o120777), "symbolic link"),
        (_append("pipe", b"", mode=0o010644), "not a regular file"),
        (_append("tty", b"", mode=0o020644), "not a regular file"),
        (_append("pkg/__init__.py/x"), "both a file and a directory"),
        (_append("pkg-1.0.data/purelib/pkg/__init__.py"), "two files at"),
        (_append("pkg-1.0.data/purelib/pkg/__init__.py/x"), "both a file and a directory"),
        (_append("pkg-1.0.data/data/pyvenv.cfg"), "would replace 'pyvenv.cfg'"),
        (_append("pkg-1.0.data/scripts/python3"), "would replace 'bin/python3'"),
        (_append("pkg-1.0.data/data/bin/python"), "would replace 'bin/python'"),
        (_append("pkg-1.0.data/elsewhere/x"), "no|scheme that there is not"),
        (_append("other-1.0.dist-info/x"), "one .dist-info directory, here there is: other-1.0"),
        (_drop("METADATA"), "no pkg-1.0.dist-info/METADATA"),
        (_drop("WHEEL"), "no pkg-1.0.dist-info/WHEEL"),
        (_edit(b"Wheel-Version: 1.0", b"Wheel-Version: 2.0", where="WHEEL"), "Wheel-Version is '2.0'"),
        (_edit(b"Name: pkg", b"Name: other", where="METADATA"), "name inside is 'other'"),
        (_edit(b"Version: 1.0", b"Version: 1.1", where="METADATA"), "version inside is '1.1'"),
        (_edit(b"pkg/__init__.py,", b"pkg/other.py,"), "'pkg/__init__.py' is not in RECORD"),
        (_edit(b"pkg-1.0.dist-info/RECORD,,", b"gone.py,,"), "lists 'gone.py', which is not there"),
        (_edit(b"__init__.py,sha256=", b"__init__.py,sha256=AAAA"), "RECORD can't be read"),
        (_edit(b"__init__.py,sha256=", b"__init__.py,md5="), "'md5' is not a hash"),
        (_edit(b"\n", b"0\n"), "RECORD says"),
        (_append("pkg-1.0.dist-info/entry_points.txt", b"[console_scripts]\nx = os:system('rm')\n"), "module:function"),
        (_append("pkg-1.0.dist-info/entry_points.txt", b"[console_scripts]\n../x = os:exit\n"), "not a path"),
        (_append("pkg-1.0.dist-info/entry_points.txt", b"[console_scripts]\npython = os:exit\n"), "would replace"),
        (_append("pkg-1.0.dist-info/entry_points.txt", b"nonsense"), "entry_points.txt can't be read"),
    ],
)
def test_hostile_wheels_are_refused(tmp_path: Path, tamper: Callable[[Entries], None], message: str) -> None:
    path = make_wheel(tmp_path, "pkg", tamper=tamper)
    with pytest.raises(InvalidWheel, match=message) as caught:
        _read_all(path)
    assert str(caught.value).startswith("pkg-1.0-py3-none-any.whl: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = make_wheel(tmp_path, "pkg", tamper=lambda entries: entries.insert(0, entries[0]))
    with pytest.raises(InvalidWheel, match=r"'pkg/__init__.py' is in it twice"):
        _read_all(path)


def test_a_hash_that_lies_is_found_when_the_content_is_read(tmp_path: Path) -> None:
    def tamper(entries: Entries) -> None:
        entries[0] = (entries[0][0], entries[0][1].replace(b"NAME", b"nAME"))

    with pytest.raises(RecordMismatch, match=r"content of 'pkg/__init__.py' has another hash"):
        _read_all(make_wheel(tmp_path, "pkg", tamper=tamper))


@pytest.mark.parametrize("name", ["other-1.0-py3-none-any.whl", "pkg-2.0-py3-none-any.whl", "pkg.whl", "pkg-1.0.zip"])
def test_a_file_name_that_says_something_else_is_refused(tmp_path: Path, name: str) -> None:
    data = make_wheel(tmp_path, "pkg").read_bytes()
    with pytest.raises(InvalidWheel, match=r"inside is|not a wheel's file name"):
        read_wheel(io.BytesIO(data), filename=name)


def _overwrite(path: Path, *changes: tuple[bytes, int, bytes]) -> None:
    """Write bytes over others: each change says after which first mark, how far from it, and what."""
    data = bytearray(path.read_bytes())
    for mark, offset, value in changes:
        start = data.index(mark) + offset
        data[start : start + len(value)] = value
    path.write_bytes(data)


_CENTRAL, _LOCAL = b"PK\1\2", b"PK\3\4"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (8, struct.pack("<H", 1), "encrypted"),
        (10, struct.pack("<H", 12), "method 12"),
        (16, b"\0\0\0\0", "described otherwise"),
        (20, struct.pack("<L", 5), "described otherwise"),
        (20, struct.pack("<L", 0x7FFFFFFF), "overlaps"),
        (24, struct.pack("<L", 1299), "RECORD says 1300"),
        (24, struct.pack("<L", 0xFFFFFFFF), "zip64"),
        (34, struct.pack("<H", 3), "another disk"),
        (42, struct.pack("<L", 1), "overlaps"),
    ],
)
def test_a_directory_that_lies_is_refused(tmp_path: Path, field: int, value: bytes, message: str) -> None:
    path = make_wheel(tmp_path, "pkg", files={"data.bin": b"some content " * 100})
    _overwrite(path, (_CENTRAL, field, value))
    with pytest.raises(InvalidWheel, match=message):
        _read_all(path)


def test_a_local_header_with_another_name_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", files={"data.bin": b"some content " * 100})
    _overwrite(path, (_LOCAL, 30, b"evil.bin"))
    with pytest.raises(InvalidWheel, match=r"'data.bin' has another name in the file"):
        _read_all(path)


@pytest.mark.parametrize(
    ("crc", "size", "message"),
    [(b"", 1299, "another size"), (b"", 1301, "another size"), (b"\1\2\3\4", 1300, "checksum")],
)
def test_a_lie_that_both_headers_tell_is_found(tmp_path: Path, crc: bytes, size: int, message: str) -> None:
    lie = _edit(b",1300\n", f",{size}\n".encode())
    path = make_wheel(tmp_path, "pkg", files={"data.bin": b"some content " * 100}, tamper=lie)
    length = struct.pack("<L", size)
    _overwrite(path, (_CENTRAL, 16, crc), (_CENTRAL, 24, length), (_LOCAL, 14, crc), (_LOCAL, 22, length))
    with pytest.raises(InvalidWheel, match=message):
        _read_all(path)


def test_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", files={"data.bin": b"some content " * 100})
    _overwrite(path, (b"data.bin", 8, b"\xff"))
    with pytest.raises(InvalidWheel, match=r"'data.bin' is damaged"):
        _read_all(path)


@pytest.mark.parametrize("cut", [0, 10, 21, 200])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = make_wheel(tmp_path, "pkg")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidWheel, match="not a zip file"):
        _read_all(path)


@pytest.mark.parametrize("extra", [b"x", b"PK\5\6" + b"\0" * 17])
def test_bytes_after_the_end_are_refused(tmp_path: Path, extra: bytes) -> None:
    path = make_wheel(tmp_path, "pkg")
    path.write_bytes(path.read_bytes() + extra)
    with pytest.raises(InvalidWheel, match="end record"):
        _read_all(path)


def test_bytes_before_the_start_are_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    with pytest.raises(InvalidWheel, match="not where its end record says"):
        _read_all(path)


def test_overlapping_files_are_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", files={"a.bin": b"1" * 5000, "b.bin": b"1" * 5000})
    data = bytearray(path.read_bytes())
    second = data.index(_CENTRAL, data.index(_CENTRAL) + 4)
    data[second + 42 : second + 46] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(InvalidWheel, match="overlaps"):
        _read_all(path)


@pytest.mark.parametrize(
    "limits",
    [
        WheelLimits(total=1000),
        WheelLimits(members=3),
        WheelLimits(ratio_from=1000, ratio=10),
        WheelLimits(metadata=10),
    ],
)
def test_limits_hold(tmp_path: Path, limits: WheelLimits) -> None:
    path = make_wheel(tmp_path, "pkg", files={"zeros.bin": bytes(100_000)})
    assert _read_all(path)
    with pytest.raises(WheelTooLarge, match=r"allowed|unpacks to|too many"):
        _read_all(path, limits=limits)


def test_a_bomb_is_not_inflated_beyond_its_word(tmp_path: Path) -> None:
    """Ten megabytes that say they are one hundred bytes: only one byte more than that is inflated before it is seen."""
    lie = _edit(b",10000000\n", b",100\n")
    path = make_wheel(tmp_path, "pkg", files={"zeros.bin": bytes(10_000_000)}, tamper=lie)
    size = struct.pack("<L", 100)
    _overwrite(path, (_CENTRAL, 24, size), (_LOCAL, 22, size))
    with pytest.raises(InvalidWheel, match=r"'zeros.bin' has another size"):
        _read_all(path)


def test_zip64_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(make_wheel(tmp_path / "plain", "pkg")) as plain, zipfile.ZipFile(path, "w") as archive:
        for name in plain.namelist():
            with archive.open(entry(name), "w", force_zip64=True) as out:
                out.write(plain.read(name))
    assert _read_all(path)[f"{_SITE}/pkg/__init__.py"] == b"NAME = 'pkg'\n"


def test_names_are_utf8_even_where_the_archive_does_not_say_so(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pkg", files={"naïve.py": b"1"})
    _overwrite(path, (_CENTRAL, 8, b"\0\0"), (_LOCAL, 6, b"\0\0"))
    assert _read_all(path)[f"{_SITE}/naïve.py"] == b"1"
