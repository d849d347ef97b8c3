"""What every implementation of `build.interface.Blobs` must do."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlenv.build.interface import Blobs
from mlenv.core.digest import Digest, DigestMismatch
from mlenv.errors import NotFound
from mlenv.store.oci import OciLayout

CONTENT = b"some bytes, and a few more"
DIGEST = Digest.of(CONTENT)


@pytest.fixture(params=[OciLayout])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    make: Callable[[Path], Blobs] = request.param
    return make(tmp_path / "store")


def put(blobs: Blobs, chunks: list[bytes], *, size: int | None = None, digest: Digest = DIGEST) -> None:
    blobs.put(chunks, digest=digest, size=sum(map(len, chunks)) if size is None else size, what="the content")


def test_what_is_put_is_there_and_unchanged(blobs: Blobs) -> None:
    assert not blobs.has(DIGEST)
    put(blobs, [CONTENT[:5], CONTENT[5:]])
    assert blobs.has(DIGEST)
    assert blobs.read(DIGEST) == CONTENT
    assert blobs.path(DIGEST).read_bytes() == CONTENT


def test_putting_twice_is_putting_once(blobs: Blobs) -> None:
    put(blobs, [CONTENT])
    put(blobs, [CONTENT])
    assert blobs.read(DIGEST) == CONTENT


def test_the_empty_blob_is_a_blob(blobs: Blobs) -> None:
    put(blobs, [], digest=Digest.of(b""))
    assert blobs.read(Digest.of(b"")) == b""


def test_other_bytes_of_the_same_length_are_refused_and_not_kept(blobs: Blobs) -> None:
    with pytest.raises(DigestMismatch, match=r"the content: expected sha256:.*, got sha256:"):
        put(blobs, [b"x" * len(CONTENT)])
    assert not blobs.has(DIGEST)
    assert not blobs.has(Digest.of(b"x" * len(CONTENT)))


def test_too_few_bytes_are_refused(blobs: Blobs) -> None:
    with pytest.raises(DigestMismatch, match="expected 26 bytes, got 5 bytes"):
        put(blobs, [CONTENT[:5]], size=len(CONTENT))
    assert not blobs.has(DIGEST)


def test_reading_stops_at_the_first_byte_too_many(blobs: Blobs) -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 10

    with pytest.raises(DigestMismatch, match="expected 26 bytes, got more"):
        blobs.put(endless(), digest=DIGEST, size=26, what="the content")
    assert asked == 3


def test_a_writer_keeps_what_is_committed(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(CONTENT[:5])
        writer.write(memoryview(CONTENT)[5:])
        assert not blobs.has(DIGEST)
        assert writer.commit(expect=DIGEST) == (DIGEST, len(CONTENT))
        assert blobs.has(DIGEST)
    assert blobs.read(DIGEST) == CONTENT


def test_a_writer_forgets_what_is_not_committed(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(CONTENT)
    assert not blobs.has(DIGEST)


def test_a_writer_that_promised_something_else_keeps_nothing(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(CONTENT)
        with pytest.raises(DigestMismatch):
            writer.commit(expect=Digest.of(b"other"))
    assert not blobs.has(DIGEST)


def test_two_writers_of_the_same_bytes_agree(blobs: Blobs) -> None:
    with blobs.writer() as one, blobs.writer() as two:
        one.write(CONTENT)
        two.write(CONTENT)
        assert one.commit() == two.commit()
    assert blobs.read(DIGEST) == CONTENT


def test_what_is_not_there_is_not_found(blobs: Blobs) -> None:
    with pytest.raises(NotFound, match=DIGEST.hex):
        blobs.path(DIGEST)
    with pytest.raises(NotFound, match=DIGEST.hex):
        blobs.read(DIGEST)
