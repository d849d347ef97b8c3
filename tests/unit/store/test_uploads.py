"""Uploads: resumed by anybody, written by one at a time, and whole or not at all."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.repositories import UploadBusy, UploadNotFound
from mlenv.store.oci import OciLayout
from mlenv.store.uploads import Uploads

WHO = "team/app"
DATA = b"some bytes, in pieces"


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[OciLayout]:
    made = OciLayout(tmp_path / "oci")
    yield made
    made.close()


@pytest.fixture
def uploads(layout: OciLayout) -> Uploads:
    return Uploads(layout)


def send(uploads: Uploads, id: str, *pieces: bytes) -> None:
    upload = uploads.open(WHO, id)
    upload.expect()
    upload.write(pieces)
    upload.close()


def finish(uploads: Uploads, id: str, digest: Digest) -> int:
    upload = uploads.open(WHO, id)
    try:
        return upload.finish(digest)
    finally:
        upload.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("restarted", [False, True])
def test_pieces_become_a_blob(uploads: Uploads, layout: OciLayout, algorithm: str, restarted: bool) -> None:
    id, digest = uploads.start(WHO), Digest.of(DATA, algorithm)
    send(uploads, id, DATA[:4], b"")
    # Another process, or this one started anew, knows nothing but what is on the disk.
    other = Uploads(layout) if restarted else uploads
    assert other.size(WHO, id) == 4
    send(other, id, DATA[4:10], DATA[10:])
    assert finish(other, id, digest) == len(DATA)
    assert layout.read(digest) == DATA
    assert list((layout.root / "uploads").iterdir()) == []
    with pytest.raises(UploadNotFound):
        other.size(WHO, id)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_is_on_the_disk_before_it_has_its_name(
    uploads: Uploads, layout: OciLayout, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after the rename would otherwise leave a name of bytes that were never written."""
    id, digest = uploads.start(WHO), Digest.of(DATA, algorithm)
    send(uploads, id, DATA)
    place, done = layout.place(digest), list[tuple[str, int, int]]()
    new = [] if place.parent.exists() else [place.parent.parent]

    def recorded(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def record(what: int | Path, *rest: Path) -> None:
            found = os.fstat(what) if isinstance(what, int) else what.stat()
            call(what, *rest)
            done.append((name, found.st_ino, found.st_size if stat.S_ISREG(found.st_mode) else 0))

        return record

    monkeypatch.setattr(os, "fsync", recorded("sync", os.fsync))
    monkeypatch.setattr(os, "replace", recorded("rename", os.replace))
    assert finish(uploads, id, digest) == len(DATA)
    blob = place.stat().st_ino
    assert done == [
        ("sync", blob, len(DATA)),
        ("rename", blob, len(DATA)),
        *(("sync", each.stat().st_ino, 0) for each in [*new, place.parent]),
    ]


def test_what_another_process_added_is_hashed_too(uploads: Uploads, layout: OciLayout) -> None:
    id, other = uploads.start(WHO), Uploads(layout)
    send(uploads, id, DATA[:3])
    send(other, id, DATA[3:5])
    send(uploads, id, DATA[5:])
    assert finish(uploads, id, Digest.of(DATA)) == len(DATA)


def test_bytes_of_another_digest_end_the_upload(uploads: Uploads, layout: OciLayout) -> None:
    id = uploads.start(WHO)
    send(uploads, id, DATA)
    with pytest.raises(DigestMismatch):
        finish(uploads, id, Digest.of(b"other"))
    assert not layout.has(Digest.of(DATA))
    with pytest.raises(UploadNotFound):
        uploads.open(WHO, id)


def test_what_came_after_a_place_is_forgotten(uploads: Uploads) -> None:
    id = uploads.start(WHO)
    send(uploads, id, DATA[:5])
    upload = uploads.open(WHO, id)
    upload.write([b"wrong"])
    upload.truncate(5)
    upload.write([DATA[5:]])
    assert upload.finish(Digest.of(DATA)) == len(DATA)
    upload.close()


def test_a_blob_that_is_there_is_kept_as_it_is(uploads: Uploads, layout: OciLayout) -> None:
    digest = Digest.of(DATA)
    layout.put([DATA], digest=digest, size=len(DATA), what="blob")
    os.utime(layout.place(digest), (1, 1))
    before = layout.place(digest).stat()
    id = uploads.start(WHO)
    send(uploads, id, DATA)
    assert finish(uploads, id, digest) == len(DATA)
    after = layout.place(digest).stat()
    assert after.st_ino == before.st_ino
    # It is in use again, so no collection takes it.
    assert after.st_mtime > before.st_mtime + 1000


def test_nobody_else_finds_an_upload(uploads: Uploads) -> None:
    id = uploads.start(WHO)
    for wrong, owner in ((id, "team/other"), ("0" * 48, WHO), (f"../{id}", WHO), ("", WHO), (id[:-1], WHO)):
        with pytest.raises(UploadNotFound):
            uploads.size(owner, wrong)
        with pytest.raises(UploadNotFound):
            uploads.open(owner, wrong)


def test_one_writes_at_a_time(uploads: Uploads, layout: OciLayout) -> None:
    id = uploads.start(WHO)
    upload = uploads.open(WHO, id)
    for other in (uploads, Uploads(layout)):
        with pytest.raises(UploadBusy):
            other.open(WHO, id)
    upload.cancel()
    upload.close()
    with pytest.raises(UploadNotFound):
        uploads.open(WHO, id)


_DIES = """
import os, sys
from pathlib import Path
from mlenv.store.oci import OciLayout
from mlenv.store.uploads import Uploads
Uploads(OciLayout(Path(sys.argv[1]))).open(sys.argv[2], sys.argv[3]).write([b"some by"])
os.kill(os.getpid(), 9)
"""


def test_what_dies_lets_go(uploads: Uploads, layout: OciLayout) -> None:
    id = uploads.start(WHO)
    done = subprocess.run([sys.executable, "-c", _DIES, str(layout.root), WHO, id], check=False)
    assert done.returncode == -9
    assert uploads.size(WHO, id) == 7
    send(uploads, id, DATA[7:])
    assert finish(uploads, id, Digest.of(DATA)) == len(DATA)


def test_a_full_disk_leaves_the_upload_as_it_is(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    id = uploads.start(WHO)
    send(uploads, id, DATA[:4])
    upload = uploads.open(WHO, id)
    real = os.writev

    def full(descriptor: int, buffers: list[bytes]) -> int:
        monkeypatch.setattr(os, "writev", no_room)
        return real(descriptor, [buffers[0][:3]])

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space"):
        upload.write([DATA[4:]])
    upload.close()
    monkeypatch.setattr(os, "writev", real)
    assert uploads.size(WHO, id) == 7
    send(uploads, id, DATA[7:])
    assert finish(uploads, id, Digest.of(DATA)) == len(DATA)


def test_old_uploads_are_swept_and_those_in_use_are_not(uploads: Uploads, layout: OciLayout) -> None:
    assert uploads.sweep(0) == 0
    old, used, young = (uploads.start(WHO) for _ in range(3))
    for id in (old, used, young):
        send(uploads, id, DATA)
    upload = uploads.open(WHO, used)
    for id in (old, used):
        os.utime(layout.root / "uploads" / id, (1, 1))
    assert uploads.sweep(3600) == len(DATA)
    with pytest.raises(UploadNotFound):
        uploads.size(WHO, old)
    assert (uploads.size(WHO, used), uploads.size(WHO, young)) == (len(DATA), len(DATA))
    upload.close()
