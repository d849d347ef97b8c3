import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from mlenv.build.tarball import END, directory_header, file_header, padding
from mlenv.core.layer import MTIME

_PATHS = [
    "a",
    "x" * 100,
    "x" * 101,
    "d" * 90 + "/" + "f" * 90,
    "d" * 155 + "/" + "f" * 100,
    "d" * 156 + "/" + "f" * 99,
    "d/" * 300 + "f",
    "d" * 40 + "/" + "f" * 200,
    "ünïcödé/ﬁle",
    "e\u0301/" + "ü" * 80,
    ' spaces and "quotes" ',
]


@pytest.mark.parametrize("path", _PATHS)
def test_headers_are_read_back(path: str) -> None:
    data = file_header(path, 3, executable=True) + b"abc" + padding(3) + directory_header(path + ".d") + END
    assert len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file, directory = tar.getmembers()
        content = tar.extractfile(file)
        assert content is not None
        assert content.read() == b"abc"
    assert (file.name, file.mode, file.size, file.isreg()) == (path, 0o755, 3, True)
    assert (directory.name, directory.mode, directory.isdir()) == (path + ".d", 0o755, True)
    for each in (file, directory):
        assert (each.uid, each.gid, each.uname, each.gname, each.mtime) == (0, 0, "", "", MTIME)


def test_tar_unpacks_it(tmp_path: Path) -> None:
    parents = sorted({"/".join(path.split("/")[:depth]) for path in _PATHS for depth in range(1, path.count("/") + 1)})
    body = b"".join(directory_header(each) for each in parents)
    paths = [each for each in _PATHS if each not in parents and max(map(len, each.encode().split(b"/"))) <= 255]
    body += b"".join(file_header(each, 5, executable=False) + b"12345" + padding(5) for each in paths)
    subprocess.run(["tar", "-x", "-C", tmp_path], input=body + END, check=True)
    assert {each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*") if each.is_file()} == set(paths)


def test_a_short_path_needs_no_pax_record() -> None:
    assert len(file_header("d" * 155 + "/" + "f" * 100, 1, executable=False)) == 512
    assert len(file_header("d" * 156 + "/" + "f" * 99, 1, executable=False)) == 3 * 512


@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11, 10**13])
def test_sizes_of_any_length_are_written(size: int) -> None:
    tar = tarfile.TarFile(fileobj=io.BytesIO(file_header("big", size, executable=False) + END))
    member = tar.next()
    assert member is not None
    assert member.size == size
