"""
Match specs of real, public conda files: they reach the solver as conda itself means them.

`tests/data/conda_match_specs.json` was made by conda 24.7.1's own `MatchSpec` from every spec of these files: the text,
and the name, version, build and channel that conda reads.
"""

import json
import subprocess
import sys
from pathlib import Path

from mlenv.api.conda import parse_conda
from mlenv.api.problems import Findings
from mlenv.core.match_spec import MatchSpec, match_specs, parse_match_spec, to_rattler
from mlenv.core.match_version import normalise_version

ROOT = Path(__file__).parents[2]
CORPUS = ROOT.parent / "shared/corpus/conda"
VERDICTS: list[list[str | None]] = json.loads((ROOT / "tests/data/conda_match_specs.json").read_text())
#: rattler ends its process as it likes, so it has one of its own. What it makes of each text, or why it refuses it.
READ = """
import json, os, sys
from rattler import MatchSpec
found = []
for text in json.load(sys.stdin):
    spec = MatchSpec(text)
    found.append([str(spec.name.normalized), spec.version, spec.build, spec.channel.base_url if spec.channel else None])
json.dump(found, sys.stdout)
sys.stdout.flush()
os._exit(0)
"""


def test_every_spec_is_read_as_conda_reads_it() -> None:
    assert len(VERDICTS) > 250
    for text, name, version, build, channel in VERDICTS:
        assert text is not None
        wanted = None if version is None else normalise_version(version)
        spec = parse_match_spec(text)
        assert (spec.name, spec.version, spec.build, spec.channel) == (name, wanted, build, channel), text


def test_every_spec_of_every_file_is_known_to_conda() -> None:
    known = {text for text, *_ in VERDICTS}
    files = sorted(path for path in CORPUS.rglob("*") if path.is_file())
    found: set[str] = set()
    for path in files:
        findings = Findings()
        conda = parse_conda(path.read_text("utf-8"), str(path), findings=findings, read=lambda *_, **__: "").conda
        specs = match_specs(conda)
        assert not [each for each in findings.problems if "not a conda package" in str(each)]
        assert {each.text for each in conda.packages} <= {each.text for each in specs}
        found |= {each.text for each in specs}
    assert len(files) == 240
    assert found == known


def test_rattler_means_the_same() -> None:
    specs: list[MatchSpec] = [parse_match_spec(text) for text, *_ in VERDICTS if text is not None]
    specs += [parse_match_spec(text) for text in ("a>1.*", "a=1.2|1.3", "a[version='(1|2),<3']", "a=1.0-1", "a!=1.2.*")]
    texts = [to_rattler(each, f"https://example.org/{each.channel}" if each.channel else None) for each in specs]
    result = subprocess.run(
        [sys.executable, "-c", READ], input=json.dumps(texts), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    for spec, (name, version, build, channel) in zip(specs, json.loads(result.stdout), strict=True):
        assert (name, build) == (spec.name, spec.build)
        assert channel == (f"https://example.org/{spec.channel}/" if spec.channel else None)
        if version is None:
            assert spec.version is None
        else:
            assert _plain(normalise_version(version)) == _plain(spec.version or "*"), spec.text


def _plain(version: str) -> str:
    """rattler writes numbers without leading zeros, and a dash as it came."""
    return ".".join(part.lstrip("0") or part for part in version.replace("-", "_").split("."))
