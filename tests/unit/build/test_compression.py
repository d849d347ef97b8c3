import random

import pytest
import zstandard

from mlenv.build.compression import ZstdStream
from mlenv.core.digest import Digest

_FRAME = 8 << 20
_CONTENT = random.Random(1).randbytes(1 << 16) * 300


class _Memory:
    """A blob in memory, a part for each write."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes | memoryview) -> None:
        self.parts.append(bytes(data))

    def commit(self, *, expect: Digest | None = None) -> tuple[Digest, int]:
        raise NotImplementedError


@pytest.mark.parametrize("piece", [100_003, _FRAME, len(_CONTENT)])
def test_frames_are_the_same_however_the_content_comes(piece: int) -> None:
    out = _Memory()
    stream = ZstdStream(out)
    for start in range(0, len(_CONTENT), piece):
        stream.write(_CONTENT[start : start + piece])
    assert stream.close() == Digest.of(_CONTENT)
    frames = [zstandard.ZstdDecompressor().decompress(each) for each in out.parts]
    assert frames == [_CONTENT[start : start + _FRAME] for start in range(0, len(_CONTENT), _FRAME)]
