"""The real readers of locks, unmodified, on locks with conda packages: rattler on its own format and conda-lock's, uv."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.world import make_world
from uv import find_uv_bin

from mlenv.core.conda_exports import lock_text
from mlenv.core.conda_package import CondaPackage, NoArch
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target

CHANNEL = "https://example.org/main"
#: rattler ends its process as it likes, so it has one of its own.
READ = """
import json, os, sys
from pathlib import Path
from rattler import LockFile
from rattler.explicit_environment import ExplicitEnvironmentSpec

path = Path(sys.argv[1])
if path.suffix == ".txt":
    spec = ExplicitEnvironmentSpec.from_path(path)
    found = {"platform": str(spec.platform), "urls": [each.url for each in spec.packages]}
else:
    lock = LockFile.from_path(path)
    environment, platform = lock.default_environment(), lock.platforms()[0]
    found = {
        "platform": str(platform),
        "channels": [str(each) for each in environment.channels()],
        "conda": [
            {
                "name": each.name.normalized,
                "version": str(each.version),
                "build": str(each.build),
                "number": each.build_number,
                "subdir": each.subdir,
                "channel": each.channel,
                "url": str(each.url),
                "sha256": each.sha256.hex(),
                "md5": each.md5.hex(),
                "size": each.size,
                "depends": each.depends,
                "constrains": each.constrains,
                "timestamp": each.timestamp and round(each.timestamp.timestamp() * 1000),
                "license": each.license,
                "site_packages": each.python_site_packages_path,
            }
            for each in environment.conda_repodata_records_for_platform(platform)
        ],
        "pypi": [
            [each.name, str(each.version), each.location, each.hashes.sha256.hex(), each.requires_dist]
            for each in environment.pypi_packages_for_platform(platform) or ()
        ],
    }
print(json.dumps(found), flush=True)
os._exit(0)
"""


def package(name: str, version: str, subdir: str, *depends: str, **more: Any) -> CondaPackage:
    filename = f"{name}-{version}-py311_2.conda"
    url = more.pop("url", f"{CHANNEL}/{subdir}/{filename}")
    artifact = Artifact(filename, 100, Digest.of(name.encode()), url)
    return CondaPackage(name, version, "py311_2", 2, subdir, CHANNEL, artifact, "a" * 32, depends, **more)


def wheel(name: str, *requires: str) -> LockedPackage:
    url = f"https://example.org/{name}-1.0-py3-none-any.whl"
    return LockedPackage(
        name, "1.0", Artifact(f"{name}-1.0-py3-none-any.whl", 5, Digest.of(name.encode()), url), requires
    )


PYTHON: NoArch = "python"
LOCK = Lock(
    Target(Platform("linux", "amd64"), "3.11.4", Glibc(2, 28)),
    (wheel("idna"), wheel("six", "idna")),
    "rattler 0.28.0",
    conda=(
        package(
            "numpy",
            "1!1.26.0",
            "linux-64",
            "python >=3.11,<3.12.0a0",
            "python_abi 3.11.* *_cp311",
            constrains=("numpy-base <0",),
            timestamp=1_700_000_000_123,
            license='BSD: "3", yes',
            requested="numpy=1.26",
        ),
        package("python", "3.11.4", "linux-64", site_packages="lib/python3.11/site-packages"),
        package("pytz", "2024.1", "noarch", "python", noarch=PYTHON),
    ),
)


def read(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", READ, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for name in ("pixi.lock", "conda-lock.yml", "explicit.txt", "pylock.toml"):
        (tmp_path / name).write_text(lock_text(LOCK, name), "utf-8")
    return tmp_path


def expected(each: CondaPackage) -> dict[str, Any]:
    return {
        "name": each.name,
        "version": each.version,
        "build": each.build,
        "number": each.build_number,
        "subdir": each.subdir,
        "channel": f"{each.channel}/",
        "url": each.url,
        "sha256": each.artifact.digest.hex,
        "md5": each.md5,
        "size": each.artifact.size,
        "depends": list(each.depends),
        "constrains": list(each.constrains),
        "timestamp": each.timestamp,
        "license": each.license,
        "site_packages": each.site_packages,
    }


def pypi() -> list[list[Any]]:
    return [
        [each.name, each.version, each.artifact.url, each.artifact.digest.hex, list(each.requires)]
        for each in LOCK.packages
    ]


def test_rattler_reads_its_own_format_whole(written: Path) -> None:
    found = read(written / "pixi.lock")
    assert found["platform"] == "linux-64"
    assert CHANNEL in found["channels"][0]
    assert found["conda"] == [expected(each) for each in LOCK.conda]
    assert found["pypi"] == pypi()


def test_rattler_takes_a_package_from_elsewhere_for_its_channels(tmp_path: Path) -> None:
    url = "https://mirror.example.org/x/pytz-2024.1-py311_2.conda"
    mirrored = package("pytz", "2024.1", "noarch", url=url, noarch=PYTHON)
    (tmp_path / "pixi.lock").write_text(lock_text(Lock(LOCK.target, (), "rattler", conda=(mirrored,)), "pixi.lock"))
    assert read(tmp_path / "pixi.lock")["conda"] == [expected(mirrored)]


def test_rattler_reads_conda_locks_format(written: Path) -> None:
    found = read(written / "conda-lock.yml")
    keys = ("name", "version", "build", "subdir", "channel", "url", "sha256", "md5", "depends")
    assert [{key: each[key] for key in keys} for each in found["conda"]] == [
        {key: value for key, value in expected(each).items() if key in keys} for each in LOCK.conda
    ]
    assert found["pypi"] == pypi()


def test_rattler_reads_an_explicit_list(written: Path) -> None:
    found = read(written / "explicit.txt")
    assert found["platform"] == "linux-64"
    assert sorted(url.partition("#")[0] for url in found["urls"]) == sorted(each.url for each in LOCK.conda)
    assert all(url.endswith(f"#{'a' * 32}") for url in found["urls"])


def test_uv_takes_the_pip_part_of_the_lock(written: Path) -> None:
    command = [find_uv_bin(), "pip", "install", "--dry-run", "--offline", "--no-config", "--target", str(written / "x")]
    command += ["--python", sys.executable, "--python-version", "3.11", "--python-platform", "x86_64-unknown-linux-gnu"]
    result = subprocess.run(
        [*command, "-r", str(written / "pylock.toml")], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert [line.strip() for line in result.stderr.splitlines() if line.startswith(" +")] == [
        "+ idna==1.0",
        "+ six==1.0",
    ]


def test_a_lock_of_pip_packages_alone_is_not_written_as_condas(tmp_path: Path) -> None:
    name = "pixi.lock"
    with make_world(tmp_path) as world:
        world.index.wheel("six", "1.0")
        world.define("train", "six")
        world.ok("environment", "create", "-f", "train.yml")
        refused = world.run("environment", "lock", "train:1", "--to", name)
        assert refused.returncode == 1
        assert "it has no conda packages" in refused.stderr
        assert "hint: write `pylock.toml`" in refused.stderr
        assert not (world.directory / name).exists()
        world.ok("environment", "lock", "train:1", "--to", "pylock.toml")
        assert Lock.from_pylock((world.directory / "pylock.toml").read_text()).package("six")
