import gzip
import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from mlenv.build.unpacking import InvalidArchive, Limited, Member, open_unpacked, walk_tar


def make_tar(names: list[str], *, tar_format: int, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
                tar.addfile(info)
            else:
                info.size = len(name.encode())
                tar.addfile(info, io.BytesIO(name.encode()))
    return buffer.getvalue()


def walk(data: bytes, *, limit: int = 1 << 30, read: bool = False) -> list[tuple[Member, bytes]]:
    stream = Limited(io.BytesIO(data), limit, "it")
    return [
        (member, content.exactly(member.size) if read else b"")
        for member, content in walk_tar(stream, what="it", members=1000)
    ]


NAMES = ["short", "d/" * 60 + "file", "ü" * 90, "x" * 300, "last"]


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("read", [True, False])
def test_names_of_every_length_are_read_as_tarfile_reads_them(tar_format: int, read: bool) -> None:
    found = walk(make_tar(NAMES, tar_format=tar_format), read=read)
    assert [member.name for member, _ in found] == NAMES
    assert [member.size for member, _ in found] == [len(name.encode()) for name in NAMES]
    if read:
        assert [content.decode() for _, content in found] == NAMES


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("link", ["a", "b/" * 200])
def test_links_of_every_length(tar_format: int, link: str) -> None:
    [(member, _)] = walk(make_tar(["name"], tar_format=tar_format, link=link))
    assert (member.kind, member.link) == ("2", link)


def test_sizes_of_8_gib_are_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge")
    info.size = 9 << 30
    with (tmp_path / "huge.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek((9 << 30) + 512 + 1023)
        file.write(b"\0")
    with open_unpacked(tmp_path / "huge.tar", limit=1 << 40, what="it") as stream:
        [member] = [member for member, _ in walk_tar(stream, what="it", members=9)]
    assert member.size == 9 << 30


def test_compressed_files_of_several_parts_are_one_stream(tmp_path: Path) -> None:
    for packed in (
        gzip.compress(b"one") + gzip.compress(b"two"),
        zstandard.compress(b"one") + zstandard.compress(b"two"),
        b"onetwo",
    ):
        (tmp_path / "file").write_bytes(packed)
        with open_unpacked(tmp_path / "file", limit=100, what="it") as stream:
            assert stream.exactly(100) == b"onetwo"


@pytest.mark.parametrize("magic", [b"\xfd7zXZ\0", b"BZh9"])
def test_other_compressions_are_named(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "file").write_bytes(magic + bytes(100))
    with pytest.raises(InvalidArchive, match="xz or bzip2"), open_unpacked(tmp_path / "file", limit=100, what="it"):
        pass


def header(size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    data = bytearray(tarfile.TarInfo("name").tobuf(tarfile.USTAR_FORMAT))
    data[124:136], data[156:157], data[148:156] = size, kind, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"x" * 512, "is not a tar: no header at byte 0"),
        (b"x" * 100, "is not a tar"),
        (header(b"00000001000\0") + bytes(100), "ends in the middle of a file"),
        (header(b"0000000000x\0"), "octal number"),
        (header(b"77777777777\0", b"x"), "a name or record of 8589934591 bytes"),
        (header(b"00000000005\0", b"x") + b"xx=y\n".ljust(512, b"\0"), "damaged pax record"),
        (header(b"00000000005\0", b"x") + b"9 a=b".ljust(512, b"\0"), "damaged pax record"),
        (header(b"00000000013\0", b"x") + b"11 size=-1\n".ljust(512, b"\0") + header(), "a file of '-1' bytes"),
        (header(kind=b"S"), "sparse"),
        (header(b"\x80" + b"\xff" * 11) + bytes(512), "ends in the middle of a file"),
    ],
)
def test_damage_is_told(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidArchive, match=problem):
        walk(data)


def test_damage_anywhere_is_refused_or_harmless() -> None:
    whole = make_tar(NAMES, tar_format=tarfile.PAX_FORMAT)
    refused = 0
    for position in range(0, 3000, 7):
        broken = bytearray(whole)
        broken[position] ^= 0x55
        try:
            assert len(walk(bytes(broken))) <= len(NAMES)
        except InvalidArchive:
            refused += 1
    assert refused > 100


def test_limits() -> None:
    data = make_tar([f"name{number}" for number in range(1001)], tar_format=tarfile.PAX_FORMAT)
    with pytest.raises(InvalidArchive, match="more than 1000 entries"):
        walk(data)
    with pytest.raises(InvalidArchive, match="unpacks to more than 2000 bytes"):
        walk(data, limit=2000)
