"""Local prefixes of conda packages: what an image has, for another place, and linked to a cache."""

import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from msgspec import structs
from support.blobs import DirectoryBlobs
from support.conda_locked import stored
from support.conda_packages import (
    PLACEHOLDER,
    File,
    Link,
    Package,
    Parts,
    interpreter,
    make_package,
    program_package,
    python_package,
)

from mlenv.core.conda_archive import InvalidCondaArchive
from mlenv.core.conda_package import CondaPackage
from mlenv.core.progress import Silent
from mlenv.errors import Conflict
from mlenv.run.conda_prefix import lay_out_conda
from mlenv.run.links import remove_tree
from mlenv.run.prefix import ClashingFiles, protect
from mlenv.run.unpacked_conda import UnpackedConda


class Warnings(Silent):
    """Progress that keeps what it was warned of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


class Cache:
    """A cache beside the packages that it unpacks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = DirectoryBlobs(root / "blobs")
        self.unpacked = UnpackedConda(root / "conda")
        self.warnings = Warnings()

    def unpack(self, *packages: Package) -> list[CondaPackage]:
        """Store and unpack packages."""
        locks = [stored(self.blobs, each) for each in packages]
        self.unpack_locked(locks)
        return locks

    def unpack_locked(self, locks: list[CondaPackage]) -> None:
        missing = [each for each in locks if not self.unpacked.has(each)]
        self.unpacked.unpack(missing, self.blobs, staging=self.root / "staging", progress=self.warnings)

    def prefix(self, name: str, locks: list[CondaPackage]) -> Path:
        """A prefix of unpacked packages."""
        prefix = self.root / name
        prefix.mkdir(parents=True)
        lay_out_conda(prefix, prefix, locks, self.unpacked, self.warnings)
        return prefix


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_programs_run_in_a_prefix(cache: Cache) -> None:
    locks = cache.unpack(
        program_package(said="well\n", post_link="exit 1\n"),
        interpreter(),
        python_package("tool", entry_points=["tool = tool:main"], subdir="noarch"),
    )
    prefix = cache.prefix("one", locks)
    assert subprocess.check_output([prefix / "bin/teller"]) == b"well\n"
    assert subprocess.check_output([prefix / "bin/teller-too"]) == b"well\n"
    assert subprocess.check_output([prefix / "bin/tool"], env={"PYTHONDONTWRITEBYTECODE": "1"}) == b"tool 1.0\n"
    assert (prefix / "share/teller/where.txt").read_text() == f"prefix={prefix}\n"
    assert (prefix / "conda-meta/history").exists()
    assert cache.warnings.said == ["teller has bin/.teller-post-link.sh: not run"]
    record = json.loads((prefix / "conda-meta/teller-1.0-0.json").read_text())
    assert "bin/teller" in record["files"]
    assert str(cache.root) not in json.dumps(record)
    other = cache.prefix("two", locks)
    linked = "share/teller/said.txt"
    assert (prefix / linked).stat().st_ino == (other / linked).stat().st_ino
    assert (prefix / "bin/teller").stat().st_ino != (other / "bin/teller").stat().st_ino
    for path in (linked, "bin/teller"):
        assert (prefix / path).stat().st_mtime == 1_700_000_000
        assert not stat.S_IMODE((prefix / path).stat().st_mode) & 0o222
    protect(prefix)
    assert not stat.S_IMODE((prefix / "bin").stat().st_mode) & 0o222
    remove_tree(prefix)
    assert subprocess.check_output([other / "bin/teller"]) == b"well\n"


def test_a_long_prefix(cache: Cache) -> None:
    script = File(f"#!{PLACEHOLDER}/bin/sh -e\necho {PLACEHOLDER}\n".encode(), 0o755, "text")
    locks = cache.unpack(
        interpreter(),
        python_package("tool", entry_points=["tool = tool:main"]),
        make_package("x", files={"bin/x": script}),
    )
    prefix = cache.prefix("d" * 120, locks)
    assert (prefix / "bin/x").read_text() == f"#!/usr/bin/env sh -e\necho {prefix}\n"
    first = (prefix / "bin/tool").read_text().split("\n")[:2]
    assert first == ["#!/bin/sh", f"'''exec' \"{prefix}/bin/python3.11\" \"$0\" \"$@\" #'''"]
    assert subprocess.check_output([prefix / "bin/tool"], env={"PYTHONDONTWRITEBYTECODE": "1"}) == b"tool 1.0\n"


def test_a_prefix_that_is_too_long(cache: Cache) -> None:
    locks = cache.unpack(program_package())
    with pytest.raises(
        InvalidCondaArchive, match=f"built for a prefix of {len(PLACEHOLDER)} bytes, which is too short"
    ):
        cache.prefix("d" * 200 + "/" + "e" * 60, locks)


def test_hard_links_and_empty_directories(cache: Cache) -> None:
    def link(parts: Parts) -> None:
        info, _ = parts.content[1]
        info.type, info.linkname, info.size = tarfile.LNKTYPE, "a", 0
        parts.content[1] = info, b""
        empty = tarfile.TarInfo("empty/one")
        empty.type = tarfile.DIRTYPE
        parts.content.append((empty, b""))
        parts.paths["paths"].append({"_path": "empty/one", "path_type": "directory"})

    text = File(PLACEHOLDER.encode(), 0o644, "text")
    prefix = cache.prefix(
        "p", cache.unpack(make_package("x", files={"a": text, "b": text, "l": Link("a")}, tamper=link))
    )
    assert (prefix / "b").read_text() == str(prefix)
    assert (prefix / "b").stat().st_ino == (prefix / "a").stat().st_ino
    assert os.readlink(prefix / "l") == "a"
    assert (prefix / "empty/one").is_dir()


def test_two_packages_with_one_path(cache: Cache) -> None:
    locks = cache.unpack(
        make_package("a", files={"x": b"one", "same": b"s", "l": Link("x"), "k": Link("x")}),
        make_package("b", files={"x": b"two", "same": b"s", "l": Link("x"), "k": Link("same")}),
    )
    prefix = cache.prefix("p", locks)
    assert (prefix / "x").read_text() == "two"
    assert os.readlink(prefix / "k") == "same"
    assert cache.warnings.said == [
        f"{path} is brought by two packages with unlike content; that of b is used" for path in ("x", "k")
    ]


@pytest.mark.parametrize("first", [{"d": Link(".")}, {"d": b"file"}])
def test_nothing_is_put_below_what_another_package_links(cache: Cache, first: dict[str, bytes | File | Link]) -> None:
    locks = cache.unpack(make_package("a", files=first), make_package("b", files={"d/l": Link("..")}))
    with pytest.raises(ClashingFiles, match="b brings 'd', where another package has something else"):
        cache.prefix("p", locks)


def test_nothing_of_a_refused_package_stays(cache: Cache) -> None:
    def lie(parts: Parts) -> None:
        parts.paths["paths"][0]["sha256"] = "0" * 64

    package = stored(cache.blobs, make_package("x", tamper=lie))
    with pytest.raises(InvalidCondaArchive, match="another sha256"):
        cache.unpack_locked([package])
    assert not cache.unpacked.has(package)
    good = stored(cache.blobs, make_package("x"))
    with pytest.raises(InvalidCondaArchive, match="expected 7 as locked"):
        cache.unpack_locked([structs.replace(good, artifact=structs.replace(good.artifact, size=7))])
    assert os.listdir(cache.unpacked.directory) == []


def test_a_damaged_entry_is_told_and_made_again(cache: Cache) -> None:
    locks = cache.unpack(make_package("x"))
    (cache.unpacked.entry(locks[0]) / "files.json").write_text("[{}]")
    with pytest.raises(Conflict, match="vanished from"):
        cache.prefix("p", locks)
    remove_tree(cache.root / "staging")
    cache.unpack_locked(locks)
    assert (cache.prefix("q", locks) / "share/x.txt").read_text() == "hello\n"
