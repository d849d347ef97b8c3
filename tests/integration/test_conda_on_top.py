"""pip's part on top of conda's: real uv, with what real conda packages hold counted as installed."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from msgspec.structs import replace
from support.conda_packages import Package, make_package, python_package
from support.index import PackageIndex, serve

from mlenv.core.conda_archive import InvalidCondaArchive
from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.spec import Index, Origin, Requirement, Sources
from mlenv.resolve.conda_pip import (
    CondaClash,
    Distribution,
    may_provide,
    provided_distributions,
    read_distributions,
    resolve_on_top,
)
from mlenv.resolve.failures import ProjectNotFound
from mlenv.resolve.index_http import HttpFetcher
from mlenv.resolve.interface import Resolution, ResolveRequest
from mlenv.resolve.pip import PipResolver

_LINUX = Platform("linux", "amd64")
_TARGET = Target(_LINUX, "3.11.2", Glibc(2, 36))


def _locked(package: Package, requested: str | None = None) -> CondaPackage:
    url = f"http://127.0.0.1/main/{package.subdir}/{package.filename}"
    artifact = Artifact(package.filename, len(package.data), Digest.of(package.data), url)
    return CondaPackage(
        package.name,
        package.record["version"],
        "0",
        0,
        package.subdir,
        "http://127.0.0.1/main",
        artifact,
        depends=tuple(package.record["depends"]),
        noarch=package.record.get("noarch"),
        requested=requested,
    )


def _egg(name: str, version: str) -> dict[str, bytes]:
    path = f"lib/python3.11/site-packages/{name}-{version}-py3.11.egg-info/PKG-INFO"
    return {path: f"Metadata-Version: 1.1\nName: {name}\nVersion: {version}\n".encode()}


class Together:
    """conda's solution, and pip on top of it."""

    def __init__(self, index: PackageIndex, directory: Path) -> None:
        self.index, self.directory = index, directory
        self.offered = {
            "numpy": python_package("numpy", "1.26.0"),
            "scipy": python_package("scipy", "1.11", depends=("python", "numpy >=1.22,<2")),
            "py-boost": python_package("py-boost", "2.0", requires=["numpy", "extra-lib ; extra == 'all'"]),
            "old": make_package(
                "old", subdir="linux-64", depends=["python_abi"], files=_egg("Old_Name", "0.5"), ending="tar.bz2"
            ),
            "libz": make_package("libz", subdir="linux-64"),
        }
        asked = {"scipy": "scipy", "py-boost": "py-boost=2.0", "old": "old"}
        self.solution = tuple(_locked(each, asked.get(name)) for name, each in sorted(self.offered.items()))
        self.specs = tuple(
            Requirement(text, Origin("conda.yml", 3 + at)) for at, text in enumerate(("scipy", "py-boost=2.0", "old"))
        )
        self.opened: list[str] = []
        self._count = 0

    @contextmanager
    def open(self, package: CondaPackage) -> Iterator[BinaryIO]:
        self.opened.append(package.name)
        yield io.BytesIO(self.offered[package.name].data)

    def distributions(self) -> tuple[Distribution, ...]:
        return provided_distributions(self.solution, self.open)

    def resolve(self, *lines: str, **more: Any) -> Resolution:
        self._count += 1
        workdir = self.directory / f"work-{self._count}"
        workdir.mkdir()
        fetcher = HttpFetcher(pause=lambda _: None)
        asked = tuple(Requirement(text, Origin("conda.yml", 9 + at)) for at, text in enumerate(lines))
        request = ResolveRequest(asked, _TARGET, sources=Sources(default=Index(self.index.simple, "main")))
        return resolve_on_top(
            PipResolver(self.directory / "cache", fetcher=fetcher, host=_LINUX),
            replace(request, **more),
            self.solution,
            self.distributions(),
            self.specs,
            workdir=workdir,
            progress=Silent(),
        )


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    with serve() as index, pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("together")
        patch.setenv("NETRC", str(directory / "netrc"))
        patch.setenv("UV_HTTP_RETRIES", "0")
        for version in ("1.25.0", "1.26.0", "2.1.0"):
            index.wheel("numpy", version)
        index.wheel("uses-numpy", "1.0", requires=["numpy>=1.20"])
        index.wheel("needs-new", "1.0", requires=["numpy>=2"])
        index.wheel("through", "1.0", requires=["needs-new"])
        index.wheel("extra-lib", "3.0")
        index.wheel("wants-all", "1.0", requires=["py-boost[all]"])
        index.wheel("old-name", "0.9")
        yield Together(index, directory)


def test_finds_the_distributions_of_packages(together: Together) -> None:
    together.opened.clear()
    found = together.distributions()
    assert [(each.name, each.version, each.package.name) for each in found] == [
        ("numpy", "1.26.0", "numpy"),
        ("old-name", "0.5", "old"),
        ("py-boost", "2.0", "py-boost"),
        ("scipy", "1.11", "scipy"),
    ]
    assert found[2].fields == (("Requires-Dist", "numpy"), ("Requires-Dist", "extra-lib ; extra == 'all'"))
    # What has nothing to do with Python is not even opened.
    assert "libz" not in together.opened
    assert not may_provide(_locked(together.offered["libz"]))


def test_what_conda_has_is_not_installed_twice(together: Together) -> None:
    found = together.resolve("uses-numpy", "numpy==1.26.0", "old-name")
    assert [each.name for each in found.packages] == ["uses-numpy"]
    assert together.resolve("scipy", "numpy").packages == ()


def test_an_extra_of_what_conda_has_brings_what_conda_lacks(together: Together) -> None:
    found = together.resolve("wants-all")
    assert [each.name for each in found.packages] == ["extra-lib", "wants-all"]


def test_what_mlenv_adds_gives_way_to_what_conda_has(together: Together) -> None:
    found = together.resolve("uses-numpy", seeds=(Requirement("numpy<1.26"), Requirement("extra-lib")))
    assert [each.name for each in found.packages] == ["extra-lib", "uses-numpy"]


@pytest.mark.parametrize(
    ("line", "needs"),
    [
        ("numpy==1.25.0", ()),
        ("needs-new", ("numpy>=2",)),
        ("through", ("needs-new", "numpy>=2")),
    ],
)
def test_a_clash_is_told_with_both_chains(together: Together, line: str, needs: tuple[str, ...]) -> None:
    with pytest.raises(CondaClash) as caught:
        together.resolve(line, "extra-lib")
    clash = caught.value
    asks = f"needs {' → '.join(needs)}, but " if needs else ""
    given = "conda gives numpy 1.26.0, by scipy → numpy >=1.22,<2 (conda.yml:3: scipy)"
    assert str(clash) == f"conda.yml:9: {line}: {asks}{given}"
    assert clash.chain == (line, *needs, "scipy", "numpy >=1.22,<2")
    assert (clash.project, clash.package.name) == ("numpy", "numpy")
    assert clash.conda_chain == ("scipy", "numpy >=1.22,<2")
    assert [str(each) for each in clash.lines] == [f"conda.yml:9: {line}", "conda.yml:3: scipy"]
    assert clash.hint is not None
    assert "ask conda for `numpy=" in clash.hint


def test_what_fails_without_conda_too_is_not_its_fault(together: Together) -> None:
    with pytest.raises(ProjectNotFound) as caught:
        together.resolve("nothing-of-this-name", "numpy")
    assert not isinstance(caught.value, CondaClash)


def test_a_hostile_package_is_refused(together: Together) -> None:
    package = together.offered["numpy"]
    with pytest.raises(InvalidCondaArchive):
        read_distributions(_locked(package), io.BytesIO(package.data[:300]))

    spoiled = python_package("numpy", "1.26.0", tamper=lambda parts: parts.paths.update(paths=[{"_path": 7}]))
    with pytest.raises(InvalidCondaArchive, match="no list of paths"):
        read_distributions(_locked(spoiled), io.BytesIO(spoiled.data))

    injected = python_package(
        "numpy", "1.0", files={"site-packages/numpy-1.0.dist-info/METADATA": b"Name: a b\nVersion: 1\n"}
    )
    assert read_distributions(_locked(injected), io.BytesIO(injected.data)) == ()
