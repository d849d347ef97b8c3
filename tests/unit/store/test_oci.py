import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.image import CONFIG_TYPE, MANIFEST_TYPE, Descriptor, encode
from mlenv.errors import InvalidInput
from mlenv.store.layout_check import check_layout
from mlenv.store.oci import REF_NAME, BlobNotFound, OciLayout


def put(layout: OciLayout, data: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    digest = Digest.of(data)
    layout.put([data], digest=digest, size=len(data), what="test data")
    return Descriptor(media_type, digest, len(data))


def put_image(layout: OciLayout, layer: bytes = b"a layer") -> Descriptor:
    config = put(layout, b"{}", CONFIG_TYPE)
    document = {"schemaVersion": 2, "config": config.to_dict(), "layers": [put(layout, layer).to_dict()]}
    return put(layout, encode(document), MANIFEST_TYPE)


@pytest.fixture
def layout(tmp_path: Path) -> OciLayout:
    return OciLayout(tmp_path / "store")


def damage(layout: OciLayout, digest: Digest, data: bytes) -> None:
    path = layout.path(digest)
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_new_layout_is_a_valid_empty_one(layout: OciLayout) -> None:
    assert json.loads((layout.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout.root / "index.json").read_text())
    assert (index["schemaVersion"], index["manifests"]) == (2, [])
    assert layout.names() == {}
    assert check_layout(layout) == []


def test_blobs_are_read_only_files(layout: OciLayout) -> None:
    blob = put(layout, b"data")
    assert layout.path(blob.digest).stat().st_mode & 0o777 == 0o444
    assert list(layout.digests()) == [blob.digest]


def test_a_damaged_blob_is_not_read(layout: OciLayout) -> None:
    blob = put(layout, b"data")
    damage(layout, blob.digest, b"else")
    with pytest.raises(DigestMismatch):
        layout.read(blob.digest)


def test_a_lie_about_a_known_blob_is_found(layout: OciLayout) -> None:
    blob = put(layout, b"data")
    with pytest.raises(DigestMismatch, match="expected 5 bytes, got 4 bytes"):
        layout.put([b"data"], digest=blob.digest, size=5, what="data")
    assert layout.read(blob.digest) == b"data"


@pytest.mark.parametrize("damaged", [b"", b"dat", b"else"])
def test_a_damaged_blob_is_replaced_when_its_bytes_come_again(layout: OciLayout, damaged: bytes) -> None:
    blob = put(layout, b"data")
    damage(layout, blob.digest, damaged)
    if len(damaged) == blob.size:
        with layout.writer() as writer:
            writer.write(b"data")
            writer.commit()
    else:
        put(layout, b"data")
    assert layout.read(blob.digest) == b"data"
    assert check_layout(layout) == []


def test_a_huge_blob_is_not_read_into_memory(layout: OciLayout, tmp_path: Path) -> None:
    digest = Digest.of(b"huge")
    with (layout.root / "blobs/sha256" / digest.hex).open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InvalidInput, match="too large"):
        layout.read(digest)


def test_names_are_kept_in_the_index(layout: OciLayout) -> None:
    one, two = put_image(layout), put_image(layout, b"another")
    layout.set_name("b", one)
    layout.set_name("a", two)
    layout.set_name("b", two)
    again = OciLayout(layout.root).names()
    assert {name: each.digest for name, each in again.items()} == {"a": two.digest, "b": two.digest}
    layout.remove_name("a")
    layout.remove_name("never there")
    assert list(layout.names()) == ["b"]


def test_a_name_never_points_at_nothing(layout: OciLayout) -> None:
    with pytest.raises(BlobNotFound):
        layout.set_name("a", Descriptor(MANIFEST_TYPE, Digest.of(b"nothing"), 7))
    assert layout.names() == {}


def test_names_set_at_once_are_all_kept(layout: OciLayout) -> None:
    image = put_image(layout)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: OciLayout(layout.root).set_name(f"n{number}", image), range(24)))
    assert len(layout.names()) == 24


def test_one_blob_written_by_many_threads_is_one_blob(layout: OciLayout) -> None:
    data = os.urandom(300_000)
    with ThreadPoolExecutor(8) as pool:
        digests = {each.digest for each in pool.map(lambda _: put(layout, data), range(32))}
    assert list(layout.digests()) == list(digests)
    assert layout.read(Digest.of(data)) == data
    assert check_layout(layout) == []


def test_an_index_that_is_not_one_is_told(layout: OciLayout) -> None:
    (layout.root / "index.json").write_text('{"manifests": [1]}')
    with pytest.raises(InvalidInput, match=r"index\.json is not an OCI index"):
        layout.names()
    assert [each.kind for each in check_layout(layout)] == ["unreadable"]


def test_verify_finds_a_changed_blob(layout: OciLayout) -> None:
    image = put_image(layout)
    layout.set_name("a", image)
    damage(layout, Digest.of(b"a layer"), b"A layer")
    [problem] = check_layout(layout)
    assert (problem.kind, problem.digest, problem.harmless) == ("corrupt", Digest.of(b"a layer"), False)


@pytest.mark.parametrize("lost", ["manifest", "config", "layer"])
def test_verify_finds_what_a_name_lacks(layout: OciLayout, lost: str) -> None:
    image = put_image(layout)
    layout.set_name("env", image)
    digest = {"manifest": image.digest, "config": Digest.of(b"{}"), "layer": Digest.of(b"a layer")}[lost]
    layout.remove(digest)
    [problem] = check_layout(layout)
    assert (problem.kind, problem.digest) == ("missing", digest)
    assert problem.what.startswith("env: ")


def test_verify_finds_a_size_that_is_not_the_named_one(layout: OciLayout) -> None:
    image = put_image(layout)
    layout.set_name("env", replace(image, size=image.size + 1))
    assert [each.kind for each in check_layout(layout)] == ["corrupt"]


def test_verify_finds_a_manifest_that_is_none(layout: OciLayout) -> None:
    layout.set_name("env", put(layout, b"[" * 10_000, MANIFEST_TYPE))
    assert [each.kind for each in check_layout(layout)] == ["unreadable"]


def test_verify_finds_strangers(layout: OciLayout) -> None:
    (layout.root / "blobs/sha256/README").write_text("hello")
    assert [(each.kind, each.harmless) for each in check_layout(layout)] == [("stray", True)]


def test_what_is_being_written_is_no_leftover(layout: OciLayout) -> None:
    other = OciLayout(layout.root)
    with layout.writer() as writer:
        writer.write(b"half of")
        assert check_layout(other) == check_layout(layout) == []
        assert other.sessions.sweep(0) == layout.sessions.sweep(0) == 0
        writer.write(b" it")
        digest, _ = writer.commit()
    assert other.read(digest) == b"half of it"


WRITES = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from mlenv.core.digest import Digest
    from mlenv.store.oci import OciLayout
    OciLayout(Path(sys.argv[1])).put([b"content"], digest=Digest.of(b"content"), size=7, what="content")
    """
)


@pytest.mark.parametrize(("point", "kept"), [("blob.written", False), ("blob.kept", True)])
def test_a_writer_that_is_killed_leaves_a_whole_store(layout: OciLayout, point: str, kept: bool) -> None:
    command = [sys.executable, "-c", WRITES, str(layout.root)]
    died = subprocess.run(command, env={**os.environ, "MLENV_FAULT": point}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert layout.has(Digest.of(b"content")) is kept
    leftovers = check_layout(layout)
    assert [(each.kind, each.harmless) for each in leftovers] == ([] if kept else [("unfinished", True)])
    assert layout.sessions.sweep(3600) == 0
    assert layout.sessions.sweep(0) == 1
    assert check_layout(layout) == []
    subprocess.run(command, check=True)
    assert layout.read(Digest.of(b"content")) == b"content"


def test_processes_that_write_the_same_blobs_at_once_agree(layout: OciLayout) -> None:
    command = [sys.executable, "-c", WRITES, str(layout.root)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [each.wait(timeout=60) for each in running] == [0] * 4
    assert list(layout.digests()) == [Digest.of(b"content")]
    assert check_layout(layout) == []


def test_a_copy_writes_in_a_session_of_its_own(layout: OciLayout) -> None:
    copy = pickle.loads(pickle.dumps(layout))
    with layout.writer() as one, copy.writer() as two:
        one.write(b"x")
        two.write(b"x")
        assert len([each for each in (layout.root / "ingest").iterdir() if each.is_dir()]) == 2
        assert one.commit() == two.commit()


def test_names_carry_the_annotation_that_tools_look_for(layout: OciLayout) -> None:
    layout.set_name("env", put_image(layout))
    [entry] = json.loads((layout.root / "index.json").read_text())["manifests"]
    assert entry["annotations"] == {REF_NAME: "env"}
