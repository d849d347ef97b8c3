import os
import socket
import tarfile
from pathlib import Path

import pytest
from support.images import new_store

from mlenv.build.context import (
    ContextLimits,
    ContextTooLarge,
    DockerfileNotHere,
    InvalidContext,
    pack_directory,
    pack_files,
    read_dockerfile,
    unpack,
)
from mlenv.build.unpacking import InvalidArchive
from mlenv.store.oci import OciLayout


@pytest.fixture
def store(tmp_path: Path) -> OciLayout:
    return new_store(tmp_path / "of")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    for name, text in {"Dockerfile": "FROM scratch\n", "a.txt": "a", "src/b.py": "b", "src/c.log": "c"}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    (directory / "empty").mkdir()
    (directory / "src/run").write_text("#!/bin/sh\n")
    (directory / "src/run").chmod(0o700)
    (directory / "link").symlink_to("src/b.py")
    return directory


def listing(store: OciLayout, context: Path, dockerfile: str = "Dockerfile") -> list[str]:
    packed = pack_directory(context, dockerfile, store)
    with tarfile.open(store.path(packed.digest)) as tar:
        members = tar.getmembers()
    assert {(each.uid, each.gid, each.mtime, each.uname) for each in members} == {(0, 0, 1577836800, "")}
    return [f"{each.name} {each.mode:o}" for each in members]


def test_an_archive_holds_what_docker_would_send(store: OciLayout, context: Path) -> None:
    assert listing(store, context) == [
        "Dockerfile 644",
        "context/Dockerfile 644",
        "context/a.txt 644",
        "context/empty 755",
        "context/link 777",
        "context/src 755",
        "context/src/b.py 644",
        "context/src/c.log 644",
        "context/src/run 755",
    ]


def test_the_same_files_are_the_same_archive(store: OciLayout, context: Path, tmp_path: Path) -> None:
    first = pack_directory(context, "Dockerfile", store)
    for path in context.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 2))
            path.chmod(0o777 if path.is_dir() else 0o600 | (path.stat().st_mode & 0o100))
    moved = context.rename(tmp_path / "elsewhere")
    assert pack_directory(moved, "Dockerfile", store) == first
    (moved / "a.txt").write_text("b")
    assert pack_directory(moved, "Dockerfile", store).digest != first.digest


def test_ignored_files_count_for_nothing(store: OciLayout, context: Path) -> None:
    (context / ".dockerignore").write_text("**/*.log\nDockerfile\n.dockerignore\nempty\n")
    found = listing(store, context)
    assert [each.split()[0] for each in found] == [
        "Dockerfile", "context/a.txt", "context/link", "context/src", "context/src/b.py", "context/src/run",
    ]  # fmt: skip
    (context / "src/more.log").write_text("no")
    (context / "empty/x").mkdir()
    assert listing(store, context) == found
    # A file of the Dockerfile's own comes before the common one.
    (context / "src/Other").write_text("FROM scratch\n")
    (context / "src/Other.dockerignore").write_text("*\n!a.txt\n")
    assert listing(store, context, "src/Other") == ["Dockerfile 644", "context/a.txt 644"]


def test_what_is_taken_back_below_an_ignored_directory_is_there(
    store: OciLayout, context: Path, tmp_path: Path
) -> None:
    (context / ".dockerignore").write_text("src\n!src/b.py\n*.txt\n")
    packed = pack_directory(context, "Dockerfile", store)
    target = tmp_path / "target"
    target.mkdir()
    unpack(store.path(packed.digest), target)
    assert (target / "context/src/b.py").read_text() == "b"
    assert not (target / "context/src/run").exists()


def test_unpacked_it_is_what_it_was(store: OciLayout, context: Path, tmp_path: Path) -> None:
    packed = pack_directory(context, "Dockerfile", store)
    target = tmp_path / "target"
    target.mkdir()
    unpack(store.path(packed.digest), target)
    assert read_dockerfile(store.path(packed.digest)) == (target / "Dockerfile").read_text() == "FROM scratch\n"
    assert os.readlink(target / "context/link") == "src/b.py"
    assert (target / "context/src/run").stat().st_mode & 0o777 == 0o755
    assert (target / "context/empty").is_dir()
    assert pack_directory(target / "context", "Dockerfile", store) == packed


def test_an_upload_of_files_is_a_context(store: OciLayout, context: Path, tmp_path: Path) -> None:
    (context / ".dockerignore").write_text("*.txt\n")
    files = {
        path.relative_to(context).as_posix(): (path, path.stat().st_size)
        for path in context.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    packed = pack_files(files, "/Dockerfile", store)
    with tarfile.open(store.path(packed.digest)) as tar:
        assert "context/src/b.py" in tar.getnames()
        assert "context/a.txt" not in tar.getnames()
    with pytest.raises(DockerfileNotHere):
        pack_files(files, "Other", store)
    with pytest.raises(InvalidContext, match="both a file and a directory"):
        pack_files({**files, "a.txt2": files["a.txt"], "a.txt2/b": files["a.txt"]}, "Dockerfile", store)


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "src/../../x", "..", "a/../b", ""])
def test_a_link_out_of_the_context_is_refused(store: OciLayout, context: Path, target: str) -> None:
    if target:
        (context / "bad").symlink_to(target)
    else:
        (context / "src/bad").symlink_to("../../secret")
    with pytest.raises(InvalidContext, match="link out of it"):
        pack_directory(context, "Dockerfile", store)


def test_links_inside_are_kept(store: OciLayout, context: Path) -> None:
    (context / "src/up").symlink_to("../a.txt")
    (context / "dangling").symlink_to("nowhere")
    assert "context/src/up 777" in listing(store, context)


def test_what_is_no_file_is_refused(store: OciLayout, context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(context / "pipe")
    with pytest.raises(InvalidContext, match="neither file"):
        pack_directory(context, "Dockerfile", store)
    (context / "pipe").unlink()
    monkeypatch.chdir(context)
    with socket.socket(socket.AF_UNIX) as here:
        here.bind("socket")
        with pytest.raises(InvalidContext, match="neither file"):
            pack_directory(context, "Dockerfile", store)


def test_limits_say_what_is_largest(store: OciLayout, context: Path) -> None:
    (context / "large").write_bytes(bytes(5000))
    with pytest.raises(ContextTooLarge, match=r"at most 4000 .* large \(5000 bytes\)"):
        pack_directory(context, "Dockerfile", store, limits=ContextLimits(total=4000))
    with pytest.raises(ContextTooLarge, match="a file of 5000 bytes"):
        pack_directory(context, "Dockerfile", store, limits=ContextLimits(file=4999))
    with pytest.raises(ContextTooLarge, match="more than 3 files"):
        pack_directory(context, "Dockerfile", store, limits=ContextLimits(entries=3))


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("Nope", DockerfileNotHere),
        ("../Dockerfile", InvalidContext),
        ("outside", InvalidContext),
        ("src", DockerfileNotHere),
    ],
)
def test_the_dockerfile_is_in_the_context(
    store: OciLayout, context: Path, tmp_path: Path, path: str, error: type[Exception]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM other\n")
    (context / "outside").symlink_to("../Dockerfile")
    (context / ".dockerignore").write_text("outside\n")
    with pytest.raises(error):
        pack_directory(context, path, store)


def test_a_dockerfile_that_is_a_link_inside_is_read(store: OciLayout, context: Path) -> None:
    (context / "src/real").write_text("FROM linked\n")
    (context / "Linked").symlink_to("src/real")
    packed = pack_directory(context, "Linked", store)
    assert read_dockerfile(store.path(packed.digest)) == "FROM linked\n"


def _archive(tmp_path: Path, *members: tuple[str, bytes, str]) -> Path:
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
    return path


_DOCKERFILE = ("Dockerfile", tarfile.REGTYPE, "")


@pytest.mark.parametrize(
    "members",
    [
        [_DOCKERFILE, ("../x", tarfile.REGTYPE, "")],
        [_DOCKERFILE, ("/etc/x", tarfile.REGTYPE, "")],
        [_DOCKERFILE, ("other", tarfile.REGTYPE, "")],
        [_DOCKERFILE, ("context/../../x", tarfile.REGTYPE, "")],
        [_DOCKERFILE, ("context/a/b", tarfile.REGTYPE, "")],
        [_DOCKERFILE, ("context/a", tarfile.SYMTYPE, "/etc")],
        [_DOCKERFILE, ("context/a", tarfile.SYMTYPE, "b"), ("context/a/x", tarfile.REGTYPE, "")],
        [_DOCKERFILE, ("context/a", tarfile.SYMTYPE, "b"), ("context/a", tarfile.REGTYPE, "")],
        [_DOCKERFILE, ("context/a", tarfile.LNKTYPE, "/etc/passwd")],
        [_DOCKERFILE, ("context/a", tarfile.CHRTYPE, "")],
        [_DOCKERFILE, ("context/a", tarfile.FIFOTYPE, "")],
        [("Dockerfile", tarfile.SYMTYPE, "context/x")],
        [("context/a", tarfile.REGTYPE, "")],
    ],
)
def test_an_archive_of_somebody_else_is_not_believed(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InvalidArchive):
        unpack(_archive(tmp_path, *members), target)
    assert not (tmp_path / "x").exists()
