"""Wheels made to do harm, through whole commands: one clear error each, and nothing of them stays."""

import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.wheels import Entries, entry, record_line, wheel_bytes
from support.world import BASE, World, make_world

#: What is not of a wheel: rows, uv's own cache, locks held by processes, what is remembered of interpreters.
_OTHER = ("mlenv.db", "cache/uv", "cache/pythons", "locks/", ".lock", "uses")


def _append(path: str, content: bytes = b"print('evil')\n", *, mode: int = 0o100644) -> Callable[[Entries], None]:
    """One more file, listed in RECORD."""

    def tamper(entries: Entries) -> None:
        info, record = entries.pop()
        entries.append((entry(path, mode=mode), content))
        entries.append((info, record + record_line(path, content).encode()))

    return tamper


def _swap(old: bytes, new: bytes, where: str) -> Callable[[Entries], None]:
    """Other bytes in one file, and RECORD as it was."""

    def tamper(entries: Entries) -> None:
        for number, (info, content) in enumerate(entries):
            if info.filename.endswith(where):
                assert old in content
                entries[number] = (info, content.replace(old, new))

    return tamper


def _renamed(entries: Entries) -> None:
    """METADATA tells another name, and RECORD agrees with it."""
    for number, (info, content) in enumerate(entries):
        if info.filename.endswith("METADATA"):
            changed = content.replace(b"Name: ", b"Name: un")
            entries[number] = (info, changed)
            line, better = record_line(info.filename, content), record_line(info.filename, changed)
            entries[-1] = (entries[-1][0], entries[-1][1].decode().replace(line, better).encode())


def _twice(entries: Entries) -> None:
    entries.insert(0, (entries[0][0], b"import os\n"))


HOSTILE: dict[str, tuple[Callable[[Entries], None], str]] = {
    "traversal": (_append("../../../../../../../../tmp/mlenv-evil.py"), "is not a path that may be unpacked"),
    "absolute": (_append("/tmp/mlenv-evil.py"), "is not a path that may be unpacked"),
    "backslash": (_append("..\\mlenv-evil.py"), "is not a path that may be unpacked"),
    "data-traversal": (_append("data_traversal-1.0.data/data/../../x"), "is not a path that may be unpacked"),
    "symlink": (_append("link", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "is a symbolic link"),
    "duplicate": (_twice, "is in it twice"),
    "record-hash": (_swap(b"NAME", b"nAME", "__init__.py"), "has another hash than RECORD says"),
    "record-extra": (_swap(b"__init__.py,", b"__main__.py,", "RECORD"), "is not in RECORD"),
    "bomb": (_append("zeros.bin", bytes(80 << 20)), "unpacks to 83886080 bytes from"),
    "other-name": (_renamed, "the name inside is 'unother-name'"),
    "interpreter": (_append("interpreter-1.0.data/scripts/python3", b"#!/bin/sh\n"), "would replace 'bin/python3'"),
    "settings": (_append("settings-1.0.data/data/pyvenv.cfg", b"home = /tmp\n"), "would replace 'pyvenv.cfg'"),
    "entry-point": (
        _append("entry_point-1.0.dist-info/entry_points.txt", b"[console_scripts]\nx = os:system('id')\n"),
        "is not `module:function`",
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A store in which everything but the hostile wheels was built and run before."""
    with make_world(tmp_path_factory.mktemp("hostile")) as made:
        made.ok("base", "import", "oci:base", "--name", BASE)
        made.define("sound")
        made.ok("environment", "create", "-f", "sound.yml")
        made.ok("environment", "build", "sound:1")
        assert made.run("run", "sound:1", "--", "python", "-c", "").returncode == 0
        yield made


def _files(world: World) -> dict[str, int]:
    """Every file and directory of the world, but for what is not of wheels."""
    root = world.home.parent
    found = {str(path.relative_to(root)): path for path in root.rglob("*")}
    return {name: path.lstat().st_size if path.is_file() else -1 for name, path in found.items() if _counts(name)}


def _counts(name: str) -> bool:
    return not any(each in name for each in _OTHER)


def _refused(world: World, name: str, message: str) -> None:
    """Build and run say why not, each in one error, and leave everything as it was before."""
    world.define(name, name)
    world.ok("environment", "create", "-f", f"{name}.yml")
    world.ok("environment", "lock", f"{name}:1")
    before = _files(world)
    for command in (
        ("environment", "build", f"{name}:1"),
        ("run", f"{name}:1", "--", "python", "-c", "raise SystemExit(42)"),
    ):
        done = world.run(*command)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert done.returncode == 1, done.stderr
        assert len(errors) == 1
        assert name.replace("-", "_") in errors[0]
        assert message in errors[0]
        assert "Traceback" not in done.stderr
        assert _files(world) == before
    world.verify()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_refused_and_nothing_of_it_stays(world: World, name: str) -> None:
    tamper, message = HOSTILE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filename, data = wheel_bytes(name, tamper=tamper)
    world.index.offer(name, "1.0", filename, data)
    _refused(world, name, message)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("other-bytes", lambda data: data[:-1] + b"\1", "expected sha256:"),
        ("fewer-bytes", lambda data: data[:-1], "bytes, got"),
        ("more-bytes", lambda data: data + b"\0", "bytes, got more"),
        ("nothing", lambda data: b"", "bytes, got 0 bytes"),
    ],
)
def test_other_bytes_than_locked_are_refused_and_nothing_of_them_stays(
    world: World, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    filename, data = wheel_bytes(name)
    world.index.offer(name, "1.0", filename, data)
    world.define(name, name)
    world.ok("environment", "create", "-f", f"{name}.yml")
    world.ok("environment", "lock", f"{name}:1")
    served = next(each for each in world.index.files[name])
    served.data = change(data)
    _refused(world, name, message)


def test_a_wheel_that_is_no_zip_file_is_refused(world: World) -> None:
    world.index.offer("nozip", "1.0", "nozip-1.0-py3-none-any.whl", b"#!/bin/sh\necho evil\n")
    _refused(world, "nozip", "not a zip file")


def test_nothing_was_written_outside(world: World) -> None:
    world.verify()
    assert not Path("/tmp/mlenv-evil.py").exists()
    assert not (world.home.parent / "mlenv-evil.py").exists()
