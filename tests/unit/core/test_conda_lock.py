"""Conda packages in locks: what is refused, and what stays as it was."""

from typing import Any

import pytest

from mlenv.core.conda_package import CondaPackage, InvalidCondaPackage, subdir_of
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, InvalidLock, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.errors import InvalidInput

LINUX = Target(Platform("linux", "amd64"), "3.11.4", Glibc(2, 28))
SIX = LockedPackage(
    "six", "1.16.0", Artifact("six-1.16.0-py3-none-any.whl", 5, Digest.of(b"six"), "https://example.org/six")
)


def package(name: str = "numpy", **changes: object) -> CondaPackage:
    filename = f"{name}-1.0-py_0.conda"
    url = f"https://example.org/main/linux-64/{filename}"
    values: dict[str, object] = {
        "name": name,
        "version": "1.0",
        "build": "py_0",
        "build_number": 0,
        "subdir": "linux-64",
        "channel": "https://example.org/main",
        "artifact": Artifact(filename, 100, Digest.of(name.encode()), url),
    }
    return CondaPackage(**(values | changes))  # type: ignore[arg-type]


def address(url: str | None) -> Artifact:
    return Artifact("numpy-1.0-py_0.conda", 100, Digest.of(b""), url)


EXAMPLE = Lock(LINUX, (SIX,), "rattler 0.28.0", conda=(package(), package("python", depends=("libz >=1",))))


def test_a_lock_without_conda_is_what_it_was_to_the_byte() -> None:
    lock = Lock(LINUX, (SIX,), "uv 0.9.0")
    assert 'format = 1\nplatform = "linux/amd64"\npython = "3.11.4"' in lock.to_pylock()
    assert "conda" not in lock.to_pylock()
    assert str(lock.digest) == "sha256:3541c251db67eb825042fb5c334224950962e01609606ae81b1ca953c3fd2012"


def test_conda_and_pip_are_one_lock() -> None:
    assert EXAMPLE.size == 205
    assert EXAMPLE.conda_package("python") == EXAMPLE.conda[1]
    assert EXAMPLE.conda_package("six") is None
    assert EXAMPLE.package("numpy") is None
    assert Lock.from_pylock(EXAMPLE.to_pylock()) == EXAMPLE


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "NumPy"),
        ("name", ".."),
        ("name", "a b"),
        ("name", "a" * 300),
        ("version", "1.0-2"),
        ("version", "../1"),
        ("build", "py-0"),
        ("build", ""),
        ("build_number", -1),
        ("subdir", "linux-65"),
        ("subdir", "../noarch"),
        ("channel", "conda-forge"),
        ("channel", "https://example.org/main/"),
        ("channel", "https://user:secret@example.org/main"),
        ("channel", "https://example.org/t/secret/main"),
        ("channel", "https://example.org/ma in"),
        ("channel", "javascript:alert(1)"),
        ("artifact", address(None)),
        ("artifact", address("https://user:secret@example.org/numpy-1.0-py_0.conda")),
        ("artifact", address("https://example.org/numpy-1.0-py_0.conda#md5")),
        ("artifact", address("https://example.org/numpy\n")),
        ("artifact", Artifact("other-1.0-py_0.conda", 1, Digest.of(b""), "https://example.org/x")),
        ("artifact", Artifact("numpy-1.0-py_0.zip", 1, Digest.of(b""), "https://example.org/x")),
        ("md5", "A" * 32),
        ("noarch", "rust"),
        ("timestamp", -1),
        ("site_packages", "/etc"),
        ("site_packages", "lib/../../x"),
        ("site_packages", "lib//x"),
        ("depends", ("a\nb",)),
        ("constrains", ("",)),
        ("license", "MIT\x1b[31m"),
        ("requested", "https://user:secret@example.org/c::numpy"),
    ],
)
def test_what_no_package_is_like_is_refused(key: str, value: object) -> None:
    changes: dict[str, Any] = {key: value}
    if key in ("name", "version", "build") and isinstance(value, str) and "/" not in value:
        names = {"name": "numpy", "version": "1.0", "build": "py_0"} | {key: value}
        filename = f"{names['name']}-{names['version']}-{names['build']}.conda"
        changes["artifact"] = Artifact(filename, 1, Digest.of(b""), "https://example.org/x")
    with pytest.raises(InvalidCondaPackage) as caught:
        package(**changes)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("format = 2", "format = 1"),
        ("format = 2", "format = 3"),
        ('name = "numpy"', 'name = "NUMPY"'),
        ('name = "python"', 'name = "numpy"'),
        ('version = "1.0"', "version = 1.0"),
        ('build = "py_0"', 'buld = "py_0"'),
        ('build = "py_0"', ""),
        ("build_number = 0", "build_number = false"),
        ('subdir = "linux-64"', 'subdir = "linux-aarch64"'),
        ('filename = "numpy-1.0-py_0.conda"', 'filename = "../numpy-1.0-py_0.conda"'),
        ("size = 100", "size = -1"),
        ("size = 100", 'size = "100"'),
        ('    "libz >=1",', "    1,"),
        ("depends = [", "constrains = 1\ndepends = ["),
        ("[tool.mlenv.conda.hashes]\nsha256", "[tool.mlenv.conda.hashes]\nmd5 = 1\nsha256"),
        ("[tool.mlenv.conda.hashes]\nsha256", "[tool.mlenv.conda.hashes]\nsha512"),
    ],
)
def test_hostile_locks_are_refused(old: str, new: str) -> None:
    text = EXAMPLE.to_pylock()
    assert old in text
    at = text.index("[tool.mlenv]")
    with pytest.raises(InvalidInput):
        Lock.from_pylock(text[:at] + text[at:].replace(old, new, 1))


def test_a_lock_that_says_conda_and_has_none_is_refused() -> None:
    text = Lock(LINUX, (SIX,), "uv 0.9.0").to_pylock()
    with pytest.raises(InvalidLock, match="an empty list of conda packages"):
        Lock.from_pylock(text.replace("format = 1", "format = 2\nconda = []"))
    with pytest.raises(InvalidLock, match=r"format 2; expected '1\.0' and 1"):
        Lock.from_pylock(text.replace("format = 1", "format = 2"))


def test_packages_are_of_the_locks_platform_and_in_order() -> None:
    with pytest.raises(InvalidLock, match="a lock for linux/amd64 with numpy for linux-aarch64"):
        Lock(LINUX, (), "rattler", conda=(package(subdir="linux-aarch64"),))
    with pytest.raises(InvalidLock, match="sorted by name"):
        Lock(LINUX, (), "rattler", conda=(package("b"), package("a")))
    assert Lock(LINUX, (), "rattler", conda=(package(subdir="noarch"),)).size == 100


@pytest.mark.parametrize(
    ("platform", "subdir"),
    [
        ("linux/amd64", "linux-64"),
        ("linux/arm64", "linux-aarch64"),
        ("darwin/arm64", "osx-arm64"),
        ("darwin/amd64", "osx-64"),
        ("windows/amd64", "win-64"),
        ("windows/arm64", "win-arm64"),
    ],
)
def test_a_platform_has_a_directory(platform: str, subdir: str) -> None:
    assert subdir_of(Platform.parse(platform)) == subdir
