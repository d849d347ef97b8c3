"""What a site's machines refuse to do for those who use it: fetch from anywhere, and run whatever a source build runs."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.builds import AMD64, BuildSite, make_site
from support.index import PackageIndex, serve
from support.server import InProcess, in_process
from support.world import MINOR

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Target
from mlenv.core.records import BuildStatus

BASE = "/api/v1/workspaces/default"


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with serve() as found:
        found.wheel("pip", "25.0")
        found.wheel("alpha", "1.5")
        yield found


@pytest.fixture
def site(index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcess]:
    """A site that lists nothing, on a machine whose own index is on loopback."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.simple)
    with in_process(tmp_path / "home", indexes=()) as made:
        yield made


def _locked(site: InProcess, name: str, lines: list[str], options: object = None, **spec: object) -> tuple[int, str]:
    """Status and code of the answer to the lock of a new version."""
    document = {"python": MINOR, "requirements": [{"text": each} for each in lines], **spec}
    made = site.client.post(f"{BASE}/environments", json={"name": name, "spec": document})
    assert made.status_code == 201, made.text
    answer = site.client.post(f"{made.headers['location']}/locks/linux/amd64", json=options or {})
    return answer.status_code, answer.json()["code"] if answer.status_code != 200 else ""


def test_the_machines_own_index_needs_no_listing(site: InProcess, index: PackageIndex) -> None:
    assert _locked(site, "own", ["alpha"]) == (200, "")
    assert _locked(site, "named", ["alpha"], sources={"default": {"url": index.simple}}) == (200, "")


def test_an_address_that_is_not_listed_is_not_even_asked(site: InProcess) -> None:
    with serve() as inner:
        inner.wheel("alpha", "1.5")
        wheel = inner.address("alpha-1.5-py3-none-any.whl")
        refused = (403, "AddressNotListed")
        assert _locked(site, "default", ["alpha"], sources={"default": {"url": inner.simple}}) == refused
        assert _locked(site, "extra", ["alpha"], sources={"extra": [{"url": inner.simple}]}) == refused
        assert _locked(site, "flat", ["alpha"], sources={"extra": [{"url": inner.simple, "flat": True}]}) == refused
        assert _locked(site, "direct", [f"alpha @ {wheel}"]) == refused
        assert _locked(site, "bare", [wheel]) == refused
        assert _locked(site, "bound", ["alpha"], constraints=[{"text": f"alpha @ {wheel}"}]) == refused
        assert inner.log == []


def test_source_is_not_built_unless_the_site_says_so(site: InProcess) -> None:
    assert _locked(site, "spec", ["alpha"], allow_source=["alpha"]) == (403, "SourceBuildsOff")
    assert _locked(site, "options", ["alpha"], {"allow_source": ["alpha"]}) == (403, "SourceBuildsOff")
    assert _locked(site, "any", ["alpha"], {"allow_source_auto": True}) == (403, "SourceBuildsOff")


def test_a_worker_refuses_the_same_at_the_first_attempt(tmp_path: Path) -> None:
    with make_site(tmp_path, None) as builds:
        builds.worker("--indexes", "https://wheels.example.org")
        ended = builds.ended(builds.builds.request(builds.version("unlisted", "alpha"), AMD64))
        assert (ended.status, ended.attempts) == (BuildStatus.FAILED, 1)
        assert "fetches nothing from" in str(ended.error)
        assert _asked(builds) == []
        # Neither is what a lock names fetched that somebody brought.
        version = builds.version("brought", "beta")
        builds.services.lock_files.add(version, AMD64, _lock_of(builds))
        ended = builds.ended(builds.builds.request(version, AMD64))
        assert (ended.status, ended.attempts) == (BuildStatus.FAILED, 1)
        assert "must be reached by https" in str(ended.error)
        assert _asked(builds) == []


def _asked(site: BuildSite) -> list[str]:
    return site.world.index.log


def _lock_of(site: BuildSite) -> str:
    """A lock of `beta`, whose wheel is at an address of this machine."""
    filename = "beta-1.0-py3-none-any.whl"
    artifact = Artifact(filename, 10, Digest.of(b"beta"), site.world.index.address(filename))
    target = Target(AMD64, platform.python_version(), Glibc(2, 17))
    return Lock(target, (LockedPackage("beta", "1.0", artifact),), "uv 0.9.0", None).to_pylock()
