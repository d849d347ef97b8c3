"""Locks over HTTP: made by the server, brought by a client, and the wheels that only the server has."""

import platform
from collections.abc import Iterator

import httpx
import pytest
from msgspec.structs import replace
from support.builds import services_of
from support.conda_locked import conda_lock, keep_lock, locked
from support.conda_packages import interpreter, make_package
from support.index import PackageIndex, serve
from support.server import InProcess, in_process

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target

BASE = "/api/v1/workspaces/default"
MINOR = ".".join(platform.python_version_tuple()[:2])
LINUX = Platform("linux", "amd64")
TOML = {"Content-Type": "application/toml"}
_BACKEND = """
import os, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    content = {
        "fuse.py": "VALUE = 7",
        "fuse-3.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: fuse\\nVersion: 3.0\\n",
        "fuse-3.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "fuse-3.0.dist-info/RECORD": "fuse.py,,\\n",
    }
    with zipfile.ZipFile(os.path.join(directory, "fuse-3.0-py3-none-any.whl"), "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return "fuse-3.0-py3-none-any.whl"
"""
_PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, index: PackageIndex) -> Iterator[InProcess]:
    # The index runs first, and so is among those that the site uses.
    with in_process(tmp_path_factory.mktemp("site"), source_builds=True) as found:
        assert found.client.post("/api/v1/workspaces", json={"name": "apart"}).status_code == 201
        yield found


@pytest.fixture(scope="module")
def index() -> Iterator[PackageIndex]:
    with serve() as found:
        found.wheel("pip", "25.0")
        found.wheel("alpha", "1.5")
        found.source("fuse", "3.0", files={"pyproject.toml": _PROJECT, "backend.py": _BACKEND})
        yield found


def create(
    api: InProcess, name: str, *lines: str, index: PackageIndex | None = None, base: str = BASE, **spec: object
) -> str:
    """The address of a version's Linux lock."""
    sources = {"sources": {"default": {"url": index.simple}}} if index else {}
    document = {"python": MINOR, "requirements": [{"text": each} for each in lines], **sources, **spec}
    answer = api.client.post(f"{base}/environments", json={"name": name, "spec": document})
    assert answer.status_code == 201, answer.text
    return f"{answer.headers['location']}/locks/linux/amd64"


def package(name: str, version: str, url: str | None = "https://example.org/x.whl") -> LockedPackage:
    filename = f"{name}-{version}-py3-none-any.whl"
    return LockedPackage(name, version, Artifact(filename, 10, Digest.of(name.encode()), url))


def lock(*packages: LockedPackage, target: Target | None = None, base: Digest | None = None) -> Lock:
    target = target or Target(LINUX, f"{MINOR}.1", Glibc(2, 28))
    return Lock(target, tuple(sorted(packages, key=lambda each: each.name)), "uv 0.9.0", base)


def test_the_server_makes_a_lock_once(api: InProcess, index: PackageIndex) -> None:
    address = create(api, "made", "alpha", index=index)
    missing = api.client.get(address)
    assert (missing.status_code, missing.json()["code"]) == (404, "LockNotMade")
    made = api.client.post(address)
    assert made.status_code == 200, made.text
    assert made.headers["content-type"].startswith("application/toml")
    read = Lock.from_pylock(made.text)
    assert [each.name for each in read.packages] == ["alpha", "pip"]
    asked = len(index.log)
    again = api.client.post(address, json={})
    shown = api.client.get(address)
    assert made.content == again.content == shown.content
    assert len(index.log) == asked
    assert shown.headers["etag"] == f'"{read.digest}"'
    assert api.client.get(address, headers={"If-None-Match": shown.headers["etag"]}).status_code == 304
    differs = api.client.post(address, json={"as_of": "2026-01-01T00:00:00Z"})
    assert (differs.status_code, differs.json()["code"]) == (409, "LockDiffers")


def test_what_can_not_be_solved_is_the_users_to_solve(api: InProcess, index: PackageIndex) -> None:
    address = create(api, "unsolvable", "alpha==9", index=index)
    answer = api.client.post(address)
    assert 400 <= answer.status_code < 500, answer.text
    assert "alpha==9" in answer.json()["detail"]


def test_a_lock_of_conda_packages_is_handed_out_to_the_byte(api: InProcess) -> None:
    address = create(api, "tools", "alpha")
    conda = conda_lock(locked(interpreter()), locked(make_package("zlib")), wheels=(package("alpha", "1.5"),))
    services = services_of(api.hosted)
    keep_lock(services, "tools", conda)
    answer = api.client.get(address)
    assert answer.status_code == 200, answer.text
    assert Lock.from_pylock(answer.text) == conda
    assert answer.headers["etag"] == f'"{conda.digest}"'
    brought = api.client.put(create(api, "no-tools", "alpha"), content=answer.text, headers=TOML)
    assert (brought.status_code, brought.json()["code"]) == (400, "ForeignLock")
    assert "it has conda packages, and the spec asks for none" in brought.json()["detail"]


def test_a_lock_that_a_client_made_is_taken_in_once(api: InProcess) -> None:
    address = create(api, "brought", "alpha>=1", "beta; sys_platform == 'win32'")
    good = lock(package("alpha", "1.5"), package("gamma", "2.0"))
    first = api.client.put(address, content=good.to_pylock(), headers=TOML)
    assert first.status_code == 201, first.text
    assert first.text == good.to_pylock()
    assert api.client.put(address, content=good.to_pylock(), headers=TOML).status_code == 200
    other = api.client.put(address, content=lock(package("alpha", "1.6")).to_pylock(), headers=TOML)
    assert (other.status_code, other.json()["code"]) == (409, "OtherLock")
    assert api.client.get(address).text == good.to_pylock()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lock(), "it has no alpha"),
        (lock(package("alpha", "0.9")), "the spec asks for alpha>=1"),
        (lock(package("alpha", "1.5"), target=Target(Platform("linux", "arm64"), f"{MINOR}.1", Glibc(2, 28))), "arm64"),
        (lock(package("alpha", "1.5"), target=Target(LINUX, "3.7.1", Glibc(2, 28))), "Python 3.7.1"),
        (lock(package("alpha", "1.5"), target=Target(LINUX, f"{MINOR}.1")), "it names no glibc"),
        (lock(package("alpha", "1.5"), base=Digest.of(b"base")), "the spec has none"),
        (lock(package("alpha", "1.5", None)), "was built where the lock was made"),
        (lock(package("alpha", "1.5", "file:///etc/passwd")), "everybody can fetch"),
        (lock(package("alpha", "1.5", "https://u:secret@example.org/x")), "everybody can fetch"),
        (
            lock(
                LockedPackage("alpha", "1.5", Artifact("beta-1.5-py3-none-any.whl", 1, Digest.of(b""), "https://e.org"))
            ),
            "a wheel of something else",
        ),
        (
            lock(LockedPackage("alpha", "1.5", Artifact("alpha.zip", 1, Digest.of(b""), "https://e.org"))),
            "no wheel's name",
        ),
        (lock(LockedPackage("Alpha", "1.5", package("alpha", "1.5").artifact)), "not a normalised name"),
    ],
)
def test_a_lock_of_something_else_is_refused(api: InProcess, bad: Lock, why: str) -> None:
    address = create(api, f"foreign-{bad.digest.hex[:16]}", "alpha>=1")
    answer = api.client.put(address, content=bad.to_pylock(), headers=TOML)
    assert (answer.status_code, answer.json()["code"]) == (400, "ForeignLock")
    assert why in answer.json()["detail"]
    assert "secret" not in answer.text
    assert api.client.get(address).status_code == 404


def test_a_lock_of_files_that_the_spec_does_not_list_is_refused(api: InProcess) -> None:
    good = lock(package("alpha", "1.5"))
    line = {"text": "alpha>=1", "hashes": [str(good.packages[0].artifact.digest)]}
    address = create(api, "listed", requirements=[line])
    bad = replace(good.packages[0], artifact=replace(good.packages[0].artifact, digest=Digest.of(b"other")))
    answer = api.client.put(address, content=lock(bad).to_pylock(), headers=TOML)
    assert (answer.status_code, answer.json()["code"]) == (400, "ForeignLock")
    assert "has none of the hashes that the spec lists behind alpha>=1" in answer.json()["detail"]
    assert api.client.put(address, content=good.to_pylock(), headers=TOML).status_code == 201


@pytest.mark.parametrize(
    "text", ["", "x = [", "lock-version = '1.0'", "# a comment\n" + lock(package("alpha", "1.5")).to_pylock()]
)
def test_text_that_is_no_lock_is_refused(api: InProcess, text: str) -> None:
    address = create(api, f"text-{Digest.of(text.encode()).hex[:16]}", "alpha>=1")
    answer = api.client.put(address, content=text, headers=TOML)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidLock")


def test_the_description_says_that_a_lock_may_be_at_hand_already(api: InProcess) -> None:
    paths = api.client.get("/api/v1/openapi.json").json()["paths"]
    found = [each["get"] for path, each in paths.items() if "/locks/" in path]
    assert found
    assert all("304" in each["responses"] for each in found)


def test_a_lock_of_another_type_or_size_or_place_is_refused(api: InProcess) -> None:
    address = create(api, "sizes", "alpha>=1")
    text = lock(package("alpha", "1.5")).to_pylock()
    assert api.client.put(address, content=text, headers={"Content-Type": "application/json"}).status_code == 415
    assert api.client.put(address, content=b"\xff", headers=TOML).status_code == 400
    assert api.client.put(address.replace("amd64", "mips"), content=text, headers=TOML).status_code == 400
    assert api.client.put(address.replace("/1/", "/9/"), content=text, headers=TOML).status_code == 404
    assert api.client.post(address, json={"bytecode": 1}).status_code == 400


def test_only_a_wheel_that_was_built_for_a_lock_of_the_namespace_is_handed_out(
    api: InProcess, index: PackageIndex
) -> None:
    address = create(api, "built", "fuse", index=index, allow_source=["fuse"])
    made = Lock.from_pylock(api.client.post(address).text)
    wheel = made.package("fuse")
    assert wheel is not None
    assert wheel.artifact.url is None
    digest = wheel.artifact.digest
    whole = api.client.get(f"{BASE}/blobs/{digest}")
    assert whole.status_code == 200
    assert Digest.of(whole.content) == digest
    part = api.client.get(f"{BASE}/blobs/{digest}", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert api.client.get(f"{BASE}/blobs/{digest}", headers={"Range": "bytes=99999999-"}).status_code == 416
    # The bytes are in the store that all namespaces share; who has no such lock can't have them.
    elsewhere: httpx.Response = api.client.get(f"/api/v1/workspaces/apart/blobs/{digest}")
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "WheelNotHere")
    # Neither can the lock itself be had this way, nor a lock be brought that names the wheel as its own.
    assert api.client.get(f"{BASE}/blobs/{made.digest}").status_code == 404
    thief = create(api, "thief", "fuse", base="/api/v1/workspaces/apart")
    stolen = lock(LockedPackage("fuse", "3.0", wheel.artifact))
    answer = api.client.put(thief, content=stolen.to_pylock(), headers=TOML)
    assert answer.json()["code"] == "ForeignLock"
