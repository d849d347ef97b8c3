"""Tars whose times are set, whatever wrote them."""

import io
import tarfile

import pytest

from mlenv.core.tar_archive import InvalidArchive, Limited, retimed

MTIME = 1_577_836_800
#: Times before, in and after what eleven octal digits hold, and parts of a second, of which each has a record in pax.
TIMES = (0, 1_700_000_000, 1_700_000_000.25, 8**11)


def made(time: float, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with files, links, long names, odd names and extended attributes, all of one time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, content in (
            ("d", tarfile.DIRTYPE, b""),
            ("d/empty", tarfile.REGTYPE, b""),
            ("d/é", tarfile.REGTYPE, b"x" * 512),
            ("d/" + "long" * 60, tarfile.REGTYPE, b"y" * 1000),
            ("link", tarfile.SYMTYPE, b""),
            ("hard", tarfile.LNKTYPE, b""),
            (".wh.gone", tarfile.REGTYPE, b""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mtime, info.uid, info.mode = kind, len(content), time, 1000, 0o750
            info.linkname = "d/" + "far" * 60 if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"SCHILY.xattr.user.k": "v", "atime": str(time + 1), "ctime": str(time + 2)}
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def changed(data: bytes, members: int = 100) -> bytes:
    return b"".join(retimed(Limited(io.BytesIO(data), 1 << 30, "it"), MTIME, what="it", members=members))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("time", TIMES)
def test_only_times_change(time: float, form: int) -> None:
    data = made(time, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as before, tarfile.open(fileobj=io.BytesIO(changed(data))) as after:
        for one, other in zip(before.getmembers(), after.getmembers(), strict=True):
            assert other.mtime == MTIME
            for each in ("name", "type", "size", "linkname", "uid", "gid", "mode"):
                assert getattr(one, each) == getattr(other, each)
            wanted = {key: value for key, value in one.pax_headers.items() if key not in ("mtime", "atime", "ctime")}
            assert other.pax_headers == wanted
            if one.isreg():
                assert before.extractfile(one).read() == after.extractfile(other).read()  # type: ignore[union-attr]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_two_that_differ_in_times_become_one(form: int) -> None:
    assert len({changed(made(time, form)) for time in TIMES}) == 1
    once = changed(made(TIMES[1], form))
    assert changed(once) == once


def test_gnus_further_times_are_taken_out() -> None:
    plain = bytearray(made(0, tarfile.GNU_FORMAT))
    assert plain[257:265] == b"ustar  \0"
    plain[345:369] = b"%011o\0" % 5 * 2
    plain[148:156] = b" " * 8
    plain[148:156] = b"%06o\0 " % sum(plain[:512])
    assert changed(bytes(plain)) == changed(made(0, tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\1" * 1024, "is not a tar"),
        (made(0)[:530], "ends in the middle of a record"),
        (made(0, tarfile.GNU_FORMAT)[: 512 * 3 + 100], "ends|is not a tar"),
    ],
)
def test_what_is_none_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidArchive, match=why):
        changed(data)


def test_too_many_entries_are_refused() -> None:
    with pytest.raises(InvalidArchive, match="too many entries"):
        changed(made(0), members=6)
    assert changed(made(0), members=7)
