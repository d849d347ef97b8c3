"""Each kind of failed lock, through the command line: the user's own line first, then what would help."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.index import PackageIndex
from support.world import World, make_world

#: The dependencies that a case adds stand on line 7.
_CONDA = """\
name: train
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip:
      - {line}
      - quiet
"""
_SETUP = {"setup.py": "raise SystemExit('this build must not run')"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as made:
        made.index.wheel("quiet", "1.0")
        made.environment["UV_HTTP_RETRIES"] = "0"
        yield made


def _offer(index: PackageIndex) -> None:
    for version in ("1.0", "2.0"):
        index.wheel("shared", version)
    index.wheel("upper", "1.0", requires=["shared>=2"])
    index.wheel("scikit-learn", "1.5")
    index.wheel("modern", "1.0", requires_python=">=3.12", tag="py3-none-any")
    index.wheel("compiled", "1.0", tag="cp312-cp312-manylinux_2_17_x86_64")
    index.source("fuse", "3.0", files=_SETUP)
    index.wheel("runtime", "1.0", requires=["fuse>=3"])
    index.wheel("pywin", "1.0", tag="cp311-cp311-win_amd64")
    index.wheel("young", "1.0", uploaded="2025-06-01T00:00:00Z")


def _create(world: World, *lines: str, address: str | None = None) -> None:
    (world.directory / "conda.yml").write_text(_CONDA.format(line="\n      - ".join(lines)))
    document = {"name": "train", "conda_file": "conda.yml", "image": "example.org/base:1"}
    index = {"name": "corp", "url": address or world.index.simple, "default": True}
    (world.directory / "environment.yml").write_text(json.dumps({**document, "indexes": [index]}))
    world.ok("environment", "create", "-f", "environment.yml")


def _refused(world: World, *options: str) -> tuple[str, str]:
    """What a refused lock says: its error, and its hint."""
    done = world.run("--quiet", "environment", "lock", "train:1", *options)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    error, mark, hint = done.stderr.strip().partition("\nhint: ")
    assert error.startswith("error: ")
    assert mark, done.stderr
    world.verify()
    return error.removeprefix("error: "), hint


@pytest.mark.parametrize(
    ("lines", "said", "hinted"),
    [
        (["upper", "shared<2"], ["shared", "shared>=2"], ["tried: then it resolves"]),
        (["sklearn"], ["sklearn"], ["write `scikit-learn` instead (tried: then it resolves)"]),
        (["no-such-thing-at-all"], ["no-such-thing-at-all"], ["spelling"]),
        (["shared==7.0"], ["7.0"], ["2.0"]),
        (["modern"], ["3.11"], ["3.12"]),
        (["compiled"], ["3.11"], ["3.12"]),
        (["fuse"], ["fuse", "no wheel"], ["allow_source: [fuse]", "--allow-source fuse", "--allow-source-auto"]),
        (["runtime"], ["needs fuse==3.0", "no wheel"], ["allow_source: [fuse]"]),
        (["pywin"], ["win_amd64"], ["sys_platform"]),
    ],
    ids=["conflict", "renamed", "unknown", "version", "python", "abi", "source", "chain", "system"],
)
def test_a_refused_lock_begins_with_the_users_line(
    world: World, lines: list[str], said: list[str], hinted: list[str]
) -> None:
    _offer(world.index)
    _create(world, *lines)
    error, hint = _refused(world)
    place = "conda.yml:8: " if lines[-1] == "shared<2" and error.startswith("conda.yml:8") else "conda.yml:7: "
    assert error.startswith(f"{place}{lines[int(place[10]) - 7]}"), error
    assert [each for each in said if each not in error] == [], error
    assert [each for each in hinted if each not in hint] == [], hint


def test_what_was_uploaded_later_is_not_there_yet(world: World) -> None:
    _offer(world.index)
    _create(world, "young")
    error, hint = _refused(world, "--as-of", "2024-03-01")
    assert error.startswith("conda.yml:7: young: ")
    assert "2024-03-01" in error
    assert "--as-of" in hint
    assert world.ok("environment", "lock", "train:1")["as_of"] is None


def test_an_index_that_is_not_there(world: World) -> None:
    _create(world, "quiet", address="http://127.0.0.1:9/simple")
    error, hint = _refused(world)
    assert error.startswith("http://127.0.0.1:9/simple/")
    assert "Connection refused" in error
    assert "mlenv doctor" in hint


def test_a_directory_of_wheels_that_is_not_there(world: World) -> None:
    _create(world, "--find-links ./gone", "quiet")
    error, hint = _refused(world)
    assert error == f"{world.directory / 'gone'}: No such file or directory (os error 2)"
    assert hint == "leave it out of the definition, or lock where it is"


def test_one_package_is_told_as_one(world: World) -> None:
    world.index.wheel("pip", "24.0")
    (world.directory / "requirements.txt").write_text(f"--index-url {world.index.simple}\n")
    world.ok("environment", "create", "-n", "bare", "-f", "requirements.txt")
    assert "(1 package)\n" in world.run("environment", "lock", "bare").stderr


def test_an_index_that_wants_to_know_who_asks(world: World) -> None:
    world.index.user, world.index.password = "me", "s3cret"
    _create(world, "quiet")
    error, hint = _refused(world)
    assert "wants credentials" in error
    assert "UV_INDEX_CORP_USERNAME" in hint
    world.environment |= {"UV_INDEX_CORP_USERNAME": "me", "UV_INDEX_CORP_PASSWORD": "wr0ng-canary"}
    error, _ = _refused(world, "--verbose")
    assert "wr0ng-canary" not in error


def test_the_whole_explanation_is_there_for_who_asks(world: World) -> None:
    _offer(world.index)
    _create(world, "upper", "shared<2")
    short = world.run("environment", "lock", "train:1").stderr
    long = world.run("--verbose", "environment", "lock", "train:1").stderr
    assert "Because" not in short
    assert "Because" in long
    assert "mlenv-request" not in long


def test_a_credential_in_a_line_or_an_index_is_refused_when_the_version_is_created(world: World) -> None:
    (world.directory / "requirements.txt").write_text("--index-url https://me:s3cret@example.org/simple\nquiet\n")
    done = world.run("environment", "create", "-f", "requirements.txt", "-n", "train")
    assert done.returncode == 1
    assert "requirements.txt:1" in done.stderr
    assert "s3cret" not in done.stderr
    assert "UV_INDEX_" in done.stderr
    assert world.ok("environment", "list") == []
