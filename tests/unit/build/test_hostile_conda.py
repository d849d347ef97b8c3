"""Conda packages made to do harm: one clear error each, and nothing of them stays."""

import bz2
import collections
import dataclasses
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec import structs
from support.blobs import DirectoryBlobs
from support.conda_locked import locked, stored
from support.conda_packages import PLACEHOLDER, Ending, File, Link, Package, Parts, make_package, member

from mlenv.build.conda_layers import build_conda_layer, open_conda_tree
from mlenv.core.conda_archive import CondaArchiveTooLarge, CondaLimits, InvalidCondaArchive
from mlenv.core.conda_layer import CondaLayerPlan, CondaRecipe
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaScheme
from mlenv.core.digest import Digest, DigestMismatch

_RECIPE = CondaRecipe(CondaScheme("/opt/env", "3.11", "lib/python3.11/site-packages"))
Tamper = Callable[[Parts], None]


def _row(path: str, **more: object) -> dict[str, Any]:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    return {"_path": path, "path_type": "hardlink", "sha256": empty, "size_in_bytes": 0, **more}


def _file(path: str, kind: bytes = tarfile.REGTYPE, *, mode: int = 0o644, link: str = "", **row: object) -> Tamper:
    """One more member, listed as a file."""

    def tamper(parts: Parts) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.linkname = kind, mode, link
        parts.content.append((info, b""))
        parts.paths["paths"].append(_row(path, **row))

    return tamper


def _soft(target: str, path: str = "lib/link") -> Tamper:
    return _file(path, tarfile.SYMTYPE, link=target, path_type="softlink")


def _says(**change: object) -> Tamper:
    """The first line of paths.json tells something else."""

    def tamper(parts: Parts) -> None:
        parts.paths["paths"][0] |= change

    return tamper


def _listed(path: str, **more: object) -> Tamper:
    return lambda parts: parts.paths["paths"].append(_row(path, **more))


def _unlisted(parts: Parts) -> None:
    parts.content.append(member("bin/extra", b"x", mode=0o755))


def _index(**change: object) -> Tamper:
    return lambda parts: parts.index.update(change)


def _info(path: str, data: bytes) -> Tamper:
    return lambda parts: parts.info.append(member(path, data))


def _twice(parts: Parts) -> None:
    parts.content.append(parts.content[0])


def _prefix(placeholder: object, mode: str = "binary") -> Tamper:
    return _says(prefix_placeholder=placeholder, file_mode=mode)


def _entry_point(text: object, name: str = "python") -> Tamper:
    def tamper(parts: Parts) -> None:
        parts.index["noarch"] = parts.record["noarch"] = name
        document = {"noarch": {"type": "python", "entry_points": [text]}, "package_metadata_version": 1}
        parts.info.append(member("info/link.json", json.dumps(document).encode()))

    return tamper


def _both(*tampers: Tamper) -> Tamper:
    def tamper(parts: Parts) -> None:
        for each in tampers:
            each(parts)

    return tamper


_NOT_A_PATH = "is not a path that may be installed"
_NOT_BELOW = "which is not below the prefix"
HOSTILE: dict[str, tuple[Tamper, str]] = {
    "traversal": (_file("../../evil"), _NOT_A_PATH),
    "traversal-inside": (_file("lib/../../evil"), _NOT_A_PATH),
    "traversal-listed-only": (_listed("../../evil"), _NOT_A_PATH),
    "traversal-directory": (lambda parts: parts.content.append(_directory("../evil")), _NOT_A_PATH),
    "absolute": (_file("/tmp/evil"), _NOT_A_PATH),
    "absolute-listed-only": (_listed("/tmp/evil"), _NOT_A_PATH),
    "control-character": (_file("lib/a\nb"), _NOT_A_PATH),
    "surrogate": (_listed("lib/\ud800"), _NOT_A_PATH),
    "too-long": (_listed("x" * 256), _NOT_A_PATH),
    "no-path": (_says(_path=17), _NOT_A_PATH),
    "conda-meta": (_file("conda-meta/evil-1-0.json"), "is where records of installed packages are kept"),
    "link-absolute": (_soft("/etc/passwd"), _NOT_BELOW),
    "link-out": (_soft("../../etc"), _NOT_BELOW),
    "link-out-late": (_soft("x/../../../etc"), _NOT_BELOW),
    "link-by-another": (_soft("x/.."), _NOT_BELOW),
    "link-to-parent": (_soft("..", "link"), _NOT_BELOW),
    "link-empty": (_soft(""), _NOT_BELOW),
    "below-a-link": (_both(_soft(".", "d"), _file("d/x")), "is below 'd', which is no directory"),
    "below-a-file": (_both(_file("d"), _file("d/x")), "is below 'd', which is no directory"),
    "hard-link-out": (_file("h", tarfile.LNKTYPE, link="../../etc/passwd"), "which is no file before it"),
    "hard-link-absolute": (_file("h", tarfile.LNKTYPE, link="/etc/passwd"), "which is no file before it"),
    "hard-link-unlike": (_file("h", tarfile.LNKTYPE, link="share/x.txt"), "and another file in its paths.json"),
    "device": (_file("dev", tarfile.CHRTYPE), "is neither a file, a link nor a directory"),
    "pipe": (_file("pipe", tarfile.FIFOTYPE), "is neither a file, a link nor a directory"),
    "setuid": (_file("su", mode=0o4755), "would run as another user (mode 4755)"),
    "setgid": (_file("sg", mode=0o2755), "would run as another user (mode 2755)"),
    "duplicate": (_twice, "'share/x.txt' is in it twice"),
    "duplicate-listed": (_listed("share/x.txt"), "'share/x.txt' is in info/paths.json twice"),
    "lies-missing": (_listed("share/none"), "'share/none' is listed in its paths.json, and is not in it"),
    "lies-extra": (_unlisted, "'bin/extra' is not listed in its paths.json"),
    "lies-sha256": (_says(sha256="0" * 64), "the content of 'share/x.txt' has another sha256"),
    "lies-size": (_says(size_in_bytes=7), "'share/x.txt' has 6 bytes, and 7 in its paths.json"),
    "lies-kind": (_says(path_type="softlink"), "'share/x.txt' is a softlink in its paths.json, and a hardlink"),
    "odd-kind": (_says(path_type="device"), "is a 'device' in info/paths.json"),
    "odd-sha256": (_says(sha256="zz"), "has the sha256 'zz'"),
    "odd-size": (_says(size_in_bytes=-1), "has the size -1"),
    "odd-mode": (_says(prefix_placeholder="/x", file_mode="magic"), "has the file mode 'magic'"),
    "odd-version": (lambda parts: parts.paths.update(paths_version=9), "has version 9, expected 1"),
    "odd-paths": (lambda parts: parts.paths.update(paths="all"), "expected 1 and a list of paths"),
    "odd-entry": (lambda parts: parts.paths.update(paths=["share/x.txt"]), "where a path is expected"),
    "placeholder-too-short": (_prefix("/opt"), "built for a prefix of 4 bytes, which is too short for '/opt/env'"),
    "placeholder-too-short-text": (_prefix("/opt", "text"), "built for a prefix of 4 bytes, which is too short"),
    "placeholder-relative": (_prefix("lib"), "expected an absolute path"),
    "placeholder-number": (_prefix(5), "expected an absolute path"),
    "other-name": (_index(name="y"), "name in it is 'y', expected 'x' as locked"),
    "other-version": (_index(version="2"), "version in it is '2', expected '1.0' as locked"),
    "other-build": (_index(build="9"), "build in it is '9', expected '0' as locked"),
    "other-number": (_index(build_number=9), "build_number in it is 9, expected 0 as locked"),
    "other-subdir": (_index(subdir="linux-64"), "subdir in it is 'linux-64', expected 'noarch' as locked"),
    "other-noarch": (_index(noarch="python"), "noarch in it is 'python', expected 'generic' as locked"),
    "info-twice": (_info("info/index.json", b"{}"), "info/index.json is in it twice"),
    "entry-point-path": (_entry_point("../x = a:b"), "is not `name = module:function`"),
    "entry-point-code": (_entry_point("x = os:system('id')"), "is not `name = module:function`"),
    "entry-point-number": (_entry_point(7), "is not `name = module:function`"),
    "entry-point-clash": (
        _both(_entry_point("x = a:b"), _file("python-scripts/x")),
        "two of its files would be 'bin/x'",
    ),
}  # fmt: skip


def _directory(path: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.type = tarfile.DIRTYPE
    return info, b""


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path / "blobs")


def _true_record(package: Package, **expected: object) -> Package:
    """The record that an honest channel would have: of this file, and of the package that it should be."""
    honest = {"name": "x", "version": "1.0", "build": "0", "build_number": 0, "subdir": "noarch", "noarch": "generic"}
    return dataclasses.replace(package, record=package.record | honest | expected)


def _refused(blobs: DirectoryBlobs, package: CondaPackage, reason: str) -> InvalidCondaArchive:
    there = blobs.names()
    with pytest.raises(InvalidCondaArchive, match=re.escape(reason)) as caught:
        build_conda_layer(CondaLayerPlan("x", (package,)), _RECIPE, blobs=blobs)
    assert blobs.names() == there
    message = str(caught.value)
    assert message.startswith(f"{package.artifact.filename}: ")
    assert "\n" not in message
    assert len(message) < 500
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("ending", ["conda", "tar.bz2"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_package_is_refused(blobs: DirectoryBlobs, case: str, ending: Ending) -> None:
    tamper, reason = HOSTILE[case]
    made = make_package("x", tamper=tamper, ending=ending)
    noarch = "python" if case.startswith("entry-point") else "generic"
    _refused(blobs, stored(blobs, _true_record(made, noarch=noarch)), reason)
    assert not Path("/tmp/evil").exists()


def test_what_is_unusual_is_no_harm(blobs: DirectoryBlobs) -> None:
    files: dict[str, bytes | File | Link] = {
        "share/man/man3/B::Deparse.3": b"perl", "share/n/a": b"1", "share/N/a": b"2", "share/n/A": b"3",
        "lib/self": Link("."), "lib/up": Link(".."), "lib/dir": Link("../share/n"), "lib/here": Link("./self"), "x\\y": b"", "lib/..data": b"",
        "lib/spaces and ünïcode": b"",
    }  # fmt: skip
    layer, _ = build_conda_layer(
        CondaLayerPlan("x", (stored(blobs, make_package("x", files=files)),)), _RECIPE, blobs=blobs
    )
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(blobs.read(layer.digest))
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        names = {each.name for each in tar}
    assert {f"opt/env/{path}" for path in files} <= names


def _zip(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def _parts() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(make_package("x").data)) as archive:
        return {each: archive.read(each) for each in archive.namelist()}


def _squeezed(change: Callable[[bytes], bytes], which: str) -> bytes:
    """The package with one of its tars changed."""
    parts = _parts()
    name = f"{which}-x-1.0-0.tar.zst"
    plain = zstandard.ZstdDecompressor().decompress(parts[name])
    return _zip((parts | {name: zstandard.compress(change(plain))}).items())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a zip file"),
        (b"<html>log in</html>", "not a zip file"),
        (make_package("x").data[:-30], "not a zip file"),
        (make_package("x").data[:300] + bytes(40) + make_package("x").data[340:], "checksum"),
        (_zip(_parts().items(), zipfile.ZIP_DEFLATED), "is compressed, expected as it is"),
        (_zip([("metadata.json", b"{}")]), "there is no info-x-1.0-0.tar.zst in it"),
        (_zip([each for each in _parts().items() if "pkg-" not in each[0]]), "there is no pkg-x-1.0-0.tar.zst in it"),
        (_zip([*_parts().items(), ("../x", b"")]), "is not a path that may be unpacked"),
        (_squeezed(lambda plain: plain[:700], "info"), "ends in the middle of a file"),
        (_squeezed(lambda plain: b"no tar" * 200, "pkg"), "is not a tar"),
        (_squeezed(lambda plain: plain + b"more" * 200, "pkg"), "has something behind its end"),
        (_squeezed(lambda plain: b"", "info"), "there is no info/index.json"),
        (_squeezed(lambda plain: plain.replace(b'{"name"', b'["name"'), "info"), "info/index.json is not JSON"),
        (_squeezed(lambda plain: plain.replace(b"info/files", b"evil/files"), "info"), "no header"),
        (_zip((_parts() | {"pkg-x-1.0-0.tar.zst": b"\x28\xb5\x2f\xfd" + bytes(50)}).items()), "is not in it"),
        (_zip((_parts() | {"pkg-x-1.0-0.tar.zst": b"no frame" * 9}).items()), "can't be decompressed"),
    ],
)
def test_a_damaged_package_is_refused(blobs: DirectoryBlobs, data: bytes, reason: str) -> None:
    made = dataclasses.replace(make_package("x"), data=data)
    record = made.record | {"sha256": Digest.of(data).hex, "size": len(data)}
    _refused(blobs, stored(blobs, dataclasses.replace(made, record=record)), reason)


def test_the_parts_keep_to_themselves(blobs: DirectoryBlobs) -> None:
    _refused(
        blobs,
        stored(blobs, make_package("x", tamper=_info("lib/evil.so", b"x"))),
        "'lib/evil.so' is among what the package says of itself",
    )
    _refused(
        blobs,
        stored(blobs, make_package("x", tamper=_file("info/paths.json"))),
        "'info/paths.json' is among the files to be installed",
    )
    late = make_package(
        "x", tamper=lambda parts: parts.content.append(member("info/link.json", b"{}")), ending="tar.bz2"
    )
    _refused(blobs, stored(blobs, late), "info/link.json comes after files that it speaks of")


def test_a_file_that_is_not_the_locked_one_is_never_stored(blobs: DirectoryBlobs) -> None:
    made = make_package("x")
    package = locked(made)
    with pytest.raises(DigestMismatch):
        blobs.put([made.data + b"\0"], digest=package.artifact.digest, size=len(made.data) + 1, what=made.filename)
    assert blobs.names() == set()
    there = stored(blobs, made)
    wrong = structs.replace(there, artifact=structs.replace(there.artifact, size=7))
    _refused(blobs, wrong, f"has {len(made.data)} bytes, expected 7 as locked")


def _bomb(ending: Ending) -> Package:
    return make_package("x", files={"zeros": bytes(80 << 20)}, ending=ending)


@pytest.mark.parametrize("ending", ["conda", "tar.bz2"])
def test_a_bomb_is_refused(blobs: DirectoryBlobs, ending: Ending) -> None:
    package = stored(blobs, _bomb(ending))
    assert package.artifact.size < 100_000
    error = _refused(blobs, package, f"unpacks to more than {64 << 20} bytes")
    assert isinstance(error, CondaArchiveTooLarge)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (CondaLimits(total=5_000), "unpacks to more than 5000 bytes"),
        (CondaLimits(members=3), "has more than 3 entries"),
        (CondaLimits(metadata=20), "which is too many for its kind"),
    ],
)
def test_limits_hold(blobs: DirectoryBlobs, limits: CondaLimits, reason: str) -> None:
    package = stored(blobs, make_package("x", files={f"f{number}": bytes(1000) for number in range(9)}))
    with (
        pytest.raises(CondaArchiveTooLarge, match=reason),
        open_conda_tree(package, _RECIPE.scheme, blobs, limits=limits) as tree,
    ):
        collections.deque((chunk for file in tree.files() for chunk in file.chunks), maxlen=0)


def test_a_text_to_patch_is_limited(blobs: DirectoryBlobs) -> None:
    text = File(PLACEHOLDER.encode() * 100, 0o644, "text")
    package = stored(blobs, make_package("x", files={"t": text}))
    limits = CondaLimits(metadata=5_000)
    with (
        pytest.raises(InvalidCondaArchive, match="is a text of 25500 bytes, at most 5000 are allowed"),
        open_conda_tree(package, _RECIPE.scheme, blobs, limits=limits) as tree,
    ):
        list(tree.files())


def test_bytes_that_were_turned_over_never_crash(blobs: DirectoryBlobs) -> None:
    """Whatever a disk or a network does to a package, it is refused, or it is what it was."""
    plain = bz2.decompress(make_package("x", ending="tar.bz2").data)
    outcomes = set()
    for place in range(0, len(plain), 97):
        data = bz2.compress(plain[:place] + bytes([plain[place] ^ 0x15]) + plain[place + 1 :])
        made = dataclasses.replace(make_package("x", ending="tar.bz2"), data=data)
        package = stored(
            blobs,
            dataclasses.replace(made, record=made.record | {"sha256": Digest.of(data).hex, "size": len(data)}),
        )
        try:
            build_conda_layer(CondaLayerPlan("x", (package,)), _RECIPE, blobs=blobs)
        except InvalidCondaArchive:
            outcomes.add("refused")
        else:
            outcomes.add("built")
    assert outcomes == {"refused", "built"}
    assert not [each for each in os.listdir(blobs.root) if each.startswith("tmp")]
