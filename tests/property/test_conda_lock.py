"""Locks with conda packages: `pylock.toml` and back, to the byte, and every export of them."""

import json
import tomllib
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from mlenv.core.conda_exports import NotExportable, lock_text
from mlenv.core.conda_package import ENDINGS, CondaPackage, subdir_of
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.match_spec import InvalidMatchSpec, parse_match_spec
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.errors import InvalidInput

lines = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
names = st.from_regex(r"[a-z_][a-z0-9_.-]{0,6}[a-z0-9]", fullmatch=True)
versions = st.from_regex(r"([0-9]!)?[0-9][a-z0-9._+]{0,6}", fullmatch=True)
builds = st.from_regex(r"[a-z0-9_.]{1,8}", fullmatch=True)
digests = st.binary(min_size=1, max_size=4).map(Digest.of)
platforms = st.sampled_from([Platform("linux", "amd64"), Platform("linux", "arm64")])
channels = st.sampled_from(["https://example.org/main", "http://127.0.0.1:8080/a/b", "file:///srv/channel"])


@st.composite
def conda_packages(draw: st.DrawFn, name: str, platform: Platform) -> CondaPackage:
    version, build = draw(versions), draw(builds)
    subdir = draw(st.sampled_from([subdir_of(platform), "noarch"]))
    channel = draw(channels)
    filename = f"{name}-{version}-{build}{draw(st.sampled_from(ENDINGS))}"
    url = draw(st.sampled_from([f"{channel}/{subdir}/{filename}", f"https://mirror.example.org/{filename}"]))
    return CondaPackage(
        name,
        version,
        build,
        draw(st.integers(0, 2**31)),
        subdir,
        channel,
        Artifact(filename, draw(st.integers(0, 2**40)), draw(digests), url),
        md5=draw(st.none() | st.just("a" * 32)),
        depends=tuple(draw(st.lists(lines | names, max_size=3))),
        constrains=tuple(draw(st.lists(lines, max_size=2))),
        noarch=draw(st.sampled_from([None, "python", "generic"])),
        timestamp=draw(st.none() | st.integers(0, 2**43)),
        license=draw(st.none() | lines),
        site_packages=draw(st.none() | st.just("lib/python3.13t/site-packages")),
        requested=draw(st.none() | lines),
    )


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    platform = draw(platforms)
    conda = tuple(draw(conda_packages(each, platform)) for each in sorted(draw(st.sets(names, min_size=1, max_size=4))))
    pip = st.sets(st.sampled_from(["six", "torch", "x-y"]), max_size=2)
    packages = tuple(
        LockedPackage(each, "1.0", Artifact(f"{each}.whl", 3, draw(digests), f"https://example.org/{each}.whl"))
        for each in sorted(draw(pip))
    )
    python = draw(st.sampled_from(["3.11.4", ""]))
    return Lock(Target(platform, python, Glibc(2, 28)), packages, "rattler 0.28.0", conda=conda)


@given(locks())
def test_pylock_reads_as_the_same_lock(lock: Lock) -> None:
    text = lock.to_pylock()
    again = Lock.from_pylock(text)
    assert again == lock
    assert (again.to_pylock(), again.digest, again.size) == (text, lock.digest, lock.size)
    document = tomllib.loads(text)
    assert document["tool"]["mlenv"]["format"] == 2
    assert [each["name"] for each in document["packages"]] == [each.name for each in lock.packages]
    assert lock.size == sum(each.artifact.size for each in lock.packages) + sum(
        each.artifact.size for each in lock.conda
    )


@given(locks())
def test_every_export_is_the_same_each_time_and_holds_every_package(lock: Lock) -> None:
    for name in ("pixi.lock", "conda-lock.yml", "explicit.txt"):
        try:
            text = lock_text(lock, name)
        except NotExportable:
            assert name == "conda-lock.yml"
            assert any(each.md5 is None for each in lock.conda)
            continue
        assert lock_text(Lock.from_pylock(lock.to_pylock()), name) == text
        if name == "explicit.txt":
            assert {line.partition("#")[0] for line in text.splitlines()[3:]} == {each.url for each in lock.conda} | (
                {""} if lock.packages else set()
            )
            continue
        document = YAML(typ="safe", pure=True).load(text)
        entries = document["packages" if name == "pixi.lock" else "package"]
        assert len(entries) == len(lock.conda) + len(lock.packages)
        for entry, package in zip(entries, lock.conda, strict=False):
            assert entry.get("conda", entry.get("url")) == package.url
            assert entry.get("depends", [*package.depends]) == [*package.depends]
            assert entry.get("license", package.license) == package.license


@given(locks(), st.data())
def test_damaged_lock_is_refused_or_read_never_worse(lock: Lock, data: st.DataObject) -> None:
    text = lock.to_pylock().splitlines()
    at = data.draw(st.integers(0, len(text) - 1))
    key = text[at].partition(" = ")[0]
    values = ['"../../x"', '"http://u:p@example.org/x"', "[1]", "-1", "{}", '"\\n"', "true", "1.5", '""']
    text[at] = data.draw(st.sampled_from(["", "[x]", *(f"{key} = {each}" for each in values)]))
    again = None
    with suppress(InvalidInput):
        again = Lock.from_pylock("\n".join(text))
    assert again is None or Lock.from_pylock(again.to_pylock()) == again
    assert again is None or "u:p@" not in json.dumps([each.url for each in again.conda])


@given(st.lists(st.sampled_from([*"ab1.*=<>!~,|()[]'\" :/-_#@;^$", "numpy", "version=", "::"]), max_size=24))
def test_any_match_spec_is_read_or_refused(pieces: list[str]) -> None:
    text, spec = "".join(pieces), None
    with suppress(InvalidMatchSpec):
        spec = parse_match_spec(text)
    assert spec is None or parse_match_spec(str(spec)) == spec
