"""Conda's match specs: what they mean, and what is refused."""

import re

import pytest

from mlenv.core.match_spec import InvalidMatchSpec, MatchSpec, match_specs, parse_match_spec, to_rattler
from mlenv.core.spec import CondaFile, Origin, Requirement, canonical_json

SHA256 = "b" * 64


@pytest.mark.parametrize(
    ("text", "version", "build"),
    [
        ("numpy", None, None),
        ("numpy *", None, None),
        ("numpy=*", None, None),
        ("numpy=1.26", "1.26.*", None),
        ("numpy =1.26", "1.26.*", None),
        ("numpy= 1.26", "1.26.*", None),
        ("numpy=1.26.*", "1.26.*", None),
        ("numpy=1.26*", "1.26.*", None),
        ("numpy 1.26.*", "1.26.*", None),
        ("numpy 1.26*", "1.26.*", None),
        ("numpy==1.26.*", "1.26.*", None),
        ("numpy==1.26.*,<2", "1.26.*,<2", None),
        ("numpy<2,==1.26.*", "<2,==1.26", None),
        ("numpy==1.26", "==1.26", None),
        ("numpy 1.26", "==1.26", None),
        ("numpy ==1.26.0", "==1.26.0", None),
        ("numpy=1", "1.*", None),
        ("numpy=1.2.3rc1", "1.2.3rc1.*", None),
        ("numpy=1.0-1", "1.0_1.*", None),
        ("numpy=1.26=py311_0", "==1.26", "py311_0"),
        ("numpy==1.26=py311_0", "==1.26", "py311_0"),
        ("numpy 1.26 py311_0", "==1.26", "py311_0"),
        ("numpy=1.26=py311_0 ", "==1.26", "py311_0"),
        ("numpy 1.26.* py311*", "1.26.*", "py311*"),
        ("numpy 1.26.*=py311*", "1.26.*", "py311*"),
        ("numpy>=1.26=py311_0", ">=1.26", "py311_0"),
        ("python=3.10=*_cpython", "==3.10", "*_cpython"),
        ("pytorch=*=*cuda*", None, "*cuda*"),
        ("numpy * py311_0", None, "py311_0"),
        ("numpy=1.26=*", "==1.26", None),
        ("numpy=1.26=^py.*$", "==1.26", "^py.*$"),
        ("numpy>=1.2,<2", ">=1.2,<2", None),
        ("numpy >=1.2,<2", ">=1.2,<2", None),
        ("numpy > 1.2 , < 2", ">1.2,<2", None),
        ("numpy>= 1.2,< 2", ">=1.2,<2", None),
        ("numpy>=1.2.*", ">=1.2", None),
        ("numpy>1.*", ">1", None),
        ("numpy<2.*", "<2", None),
        ("numpy!=1.2.*", "!=1.2.*", None),
        ("numpy!=1.2", "!=1.2", None),
        ("numpy~=1.2.3", "~=1.2.3", None),
        ("numpy=1.2|1.3", "1.2.*|==1.3", None),
        ("numpy=1.2|=1.3", "1.2.*|1.3.*", None),
        ("numpy 1.2|>=1.4,<1.6", "==1.2|>=1.4,<1.6", None),
        ("numpy >=1,=1.2", ">=1,1.2.*", None),
        ("numpy=1!2.0", "1!2.0.*", None),
        ("numpy==1.0+local.1", "==1.0+local.1", None),
        ("numpy<3.11.0A0", "<3.11.0a0", None),
        ("openssl=1.1.1s", "1.1.1s.*", None),
        ("jpeg 9_", "==9_", None),
        ("numpy=1.26 # the last one", "1.26.*", None),
        ("numpy[version=1.26]", "==1.26", None),
        ("numpy[version='=1.26']", "1.26.*", None),
        ("numpy[version='(1.2|1.3),<1.3.5',build=0]", "(==1.2|==1.3),<1.3.5", "0"),
        ("numpy[version='((1.2))|((1.3),(<2))']", "==1.2|==1.3,<2", None),
        ("numpy=1.25[version='>=1.26', build='^(py3|py4).*$']", ">=1.26", "^(py3|py4).*$"),
    ],
)
def test_versions_and_builds_mean_what_conda_means(text: str, version: str | None, build: str | None) -> None:
    spec = parse_match_spec(text)
    assert (spec.name in ("numpy", "python", "pytorch", "openssl", "jpeg"), spec.version, spec.build, spec.text) == (
        True,
        version,
        build,
        text,
    )
    assert parse_match_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NumPy", MatchSpec("numpy")),
        ("ruamel.yaml", MatchSpec("ruamel.yaml")),
        ("_libgcc_mutex=0.1=main", MatchSpec("_libgcc_mutex", "==0.1", "main")),
        ("__cuda>=12", MatchSpec("__cuda", ">=12")),
        ("Conda-Forge::NumPy=1", MatchSpec("numpy", "1.*", channel="Conda-Forge")),
        ("conda-forge/linux-64::numpy", MatchSpec("numpy", channel="conda-forge", subdir="linux-64")),
        ("nvidia/label/cuda-11.8.0::cuda", MatchSpec("cuda", channel="nvidia/label/cuda-11.8.0")),
        ("pkgs/main::numpy", MatchSpec("numpy", channel="pkgs/main")),
        ("http://example.org:8080/chan/::numpy=1", MatchSpec("numpy", "1.*", channel="http://example.org:8080/chan")),
        (
            "https://example.org/chan/noarch::numpy",
            MatchSpec("numpy", channel="https://example.org/chan", subdir="noarch"),
        ),
        ("numpy[channel='conda-forge', subdir=noarch]", MatchSpec("numpy", channel="conda-forge", subdir="noarch")),
        ("main::numpy[channel=conda-forge]", MatchSpec("numpy", channel="conda-forge")),
        ("numpy[build_number='>=2']", MatchSpec("numpy", build_number=">=2")),
        ("numpy[build_number=02]", MatchSpec("numpy", build_number="2")),
        (f"numpy[md5={'a' * 32}]", MatchSpec("numpy", others=(("md5", "a" * 32),))),
        ('numpy[license="BSD 3", fn=x.conda]', MatchSpec("numpy", others=(("fn", "x.conda"), ("license", "BSD 3")))),
        (
            f"https://example.org/c/linux-64/zlib-1.2.13-h1_4.conda#sha256:{SHA256}",
            MatchSpec(
                "zlib",
                others=(("sha256", SHA256), ("url", "https://example.org/c/linux-64/zlib-1.2.13-h1_4.conda")),
            ),
        ),
    ],
)
def test_names_channels_and_conditions(text: str, expected: MatchSpec) -> None:
    spec = parse_match_spec(text)
    assert spec == expected
    assert parse_match_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no package name"),
        ("=1.2", "no package name"),
        ("pip:", "a colon that nothing"),
        ("conda-forge:ns:x", "a colon that nothing"),
        ("::numpy", "a colon that nothing"),
        ("*", "wildcard"),
        ("py*>=3", "wildcard"),
        ("conda-forge::*", "wildcard"),
        ("pkg+x", "'pkg+x' is no package name"),
        ("-pkg", "is no package name"),
        ("pkg=", "'=' is no version"),
        ("pkg>=", "'>=' is no version"),
        ("pkg=>1.0", "is no version"),
        ("pkg==>1.0", "is no version"),
        ("pkg===1.2", "is no version"),
        ("pkg=~1.2", "is no version"),
        ("pkg>1<2", "is no version"),
        ("pkg>=1.0<2", "is no version"),
        ("pkg=1.0=", "is no version"),
        ("pkg=1.0=a=b", "is no version"),
        ("pkg>=1.0,", "is no version"),
        ("pkg=1.*.3", "a wildcard where it means nothing"),
        ("pkg<=1.2*", "a wildcard where it means nothing"),
        ("pkg~=1.2.*", "exclude each other"),
        ("pkg~=1", "needs a version of two parts"),
        ("pkg=1..2", "is no version"),
        ("pkg=1!x!2", "is no version"),
        ("pkg=1.0@x", "a pip requirement"),
        ("pkg (>=1)", "conda ignores what stands in parentheses"),
        ("pkg if x", "conda ignores conditions"),
        ("pkg>=1.0;python_version<'3'", "a pip requirement"),
        ("pkg @ https://example.org/x", "a pip requirement"),
        ("pkg[extra]>=1", "brackets stand once, at the end"),
        ("pkg[extra]", "no list of conditions"),
        ("pkg[features=x]", "a condition 'features' that conda does not have"),
        ("pkg[version=1, version=2]", "has twice"),
        ("pkg[version='']", "without a value"),
        ("pkg[md5=1]", "'1' is no md5"),
        ("pkg[build_number=x]", "'x' is no build number"),
        ("pkg[subdir=linux-65]", "no directory 'linux-65'"),
        ("pkg[version='^1.*$']", "regular expressions are for builds"),
        ("pkg[version='(1.2']", "lacks a closing parenthesis"),
        ("pkg[version='1.2)']", "a parenthesis too many"),
        ("pkg[version='1.2,']", "lacks a version"),
        ("pkg[version='" + "(" * 900 + "1']", "too many parentheses"),
        ("pkg[build='a;b']", "a pip requirement"),
        ("pkg[build='a b']", "is no build string"),
        ("conda-*::pkg", "is no channel"),
        ("/tmp/zlib-1.2.13-h1_4.conda", "a package file has an address"),
        ("zlib-1.2.13-h1_4.conda", "a package file has an address"),
        ("https://example.org/zlib.tar.bz2", "name-version-build"),
        ("https://user:secret@example.org/c::pkg", "credentials can't be kept"),
        ("https://example.org/t/secret/c::pkg", "credentials can't be kept"),
        ("x" * 3000, "longer than 2000 characters"),
    ],
)
def test_what_means_nothing_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidMatchSpec, match=re.escape(why)) as caught:
        parse_match_spec(text)
    assert "secret" not in str(caught.value)
    assert caught.value.hint
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "url", "expected"),
    [
        ("numpy", None, "numpy"),
        ("numpy>1.*", None, 'numpy[version=">1"]'),
        (
            "pkgs/main/noarch::numpy=1=0",
            "https://example.org/main",
            'numpy[build="0", channel="https://example.org/main", subdir="noarch", version="==1"]',
        ),
        ("numpy[build_number=2, fn=x]", None, 'numpy[build_number="2", fn="x"]'),
    ],
)
def test_rattler_gets_the_channel_by_its_address(text: str, url: str | None, expected: str) -> None:
    assert to_rattler(parse_match_spec(text), url) == expected


FILE = """\
channels: [conda-forge]
dependencies:
  - python=3.10=*_cpython   # for now
  - numpy=1.26
  - "pip"
  - pip:
    - six
"""


def conda_file(text: str, line: int | None) -> CondaFile:
    document = canonical_json({"dependencies": ["python=3.10=*_cpython", "numpy=1.26", "pip", {"pip": ["six"]}]})
    numpy = Requirement("numpy=1.26", Origin("env.yml", line) if line else None)
    return CondaFile(document, text, "3.10", (numpy, Requirement("pip")), (numpy,), (Requirement("six"),))


def test_everything_that_a_file_asks_conda_for_has_its_line() -> None:
    found = match_specs(conda_file(FILE, 4))
    assert [(each.text, each.origin) for each in found] == [
        ("python=3.10=*_cpython", Origin("env.yml", 3)),
        ("numpy=1.26", Origin("env.yml", 4)),
        ("pip", Origin("env.yml", 5)),
    ]


@pytest.mark.parametrize("line", [None, 40, 1])
def test_lines_of_another_file_are_not_guessed(line: int | None) -> None:
    assert match_specs(conda_file(FILE, line))[0].origin is None
