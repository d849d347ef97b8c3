"""Specs: plain data and back, and a digest of what was asked for, not of how it was written."""

import json

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mlenv.core.difference import describe, difference
from mlenv.core.digest import Digest
from mlenv.core.platform import Platform
from mlenv.core.spec import (
    BuildContext,
    CondaFile,
    Index,
    InferenceConfig,
    Origin,
    Requirement,
    Route,
    Sources,
    Spec,
    canonical_json,
)

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12)
origins = st.builds(Origin, words, st.integers(1, 10_000))
hashes = st.lists(st.integers(0, 2**256 - 1), max_size=2, unique=True).map(
    lambda numbers: tuple(sorted(f"sha256:{number:064x}" for number in numbers))
)
requirements = st.builds(Requirement, words, st.none() | origins, hashes)
some = st.lists(requirements, max_size=4).map(tuple)
indexes = st.builds(Index, words, st.none() | words, st.lists(words, max_size=2).map(tuple), st.booleans())
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
conda = st.builds(
    CondaFile,
    document=st.dictionaries(words, plain, max_size=3).map(canonical_json),
    text=words,
    python=st.none() | words,
    packages=some,
    needs_conda=some,
    pip=some,
    channels=st.lists(words, max_size=2).map(tuple),
)
routes = st.builds(Route, st.integers(1, 65_535), words)
platforms = st.builds(Platform, st.sampled_from(["linux", "darwin"]), st.sampled_from(["amd64", "arm64"]))
specs = st.builds(
    Spec,
    image=st.none() | words,
    build=st.none() | st.builds(BuildContext, words, words),
    conda=st.none() | conda,
    requirements=st.none() | some,
    constraints=some,
    pylock=st.none() | words,
    sources=st.builds(Sources, st.none() | indexes, st.lists(indexes, max_size=2).map(tuple), st.booleans()),
    python=st.none() | words,
    environment_variables=st.dictionaries(words, words, max_size=3).map(lambda each: tuple(sorted(each.items()))),
    platforms=st.lists(platforms, max_size=2).map(tuple),
    allow_source=st.lists(words, max_size=2).map(tuple),
    prereleases=st.booleans(),
    os_type=st.sampled_from(["linux", "windows"]),
    inference_config=st.none() | st.builds(InferenceConfig, routes, routes, routes),
    cuda=st.none() | words,
    resolver=st.sampled_from(["conda", "pypi"]),
)


def origins_of(spec: Spec) -> list[Origin | None]:
    groups = [spec.requirements or (), spec.constraints]
    if spec.conda:
        groups += [spec.conda.packages, spec.conda.needs_conda, spec.conda.pip]
    return [each.origin for group in groups for each in group]


@given(specs)
def test_plain_data_reads_as_the_same_spec(spec: Spec) -> None:
    again = Spec.from_dict(json.loads(canonical_json(spec.to_dict())))
    assert again == spec
    assert again.digest == spec.digest
    assert origins_of(again) == origins_of(spec)
    assert (again.conda and again.conda.text) == (spec.conda and spec.conda.text)


@given(specs, specs)
def test_digest_and_description_agree(one: Spec, other: Spec) -> None:
    assert (one.digest == other.digest) == (one.to_dict(origins=False) == other.to_dict(origins=False))
    if one.digest == other.digest:
        assert difference(one, other) == []


@given(specs, words, words)
def test_every_change_has_a_difference(spec: Spec, key: str, value: str) -> None:
    for changed in (
        replace(spec, image=f"{spec.image}x"),
        replace(spec, python=f"{spec.python}x"),
        replace(spec, constraints=(*spec.constraints, Requirement(key))),
        replace(spec, requirements=(*(spec.requirements or ()), Requirement(key))),
        replace(spec, environment_variables=(*spec.environment_variables, (key, value))),
        replace(spec, prereleases=not spec.prereleases),
        replace(spec, sources=replace(spec.sources, no_index=not spec.sources.no_index)),
        replace(spec, conda=CondaFile(canonical_json({"new": {key: [value]}}), "")),
    ):
        assert changed.digest != spec.digest or changed.conda == spec.conda
        if changed.digest != spec.digest:
            lines = difference(spec, changed)
            assert any(line.startswith(("  - ", "  + ")) for line in lines)
            assert lines[0].removesuffix(":") in describe(spec) | describe(changed)


@given(specs)
def test_where_lines_stand_does_not_count(spec: Spec) -> None:
    moved = replace(
        spec,
        requirements=tuple(replace(each, origin=Origin("other", 7)) for each in spec.requirements)
        if spec.requirements is not None
        else None,
        conda=replace(spec.conda, text="# a comment") if spec.conda else None,
    )
    assert moved == spec
    assert moved.digest == spec.digest


def test_empty_requirements_differ_from_none() -> None:
    none, empty = Spec(image="a"), Spec(image="a", requirements=())
    assert none.digest != empty.digest
    assert difference(none, empty) == ["requirements:", "  + (none)"]
    assert Spec.from_dict(empty.to_dict()) == empty


def test_digest_of_known_content_never_changes() -> None:
    spec = Spec(image="debian:12", requirements=(Requirement("numpy>=2", Origin("r.txt", 1)),), python="3.11")
    text = '{"image":"debian:12","python":"3.11","requirements":[{"text":"numpy>=2"}]}'
    assert spec.digest == Digest.of(text.encode())
