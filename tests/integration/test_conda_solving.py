"""Conda packages solved by py-rattler in its own process, over channels on loopback, and how failures are told."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.conda_channel import CondaChannels, serve_channels
from support.conda_packages import interpreter, make_package, program_package, python_package

from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.spec import Origin, Requirement
from mlenv.errors import MlenvError
from mlenv.resolve.conda import CondaResolver, UnusableRecord
from mlenv.resolve.conda_failures import (
    ChannelNotFound,
    ChannelRefused,
    ChannelUnreachable,
    MissingVirtualPackage,
    NotForPlatform,
    PackageNotFound,
    ShadowedByChannel,
)
from mlenv.resolve.conda_fetch import ChannelFetcher
from mlenv.resolve.conda_process import CondaCrashed, CondaMissing, CondaProcess, CondaTimeout
from mlenv.resolve.conda_request import CondaRequest, InvalidCuda, NoCondaPlatform
from mlenv.resolve.condarc import CondaSettings
from mlenv.resolve.failures import (
    InvalidRequirement,
    NoSuchVersion,
    NotYetUploaded,
    ProjectNotFound,
    ResolutionFailed,
    VersionConflict,
)

_TARGET = Target(Platform("linux", "amd64"), "", Glibc(2, 36))
_LATE = 1_800_000_000_000


@pytest.fixture(scope="module")
def channels() -> Iterator[CondaChannels]:
    """Three channels in which most things can go wrong."""
    with serve_channels() as served:
        served.add(
            "main",
            *(interpreter(version) for version in ("3.10.4", "3.11.2")),
            *(make_package("num"), make_package("num", "2.0", timestamp=_LATE)),
            make_package("pip", "24.0", depends=["python"]),
            make_package("libx", depends=["liby >=2"]),
            make_package("liby", subdir="linux-64", ending="tar.bz2"),
            make_package("fast", build="cpu_0"),
            make_package("fast", build="cuda_0", build_number=1, depends=["__cuda >=11"]),
            python_package("app", depends=("python >=3.10", "liby")),
            program_package(),
        )
        served.add("two", make_package("num", "3.0"), make_package("needs", depends=["num >=3"]))
        served.add("two", make_package("pytorch"), make_package("scikit-learn"))
        served.add("three", make_package("old", depends=["num <2"]), make_package("new", depends=["num >=2"]))
        served.add("three", make_package("middle", depends=["new"]), make_package("bound", constrains=["num <2"]))
        served.add("three", make_package("cuda-only", depends=["__cuda >=12"]))
        served.add("three", make_package("glibc-only", depends=["__glibc >=2.99"]))
        served.add("three", make_package("arm", subdir="linux-aarch64"), make_package("deep", depends=["arm"]))
        served.add("private", make_package("ours"))
        yield served


class Asker:
    """Asks a resolver, with requests that come from lines 5 and on of `conda.yml`."""

    def __init__(self, channels: CondaChannels, cache: Path) -> None:
        self.settings = CondaSettings(channel_alias=channels.url, channels=())
        self.cache = cache

    def request(self, *specs: str, channels: tuple[str, ...] = ("main", "two", "three"), **more: Any) -> CondaRequest:
        lines = tuple(Requirement(text, Origin("conda.yml", 5 + at)) for at, text in enumerate(specs))
        return CondaRequest(lines, _TARGET, channels, **more)

    def resolver(self, **options: Any) -> CondaResolver:
        given: dict[str, Any] = {"settings": self.settings, "timeout": 60.0} | options
        return CondaResolver(self.cache, **given)

    def solve(self, *specs: str, **more: Any) -> dict[str, CondaPackage]:
        found = self.resolver().solve(self.request(*specs, **more), progress=Silent())
        assert [each.name for each in found] == sorted(each.name for each in found)
        return {each.name: each for each in found}

    def fail(self, *specs: str, **more: Any) -> Any:
        with pytest.raises(MlenvError) as caught:
            self.solve(*specs, **more)
        return caught.value


@pytest.fixture(scope="module")
def asker(channels: CondaChannels, tmp_path_factory: pytest.TempPathFactory) -> Asker:
    return Asker(channels, tmp_path_factory.mktemp("rattler"))


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_finds_every_package_to_exact_bytes(channels: CondaChannels, asker: Asker) -> None:
    found = asker.solve("python=3.11", "app", "teller")
    assert list(found) == ["app", "liby", "pip", "python", "teller"]
    by_name = {each.filename: each for each in channels.channels["main"]}
    for each in found.values():
        offered = by_name[each.artifact.filename]
        assert each.artifact.digest == Digest.of(offered.data)
        assert each.artifact.size == len(offered.data)
        assert each.artifact.url == f"{channels.url}/main/{offered.subdir}/{offered.filename}"
        assert (each.md5, each.timestamp) == (offered.record["md5"], 1_700_000_000_000)
        assert (each.channel, each.subdir) == (f"{channels.url}/main", offered.subdir)
    assert found["app"].noarch == "python"
    assert found["app"].depends == ("python >=3.10", "liby")
    assert (found["liby"].noarch, found["liby"].artifact.filename) == (None, "liby-1.0-0.tar.bz2")
    assert {name: each.requested for name, each in found.items()} == {
        "app": "app",
        "liby": None,
        "pip": None,
        "python": "python=3.11",
        "teller": "teller",
    }


def test_the_target_says_what_there_is_not_this_machine(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.0")
    assert asker.solve("fast")["fast"].build == "cpu_0"
    assert asker.solve("fast", cuda="12.4")["fast"].build == "cuda_0"
    arm = replace(asker.request("arm"), target=Target(Platform("linux", "arm64"), "", Glibc(2, 36)))
    (found,) = asker.resolver().solve(arm, progress=Silent())
    assert found.subdir == "linux-aarch64"
    with pytest.raises(NoCondaPlatform, match="darwin/arm64"):
        asker.resolver().solve(replace(arm, target=Target(Platform("darwin", "arm64"), "3.11")), progress=Silent())
    with pytest.raises(InvalidCuda):
        asker.solve("fast", cuda="new")


def test_as_of_is_a_moment_whatever_its_zone(asker: Asker) -> None:
    # The later build is of 2027-01-15T08:00:00Z.
    moment = datetime(2027, 1, 15, 8, tzinfo=UTC)
    assert asker.solve("num", as_of=moment)["num"].version == "2.0"
    assert asker.solve("num", as_of=moment - timedelta(seconds=1))["num"].version == "1.0"
    east = timezone(timedelta(hours=9))
    assert asker.solve("num", as_of=(moment - timedelta(seconds=1)).astimezone(east))["num"].version == "1.0"
    failure = asker.fail("num>=2", as_of=datetime(2024, 1, 1, tzinfo=UTC))
    assert isinstance(failure, NotYetUploaded)
    assert str(failure) == "conda.yml:5: num>=2: nothing that fits `num>=2` was there by 2024-01-01"
    assert failure.hint == "write `num=1.0` (tried: then it resolves)"


def test_the_first_channel_with_a_name_has_it(asker: Asker) -> None:
    assert asker.solve("num")["num"].version == "2.0"
    assert asker.solve("num", channels=("two", "main"))["num"].version == "3.0"
    assert asker.solve("two::num")["num"].version == "3.0"
    assert asker.solve("two::num", channels=("main",))["num"].version == "3.0"
    failure = asker.fail("num=3")
    assert isinstance(failure, ShadowedByChannel)
    assert (failure.project, failure.channel) == ("num", "two")
    assert "only two has `num=3`, and main, which comes first" in str(failure)
    assert failure.hint == "write `two::num=3` (tried: then it resolves)"
    assert asker.solve("two::num=3")["num"].version == "3.0"
    assert isinstance(asker.fail("needs"), ShadowedByChannel)


def test_a_name_for_several_channels_is_one_channel(channels: CondaChannels, asker: Asker) -> None:
    both = (f"{channels.url}/main", f"{channels.url}/two")
    defaults = replace(asker.settings, default_channels=both)
    resolver = asker.resolver(settings=defaults)
    for spec, version in (("num", "3.0"), ("defaults::num", "3.0"), (f"{channels.url}/main::num", "2.0")):
        request = asker.request(spec, channels=("defaults",))
        assert [each.version for each in resolver.solve(request, progress=Silent())] == [version]
    assert resolver.channels(asker.request("num", channels=("three", "defaults"))) == (f"{channels.url}/three", *both)


@pytest.mark.parametrize(
    ("specs", "kind", "message", "hint"),
    [
        (["num=9"], NoSuchVersion, "conda.yml:5: num=9: there is no `num=9` for linux-64; there is 1.0, 2.0, 3.0",
         "write `num=2.0` (tried: then it resolves)"),
        (["libx"], NoSuchVersion, "conda.yml:5: libx: needs liby>=2: there is no `liby>=2` for linux-64; there is 1.0",
         None),
        (["num=2=abc"], NoSuchVersion, "conda.yml:5: num=2=abc: num 2 has no such build; there is 0",
         "write `num=2.0` (tried: then it resolves)"),
        (["two::num=9"], NoSuchVersion, "conda.yml:5: two::num=9: there is no `num=9` for linux-64; there is 3.0",
         "write `two::num=3.0` (tried: then it resolves)"),
        (["arm"], NotForPlatform, "conda.yml:5: arm: `arm` was never made for linux-64, only for linux-aarch64", None),
        (["deep"], NotForPlatform,
         "conda.yml:5: deep: needs arm: `arm` was never made for linux-64, only for linux-aarch64", None),
        (["nosuch"], PackageNotFound, "conda.yml:5: nosuch: there is no package `nosuch` in main, two, three", None),
        (["sklearn"], PackageNotFound, "conda.yml:5: sklearn: there is no package `sklearn` in main, two, three",
         "write `scikit-learn` (tried: then it resolves)"),
        (["torch"], PackageNotFound, "conda.yml:5: torch: there is no package `torch` in main, two, three",
         "write `pytorch` (tried: then it resolves)"),
        (["scikit-lern"], PackageNotFound,
         "conda.yml:5: scikit-lern: there is no package `scikit-lern` in main, two, three",
         "write `scikit-learn` (tried: then it resolves)"),
        (["three::num"], ProjectNotFound, "conda.yml:5: three::num: three has no `num`",
         "write `num` (tried: then it resolves)"),
        (["old", "new"], VersionConflict, "conda.yml:6: new: new 1.0 needs num>=2, but old 1.0 needs num<2", None),
        (["num=2", "old"], VersionConflict, "conda.yml:6: old: old 1.0 needs num<2, but you ask for num=2",
         "write `num=1.0` (tried: then it resolves)"),
        (["num=2", "num=1"], VersionConflict, "num=2 and num=1 exclude each other", None),
        (["middle", "bound"], VersionConflict,
         "conda.yml:6: bound: bound 1.0 allows only num<2, but new 1.0 needs num>=2", None),
        (["cuda-only"], MissingVirtualPackage,
         "conda.yml:5: cuda-only: needs __cuda>=12: the target has no __cuda",
         "write `cuda: 12` into the environment file, if the machines that run it have such a driver (tried: then it resolves)"),
        (["glibc-only"], MissingVirtualPackage,
         "conda.yml:5: glibc-only: needs __glibc>=2.99: the target has __glibc 2.36", None),
        (["num", "num>=1.0<2"], InvalidRequirement, "conda.yml:6: num>=1.0<2: '>=1.0<2' is no version", None),
    ],
)  # fmt: skip
def test_why_there_is_no_answer(
    asker: Asker, specs: list[str], kind: type[ResolutionFailed], message: str, hint: str | None
) -> None:
    failure = asker.fail(*specs)
    assert type(failure) is kind
    assert message in str(failure)
    assert failure.lines
    if hint is not None:
        assert failure.hint == hint


def test_both_chains_of_a_conflict(asker: Asker) -> None:
    failure = asker.fail("middle", "old")
    assert set(failure.chain) == {"old", "num<2", "middle", "new", "num>=2"}
    assert [str(each) for each in failure.lines] in (
        ["conda.yml:5: middle", "conda.yml:6: old"],
        ["conda.yml:6: old", "conda.yml:5: middle"],
    )
    assert "num <2" in failure.detail


def test_a_package_of_the_user_s_other_channels_is_named(channels: CondaChannels, asker: Asker) -> None:
    settings = replace(asker.settings, custom_channels={"private": channels.url})
    with pytest.raises(PackageNotFound) as caught:
        asker.resolver(settings=settings).solve(asker.request("ours"), progress=Silent())
    assert caught.value.elsewhere == ("private",)
    assert caught.value.hint == "add `private` to `channels:`, which has it"


def test_channels_that_do_not_answer(asker: Asker) -> None:
    assert isinstance(missing := asker.fail("num", channels=("nowhere",)), ChannelNotFound)
    assert str(missing).startswith("nowhere (http://127.0.0.1:")
    start = time.monotonic()
    down = asker.fail("num", channels=("http://127.0.0.1:9/x",))
    assert isinstance(down, ChannelUnreachable)
    assert str(down) == "http://127.0.0.1:9/x: Connection refused (os error 111)"
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>Please log in</html>", "is no list of packages"),
        (500, b"", "500"),
    ],
)
def test_channels_that_answer_badly(tmp_path: Path, status: int, body: bytes, said: str) -> None:
    with serve_channels(CondaChannels(sharded=False, compressed=False)) as served:
        asker = Asker(served, tmp_path)
        served.answers["/bad/noarch/repodata.json"] = (status, body)
        for ending in (".zst", ".bz2"):
            served.answers[f"/bad/noarch/repodata.json{ending}"] = (404, b"")
        failure = asker.fail("num", channels=("bad",))
    assert isinstance(failure, ChannelUnreachable)
    assert str(failure).startswith(f"bad ({served.url}/bad")
    assert said in str(failure)


def test_what_was_fetched_is_asked_for_again_by_its_mark_only(tmp_path: Path) -> None:
    with serve_channels() as served:
        served.add("main", make_package("num"))
        asker = Asker(served, tmp_path)
        first = asker.solve("num", channels=("main",))
        served.log.clear()
        assert asker.solve("num", channels=("main",)) == first
        assert served.log
        assert {each.status for each in served.log} == {304}
        assert served.asked("/shards/") == []
    # Without a network, what was fetched before is enough, if that is wanted.
    offline = asker.resolver(offline=True)
    assert {
        each.name: each for each in offline.solve(asker.request("num", channels=("main",)), progress=Silent())
    } == first
    with pytest.raises(ChannelUnreachable, match="nothing of it was fetched before"):
        offline.solve(asker.request("num", channels=("other",)), progress=Silent())


@pytest.mark.parametrize(
    ("way", "sharded"),
    [
        ("address", True),
        ("token", False),
        ("token-file", True),
        ("file", True),
        ("netrc", True),
        ("bearer", True),
    ],
)
def test_credentials_get_in_and_do_not_get_out(tmp_path: Path, way: str, sharded: bool) -> None:
    with serve_channels(CondaChannels(sharded=sharded)) as served:
        served.add("team/own", make_package("num"))
        settings, stored = CondaSettings(channel_alias=served.url, channels=()), {}
        if way in ("token", "token-file"):
            served.token = "geheim-1"
        elif way == "bearer":
            served.bearer = "geheim-1"
        else:
            served.user, served.password = "user", "geheim-1"
        asker = Asker(served, tmp_path / "cache")
        refused = asker.fail("num", channels=("team/own",))
        assert isinstance(refused, ChannelRefused)
        if way == "address":
            settings = replace(settings, channel_alias=served.url.replace("//", "//user:geheim-1@"))
        elif way == "token":
            settings = replace(settings, custom_channels={"team/own": f"{served.url}/t/geheim-1"})
        elif way == "netrc":
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password geheim-1\n")
            (tmp_path / "netrc").chmod(0o600)
        else:
            basic = {"BasicHTTP": {"username": "user", "password": "geheim-1"}}
            kinds = {"file": basic, "bearer": {"BearerToken": "geheim-1"}, "token-file": {"CondaToken": "geheim-1"}}
            stored = {"127.0.0.1": kinds[way]}
        resolver = asker.resolver(settings=settings, stored=stored)
        (found,) = resolver.solve(asker.request("num", channels=("team/own",)), progress=Silent())
        assert found.artifact.url == f"{served.url}/team/own/noarch/num-1.0-0.conda"
        # The file itself is fetched with the same.
        fetcher = ChannelFetcher(resolver.access, pause=lambda _: None)
        data = b"".join(fetcher.stream(found.artifact.url))
        assert Digest.of(data) == found.artifact.digest
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.is_file() or b"geheim" not in path.read_bytes(), path
    assert "geheim" not in repr(settings) + repr(found) + str(refused)


def test_the_keyring_is_asked_once_a_channel_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "keyring"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho user\necho geheim-1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with serve_channels(CondaChannels(user="user", password="geheim-1")) as served:
        served.add("main", make_package("num"))
        asker = Asker(served, tmp_path / "cache")
        assert list(asker.solve("num", channels=("main",))) == ["num"]
        assert (tmp_path / "asked").read_text() == f"get {served.url} --mode creds\n"
        # A server does not lend its own user's.
        request = asker.request("num", channels=("main",))
        with pytest.raises(ChannelRefused):
            asker.resolver(own=False).solve(request, progress=Silent())


def test_mirrors_stand_in_for_a_channel(tmp_path: Path) -> None:
    with serve_channels() as served:
        served.add("copy/forge", make_package("num"))
        asker = Asker(served, tmp_path)
        clean = "https://conda.example.org"
        mirrors = {f"{clean}/forge": ("http://127.0.0.1:9/forge", f"{served.url}/copy/forge")}
        settings = CondaSettings(channel_alias=clean, channels=(), mirrored_channels=mirrors)
        resolver = asker.resolver(settings=settings)
        (found,) = resolver.solve(asker.request("num", channels=("forge",)), progress=Silent())
        assert found.channel == f"{clean}/forge"
        assert found.artifact.url == f"{clean}/forge/noarch/num-1.0-0.conda"
        fetcher = ChannelFetcher(resolver.access, attempts=1, pause=lambda _: None)
        assert Digest.of(b"".join(fetcher.stream(found.artifact.url))) == found.artifact.digest


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"sha256": None}, "does not tell its sha256"),
        ({"version": "9"}, "describes 'num-1.0-0.conda' as 'num-9-0'"),
        ({"subdir": "win-64"}, "win-64"),
    ],
)
def test_what_a_channel_says_wrongly(tmp_path: Path, record: dict[str, Any], said: str) -> None:
    with serve_channels(CondaChannels(sharded=False)) as served:
        package = make_package("num")
        served.add("main", dataclasses.replace(package, record={**package.record, **record}))
        # The record lies; the place is what it was.
        served.made[("main", "noarch")] = served._lists("noarch", served.channels["main"])
        with pytest.raises(UnusableRecord, match=said):
            Asker(served, tmp_path).solve("num", channels=("main",))


def test_a_time_limit_ends_the_solver() -> None:
    with CondaProcess(timeout=0.5) as process:
        pid = process._process.pid
        # Nothing was asked, so no answer comes.
        with pytest.raises(CondaTimeout, match="waiting did not end within"):
            process._answer("waiting", 0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_solver_that_dies_is_told() -> None:
    with CondaProcess(timeout=30) as process:
        threading.Timer(0.1, os.kill, (process._process.pid, signal.SIGABRT)).start()
        with pytest.raises(CondaCrashed, match="was ended by SIGABRT"):
            process._answer("waiting", 30)


def test_a_solver_without_memory_does_not_start() -> None:
    with pytest.raises(CondaMissing), CondaProcess(timeout=30, memory=1 << 24):
        pass


def test_repodata_without_end_meets_the_memory_limit(tmp_path: Path) -> None:
    with serve_channels(CondaChannels(sharded=False, compressed=False)) as served:
        served.answers["/big/noarch/repodata.json"] = (200, b" " * (200 << 20))
        for ending in (".zst", ".bz2"):
            served.answers[f"/big/noarch/repodata.json{ending}"] = (404, b"")
        asker = Asker(served, tmp_path)
        with pytest.raises((CondaCrashed, ChannelUnreachable)):
            asker.resolver(memory=512 << 20).solve(asker.request("num", channels=("big",)), progress=Silent())


def test_the_process_knows_nothing_of_mlenv_s_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text(json.dumps({"127.0.0.1": {"BearerToken": "geheim"}}))
    monkeypatch.setenv("RATTLER_AUTH_FILE", str(tmp_path / "auth.json"))
    with serve_channels() as served:
        served.bearer = "geheim"
        served.add("main", make_package("num"))
        assert isinstance(Asker(served, tmp_path / "cache").fail("num", channels=("main",)), ChannelRefused)
        assert {each.authorization for each in served.log} == {None}
