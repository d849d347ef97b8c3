"""A collection, and somebody who finds a blob while it goes on: at each moment, one after the other."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlenv.core.collecting import Collected, Link, Named
from mlenv.core.digest import Digest
from mlenv.core.progress import Silent
from mlenv.service.collecting import Collecting
from mlenv.store.oci import OciLayout
from mlenv.store.sweep import Sweep

DATA = b"a layer that many images have"
DIGEST = Digest.of(DATA)
LINK = Link("team", "app", DIGEST, datetime(2020, 1, 1, tzinfo=UTC))


class Rows:
    """Rows that name nothing but a blob of a repository, which somebody had pushed and never named."""

    def __init__(self, reach: Callable[[str], None]) -> None:
        self.links = [LINK]
        self._reach = reach

    def named(self) -> Named:
        found = Named(frozenset(), {}, tuple(self.links))
        self._reach("names are read")
        return found

    def forget_layer(self, key: Digest) -> None:
        raise AssertionError(f"there is no layer {key}")

    def forget_link(self, link: Link, unless: Callable[[], bool]) -> bool:
        self._reach("before a link is forgotten")
        if unless():
            return False
        self.links.remove(link)
        return True


class Bytes(Sweep):
    """A sweep that is held at each of its steps."""

    def __init__(self, layout: OciLayout, reach: Callable[[str], None]) -> None:
        super().__init__(layout)
        self._reach = reach

    def blobs(self) -> Iterator[tuple[Digest, int, float]]:
        yield from list(super().blobs())
        self._reach("blobs are listed")

    def remove(self, digest: Digest, *, before: float) -> int | None:
        self._reach("before it is removed")
        return super().remove(digest, before=before)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[OciLayout]:
    made = OciLayout(tmp_path / "oci")
    made.put([DATA], digest=DIGEST, size=len(DATA), what="blob")
    os.utime(made.place(DIGEST), (1, 1))
    yield made
    made.close()


def collect(
    layout: OciLayout, moment: str, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[Collected, list[Link]]:
    """Collect, and let somebody do something at a moment, once. Gives what was removed, and the links that are left."""
    left = [moment]

    def reach(name: str) -> None:
        if [name] == left:
            left.clear()
            do()

    rename = os.replace

    def renamed(source: Path, target: Path) -> None:
        if target.parent.name == "aside":
            reach("before the rename")
        rename(source, target)
        if target.parent.name == "aside":
            reach("after the rename")

    monkeypatch.setattr(os, "replace", renamed)
    rows = Rows(reach)
    collecting = Collecting(rows, Bytes(layout, reach), lambda _: 0, nullcontext, lambda: datetime.now(UTC))
    collected = collecting.collect(timedelta(hours=1), progress=Silent())
    assert left == [], f"the moment never came: {moment}"
    return collected, rows.links


def test_what_nobody_finds_is_removed_with_its_link(layout: OciLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    collected, links = collect(layout, "blobs are listed", lambda: None, monkeypatch)
    assert (collected.blobs, collected.freed, links) == (1, len(DATA), [])
    assert not layout.has(DIGEST)


@pytest.mark.parametrize(
    ("moment", "linked"),
    [
        ("names are read", True),
        ("blobs are listed", True),
        ("before a link is forgotten", True),
        # The link is gone, and whoever comes now makes another one: the bytes are there for it.
        ("before it is removed", False),
        ("before the rename", False),
    ],
)
def test_what_somebody_finds_is_there_for_them(
    layout: OciLayout, moment: str, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    collected, links = collect(layout, moment, lambda: found.append(layout.has(DIGEST)), monkeypatch)
    assert found == [True]
    assert layout.read(DIGEST) == DATA
    assert (collected.blobs, collected.freed) == (0, 0)
    assert links == ([LINK] if linked else [])


def test_who_comes_after_the_rename_brings_it_anew(layout: OciLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []

    def come() -> None:
        found.append(layout.has(DIGEST))
        layout.put([DATA], digest=DIGEST, size=len(DATA), what="blob")

    collected, _ = collect(layout, "after the rename", come, monkeypatch)
    assert found == [False]
    assert collected.blobs == 1
    assert layout.read(DIGEST) == DATA
    assert list((layout.root / "aside").iterdir()) == []
