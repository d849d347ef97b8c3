"""Layers are made of packages that are there, while others are on their way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from msgspec.structs import replace
from support.blobs import DirectoryBlobs, LayerMemory
from support.wheels import Entries, make_wheel

from mlenv.build.interface import Incomplete
from mlenv.build.layers import build_layers
from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.layer import Layer, LayerPlan, LayerRecipe
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.core.progress import Silent
from mlenv.core.spec import PUBLIC, Sources
from mlenv.core.wheel import InvalidWheel
from mlenv.errors import Unavailable
from mlenv.service.artifacts import Artifacts

_RECIPE = LayerRecipe("3.11", None)
#: Seconds after which a test has failed that waits for what does not happen.
_LIMIT = 30


@dataclass
class Index:
    """Wheels that a test hands out as it likes: each file name's bytes, or what gives them."""

    files: dict[str, bytes | Callable[[], Iterator[bytes]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def fetch(self, artifact: Artifact, sources: Sources) -> Iterator[bytes]:
        self.asked.append(artifact.filename)
        content = self.files[artifact.filename]
        yield from [content] if isinstance(content, bytes) else content()

    def size_of(self, url: str, sources: Sources) -> int:
        raise AssertionError("nobody asks for it")


@dataclass
class Setting:
    blobs: DirectoryBlobs
    artifacts: Artifacts
    index: Index
    cache: "Cache"
    packages: list[LockedPackage]

    def build(self) -> list[Layer]:
        """A layer for each package, as a build makes them."""
        plans = [LayerPlan(each.name, (each,)) for each in self.packages]
        with self.artifacts.fetching(self.packages, PUBLIC, progress=Silent()) as incoming:
            return build_layers(plans, _RECIPE, blobs=self.blobs, cache=self.cache, incoming=incoming)


class Cache(LayerMemory):
    """Says when there is a first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Event()

    def put(self, key: Digest, layer: Layer) -> None:
        super().put(key, layer)
        self.first.set()


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """Three wheels, at an index; the first is the largest, and the first to be fetched."""
    index, blobs, cache = Index(), DirectoryBlobs(tmp_path / "blobs"), Cache()
    packages = []
    for name, size in (("aa", 3000), ("bb", 2000), ("cc", 1000)):
        wheel = make_wheel(tmp_path, name, files={f"{name}/data": bytes(size)})
        package = blobs.add_wheel(wheel)
        blobs.remove(package.artifact.digest)
        index.files[wheel.name] = wheel.read_bytes()
        url = f"https://index.test/{wheel.name}"
        packages.append(replace(package, artifact=replace(package.artifact, url=url)))
    return Setting(blobs, Artifacts(blobs, lambda: index, lambda: index), index, cache, packages)


def _name(setting: Setting, number: int) -> str:
    return setting.packages[number].artifact.filename


def test_a_layer_is_made_before_the_last_wheel_has_come(setting: Setting) -> None:
    name = _name(setting, 0)
    whole = setting.index.files[name]
    assert isinstance(whole, bytes)

    def slow() -> Iterator[bytes]:
        yield whole[:10]
        assert setting.cache.first.wait(_LIMIT), "no layer was made of the wheels that were there"
        yield whole[10:]

    expected = setting.build()
    for package in setting.packages:
        setting.blobs.remove(package.artifact.digest)
    setting.cache.clear()
    setting.cache.first.clear()
    setting.index.files[name] = slow
    assert setting.build() == expected


def test_all_are_tried_though_one_does_not_come(setting: Setting) -> None:
    setting.index.files[_name(setting, 0)] = b"something else"
    with pytest.raises(DigestMismatch) as failure:
        setting.build()
    assert failure.value.expected == str(setting.packages[0].artifact.digest)
    assert sorted(setting.index.asked) == sorted(each.artifact.filename for each in setting.packages)
    assert [setting.blobs.has(each.artifact.digest) for each in setting.packages] == [False, True, True]


def test_all_that_do_not_come_are_told(setting: Setting) -> None:
    def gone() -> Iterator[bytes]:
        raise Unavailable("the index is not there")
        yield b""

    setting.index.files[_name(setting, 0)] = gone
    setting.index.files[_name(setting, 2)] = gone
    with pytest.raises(ExceptionGroup) as failure:
        setting.build()
    assert [type(each) for each in failure.value.exceptions] == [Unavailable, Unavailable]
    assert setting.blobs.has(setting.packages[1].artifact.digest)


def test_a_wheel_that_may_not_be_installed_stops_the_others(setting: Setting, tmp_path: Path) -> None:
    _tamper(setting, tmp_path)
    stopped = Event()

    def endless() -> Iterator[bytes]:
        try:
            yield from _endless()
        finally:
            stopped.set()

    setting.index.files[_name(setting, 0)] = endless
    before = setting.blobs.names()
    with pytest.raises(InvalidWheel, match=r"bb/data"):
        setting.build()
    assert stopped.wait(_LIMIT)
    assert setting.blobs.names() - before <= {setting.packages[2].artifact.digest.hex, *_layers(setting)}


def test_a_download_that_stalls_does_not_hold_up_an_error(setting: Setting, tmp_path: Path) -> None:
    _tamper(setting, tmp_path)
    ended, let_go = Event(), []

    def stalled() -> Iterator[bytes]:
        yield b"PK"
        let_go.append(ended.wait(_LIMIT))

    setting.index.files[_name(setting, 0)] = stalled
    with pytest.raises(InvalidWheel, match=r"bb/data"):
        setting.build()
    assert let_go == [], "the build has waited for it"
    ended.set()
    assert not setting.blobs.has(setting.packages[0].artifact.digest)


def test_whoever_interrupts_waits_for_no_download(setting: Setting) -> None:
    setting.index.files[_name(setting, 0)] = _endless
    fetching = setting.artifacts.fetching(setting.packages, PUBLIC, progress=Silent())
    with pytest.raises(KeyboardInterrupt), fetching as incoming:
        _interrupt_after_two(incoming.whole({each.name: [each] for each in setting.packages}))
    assert not setting.blobs.has(setting.packages[0].artifact.digest)


def test_what_is_there_is_not_waited_for(setting: Setting) -> None:
    setting.build()
    asked = len(setting.index.asked)
    setting.cache.clear()
    assert len(setting.build()) == 3
    assert len(setting.index.asked) == asked


def test_layers_are_not_made_of_a_part(setting: Setting) -> None:
    plans = [LayerPlan("all", tuple(setting.packages))]
    setting.index.files[_name(setting, 2)] = b"something else"
    fetching = setting.artifacts.fetching(setting.packages, PUBLIC, progress=Silent())
    with pytest.raises(DigestMismatch) as failure, fetching as incoming:
        build_layers(plans, _RECIPE, blobs=setting.blobs, cache=setting.cache, incoming=incoming)
    assert isinstance(failure.value.__context__, Incomplete)
    assert not setting.cache


def _tamper(setting: Setting, tmp_path: Path) -> None:
    """The second wheel is there, and may not be installed: a file in it is not what its record says."""

    def lie(entries: Entries) -> None:
        entries[0] = (entries[0][0], entries[0][1][:-1] + b"?")

    wheel = make_wheel(tmp_path / "lying", "bb", files={"bb/data": bytes(2000)}, tamper=lie)
    setting.packages[1] = setting.blobs.add_wheel(wheel)


def _endless() -> Iterator[bytes]:
    """A server that sends no more than a sign of life, now and then."""
    never = Event()
    while not never.wait(0.01):
        yield b""


def _interrupt_after_two(names: Iterator[str]) -> None:
    """The second and the third come, the first never does."""
    assert {next(names), next(names)} == {"bb", "cc"}
    raise KeyboardInterrupt


def _layers(setting: Setting) -> set[str]:
    return {each.digest.hex for each in setting.cache.values()}
