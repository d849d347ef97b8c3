"""Real environment files against the public index: what each ought to say, or to find."""

import json
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement as Pep508
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from mlenv.core.platform import GLIBC_FLOOR, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.spec import Origin, Requirement
from mlenv.resolve.failures import NoWheel, ProjectNotFound, ResolutionFailed, VersionConflict
from mlenv.resolve.index_http import HttpFetcher
from mlenv.resolve.interface import Resolution, ResolveRequest
from mlenv.resolve.pip import PipResolver

pytestmark = pytest.mark.online
LINUX = Platform("linux", "amd64")
_SEEDS = (Requirement("pip"), Requirement("setuptools<81"), Requirement("wheel"))
#: The cases whose packages all have wheels, and that are small enough to be asked for often.
_SMALL = (0, 10, 47, 73, 75)
#: The cases that need source, with what they need.
_SOURCE = {
    21: ("fusepy",),
    22: ("idx2numpy",),
    25: ("fusepy",),
    31: ("fusepy",),
    37: ("fusepy", "pyarrow"),
    43: ("secretstorage", "termcolor"),
    58: ("crcmod", "docopt", "hdfs"),
    59: ("fairscale",),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture
def fetcher() -> HttpFetcher:
    found = HttpFetcher()
    return found


def _case(corpus: Path, number: int) -> tuple[dict[str, Any], tuple[Requirement, ...]]:
    """A case, and the lines of its file with their places."""
    rows = map(json.loads, (corpus / "resolve_truth.jsonl").read_text().splitlines())
    case = next(each for each in rows if each["n"] == number)
    path = corpus / case["file"]
    if case["kind"] == "requirements":
        lines = [(text.strip(), line) for line, text in enumerate(path.read_text().splitlines(), 1)]
        lines = [(text, line) for text, line in lines if text and not text.startswith("#")]
    else:
        document = YAML().load(path)
        pip = next(each["pip"] for each in document["dependencies"] if isinstance(each, dict))
        lines = [(text, pip.lc.item(place)[0] + 1) for place, text in enumerate(pip)]
    return case, tuple(Requirement(text, Origin(path.name, line)) for text, line in lines)


class Ask:
    """Resolves a case of the corpus."""

    def __init__(self, corpus: Path, number: int, cache: Path, fetcher: HttpFetcher, workdir: Path) -> None:
        self.case, self.lines = _case(corpus, number)
        self._resolver = PipResolver(cache, fetcher=fetcher, host=LINUX)
        self._workdir = workdir
        self.progress = Silent()

    def resolve(self, *, auto: bool = False) -> Resolution:
        target = Target(LINUX, self.case["python"], GLIBC_FLOOR)
        request = ResolveRequest(self.lines, target, seeds=_SEEDS, allow_source_auto=auto)
        return self._resolver.resolve(request, workdir=self._workdir, progress=self.progress)

    def fail(self) -> ResolutionFailed:
        with pytest.raises(ResolutionFailed) as caught:
            self.resolve()
        assert caught.value.lines, "a line of the user's is to blame"
        assert str(caught.value).startswith(str(caught.value.lines[0])), "and it comes first"
        assert caught.value.detail
        return caught.value


@pytest.mark.parametrize("number", _SMALL)
def test_wheels(corpus: Path, number: int, cache: Path, fetcher: HttpFetcher, tmp_path: Path) -> None:
    ask = Ask(corpus, number, cache, fetcher, tmp_path)
    found = ask.resolve()
    names = {each.name for each in found.packages}
    asked = {canonicalize_name(Pep508(each.text).name) for each in ask.lines}
    assert asked <= names
    assert len(names - {"pip", "setuptools", "wheel"}) >= ask.case["packages"] * 0.8
    assert {each.name for each in found.packages if each.requested} == asked
    assert all(set(each.requires) <= names for each in found.packages)
    assert all(each.artifact.url and each.artifact.size > 0 for each in found.packages)


@pytest.mark.parametrize("number", sorted(_SOURCE))
def test_source_only(corpus: Path, number: int, cache: Path, fetcher: HttpFetcher, tmp_path: Path) -> None:
    failure = Ask(corpus, number, cache, fetcher, tmp_path).fail()
    assert isinstance(failure, NoWheel)
    assert failure.projects == _SOURCE[number]
    assert failure.verified
    assert failure.hint is not None
    assert "--allow-source-auto" in failure.hint
    assert all(name in failure.hint for name in _SOURCE[number])


@pytest.mark.parametrize("number", [23, 32])
def test_a_vendors_own_conflict(corpus: Path, number: int, cache: Path, fetcher: HttpFetcher, tmp_path: Path) -> None:
    failure = Ask(corpus, number, cache, fetcher, tmp_path).fail()
    assert isinstance(failure, VersionConflict)
    assert failure.project == "pyarrow"
    assert failure.verified
    assert failure.hint is not None
    assert failure.hint.startswith("write `azureml-designer-cv-modules==")


def test_a_deprecated_name(corpus: Path, cache: Path, fetcher: HttpFetcher, tmp_path: Path) -> None:
    failure = Ask(corpus, 45, cache, fetcher, tmp_path).fail()
    assert isinstance(failure, ProjectNotFound)
    assert (failure.project, failure.renamed_to) == ("sklearn", "scikit-learn")
    assert failure.hint == "write `scikit-learn` instead (tried: then it resolves)"
    assert str(failure).startswith("conda.yaml:8: sklearn: ")


def test_source_is_built_when_any_may_be(corpus: Path, cache: Path, fetcher: HttpFetcher, tmp_path: Path) -> None:
    ask = Ask(corpus, 22, cache, fetcher, tmp_path)
    found = ask.resolve(auto=True)
    built = [each for each in found.packages if each.built_from is not None]
    assert [each.name for each in built] == ["idx2numpy"]
    assert built[0].artifact.filename.endswith("-none-any.whl")
    assert found.built[built[0].artifact.digest].stat().st_size == built[0].artifact.size
    assert ask.progress.warnings == ["built from source, since there is no wheel: idx2numpy"]
