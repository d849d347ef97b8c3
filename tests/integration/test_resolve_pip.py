"""The resolver with the real uv, against a package index on the loopback interface."""

import os
import select
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.index import PackageIndex, serve

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.spec import Index, Origin, Requirement, Sources
from mlenv.resolve.failures import (
    BuildFailed,
    CredentialsRefused,
    IndexUnreachable,
    InvalidRequirement,
    NoSuchVersion,
    NotYetUploaded,
    NoVersionForPython,
    NoWheel,
    ProjectNotFound,
    ResolutionFailed,
    UnlistedFile,
    VersionConflict,
)
from mlenv.resolve.index_http import HttpFetcher
from mlenv.resolve.interface import Resolution, ResolveRequest
from mlenv.resolve.pip import PipResolver
from mlenv.resolve.session import Session
from mlenv.resolve.source_build import build_wheel
from mlenv.resolve.uv_input import Attempt
from mlenv.resolve.uv_output import Found, FoundFile
from mlenv.resolve.uv_process import Uv, UvTimeout

LINUX = Platform("linux", "amd64")
TARGET = Target(LINUX, "3.11.4", Glibc(2, 36))


class Asker:
    """Asks a resolver what a conda file with these pip lines would, from line 5 on."""

    def __init__(self, index: PackageIndex, directory: Path) -> None:
        self.index = index
        self.progress = Silent()
        self.fetcher = HttpFetcher(pause=lambda _: None)
        self.directory = directory
        self._count = 0

    def request(self, *lines: str) -> ResolveRequest:
        asked = tuple(Requirement(text, Origin("conda.yml", 5 + number)) for number, text in enumerate(lines))
        return ResolveRequest(asked, TARGET, sources=Sources(default=Index(self.index.simple, "main")))

    def resolve(self, request: ResolveRequest) -> Resolution:
        self._count += 1
        workdir = self.directory / f"work-{self._count}"
        workdir.mkdir()
        resolver = PipResolver(self.directory / "cache", fetcher=self.fetcher, host=LINUX)
        return resolver.resolve(request, workdir=workdir, progress=self.progress)

    def fail(self, request: ResolveRequest) -> ResolutionFailed:
        with pytest.raises(ResolutionFailed) as caught:
            self.resolve(request)
        return caught.value


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with serve() as served:
        yield served


@pytest.fixture
def asker(index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asker:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    found = Asker(index, tmp_path)
    return found


def test_finds_every_package_with_what_it_needs(index: PackageIndex, asker: Asker) -> None:
    wheel = index.wheel("app", "1.0", requires=["lib[fast]>=1", "helper ; python_version < '3'"])
    index.wheel("lib", "1.2", requires=["deep", "accelerate ; extra == 'fast'"])
    index.wheel("deep", "0.1")
    index.wheel("accelerate", "3", requires=["deep"])
    found = asker.resolve(asker.request("app"))
    assert {each.name: each.requires for each in found.packages} == {
        "accelerate": ("deep",),
        "app": ("lib",),
        "deep": (),
        "lib": ("accelerate", "deep"),
    }
    assert [each.name for each in found.packages if each.requested] == ["app"]
    assert found.resolver.startswith("uv ")
    app = next(each for each in found.packages if each.name == "app")
    assert app.artifact.filename == wheel
    assert app.artifact.url == index.address(wheel)
    assert app.artifact.size == len(index.data(wheel))
    assert app.artifact.digest == Digest.of(index.data(wheel))


def test_takes_the_best_wheel_for_the_target(index: PackageIndex, asker: Asker) -> None:
    for tag in ("py3-none-any", "cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_31_x86_64"):
        index.wheel("fast", "1", tag=tag)
    index.wheel("fast", "1", tag="cp311-cp311-manylinux_2_39_x86_64")
    index.wheel("fast", "1", tag="cp311-cp311-macosx_12_0_arm64")
    index.wheel("fast", "1", tag="cp312-cp312-manylinux_2_28_x86_64")

    def chosen(target: Target) -> str:
        found = asker.resolve(replace(asker.request("fast"), target=target))
        return found.packages[0].artifact.filename.removeprefix("fast-1-")

    assert chosen(TARGET) == "cp311-cp311-manylinux_2_31_x86_64.whl"
    assert chosen(Target(LINUX, "3.11", Glibc(2, 28))) == "cp311-cp311-manylinux_2_17_x86_64.whl"
    assert chosen(Target(LINUX, "3.11", Glibc(2, 41))) == "cp311-cp311-manylinux_2_39_x86_64.whl"
    assert chosen(Target(LINUX, "3.12.1", Glibc(2, 28))) == "cp312-cp312-manylinux_2_28_x86_64.whl"
    assert chosen(Target(Platform("linux", "arm64"), "3.11", Glibc(2, 36))) == "py3-none-any.whl"
    assert chosen(Target(Platform("darwin", "arm64"), "3.11")) == "cp311-cp311-macosx_12_0_arm64.whl"
    assert chosen(Target(Platform("windows", "amd64"), "3.8")) == "py3-none-any.whl"


def _listed(index: PackageIndex, request: ResolveRequest, *filenames: str) -> ResolveRequest:
    """The request, whose first line lists the hashes of these files."""
    hashes = tuple(sorted(str(Digest.of(index.data(each))) for each in filenames))
    return replace(request, requirements=(replace(request.requirements[0], hashes=hashes), *request.requirements[1:]))


@pytest.mark.parametrize("html", [False, True])
def test_takes_the_wheel_whose_hash_is_listed(index: PackageIndex, asker: Asker, html: bool) -> None:
    index.html = html
    plain = index.wheel("fast", "1", files={"fast/plain.py": ""})
    best = index.wheel("fast", "1", tag="cp311-cp311-manylinux_2_31_x86_64", files={"fast/best.py": ""})
    for listed, taken in (((plain,), plain), ((best, plain), best)):
        found = asker.resolve(_listed(index, asker.request("fast"), *listed))
        assert found.packages[0].artifact.filename == taken


def test_refuses_a_wheel_whose_hash_is_not_listed(index: PackageIndex, asker: Asker) -> None:
    wheel = index.wheel("fast", "1")
    older = index.wheel("fast", "0.9", files={"fast/older.py": ""})
    index.wheel("app", "1", requires=["fast"])
    failure = asker.fail(_listed(index, asker.request("fast", "app"), older))
    assert isinstance(failure, UnlistedFile)
    got = Digest.of(index.data(wheel))
    assert str(failure) == (
        f"conda.yml:5: fast: {wheel} is what runs on the target, and has none of the hashes that are listed: it is {got}"
    )
    assert (failure.project, failure.filename, failure.digest) == ("fast", wheel, str(got))
    # A bound may list hashes, too, and holds for what is only needed by others.
    bound = Requirement("fast", Origin("bounds.txt", 2), (str(Digest.of(index.data(older))),))
    failure = asker.fail(replace(asker.request("app"), constraints=(bound,)))
    assert isinstance(failure, UnlistedFile)
    assert "bounds.txt:2" in str(failure)
    found = asker.resolve(replace(asker.request("app"), constraints=(replace(bound, hashes=(str(got),)),)))
    assert found.packages[1].artifact.digest == got


def test_builds_only_source_whose_hash_is_listed(index: PackageIndex, asker: Asker) -> None:
    source = index.source("fuse", "3.0", files=_buildable("fuse-3.0"))
    other = index.source("other", "1.0", files=_SETUP)
    request = replace(asker.request("fuse"), allow_source=frozenset({"fuse"}))
    failure = asker.fail(_listed(index, request, other))
    assert isinstance(failure, UnlistedFile)
    assert (failure.filename, failure.digest) == (source, str(Digest.of(index.data(source))))
    assert len(asker.resolve(_listed(index, request, source)).built) == 1


def test_asks_for_sizes_that_the_index_does_not_tell(index: PackageIndex, asker: Asker) -> None:
    index.html = True
    wheel = index.wheel("app", "1.0")
    package = asker.resolve(asker.request("app")).packages[0]
    assert (package.artifact.size, package.artifact.digest) == (len(index.data(wheel)), Digest.of(index.data(wheel)))
    assert f"HEAD /files/{wheel}" in index.log


def test_resolves_from_files(index: PackageIndex, asker: Asker, tmp_path: Path) -> None:
    wheel = index.wheel("app", "1.0", requires=["lib"])
    index.wheel("lib", "2")
    url = index.write_to(tmp_path / "mirror")
    request = replace(asker.request("app"), sources=Sources(default=Index(url)))
    found = asker.resolve(request)
    assert [(each.name, each.artifact.size > 0) for each in found.packages] == [("app", True), ("lib", True)]
    assert found.packages[0].artifact.url == (tmp_path / "mirror" / "files" / wheel).as_uri()
    assert index.log == []


def test_a_warm_resolve_fetches_nothing(index: PackageIndex, asker: Asker) -> None:
    index.wheel("app", "1.0", requires=["lib"])
    index.wheel("lib", "2")
    cold = asker.resolve(asker.request("app"))
    assert index.log
    index.log.clear()
    start = time.monotonic()
    assert asker.resolve(asker.request("app")) == cold
    assert index.log == []
    # NOTE: 0.1 s on an idle machine; the bound is what users were promised.
    assert time.monotonic() - start < 5


def test_an_index_that_is_not_there_is_told_after_one_more_try(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_HTTP_RETRIES")
    request = replace(asker.request("app"), sources=Sources(default=Index("http://127.0.0.1:9/simple")))
    with pytest.raises(IndexUnreachable, match="Connection refused") as caught:
        asker.resolve(request)
    assert "Request failed after 1 retry" in (caught.value.detail or "")


def test_an_index_that_falters_is_asked_until_it_answers(
    index: PackageIndex, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_HTTP_RETRIES")
    index.wheel("app", "1.0")
    index.faltering = 3
    assert [each.name for each in asker.resolve(asker.request("app")).packages] == ["app"]
    assert index.log[:4] == ["GET /simple/app/"] * 4


def test_machine_settings_do_not_matter(index: PackageIndex, asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    index.wheel("app", "1.0")
    index.wheel("app", "2.0")
    monkeypatch.setenv("UV_RESOLUTION", "lowest")
    monkeypatch.setenv("UV_EXCLUDE_NEWER", "2001-01-01T00:00:00Z")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    assert asker.resolve(asker.request("app")).packages[0].version == "2.0"


def test_as_of_sees_what_was_there(index: PackageIndex, asker: Asker) -> None:
    index.wheel("app", "1.0", uploaded="2022-05-01T00:00:00Z")
    index.wheel("app", "2.0", uploaded="2024-05-01T00:00:00Z")
    request = asker.request("app")
    then = asker.resolve(replace(request, as_of=datetime(2023, 6, 1, tzinfo=UTC)))
    assert then.packages[0].version == "1.0"
    failure = asker.fail(replace(asker.request("app>=2"), as_of=datetime(2023, 6, 1, tzinfo=UTC)))
    assert isinstance(failure, NotYetUploaded)
    assert str(failure) == "conda.yml:5: app>=2: nothing that fits `app>=2` was uploaded by 2023-06-01"
    assert failure.verified


def test_as_of_needs_an_index_that_tells_times(index: PackageIndex, asker: Asker) -> None:
    index.html = True
    index.wheel("app", "1.0")
    failure = asker.fail(replace(asker.request("app"), as_of=datetime(2023, 6, 1, tzinfo=UTC)))
    assert isinstance(failure, NotYetUploaded)
    assert "does not say when its files were uploaded" in str(failure)


@pytest.mark.parametrize("local", [True, False])
def test_a_page_or_directory_of_files(index: PackageIndex, asker: Asker, tmp_path: Path, local: bool) -> None:
    index.html = True
    wheel = index.wheel("app", "1.0")
    index.write_to(tmp_path / "mirror")
    url = (tmp_path / "mirror" / "files").as_uri() if local else f"{index.simple}/app/"
    sources = Sources(extra=(Index(url, flat=True),), no_index=True)
    found = asker.resolve(replace(asker.request("app"), sources=sources))
    assert found.packages[0].artifact.digest == Digest.of(index.data(wheel))
    assert found.packages[0].artifact.size == len(index.data(wheel))
    failure = asker.fail(replace(asker.request("nope"), sources=sources))
    assert isinstance(failure, ProjectNotFound)


def test_prereleases_only_when_asked_for(index: PackageIndex, asker: Asker) -> None:
    index.wheel("app", "1.0")
    index.wheel("app", "2.0rc1")
    request = asker.request("app")
    assert asker.resolve(request).packages[0].version == "1.0"
    assert asker.resolve(replace(request, prereleases=True)).packages[0].version == "2.0rc1"


def test_constraints_bound_and_ask_for_nothing(index: PackageIndex, asker: Asker) -> None:
    index.wheel("app", "1.0", requires=["lib"])
    for version in ("1.0", "2.0"):
        index.wheel("lib", version)
    request = replace(asker.request("app"), constraints=(Requirement("lib<2"), Requirement("other==3")))
    found = asker.resolve(request)
    assert [(each.name, each.version) for each in found.packages] == [("app", "1.0"), ("lib", "1.0")]


def test_seeds_come_in_and_give_way(index: PackageIndex, asker: Asker) -> None:
    for version in ("70", "82"):
        index.wheel("setuptools", version)
    index.wheel("app", "1.0")
    index.wheel("modern", "1.0", requires=["setuptools>=81"])
    seeds = (Requirement("setuptools<81"),)
    found = asker.resolve(replace(asker.request("app"), seeds=seeds))
    assert [(each.name, each.version, each.requested) for each in found.packages] == [
        ("app", "1.0", True),
        ("setuptools", "70", False),
    ]
    assert asker.progress.warnings == []
    named = asker.resolve(replace(asker.request("app", "setuptools>=82"), seeds=seeds))
    assert [(each.version, each.requested) for each in named.packages] == [("1.0", True), ("82", True)]
    yielding = asker.resolve(replace(asker.request("modern"), seeds=seeds))
    assert [each.version for each in yielding.packages] == ["1.0", "82"]
    assert len(asker.progress.warnings) == 1
    assert "setuptools" in asker.progress.warnings[0]


def test_a_seed_that_does_not_exist_is_nobodys_fault(index: PackageIndex, asker: Asker) -> None:
    index.wheel("app", "1.0")
    found = asker.resolve(replace(asker.request("app"), seeds=(Requirement("pip"),)))
    assert [each.name for each in found.packages] == ["app"]


def test_a_wheel_by_url(index: PackageIndex, asker: Asker) -> None:
    wheel = index.wheel("app", "1.0", requires=["lib"])
    index.wheel("lib", "2")
    for line in (f"app @ {index.address(wheel)}", index.address(wheel)):
        found = asker.resolve(asker.request(line))
        assert [each.name for each in found.packages] == ["app", "lib"]
        assert found.packages[0].artifact.digest == Digest.of(index.data(wheel))
        assert found.packages[0].artifact.size == len(index.data(wheel))
        assert found.packages[0].requires == ("lib",)


def test_a_pinned_package_comes_from_its_index_only(index: PackageIndex, asker: Asker) -> None:
    index.wheel("inner", "9.9")
    index.wheel("app", "1.0", requires=["inner"])
    with serve() as private:
        wheel = private.wheel("inner", "1.0")
        sources = Sources(default=Index(index.simple), extra=(Index(private.simple, "corp", packages=("Inner",)),))
        for lines in (("inner",), ("app",)):
            found = asker.resolve(replace(asker.request(*lines), sources=sources))
            inner = next(each for each in found.packages if each.name == "inner")
            assert inner.artifact.url == private.address(wheel)
            assert inner.requested == (lines == ("inner",))


def test_the_first_index_that_has_a_project_counts(index: PackageIndex, asker: Asker) -> None:
    index.wheel("lib", "2.0")
    with serve() as private:
        private.wheel("lib", "1.0")
        sources = Sources(default=Index(index.simple), extra=(Index(private.simple, "corp"),))
        found = asker.resolve(replace(asker.request("lib"), sources=sources))
        assert found.packages[0].version == "1.0"
        failure = asker.fail(replace(asker.request("lib>=2"), sources=sources))
    assert isinstance(failure, NoSuchVersion)
    assert failure.hint is not None
    assert "packages: [lib]" in failure.hint


def test_credentials_come_from_the_environment(
    index: PackageIndex, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.user, index.password = "me", "s3cret"
    wheel = index.wheel("app", "1.0")
    with pytest.raises(CredentialsRefused) as caught:
        asker.resolve(asker.request("app"))
    assert caught.value.status == 401
    assert caught.value.hint is not None
    assert "UV_INDEX_MAIN_USERNAME" in caught.value.hint
    monkeypatch.setenv("UV_INDEX_MAIN_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_MAIN_PASSWORD", "wrong")
    with pytest.raises(CredentialsRefused) as caught:
        asker.resolve(asker.request("app"))
    assert "wrong" not in f"{caught.value} {caught.value.hint} {caught.value.detail}"
    monkeypatch.setenv("UV_INDEX_MAIN_PASSWORD", "s3cret")
    assert asker.resolve(asker.request("app")).packages[0].artifact.url == index.address(wheel)


def test_credentials_come_from_netrc(index: PackageIndex, asker: Asker, tmp_path: Path) -> None:
    index.user, index.password = "me", "s3cret"
    index.wheel("app", "1.0")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert asker.resolve(asker.request("app")).packages[0].version == "1.0"


def test_an_index_that_is_not_there(asker: Asker) -> None:
    request = replace(asker.request("app"), sources=Sources(default=Index("http://127.0.0.1:9/simple")))
    with pytest.raises(IndexUnreachable) as caught:
        asker.resolve(request)
    assert str(caught.value).startswith("http://127.0.0.1:9/simple/app/: ")
    assert "Connection refused" in str(caught.value)


def test_lines_that_are_no_requirements(asker: Asker) -> None:
    request = asker.request("app=1.0", "-e .", "git+https://example.org/x.git", "fine", "./here")
    with pytest.raises(ExceptionGroup) as caught:
        asker.resolve(request)
    faults = caught.value.exceptions
    assert all(isinstance(each, InvalidRequirement) for each in faults)
    assert [str(each).partition(" ")[0] for each in faults] == [
        "conda.yml:5:", "conda.yml:6:", "conda.yml:7:", "conda.yml:9:",
    ]  # fmt: skip
    first = faults[0]
    assert isinstance(first, InvalidRequirement)
    assert first.hint == "write `app==1.0`"


def test_a_run_that_takes_too_long_ends_with_all_it_started(tmp_path: Path) -> None:
    program = tmp_path / "uv"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    program.chmod(0o755)
    with pytest.raises(UvTimeout, match=r"`uv pip compile` did not end within 1 s"):
        Uv(tmp_path / "cache", binary=str(program)).run(["pip", "compile"], timeout=1.0)
    for name in ("pid", "child"):
        assert _ends(int((tmp_path / name).read_text()))


def _ends(pid: int) -> bool:
    """Whether a process is gone, or goes within ten seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def test_two_lines_that_exclude_each_other(index: PackageIndex, asker: Asker) -> None:
    for version in ("2.5", "2.7", "3.7"):
        index.wheel("idna", version)
    index.wheel("requests", "2.20", requires=["idna>=2.5,<2.8"])
    failure = asker.fail(asker.request("requests==2.20", "idna==3.7"))
    assert isinstance(failure, VersionConflict)
    assert failure.project == "idna"
    assert str(failure) == (
        "conda.yml:6: idna==3.7 and conda.yml:5: requests==2.20: "
        "you ask for idna==3.7, but requests needs idna>=2.5,<2.8"
    )
    assert failure.hint == "write `idna==2.7` (tried: then it resolves)"
    assert failure.detail is not None
    assert "No solution found" in failure.detail


def test_the_same_project_twice(index: PackageIndex, asker: Asker) -> None:
    for version in ("3.6", "3.7"):
        index.wheel("idna", version)
    failure = asker.fail(asker.request("idna==3.6", "idna==3.7"))
    assert isinstance(failure, VersionConflict)
    assert "idna==3.6 and idna==3.7 exclude each other" in str(failure)
    assert "conda.yml:5" in str(failure)
    assert "conda.yml:6" in str(failure)
    assert failure.verified


def test_a_deep_conflict_names_the_users_line(index: PackageIndex, asker: Asker) -> None:
    index.wheel("arrow", "1.0")
    index.wheel("arrow", "2.0")
    index.wheel("left", "1", requires=["arrow<2"])
    index.wheel("right", "1", requires=["arrow>=2"])
    index.wheel("suite", "2", requires=["left", "right"])
    index.wheel("suite", "1", requires=["left"])
    failure = asker.fail(asker.request("suite==2"))
    assert isinstance(failure, VersionConflict)
    assert str(failure).startswith("conda.yml:5: suite==2: ")
    assert "needs arrow<2" in str(failure)
    assert "needs arrow>=2" in str(failure)
    assert failure.hint == "write `suite==1` (tried: then it resolves)"


def test_no_such_project(index: PackageIndex, asker: Asker) -> None:
    index.wheel("scikit-learn", "1.0")
    index.wheel("app", "1.0", requires=["mising"])
    failure = asker.fail(asker.request("nunpy"))
    assert isinstance(failure, ProjectNotFound)
    assert str(failure) == "conda.yml:5: nunpy: there is no project `nunpy` on the indexes named"
    through = asker.fail(asker.request("app"))
    assert isinstance(through, ProjectNotFound)
    assert str(through).startswith("conda.yml:5: app: needs mising: there is no project `mising`")
    renamed = asker.fail(asker.request("sklearn>=0.9"))
    assert isinstance(renamed, ProjectNotFound)
    assert renamed.renamed_to == "scikit-learn"
    assert renamed.hint == "write `scikit-learn>=0.9` instead (tried: then it resolves)"


def test_no_such_version(index: PackageIndex, asker: Asker) -> None:
    for version in ("1.0", "1.2.9", "2.0"):
        index.wheel("lib", version)
    failure = asker.fail(asker.request("lib==1.2.3"))
    assert isinstance(failure, NoSuchVersion)
    assert failure.nearest == ("1.2.9", "1.0", "2.0")
    assert failure.hint == "write `lib==1.2.9` (tried: then it resolves)"


def test_another_python_would_do(index: PackageIndex, asker: Asker) -> None:
    index.wheel("lib", "2.0", requires_python=">=3.12")
    index.wheel("compiled", "1.0", tag="cp38-cp38-manylinux_2_17_x86_64")
    index.wheel("compiled", "1.0", tag="cp39-cp39-manylinux_2_17_x86_64")
    failure = asker.fail(asker.request("lib==2.0"))
    assert isinstance(failure, NoVersionForPython)
    assert failure.would_do[0] == "3.12"
    assert "lib==2.0 is not made for Python 3.11.4, only for 3.12 to" in str(failure)
    assert failure.hint == 'use Python 3.12: `python: "3.12"` (tried: then it resolves)'
    other = asker.fail(asker.request("compiled"))
    assert isinstance(other, NoVersionForPython)
    assert other.would_do == ("3.8", "3.9")


def test_wheels_for_other_systems_only(index: PackageIndex, asker: Asker) -> None:
    index.wheel("pywin", "1.0", tag="cp311-cp311-win_amd64")
    failure = asker.fail(asker.request("pywin"))
    assert isinstance(failure, NoWheel)
    assert failure.platforms == ("win_amd64",)
    assert failure.hint is not None
    assert "sys_platform" in failure.hint


_SETUP = {"setup.py": "from setuptools import setup; raise SystemExit('this build must not run')"}


def test_source_is_not_built_unless_allowed(index: PackageIndex, asker: Asker) -> None:
    index.source("fuse", "3.0", files=_SETUP, requires=["shim"])
    index.source("shim", "1.0", files=_SETUP)
    index.wheel("runtime", "1.0", requires=["fuse>=3"])
    failure = asker.fail(asker.request("runtime"))
    assert isinstance(failure, NoWheel)
    assert failure.projects == ("fuse", "shim")
    assert failure.chain == ("runtime", "fuse==3.0")
    assert str(failure).startswith("conda.yml:5: runtime: needs fuse==3.0: fuse, shim have no wheels for Python 3.11")
    assert failure.hint is not None
    assert "`allow_source: [fuse, shim]`" in failure.hint
    assert "`--allow-source-auto`" in failure.hint
    assert failure.verified


_BACKEND = """
import os, sys, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    stem, tag = "{stem}", "{tag}"
    name, version = stem.split("-")
    content = {{
        name + ".py": "EPOCH = " + os.environ["SOURCE_DATE_EPOCH"],
        stem + ".dist-info/METADATA": "Metadata-Version: 2.1\\nName: " + name + "\\nVersion: " + version + "\\n",
        stem + ".dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: " + tag + "\\n",
        stem + ".dist-info/RECORD": "",
    }}
    filename = stem + "-" + tag + ".whl"
    with zipfile.ZipFile(os.path.join(directory, filename), "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return filename
"""
_PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def _buildable(stem: str, tag: str = "py3-none-any", before: str = "") -> dict[str, str]:
    return {"pyproject.toml": _PROJECT, "backend.py": before + _BACKEND.format(stem=stem, tag=tag)}


def test_allowed_source_is_built_once_for_the_lock(index: PackageIndex, asker: Asker) -> None:
    source = index.source("fuse", "3.0", files=_buildable("fuse-3.0"))
    index.wheel("runtime", "1.0", requires=["fuse>=3"])
    found = asker.resolve(replace(asker.request("runtime"), allow_source=frozenset({"fuse"})))
    fuse = found.packages[0]
    assert (fuse.name, fuse.version, fuse.artifact.filename) == ("fuse", "3.0", "fuse-3.0-py3-none-any.whl")
    assert fuse.artifact.url is None
    assert fuse.built_from is not None
    assert fuse.built_from.url == index.address(source)
    assert fuse.built_from.digest == Digest.of(index.data(source))
    wheel = found.built[fuse.artifact.digest]
    assert Digest.of(wheel.read_bytes()) == fuse.artifact.digest
    assert zipfile.ZipFile(wheel).read("fuse.py") == b"EPOCH = 1577836800"
    assert found.packages[1].requires == ("fuse",)
    assert asker.progress.warnings == []


def test_a_wheel_is_preferred_to_allowed_source(index: PackageIndex, asker: Asker) -> None:
    index.source("fuse", "3.0", files=_SETUP)
    index.wheel("fuse", "3.0")
    found = asker.resolve(replace(asker.request("fuse"), allow_source=frozenset({"fuse"})))
    assert found.built == {}


def test_automatic_builds_are_reported_and_no_more_than_needed(index: PackageIndex, asker: Asker) -> None:
    index.source("fuse", "3.0", files=_buildable("fuse-3.0"))
    index.wheel("other", "1.0")
    index.source("other", "2.0", files=_SETUP)
    found = asker.resolve(replace(asker.request("fuse", "other"), allow_source_auto=True))
    assert [each.version for each in found.packages] == ["3.0", "1.0"]
    assert asker.progress.warnings == ["built from source, since there is no wheel: fuse"]


def test_a_source_by_url_must_be_allowed_too(index: PackageIndex, asker: Asker) -> None:
    url = index.address(index.source("fuse", "3.0", files=_buildable("fuse-3.0")))
    failure = asker.fail(asker.request(f"fuse @ {url}"))
    assert isinstance(failure, NoWheel)
    found = asker.resolve(replace(asker.request(f"fuse @ {url}"), allow_source=frozenset({"fuse"})))
    assert len(found.built) == 1


def test_a_build_that_fails_says_why(index: PackageIndex, asker: Asker) -> None:
    index.source("fuse", "3.0", files=_buildable("fuse-3.0", before="raise RuntimeError('no libfuse here')"))
    failure = asker.fail(replace(asker.request("fuse"), allow_source=frozenset({"fuse"})))
    assert isinstance(failure, BuildFailed)
    assert str(failure) == "conda.yml:5: fuse: fuse 3.0 can't be built from source: RuntimeError: no libfuse here"
    assert failure.detail is not None
    assert "backend.py" in failure.detail


def test_a_compiled_build_needs_the_targets_own_python(index: PackageIndex, asker: Asker) -> None:
    index.source("fuse", "3.0", files=_buildable("fuse-3.0", tag="cp311-cp311-linux_x86_64"))
    allowed = replace(asker.request("fuse"), allow_source=frozenset({"fuse"}))
    arm = replace(allowed, target=Target(Platform("linux", "arm64"), "3.11", Glibc(2, 36)))
    failure = asker.fail(arm)
    assert isinstance(failure, BuildFailed)
    assert "needs a linux/arm64 machine" in str(failure)


def test_source_that_is_not_what_the_index_says(index: PackageIndex, asker: Asker) -> None:
    name = index.source("fuse", "3.0", files=_buildable("fuse-3.0"))
    found = Found("fuse", "3.0", None, FoundFile(name, index.address(name), None, "0" * 64))
    request = asker.request("fuse")
    session = Session(Uv(asker.directory / "cache"), asker.directory / "s", public=None, timeout=60.0)
    with pytest.raises(DigestMismatch):
        build_wheel(
            found,
            found.source or pytest.fail("there is a source"),
            attempt=Attempt(request, ()),
            session=session,
            fetcher=asker.fetcher,
            host=LINUX,
            directory=asker.directory / "build",
            lines=(),
            timeout=60.0,
        )


def test_a_withdrawn_version(index: PackageIndex, asker: Asker) -> None:
    index.wheel("lib", "1.0", yanked=True)
    index.wheel("lib", "2.0")
    failure = asker.fail(asker.request("lib<2"))
    assert isinstance(failure, NoSuchVersion)
    assert failure.yanked
    assert "was withdrawn" in str(failure)
    assert asker.resolve(asker.request("lib==1.0")).packages[0].version == "1.0"


def test_what_only_uv_refuses_is_an_invalid_line(index: PackageIndex, asker: Asker) -> None:
    index.wheel("app", "1.0")
    failure = asker.fail(asker.request("app", "lib==="))
    assert isinstance(failure, InvalidRequirement)
    assert str(failure).startswith("conda.yml:6: lib===: ")
