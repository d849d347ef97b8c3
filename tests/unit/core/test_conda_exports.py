"""Locks with conda packages in the words of others."""

import pytest
from msgspec.structs import replace

from mlenv.core.conda_exports import NotExportable, lock_text, to_conda_lock, to_explicit, to_rattler_lock
from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target

CHANNEL = "https://example.org/main"
MIRROR = "https://mirror.example.org/pytz-2024.1-py_0.conda"


def package(name: str, version: str, *depends: str, url: str | None = None, md5: str | None = "a" * 32) -> CondaPackage:
    filename = f"{name}-{version}-py_0.conda"
    url = url or f"{CHANNEL}/linux-64/{filename}"
    artifact = Artifact(filename, 100, Digest.of(name.encode()), url)
    return CondaPackage(name, version, "py_0", 0, "linux-64", CHANNEL, artifact, md5, depends)


def wheel(name: str, *requires: str, url: str | None = "https://example.org/x.whl") -> LockedPackage:
    return LockedPackage(name, "1.0", Artifact("x.whl", 5, Digest.of(name.encode()), url), requires)


LOCK = Lock(
    Target(Platform("linux", "amd64"), "3.11.4", Glibc(2, 28)),
    (wheel("idna"), wheel("six", "idna")),
    "rattler 0.28.0",
    conda=(
        package("a", "1!2.0", "b >=1", "c"),
        package("b", "1.0", "a", "__glibc >=2.17"),
        package("c", "1.0", "python >=3.11,<3.12.0a0"),
        package("python", "3.11.4"),
        package("pytz", "2024.1", "python", "python >=3", url=MIRROR),
    ),
)
PIP = Lock(LOCK.target, LOCK.packages, "uv 0.9.0")


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("pixi.lock", "version: 6\n"),
        ("train.pixi.lock", "version: 6\n"),
        ("conda-lock.yml", "version: 1\n"),
        ("linux-conda-lock.yaml", "version: 1\n"),
        ("explicit.txt", "# made by mlenv\n# platform: linux-64\n@EXPLICIT\n"),
        ("pylock.toml", 'lock-version = "1.0"\n'),
        ("train.lock", 'lock-version = "1.0"\n'),
        ("aconda-lock.yml", 'lock-version = "1.0"\n'),
    ],
)
def test_the_name_of_the_file_says_the_format(name: str, begins: str) -> None:
    assert lock_text(LOCK, name).startswith(begins)


@pytest.mark.parametrize("name", ["pixi.lock", "conda-lock.yml", "x.txt"])
def test_a_lock_without_conda_is_refused(name: str) -> None:
    with pytest.raises(NotExportable, match="it has no conda packages") as caught:
        lock_text(PIP, name)
    assert caught.value.hint == "write `pylock.toml`, which pip and uv read"
    assert lock_text(PIP, "pylock.toml") == PIP.to_pylock()


@pytest.mark.parametrize("name", ["pixi.lock", "conda-lock.yml", "x.txt"])
@pytest.mark.parametrize(
    ("pip", "why"),
    [
        (wheel("six", url=None), "six was built here"),
        (wheel("six", url="https://example.org/a b"), "has blanks in its name"),
        (wheel("six\nhttps://example.org/evil.conda"), "has blanks in its name"),
    ],
)
def test_what_nobody_can_fetch_is_refused(name: str, pip: LockedPackage, why: str) -> None:
    with pytest.raises(NotExportable, match=why):
        lock_text(replace(LOCK, packages=(pip,)), name)


def test_an_explicit_list_has_each_package_after_what_it_needs() -> None:
    lines = to_explicit(LOCK).splitlines()
    names = [line.rpartition("/")[2].partition("-")[0] for line in lines[3:8]]
    assert sorted(names) == ["a", "b", "c", "python", "pytz"]
    assert names.index("python") < names.index("c") < names.index("a")
    assert lines[-3] == f"{MIRROR}#{'a' * 32}"
    assert lines[-2:] == [
        f"# pip idna @ https://example.org/x.whl#sha256={Digest.of(b'idna').hex}",
        f"# pip six @ https://example.org/x.whl#sha256={Digest.of(b'six').hex}",
    ]


def test_without_md5_the_sha256_is_named_and_conda_lock_refused() -> None:
    lock = replace(LOCK, conda=(package("zlib", "1.2", md5=None),), packages=())
    url = f"{CHANNEL}/linux-64/zlib-1.2-py_0.conda"
    assert to_explicit(lock).splitlines()[3:] == [f"{url}#sha256:{Digest.of(b'zlib').hex}"]
    assert "md5" not in to_rattler_lock(lock)
    with pytest.raises(NotExportable, match="the channel gives none of zlib"):
        to_conda_lock(lock)


def test_bounds_on_one_name_are_joined_in_conda_lock() -> None:
    text = to_conda_lock(LOCK)
    assert '    dependencies:\n      python: ">=3"\n' in text
    assert '      b: ">=1"\n      c: ""\n' in text
    assert '      "__glibc"' not in text
    assert f'    url: "{MIRROR}"\n' in text


def test_texts_are_quoted_whatever_they_hold() -> None:
    strange = replace(LOCK.conda[0], license="a: 'b' \"c\" # \x85\u2028 \U0001f600 yes")
    text = to_rattler_lock(replace(LOCK, conda=(strange,), packages=()))
    assert r"""    license: "a: 'b' \"c\" # \u0085\u2028 """ in text


def test_a_long_chain_is_no_burden() -> None:
    chain = [package(f"p{number:04}", "1", f"p{number + 1:04} >=1") for number in range(3000)]
    lines = to_explicit(replace(LOCK, conda=tuple(chain), packages=())).splitlines()
    assert [line.rpartition("/")[2][:5] for line in lines[3:5]] == ["p2999", "p2998"]
