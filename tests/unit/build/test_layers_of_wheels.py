import gzip
import hashlib
import io
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard
from support.blobs import DirectoryBlobs, LayerMemory
from support.wheels import Entries, make_wheel

from mlenv.build.compression import unlike_reference
from mlenv.build.layers import build_layer, build_layers, find_conflicts, install_order
from mlenv.core.digest import Digest
from mlenv.core.layer import MTIME, Compression, Layer, LayerPlan, LayerRecipe
from mlenv.core.lock import LockedPackage
from mlenv.core.wheel import InvalidWheel

_SITE = "opt/env/lib/python3.11/site-packages"
_DIFF_ID = "49284e38a4d13936c768d072858d2ee8887c3e1ae95820904cf99a0f466b6f17"
_ZSTD = "a556e7154d364c610ca008d59382497bf63e09bc342dac82f0d93270e4ef59f9"
_GZIP = "fa33a90727fb979fc5915f82cd476e985c97928c80802704640914e55a24dd5d"
_NOISE = random.Random(1).randbytes(2_500_000)


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path / "blobs")


def _recipe(compression: Compression = Compression.ZSTD) -> LayerRecipe:
    return LayerRecipe("3.11", None, compression)


def _tar(blobs: DirectoryBlobs, layer: Layer) -> bytes:
    data = blobs.read(layer.digest)
    assert len(data) == layer.size
    assert Digest.of(data) == layer.digest
    if layer.media_type.endswith("gzip"):
        plain = gzip.decompress(data)
    else:
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert Digest.of(plain) == layer.diff_id
    return plain


def _files(plain: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isreg()}  # type: ignore[union-attr]


def _plan(*packages: LockedPackage) -> LayerPlan:
    return LayerPlan("some", packages)


def _some_wheel(directory: Path) -> Path:
    return make_wheel(
        directory,
        "pkg",
        "1.0",
        {
            "pkg/__init__.py": b"x = 1\n",
            "pkg/noise.bin": _NOISE,
            "pkg/text.txt": b"some text that shrinks\n" * 100_000,
            "pkg/empty": b"",
            "pkg/tool": b"#!/bin/sh\n",
            "pkg/ünïcödé": b"u",
        },
        scripts={"tool": b"#!python\nprint(1)\n"},
        executable=["pkg/tool"],
    )


@pytest.mark.parametrize("compression", list(Compression))
def test_a_layer_holds_the_files_of_its_wheel(tmp_path: Path, blobs: DirectoryBlobs, compression: Compression) -> None:
    package = blobs.add_wheel(_some_wheel(tmp_path))
    layer = build_layer(_plan(package), _recipe(compression), blobs=blobs)
    assert layer.media_type == compression.media_type
    plain = _tar(blobs, layer)
    files = _files(plain)
    assert files[f"{_SITE}/pkg/noise.bin"] == _NOISE
    assert files[f"{_SITE}/pkg/text.txt"] == b"some text that shrinks\n" * 100_000
    assert files["opt/env/bin/tool"] == b"#!/opt/env/bin/python\nprint(1)\n"
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
    names = [each.name for each in members if each.isreg()]
    assert names == sorted(names)
    seen = set()
    for each in members:
        assert "/" not in each.name or each.name.rpartition("/")[0] in seen
        assert each.mode == (0o755 if each.isdir() or each.name.endswith("/tool") else 0o644)
        assert (each.uid, each.gid, each.uname, each.gname, each.mtime) == (0, 0, "", "", MTIME)
        seen.add(each.name)
    assert len(seen) == len(members)


def test_tools_read_the_blobs(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    package = blobs.add_wheel(_some_wheel(tmp_path))
    for compression, tool in ((Compression.ZSTD, "zstd"), (Compression.GZIP, "gzip")):
        layer = build_layer(_plan(package), _recipe(compression), blobs=blobs)
        data = blobs.read(layer.digest)
        plain = subprocess.run([tool, "-dc"], input=data, check=True, capture_output=True).stdout
        assert Digest.of(plain) == layer.diff_id
        listed = subprocess.run(["tar", "-t"], input=plain, check=True, capture_output=True).stdout
        assert f"{_SITE}/pkg/noise.bin".encode() in listed.splitlines()


def test_a_large_stream_of_the_wheel_is_spliced(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    package = blobs.add_wheel(_some_wheel(tmp_path))
    wheel = blobs.read(package.artifact.digest)
    name = b"pkg/noise.bin"
    start = wheel.index(name) + len(name)
    layer = build_layer(_plan(package), _recipe(Compression.GZIP), blobs=blobs)
    assert wheel[start : start + 2_400_000] in blobs.read(layer.digest)


def test_both_compressions_hold_the_same_tar(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    package = blobs.add_wheel(_some_wheel(tmp_path))
    layers = [build_layer(_plan(package), _recipe(each), blobs=blobs) for each in Compression]
    assert layers[0].diff_id == layers[1].diff_id
    assert layers[0].digest != layers[1].digest


_BUILD = """
import sys
from pathlib import Path
from support.blobs import DirectoryBlobs
from mlenv.build.layers import build_layer
from mlenv.core.layer import Compression, LayerPlan, LayerRecipe
blobs = DirectoryBlobs(Path(sys.argv[1]))
packages = tuple(blobs.add_wheel(Path(each)) for each in sys.argv[2:])
for compression in Compression:
    print(build_layer(LayerPlan("x", packages), LayerRecipe("3.11", None, compression), blobs=blobs).digest)
"""


def test_nothing_of_the_machine_enters_a_layer(tmp_path: Path) -> None:
    wheels = [_some_wheel(tmp_path), make_wheel(tmp_path, "other")]
    tests = Path(__file__).parents[2]
    seen = set()
    for number, (umask, extra) in enumerate(
        [
            (0o022, {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"}),
            (
                0o077,
                {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "HOME": "/nowhere", "USER": "eve"},
            ),
        ]
    ):
        place = tmp_path / f"place {number}"
        place.mkdir()
        result = subprocess.run(
            [sys.executable, "-c", _BUILD, place / "blobs", *wheels],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tests), **extra},
            cwd=place,
            umask=umask,
            check=True,
            capture_output=True,
            text=True,
        )
        seen.add(result.stdout)
    assert len(seen) == 1
    assert len(seen.pop().split()) == 2


def test_the_bytes_are_those_of_this_recipe(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    """If this fails, bytes have changed: then `core.layer.RECIPE` must change, too, and these digests with it."""
    files = {"pkg/__init__.py": b"x = 1\n" * 1000}
    package = blobs.add_wheel(make_wheel(tmp_path, "pkg", files=files, scripts={"run": b"#!python\n"}))
    assert {each: unlike_reference(each) for each in Compression} == dict.fromkeys(Compression)
    layers = {each: build_layer(_plan(package), _recipe(each), blobs=blobs) for each in Compression}
    assert layers[Compression.ZSTD].diff_id.hex == _DIFF_ID
    assert layers[Compression.ZSTD].digest.hex == _ZSTD
    assert layers[Compression.GZIP].digest.hex == _GZIP


@pytest.mark.parametrize("compression", list(Compression))
def test_nothing_stays_of_a_wheel_that_lies(tmp_path: Path, blobs: DirectoryBlobs, compression: Compression) -> None:
    files = {"pkg/noise.bin": _NOISE[:100_000]}

    def tamper(entries: Entries) -> None:
        entries[0] = (entries[0][0], entries[0][1][:-1] + b"?")

    package = blobs.add_wheel(make_wheel(tmp_path, "pkg", files=files, tamper=tamper))
    before, cache = blobs.names(), LayerMemory()
    with pytest.raises(InvalidWheel, match=r"pkg/noise\.bin"):
        build_layers([_plan(package)], _recipe(compression), blobs=blobs, cache=cache)
    assert blobs.names() == before
    assert not cache


def test_layers_are_remembered(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    packages = [blobs.add_wheel(make_wheel(tmp_path, name)) for name in ("aa", "bb", "cc")]
    plans, cache = [_plan(each) for each in packages], LayerMemory()
    first = build_layers(plans, _recipe(), blobs=blobs, cache=cache)
    for package in packages:
        blobs.path(package.artifact.digest).unlink()
    assert build_layers(plans[::-1], _recipe(), blobs=blobs, cache=cache) == first[::-1]
    assert [cache[plan.key(_recipe())] for plan in plans] == first


def test_the_key_knows_what_is_in_the_layer(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    wheel = make_wheel(tmp_path, "pkg")
    plain, asked = (_plan(blobs.add_wheel(wheel, requested=each)) for each in (False, True))
    recipes = [
        _recipe(),
        _recipe(Compression.GZIP),
        LayerRecipe("3.12", None),
        LayerRecipe("3.11", "3.11.2"),
        LayerRecipe("3.11", "3.11.7"),
        LayerRecipe("3.11", None, prefix="/srv/env"),
    ]
    keys = {plan.key(recipe) for plan in (plain, asked) for recipe in recipes}
    assert len(keys) == 2 * len(recipes)


def _conflicting(tmp_path: Path, blobs: DirectoryBlobs, ours: Iterable[tuple[str, bytes]]) -> list[LockedPackage]:
    """Packages aa, bb, … that each bring one file beside their own."""
    return [
        blobs.add_wheel(make_wheel(tmp_path, name * 2, files={path: data}))
        for name, (path, data) in zip("abcdef", ours, strict=False)
    ]


def test_the_same_bytes_at_one_path_are_there_once(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    packages = _conflicting(tmp_path, blobs, [("ns/__init__.py", b"1"), ("ns/__init__.py", b"1")])
    plans = [_plan(*packages)]
    plain = _tar(blobs, build_layer(plans[0], _recipe(), blobs=blobs))
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        names = tar.getnames()
    assert names.count(f"{_SITE}/ns/__init__.py") == 1
    assert find_conflicts(plans, _recipe(), blobs=blobs) == []


def test_the_later_package_wins_a_path(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    packages = _conflicting(tmp_path, blobs, [("ns/x.py", b"1"), ("ns/x.py", b"2")])
    together, apart = [_plan(*packages)], [_plan(packages[1]), _plan(packages[0])]
    assert _files(_tar(blobs, build_layer(together[0], _recipe(), blobs=blobs)))[f"{_SITE}/ns/x.py"] == b"2"
    (conflict,) = find_conflicts(together, _recipe(), blobs=blobs)
    assert (conflict.kept, conflict.lost) == ("bb", "aa")
    assert str(conflict).startswith("bb and aa both bring lib/python3.11/site-packages/ns/x.py")
    (conflict,) = find_conflicts(apart, _recipe(), blobs=blobs)
    assert (conflict.kept, conflict.lost) == ("aa", "bb")
    assert [each.name for each in install_order(apart)] == ["bb", "aa"]


def test_conflicts_are_found_without_the_wheels(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    packages = _conflicting(tmp_path, blobs, [("ns/x.py", b"1"), ("ns/x.py", b"2"), ("ns/x.py/y", b"3")])
    plans, cache = [_plan(*packages[:2]), _plan(packages[2])], LayerMemory()
    expected = find_conflicts(plans, _recipe(), blobs=blobs)
    build_layers(plans, _recipe(), blobs=blobs, cache=cache)
    assert find_conflicts(plans, _recipe(), blobs=blobs, cache=LayerMemory()) == expected
    for package in packages:
        blobs.path(package.artifact.digest).unlink()
    assert find_conflicts(plans, _recipe(), blobs=blobs, cache=cache) == expected
    assert [(each.kept, each.lost) for each in expected] == [("bb", "aa"), ("cc", "bb")]


@pytest.mark.parametrize(
    ("ours", "there", "gone"),
    [
        ([("ns", b"1"), ("ns/x.py", b"2")], "ns/x.py", "ns"),
        ([("ns/x.py", b"1"), ("ns", b"2")], "ns", "ns/x.py"),
    ],
)
def test_a_file_and_a_directory_of_one_name(
    tmp_path: Path, blobs: DirectoryBlobs, ours: list[tuple[str, bytes]], there: str, gone: str
) -> None:
    plan = _plan(*_conflicting(tmp_path, blobs, ours))
    files = _files(_tar(blobs, build_layer(plan, _recipe(), blobs=blobs)))
    assert files[f"{_SITE}/{there}"] == b"2"
    assert f"{_SITE}/{gone}" not in files
    (conflict,) = find_conflicts([plan], _recipe(), blobs=blobs)
    assert (conflict.kept, conflict.lost) == ("bb", "aa")


def test_a_large_wheel_needs_little_memory(tmp_path: Path) -> None:
    """A file of 300 MB, which shrinks well but not enough to be a bomb, in a process of less than 150 MB."""
    block = hashlib.shake_128(b"seed").digest(20_000) + bytes(980_000)
    wheel = make_wheel(tmp_path, "pkg", files={"pkg/large.bin": block * 300})
    # NOTE: `ru_maxrss` outlives exec, and would be that of this process.
    script = _BUILD + "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "blobs", wheel],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(result.stdout.split()[-1]) < 150_000
