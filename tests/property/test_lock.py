"""Locks: `pylock.toml` and back, to the byte."""

import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, InvalidLock, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.errors import InvalidInput

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
digests = st.binary(min_size=1, max_size=4).map(Digest.of)
filenames = words.filter(lambda text: not set(text) & {"/", "\\"} and min(text) >= " " and text not in {".", ".."})
artifacts = st.builds(Artifact, filenames, st.integers(0, 2**40), digests, st.none() | words)
platforms = st.builds(Platform, st.sampled_from(["linux", "darwin", "windows"]), st.sampled_from(["amd64", "arm64"]))
targets = st.builds(
    Target,
    platforms,
    st.sampled_from(["3.9.1", "3.11.2", "3.14.0"]),
    st.none() | st.builds(Glibc, st.integers(0, 9), st.integers(0, 99)),
)


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    chosen = sorted(draw(st.sets(names, max_size=5)))
    packages = tuple(
        LockedPackage(
            name,
            draw(words),
            draw(artifacts),
            tuple(sorted(draw(st.sets(names, max_size=3)))),
            draw(st.booleans()),
            draw(st.none() | artifacts),
        )
        for name in chosen
    )
    return Lock(
        draw(targets),
        packages,
        draw(words),
        draw(st.none() | digests),
        draw(st.none() | words),
        draw(st.none() | words),
    )


@given(locks())
def test_pylock_reads_as_the_same_lock(lock: Lock) -> None:
    text = lock.to_pylock()
    again = Lock.from_pylock(text)
    assert again == lock
    assert again.to_pylock() == text
    assert again.digest == lock.digest


@given(locks())
def test_pylock_has_what_the_standard_requires(lock: Lock) -> None:
    document = tomllib.loads(lock.to_pylock())
    assert (document["lock-version"], document["created-by"]) == ("1.0", "mlenv")
    for package in document.get("packages", []):
        for wheel in package["wheels"]:
            assert ("url" in wheel) != ("path" in wheel)
            assert len(wheel["hashes"]["sha256"]) == 64


@given(st.lists(names, min_size=2, max_size=4))
def test_packages_out_of_order_are_refused(chosen: list[str]) -> None:
    artifact = Artifact("a", 1, Digest.of(b""), None)
    packages = tuple(LockedPackage(name, "1", artifact) for name in chosen)
    target = Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 28))
    if chosen == sorted(set(chosen)):
        assert [each.name for each in Lock(target, packages, "uv").packages] == chosen
    else:
        with pytest.raises(InvalidLock):
            Lock(target, packages, "uv")


EXAMPLE = Lock(
    Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 28)),
    (LockedPackage("a", "1", Artifact("a-1-py3-none-any.whl", 1, Digest.of(b""), "https://example.org/a.whl")),),
    "uv 0.9.0",
    bytecode="3.11.2",
)


@given(st.data())
def test_damaged_lock_is_refused_or_read_never_worse(data: st.DataObject) -> None:
    lines = EXAMPLE.to_pylock().splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = data.draw(st.sampled_from(["", "x = 1", "[x]", "packages = 3", lines[at].replace('"', "", 1)]))
    lock = None
    with suppress(InvalidInput):
        lock = Lock.from_pylock("\n".join(lines))
    assert lock is None or Lock.from_pylock(lock.to_pylock()) == lock


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('version = "1"', "version = 1"),
        ('name = "a"', "name = 1"),
        ("size = 1", 'size = "1"'),
        ("size = 1", "size = -1"),
        ("size = 1", "size = true"),
        ('url = "https://example.org/a.whl"', "url = 1"),
        ('bytecode = "3.11.2"', "bytecode = true"),
        ('resolver = "uv 0.9.0"', "resolver = 1"),
        ('python = "3.11.2"', "python = 3"),
        ('glibc = "2.28"', "glibc = 2"),
        ("sha256 = ", "sha256 = 1 #"),
        ("[[packages.wheels]]", "[packages.wheels]"),
        ('python = "3.11.2"', 'python = "3.11.2"\nas-of = 2023-06-01'),
        ('name = "a-1-py3-none-any.whl"', 'name = "../../etc/passwd"'),
    ],
)
def test_wrong_types_and_dangerous_names_are_refused(old: str, new: str) -> None:
    text = EXAMPLE.to_pylock()
    assert old in text
    with pytest.raises(InvalidInput):
        Lock.from_pylock(text.replace(old, new, 1))
