"""Blobs that nothing names are removed, but for those that somebody has just found; and every table is looked through."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlenv.core.collecting import may_name, named_in
from mlenv.core.digest import ALGORITHMS, Digest
from mlenv.core.image import encode
from mlenv.store.oci import OciLayout
from mlenv.store.statements_collecting import NAMING, NOT_NAMING
from mlenv.store.sweep import Sweep
from mlenv.store.tables import metadata

DATA = b"some bytes"


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[OciLayout]:
    made = OciLayout(tmp_path / "oci")
    yield made
    made.close()


def stored(layout: OciLayout, data: bytes = DATA, algorithm: str = "sha256") -> Digest:
    """A blob that was last used long ago."""
    digest = Digest.of(data, algorithm)
    layout.put([data], digest=digest, size=len(data), what="blob")
    os.utime(layout.place(digest), (1, 1))
    return digest


def test_every_table_names_bytes_or_does_not() -> None:
    """Who adds a table has to say which."""
    both = [*NAMING, *NOT_NAMING]
    assert sorted(each.name for each in both) == sorted(metadata.tables)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_old_blob_is_removed(layout: OciLayout, algorithm: str) -> None:
    sweep, digest = Sweep(layout), stored(layout, algorithm=algorithm)
    assert list(sweep.blobs()) == [(digest, len(DATA), 1)]
    assert sweep.remove(digest, before=1) is None
    assert sweep.remove(digest, before=2) == len(DATA)
    assert list(sweep.blobs()) == []
    assert sweep.remove(digest, before=2) is None
    assert not layout.has(digest)


@pytest.mark.parametrize("use", ["has", "put"])
def test_a_blob_that_is_found_is_in_use(layout: OciLayout, use: str) -> None:
    sweep, digest, before = Sweep(layout), stored(layout), time.time() - 10
    if use == "has":
        assert layout.has(digest)
    else:
        layout.put([DATA], digest=digest, size=len(DATA), what="blob")
    assert sweep.remove(digest, before=before) is None
    assert layout.read(digest) == DATA
    # It was not taken aside even for a moment: whoever reads it would have missed it.
    assert not (layout.root / "aside").exists()


class _TooLate(Sweep):
    """Somebody finds the blob right after it was looked at."""

    def used(self, digest: Digest) -> float | None:
        found = super().used(digest)
        self._layout.has(digest)
        return found


def test_a_blob_that_is_found_at_the_last_moment_is_put_back(layout: OciLayout) -> None:
    digest = stored(layout)
    assert _TooLate(layout).remove(digest, before=2) is None
    assert layout.read(digest) == DATA
    assert list((layout.root / "aside").iterdir()) == []


def test_what_a_dead_sweep_took_aside_is_put_back(layout: OciLayout) -> None:
    lost, brought = stored(layout), stored(layout, b"other", "sha512")
    aside = layout.root / "aside"
    aside.mkdir()
    for digest in (lost, brought):
        os.replace(layout.place(digest), aside / f"{digest.algorithm}-{digest.hex}")
    stored(layout, b"other", "sha512")
    (aside / "sha256-strange").write_bytes(b"")
    Sweep(layout).recover()
    assert layout.read(lost) == DATA
    assert layout.read(brought) == b"other"
    assert [each.name for each in aside.iterdir()] == ["sha256-strange"]


def test_only_what_may_name_others_is_read(layout: OciLayout) -> None:
    sweep = Sweep(layout)
    assert sweep.document(stored(layout, b"\x1f\x8b gzip")) is None
    assert sweep.document(Digest.of(b"nothing")) is None
    document = b'{"layers": []}' + b" " * 2000
    assert sweep.document(stored(layout, document)) == document


def test_manifests_indexes_and_locks_name_what_they_are_made_of() -> None:
    one, two, three = (Digest.of(each) for each in (b"1", b"2", b"3"))
    image = encode(
        {"config": {"digest": str(one)}, "layers": [{"digest": str(two)}], "subject": {"digest": str(three)}}
    )
    index = encode({"manifests": [{"digest": str(three)}, {"digest": "sha1:x"}, "x", None]})
    lock = f'lock-version = "1.0"\n[[packages.wheels]]\nhashes = {{sha256 = "{one.hex}"}}\n'.encode()
    assert [set(named_in(each)) for each in (image, index, lock)] == [{one, two}, {three}, {one}]
    assert all(may_name(each) for each in (image, index, lock))
    assert not may_name(b"\x28\xb5\x2f\xfd")
    for odd in (b"{", b'{"layers": 5, "config": []}', b"{" * 5000):
        assert list(named_in(odd)) == []
