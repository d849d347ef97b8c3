"""Whoever waits for a package in the main thread is ended by Ctrl-C, even by one that wakes nothing up."""

from collections.abc import Iterator
from threading import Condition, Event

from support.interrupting import ends_by_interrupt

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.service import arriving
from mlenv.service.arriving import Arriving


def test_waiting_for_packages_to_be_whole() -> None:
    package = LockedPackage(
        "alpha", "1", Artifact("alpha-1-py3-none-any.whl", 1, Digest.of(b"a"), "https://example.org/a")
    )
    coming = Arriving([package])

    def wait() -> None:
        list(coming.whole({"all": [package]}))

    assert ends_by_interrupt(wait, Condition.wait.__code__, Arriving.whole.__code__, end=lambda: coming.came(package))


def test_waiting_for_the_next_piece() -> None:
    go_on, coming = Event(), Arriving([])

    def source() -> Iterator[bytes]:
        go_on.wait(60)
        yield b"piece"

    def wait() -> None:
        list(coming.pieces(source()))

    assert ends_by_interrupt(wait, arriving._next.__code__, end=go_on.set)
