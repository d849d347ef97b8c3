"""What public conda files make the solver ask: channels, packages and virtual packages, as channels on loopback see it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from ruamel.yaml import YAML
from support.conda_channel import CondaChannels, serve_channels, shards
from support.conda_packages import Package, make_package

from mlenv.api.conda import parse_conda
from mlenv.api.problems import Findings
from mlenv.core.digest import Digest
from mlenv.core.facts import BaseFacts
from mlenv.core.image import Image
from mlenv.core.locking import LockOptions
from mlenv.core.match_spec import match_specs, parse_match_spec
from mlenv.core.platform import Glibc, Platform
from mlenv.core.spec import CondaFile, Spec
from mlenv.resolve.conda_channels import ChannelTable, addresses
from mlenv.resolve.conda_credentials import ChannelAccess
from mlenv.resolve.conda_process import CondaProcess, Refused
from mlenv.resolve.conda_request import make_plan
from mlenv.resolve.condarc import CondaSettings
from mlenv.service.bases import Base
from mlenv.service.conda_locking import conda_request

_PLATFORM = Platform("linux", "amd64")
_FACTS = BaseFacts(Digest("0" * 64), _PLATFORM, glibc=Glibc(2, 36), cuda="12.4")
_BASE = Base(cast("Image", None), _FACTS)
#: Where conda's own names lead, beside the alias.
_DEFAULTS = "https://repo." + "anaconda" + ".com/pkgs"


@pytest.fixture(scope="module")
def files(corpus: Path) -> dict[str, CondaFile]:
    """The files of the corpus that need conda, by name."""
    found = {}
    index = json.loads((corpus / "index.json").read_text())
    paths = sorted(each["file"] for each in index["files"] if each["kind"] == "conda")
    for path in paths:
        conda = parse_conda((corpus / path).read_text(), path, findings=Findings()).conda
        if conda.needs_conda:
            found[path] = conda
    return found


@pytest.fixture(scope="module")
def process() -> Iterator[CondaProcess]:
    with CondaProcess(timeout=120) as running:
        yield running


@pytest.fixture(scope="module")
def everything(files: dict[str, CondaFile]) -> list[Package]:
    """One package for each name that any file asks for."""
    names = {parse_match_spec(each.text).name for conda in files.values() for each in match_specs(conda)}
    return [make_package(each, "3.0") for each in sorted(names | {"pip"})]


def test_every_public_file_reaches_the_solver_as_conda_would_have_it(
    files: dict[str, CondaFile],
    everything: list[Package],
    process: CondaProcess,
    corpus: Path,
    tmp_path: Path,
) -> None:
    assert len(files) == 128
    with serve_channels(CondaChannels(anything=everything)) as served:
        hosts = {process.alias: "alias", _DEFAULTS: "pkgs"}
        by_shard = {path.removeprefix("shards/"): each.name for each in everything for path in shards("noarch", [each])}
        settings = CondaSettings(
            mirrored_channels={host: (f"{served.url}/{name}",) for host, name in hosts.items()},
        )
        recorded: set[tuple[object, ...]] = set()
        for name, conda in files.items():
            table = ChannelTable(settings, process.alias)
            plan = make_plan(conda_request(Spec(conda=conda), _PLATFORM, _BASE, LockOptions()), table)
            access = ChannelAccess(table, {})
            urls = tuple(addresses(plan.channels))

            document = YAML(typ="safe").load((corpus / name).read_text())
            expected = [process.alias + f"/{each}" for each in document.get("channels") or () if each != "defaults"]
            defaults = [f"{_DEFAULTS}/main", f"{_DEFAULTS}/r"]
            # conda appends `defaults`, and takes it where the file has it.
            listed = document.get("channels") or ()
            at = list(listed).index("defaults") if "defaults" in listed else len(listed)
            named = [each.split("::")[0] for each in _specs(document) if "::" in each]
            behind = [f"{process.alias}/{each}" for each in dict.fromkeys(named) if each not in listed]
            assert list(urls) == [*expected[:at], *defaults, *expected[at:], *behind], name

            specs = [*_specs(document), *(["pip"] if conda.pip and "pip" not in _names(document) else [])]
            assert [each.line.text for each in plan.asked] == specs, name
            assert plan.virtual == (
                ("__unix", "0", "0"),
                ("__linux", "5.10", "0"),
                ("__glibc", "2.36", "0"),
                ("__archspec", "1", "x86_64"),
                ("__cuda", "12.4", "0"),
            )
            # Many files ask for the same packages of the same channels: these see no difference.
            question = (urls, *sorted({each.spec.name for each in plan.asked}))
            if question in recorded:
                continue
            recorded.add(question)
            served.log.clear()
            process.ask(
                "open",
                cache=str(tmp_path / str(len(recorded))),
                offline=False,
                sharded=True,
                timeout=30,
                retries=0,
                mirrors=access.mirrors(urls),
                headers=[],
            )
            # Versions are not what this is about: most have no solution where everything has version 3.0.
            kind = "SolverError"
            try:
                plan.solve(process)
            except Refused as refused:
                kind = refused.kind
            assert kind == "SolverError", name
            seen = {each.path.split("/shards/")[0].rsplit("/repodata", 1)[0] for each in served.log}
            mirrored = [each.replace(process.alias, "/alias").replace(_DEFAULTS, "/pkgs") for each in urls]
            assert seen == {f"{each}/{subdir}" for each in mirrored for subdir in ("linux-64", "noarch")}, name
            # Every name that is asked for is looked up, and Python's pip, and nothing else.
            asked = _names(document) | ({"pip"} if "python" in _names(document) or conda.pip else set())
            assert _looked_up(served, by_shard) == asked, name


def test_the_solver_reads_every_spec_of_the_corpus(files: dict[str, CondaFile], process: CondaProcess) -> None:
    for name, conda in files.items():
        plan = make_plan(
            conda_request(Spec(conda=conda), _PLATFORM, None, LockOptions()),
            ChannelTable(CondaSettings(), process.alias),
        )
        spelled = process.ask("spell", specs=[each.text for each in plan.asked])["specs"]
        assert [each.rpartition("::")[2].split("[")[0].split(" ")[0] for each in spelled] == [
            each.spec.name for each in plan.asked
        ], name


def _specs(document: dict[str, list[object]]) -> list[str]:
    return [each.strip() for each in document["dependencies"] if isinstance(each, str)]


def _names(document: dict[str, list[object]]) -> set[str]:
    return {parse_match_spec(each).name for each in _specs(document)}


def _looked_up(served: CondaChannels, names: dict[str, str]) -> set[str]:
    """The names whose shards were fetched."""
    return {names[each.path.rsplit("/", 1)[1]] for each in served.log if "/shards/" in each.path}


def test_the_mirrors_of_the_test_hide_no_host(files: dict[str, CondaFile]) -> None:
    words = {each for conda in files.values() for each in json.loads(conda.document).get("channels") or ()}
    assert words
    assert not [each for each in words if "://" in each]
