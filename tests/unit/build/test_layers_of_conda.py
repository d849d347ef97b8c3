"""Layers of conda packages: what is in them, that they are always the same, and what they are known by."""

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec import structs
from support.blobs import DirectoryBlobs, LayerMemory
from support.conda_locked import stored
from support.conda_packages import (
    PLACEHOLDER,
    Ending,
    File,
    Link,
    Parts,
    interpreter,
    make_package,
    program_package,
    python_package,
)

from mlenv.build.conda_layers import (
    build_conda_layer,
    build_conda_layers,
    conda_environment_layer,
    list_conda_packages,
)
from mlenv.build.conflicts import compare
from mlenv.core.conda_archive import InvalidCondaArchive
from mlenv.core.conda_layer import CondaLayerPlan, CondaRecipe, plan_conda_layers
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaScheme
from mlenv.core.digest import Digest
from mlenv.core.layer import MTIME, Compression, Layer

_SCHEME = CondaScheme("/opt/env", "3.11", "lib/python3.11/site-packages")
_RECIPE = CondaRecipe(_SCHEME)
_BUILT = 1_700_000_000
_NOISE = random.Random(1).randbytes(1_200_000)
_LONG = "long/" * 30 + "name-ü"


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path / "blobs")


def _plan(*packages: CondaPackage) -> CondaLayerPlan:
    return CondaLayerPlan("some", packages)


def _layer(blobs: DirectoryBlobs, *packages: CondaPackage, recipe: CondaRecipe = _RECIPE) -> Layer:
    return build_conda_layer(_plan(*packages), recipe, blobs=blobs)[0]


def _members(blobs: DirectoryBlobs, layer: Layer) -> tuple[list[tarfile.TarInfo], dict[str, bytes]]:
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(blobs.read(layer.digest))
    assert Digest.of(plain) == layer.diff_id
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
        contents = {each.name: tar.extractfile(each).read() for each in members if each.isreg() or each.islnk()}  # type: ignore[union-attr]
    return members, contents


def _record(contents: dict[str, bytes], stem: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(contents[f"opt/env/conda-meta/{stem}.json"])
    return document


@pytest.mark.parametrize("ending", ["conda", "tar.bz2"])
def test_a_layer_holds_the_files_of_its_package(blobs: DirectoryBlobs, ending: Ending) -> None:
    files: dict[str, bytes | File | Link] = {
        "lib/libx.so.1": File(b"\x7fELF" + PLACEHOLDER.encode() + b"/lib\0end\0" * 2, 0o775, "binary"),
        "lib/libx.so": Link("libx.so.1"),
        "share/a.txt": File(f"here: {PLACEHOLDER}/share\n".encode(), 0o664, "text"),
        f"share/{_LONG}": b"x" * 3000,
        "share/empty": b"",
        "share/far": Link("../" + _LONG),
    }
    package = stored(blobs, make_package("x", subdir="linux-64", files=files, ending=ending, post_link="exit 1\n"))
    layer, warnings = build_conda_layer(_plan(package), _RECIPE, blobs=blobs)
    assert warnings == ["x has bin/.x-post-link.sh: not run"]
    members, contents = _members(blobs, layer)
    by_name = {each.name: each for each in members}
    assert contents["opt/env/share/a.txt"] == b"here: /opt/env/share\n"
    binary = contents["opt/env/lib/libx.so.1"]
    assert binary.startswith(b"\x7fELF/opt/env/lib\0\0")
    assert len(binary) == len(PLACEHOLDER) + 4 + 18
    assert binary.endswith(b"end\0\0lib\0end\0"[-5:])
    assert contents[f"opt/env/share/{_LONG}"] == b"x" * 3000
    assert by_name["opt/env/lib/libx.so"].linkname == "libx.so.1"
    assert by_name["opt/env/share/far"].linkname == "../" + _LONG
    seen: set[str] = set()
    for each in members:
        assert "/" not in each.name or each.name.rpartition("/")[0] in seen
        assert (each.uid, each.gid, each.uname, each.gname) == (0, 0, "", "")
        made = each.isdir() or "conda-meta" in each.name
        assert each.mtime == (MTIME if made else _BUILT), each.name
        runs = each.isdir() or each.name.endswith((".sh", ".so.1"))
        assert each.issym() or each.mode == (0o755 if runs else 0o644), each.name
        seen.add(each.name)
    assert len(seen) == len(members)


def test_the_record_is_what_conda_reads(blobs: DirectoryBlobs) -> None:
    text = File(f"here: {PLACEHOLDER}\n".encode(), 0o644, "text")
    made = make_package(
        "x", subdir="linux-64", depends=["y >=1"], constrains=["z <2"], files={"a": text, "b": Link("a")}
    )
    package = stored(blobs, made, requested="x >=1")
    _, contents = _members(blobs, _layer(blobs, package))
    record = _record(contents, "x-1.0-0")
    assert record["url"] == f"https://conda.example.org/main/linux-64/{made.filename}"
    assert record["channel"] == "https://conda.example.org/main/linux-64"
    assert record["fn"] == made.filename
    for key in ("name", "version", "build", "build_number", "subdir", "sha256", "md5", "size", "depends", "constrains"):
        assert record[key] == made.record[key], key
    assert (record["license"], record["timestamp"]) == ("MIT", 1_700_000_000_000)
    assert record["files"] == ["a", "b"]
    assert record["paths_data"]["paths"] == [
        {
            "_path": "a",
            "file_mode": "text",
            "path_type": "hardlink",
            "prefix_placeholder": PLACEHOLDER,
            "sha256": hashlib.sha256(text.data).hexdigest(),
            "sha256_in_prefix": hashlib.sha256(b"here: /opt/env\n").hexdigest(),
            "size_in_bytes": len(text.data),
        },
        {
            "_path": "b",
            "path_type": "softlink",
            "sha256": hashlib.sha256(b"").hexdigest(),
            "sha256_in_prefix": hashlib.sha256(b"a").hexdigest(),
            "size_in_bytes": 0,
        },
    ]
    # What depends on the environment or on the machine is not in a layer that others share.
    assert (record["requested_specs"], record["link"], record["extracted_package_dir"]) == (
        [],
        {"source": "", "type": 1},
        "",
    )


def test_python_packages_for_any_platform_are_laid_out(blobs: DirectoryBlobs) -> None:
    made = python_package(
        "tool", entry_points=["tool = tool:main", "tool.sub=tool:Main.run"], files={"python-scripts/old": File(b"#!x\n", 0o755)}
    )  # fmt: skip
    members, contents = _members(blobs, _layer(blobs, stored(blobs, made)))
    assert contents["opt/env/lib/python3.11/site-packages/tool/__init__.py"].startswith(b"VERSION")
    assert contents["opt/env/bin/old"] == b"#!x\n"
    assert contents["opt/env/bin/tool.sub"].decode() == (
        "#!/opt/env/bin/python3.11\n# -*- coding: utf-8 -*-\nimport re\nimport sys\n\nfrom tool import Main\n\n"
        "if __name__ == '__main__':\n    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n"
        "    sys.exit(Main.run())\n"
    )
    assert next(each for each in members if each.name == "opt/env/bin/tool").mode == 0o755
    paths = {each["_path"]: each for each in _record(contents, "tool-1.0-0")["paths_data"]["paths"]}
    assert paths["bin/tool"]["path_type"] == "unix_python_entry_point"
    assert "lib/python3.11/site-packages/tool/__init__.py" in paths
    other = CondaRecipe(CondaScheme("/opt/env", "3.13", "lib/python3.13t/site-packages"))
    _, contents = _members(blobs, _layer(blobs, stored(blobs, made), recipe=other))
    assert "opt/env/lib/python3.13t/site-packages/tool/__init__.py" in contents
    with pytest.raises(InvalidCondaArchive, match="the lock has no Python"):
        _layer(blobs, stored(blobs, made), recipe=CondaRecipe(CondaScheme("/opt/env")))


def test_the_scheme_is_that_of_the_locked_python(blobs: DirectoryBlobs) -> None:
    python = stored(blobs, interpreter("3.11.2"))
    assert CondaScheme.of([python], "/p") == CondaScheme("/p", "3.11", "lib/python3.11/site-packages")
    free = structs.replace(python, site_packages="lib/python3.11t/site-packages")
    assert CondaScheme.of([free], "/p").site_packages == "lib/python3.11t/site-packages"
    assert CondaScheme.of([stored(blobs, make_package("x"))], "/p") == CondaScheme("/p")


def test_hard_links_stay_hard_links(blobs: DirectoryBlobs) -> None:
    def link(parts: Parts) -> None:
        info, _ = parts.content[1]
        info.type, info.linkname, info.size = tarfile.LNKTYPE, "bin/a", 0
        parts.content[1] = info, b""

    script = File(f"#!{PLACEHOLDER}/bin/sh\n".encode(), 0o755, "text")
    package = stored(blobs, make_package("x", files={"bin/a": script, "bin/b": script}, tamper=link))
    members, contents = _members(blobs, _layer(blobs, package))
    by_name = {each.name: each for each in members}
    assert by_name["opt/env/bin/b"].islnk()
    assert by_name["opt/env/bin/b"].linkname == "opt/env/bin/a"
    assert contents["opt/env/bin/b"] == b"#!/opt/env/bin/sh\n"
    record = {each["_path"]: each for each in _record(contents, "x-1.0-0")["paths_data"]["paths"]}
    assert record["bin/a"]["sha256_in_prefix"] == record["bin/b"]["sha256_in_prefix"]


def test_layers_are_made_once_and_alike(tmp_path: Path, blobs: DirectoryBlobs) -> None:
    made = [
        program_package(),
        python_package("tool"),
        interpreter(),
        make_package("big", files={"x": _NOISE}),
    ]
    made += [make_package(f"n{number}") for number in range(20)]
    packages = [stored(blobs, each) for each in made]
    plans = plan_conda_layers(packages)
    assert plans == plan_conda_layers(reversed(packages))
    assert plans[0].title == "big"
    assert 2 < len(plans) <= 6
    cache = LayerMemory()
    layers = build_conda_layers(plans, _RECIPE, blobs=blobs, cache=cache)
    before = dict(cache)
    assert build_conda_layers(plans, _RECIPE, blobs=blobs, cache=cache) == layers
    assert dict(cache) == before
    others = DirectoryBlobs(tmp_path / "others")
    for each in made:
        stored(others, each)
    assert build_conda_layers(plans, _RECIPE, blobs=others, cache=LayerMemory()) == layers
    changed = plan_conda_layers([*packages[:-1], stored(blobs, make_package("n19", "1.1"))])
    again = build_conda_layers(changed, _RECIPE, blobs=blobs, cache=cache)
    assert sum(one != other for one, other in zip(layers, again, strict=True)) == 1


def test_what_decides_the_bytes_is_in_the_key(blobs: DirectoryBlobs) -> None:
    package = stored(blobs, make_package("x"))
    plan, other_python = _plan(package), CondaRecipe(CondaScheme("/opt/env", "3.12", "lib/python3.12/site-packages"))
    assert plan.key(_RECIPE) == plan.key(other_python)
    tool = _plan(stored(blobs, python_package("tool")))
    assert tool.key(_RECIPE) != tool.key(other_python)
    keys = {
        plan.key(_RECIPE),
        plan.key(CondaRecipe(_SCHEME, Compression.GZIP)),
        plan.key(CondaRecipe(CondaScheme("/other"))),
        _plan(structs.replace(package, depends=("y",))).key(_RECIPE),
        _plan(structs.replace(package, license="GPL")).key(_RECIPE),
    }
    assert len(keys) == 5
    assert _plan(structs.replace(package, requested="x")).key(_RECIPE) == plan.key(_RECIPE)


def test_many_heavy_packages_share_layers(blobs: DirectoryBlobs) -> None:
    package = stored(blobs, make_package("x"))
    heavy = structs.replace(package.artifact, size=5_000_000)

    def named(number: int) -> CondaPackage:
        artifact = structs.replace(heavy, filename=f"x{number}-1.0-0.conda")
        return structs.replace(package, name=f"x{number}", artifact=artifact)

    assert len(plan_conda_layers(map(named, range(40)))) == 40
    many = plan_conda_layers(map(named, range(200)))
    assert 30 < len(many) <= 40
    assert sum(len(each.packages) for each in many) == 200


def test_two_packages_with_one_path(blobs: DirectoryBlobs) -> None:
    first = stored(blobs, make_package("a", files={"share/x": b"one", "share/same": b"s", "d": b"file"}))
    second = stored(blobs, make_package("b", files={"share/x": b"two", "share/same": b"s", "d/below": b"x"}))
    members, contents = _members(blobs, _layer(blobs, first, second))
    names = [each.name for each in members]
    assert len(set(names)) == len(names)
    assert contents["opt/env/share/x"] == b"two"
    assert contents["opt/env/d/below"] == b"x"
    assert contents["opt/env/share/same"] == b"s"
    for plans in ([_plan(first, second)], [_plan(first), _plan(second)]):
        found = {
            (each.path, each.kept, each.lost) for each in compare(*list_conda_packages(plans, _RECIPE, blobs=blobs))
        }
        assert found == {("share/x", "b", "a"), ("d", "b", "a")}


def test_the_environment_is_one_that_conda_knows(blobs: DirectoryBlobs) -> None:
    packages = [stored(blobs, interpreter(), requested="python =3.11"), stored(blobs, make_package("x"))]
    layer = conda_environment_layer(packages, _RECIPE, files={"pylock.toml": "text"}, blobs=blobs)
    members, contents = _members(blobs, layer)
    assert contents["opt/env/pylock.toml"] == b"text"
    assert contents["opt/env/conda-meta/history"].decode() == (
        "==> 2020-01-01 00:00:00 <==\n"
        "+https://conda.example.org/main/linux-64::python-3.11.2-0\n"
        "+https://conda.example.org/main/noarch::x-1.0-0\n"
        '# update specs: ["python =3.11"]\n'
    )
    assert {each.mtime for each in members} == {MTIME}
    assert layer == conda_environment_layer(packages, _RECIPE, files={"pylock.toml": "text"}, blobs=blobs)
