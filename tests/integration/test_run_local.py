"""A lock becomes a virtual environment: its files, its scripts, who may change it, and what a crash leaves."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.blobs import DirectoryBlobs
from support.wheels import Entries, make_wheel

from mlenv.core.lock import Lock, LockedPackage
from mlenv.core.progress import Progress, Silent
from mlenv.core.wheel import InvalidWheel
from mlenv.run.activation import variables_in
from mlenv.run.found import Prefix, prefix_path
from mlenv.run.inspect import installed_in
from mlenv.run.interface import SourceFile
from mlenv.run.links import remove_tree
from mlenv.run.local import materialise
from mlenv.run.prefix import ClashingFiles
from mlenv.run.process import run_command
from mlenv.run.pythons import HostPython, Pythons

#: Materialises what `MLENV_TEST_ROOT` holds, and prints whether it was there already.
_CHILD = """
import os
from pathlib import Path
from support.blobs import DirectoryBlobs
from mlenv.core.lock import Lock
from mlenv.core.progress import Silent
from mlenv.run.local import materialise
from mlenv.run.pythons import Pythons
root = Path(os.environ["MLENV_TEST_ROOT"])
lock = Lock.from_pylock((root / "lock.toml").read_text())
python = Pythons(root / "cache", os.environ).choose(lock.target.python)
print("ready", flush=True)
input()
made = materialise(lock, python, wheels=DirectoryBlobs(root / "blobs"), cache=root / "cache",
                   prefixes=root / "prefixes", compiler=None, progress=Silent())
print(made.reused, made.unpacked)
"""


class Site:
    """A directory with wheels, a cache and prefixes."""

    def __init__(self, root: Path, python: HostPython) -> None:
        self.root, self.python = root, python
        self.blobs = DirectoryBlobs(root / "blobs")
        self.progress = Silent()
        self.compiled: list[str] = []

    def lock(self, *packages: LockedPackage, bytecode: bool = False) -> Lock:
        ordered = tuple(sorted(packages, key=lambda each: each.name))
        lock = Lock(self.python.target, ordered, "test", bytecode=self.python.version if bytecode else None)
        (self.root / "lock.toml").write_text(lock.to_pylock())
        return lock

    def compile(self, interpreter: Path, sources: Sequence[SourceFile], progress: Progress) -> None:
        for each in sources:
            self.compiled.append(each.name)
            each.target.parent.mkdir(exist_ok=True)
            code = (
                "import py_compile, sys\nmode = py_compile.PycInvalidationMode.UNCHECKED_HASH\n"
                "py_compile.compile(sys.argv[1], sys.argv[2], sys.argv[3], invalidation_mode=mode)"
            )
            subprocess.run([interpreter, "-Ic", code, each.source, each.target, each.name], check=True)

    def materialise(self, lock: Lock, *, prefixes: str = "prefixes") -> Prefix:
        return materialise(
            lock,
            self.python,
            wheels=self.blobs,
            cache=self.root / "cache",
            prefixes=self.root / prefixes,
            compiler=self.compile,
            progress=self.progress,
        )

    def left_over(self) -> list[str]:
        return [each.name for each in self.root.glob("*/**/.staging-*")]

    def child(self, **variables: str) -> "subprocess.Popen[str]":
        support = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "MLENV_TEST_ROOT": str(self.root), "PYTHONPATH": support, **variables}
        return subprocess.Popen(
            [sys.executable, "-c", _CHILD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> HostPython:
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return Pythons(tmp_path_factory.mktemp("pythons"), os.environ).choose(minor)


@pytest.fixture
def site(tmp_path: Path, python: HostPython) -> Site:
    return Site(tmp_path, python)


@pytest.fixture
def tool(site: Site, tmp_path: Path) -> LockedPackage:
    """A package with a module, a command, a script and data."""
    wheel = make_wheel(
        tmp_path / "wheels",
        "Some.Tool",
        files={
            "some_tool/__init__.py": b"def main():\n    print('from', __name__)\n    return 5\n",
            "some_tool/broken.py": b"x = 1\n",
        },
        entry_points={"console_scripts": {"some-tool": "some_tool:main"}},
        scripts={"old-style": b"#!python\nimport sys; print(sys.prefix)\n", "shell": b"#!/bin/sh\necho shell\n"},
        data={"data/share/some/tool.txt": b"data"},
    )
    return site.blobs.add_wheel(wheel, requested=True)


def _output(prefix: Prefix, *command: str) -> str:
    environment = variables_in(prefix.path, os.environ)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_a_virtual_environment(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool))
    code = "import sys, sysconfig, site; print([sys.prefix, sys.base_prefix, sysconfig.get_path('purelib'), site.ENABLE_USER_SITE])"
    found = ast.literal_eval(_output(prefix, "python", "-c", code))
    packages = str(prefix.path / "lib" / f"python{site.python.minor}" / "site-packages")
    assert found == [str(prefix.path), str(site.python.prefix), packages, False]
    for name in ("python3", f"python{site.python.minor}"):
        assert _output(prefix, name, "-c", "import some_tool; print(some_tool.__name__)") == "some_tool"


def test_commands_run_in_it(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool))
    assert run_command(["some-tool"], environment=variables_in(prefix.path, os.environ)).exit_code == 5
    assert _output(prefix, "old-style") == str(prefix.path)
    assert _output(prefix, "shell") == "shell"
    assert (prefix.path / "share" / "some" / "tool.txt").read_text() == "data"


def test_a_prefix_whose_path_is_too_long_or_odd_still_has_commands(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool), prefixes="it's a long/" + "x" * 120)
    assert run_command(["some-tool"], environment=variables_in(prefix.path, os.environ)).exit_code == 5
    assert _output(prefix, "old-style") == str(prefix.path)


def test_what_is_there_is_what_record_and_lock_say(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool, bytecode=True))
    inspection = installed_in(prefix.interpreter)
    assert inspection.lock is not None
    report = inspection.check(Lock.from_pylock(inspection.lock))
    assert (report.findings, report.matching) == ((), 1)
    info = prefix.path / "lib" / f"python{site.python.minor}" / "site-packages" / "some_tool-1.0.dist-info"
    assert (info / "REQUESTED").exists()
    listed = {line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()}
    there = {os.path.relpath(each, info.parent) for each in prefix.path.rglob("*") if each.is_file()}
    environment = {f"../../../bin/{name}" for name in ("python", "python3", f"python{site.python.minor}", "activate")}
    assert there - listed == environment | {"../../../pyvenv.cfg", "../../../pylock.toml"}
    assert listed - there == set()


def test_check_finds_what_was_changed_in_it(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool))
    module = next(prefix.path.rglob("some_tool/__init__.py"))
    os.chmod(module.parent, 0o755)
    module.unlink()
    module.write_text("def main(): return 0\n")
    report = installed_in(prefix.interpreter).check(site.lock(tool))
    assert report.drift
    assert [(each.kind, each.files) for each in report.findings] == [("modified", ("some_tool/__init__.py",))]


def test_the_second_time_nothing_is_done(site: Site, tool: LockedPackage) -> None:
    first = site.materialise(site.lock(tool))
    (site.blobs.path(tool.artifact.digest)).unlink()
    second = site.materialise(site.lock(tool))
    assert (first.reused, first.unpacked) == (False, 1)
    assert (second.reused, second.path) == (True, first.path)


def test_nothing_has_a_name_before_it_is_durable(
    site: Site, tool: LockedPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(path: Path) -> None:
        assert path.is_dir()
        seen.append(
            (len(list((site.root / "cache").glob("wheels/[!.]*"))), len(list(site.root.glob("prefixes/[!.]*"))))
        )

    monkeypatch.setattr("mlenv.run.unpacked.make_durable", look)
    monkeypatch.setattr("mlenv.run.local.make_durable", look)
    site.materialise(site.lock(tool))
    assert seen == [(0, 0), (1, 0)]


def test_another_lock_links_what_is_unpacked_already(site: Site, tool: LockedPackage, tmp_path: Path) -> None:
    other = site.blobs.add_wheel(make_wheel(tmp_path / "wheels", "other"))
    first = site.materialise(site.lock(tool, bytecode=True))
    second = site.materialise(site.lock(tool, other, bytecode=True))
    assert second.unpacked == 1
    left, right = (next(each.path.rglob("some_tool/broken.py")) for each in (first, second))
    assert left.stat().st_ino == right.stat().st_ino
    assert sorted(site.compiled) == sorted(
        f"lib/python{site.python.minor}/site-packages/{name}"
        for name in ("some_tool/__init__.py", "some_tool/broken.py", "other/__init__.py")
    )


def test_bytecode_is_used_though_the_source_is_newer(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool, bytecode=True))
    code = "import sys, some_tool; print(some_tool.__cached__, some_tool.main.__code__.co_filename)"
    cached, file = _output(prefix, "python", "-vc", code).split()
    assert Path(cached).is_relative_to(prefix.path)
    assert Path(cached).read_bytes()[4:8] == b"\1\0\0\0"
    assert file == str(next(prefix.path.rglob("some_tool/__init__.py")))


def test_it_is_read_only(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool, bytecode=True))
    writable = [
        each for each in [prefix.path, *prefix.path.rglob("*")] if not each.is_symlink() and each.stat().st_mode & 0o222
    ]
    assert writable == []


def test_an_interpreter_that_went_away_is_noticed(site: Site, tool: LockedPackage) -> None:
    lock = site.lock(tool)
    prefix = site.materialise(lock)
    scripts = prefix.path / "bin"
    os.chmod(scripts, 0o755)
    (scripts / "python").unlink()
    (scripts / "python").symlink_to("/nowhere/python3")
    again = site.materialise(lock)
    assert (again.reused, again.path) == (False, prefix.path)
    assert _output(again, "python", "-c", "print(1)") == "1"


def test_files_that_two_packages_bring(site: Site, tmp_path: Path) -> None:
    first = make_wheel(tmp_path / "wheels", "first", files={"shared/same.py": b"1", "shared/unlike.py": b"1"})
    second = make_wheel(tmp_path / "wheels", "second", files={"shared/same.py": b"1", "shared/unlike.py": b"2"})
    prefix = site.materialise(site.lock(site.blobs.add_wheel(first), site.blobs.add_wheel(second)))
    [warning] = site.progress.warnings
    assert "shared/unlike.py" in warning
    kept = next(prefix.path.rglob("unlike.py")).read_text()
    assert ("first" if kept == "1" else "second") in warning


def test_a_file_where_another_package_needs_a_directory(site: Site, tmp_path: Path) -> None:
    first = make_wheel(tmp_path / "wheels", "first", files={"thing": b"1"})
    second = make_wheel(tmp_path / "wheels", "second", files={"thing/inside.py": b"1"})
    with pytest.raises(ClashingFiles, match="thing"):
        site.materialise(site.lock(site.blobs.add_wheel(first), site.blobs.add_wheel(second)))
    assert site.left_over() == []


def test_nothing_stays_of_a_wheel_that_lies(site: Site, tool: LockedPackage, tmp_path: Path) -> None:
    def spoil(entries: Entries) -> None:
        entries[0] = (entries[0][0], entries[0][1][:-1] + b"!")

    lying = site.blobs.add_wheel(make_wheel(tmp_path / "wheels", "lying", files={"lying.py": b"x = 1\n"}, tamper=spoil))
    with pytest.raises(InvalidWheel, match="lying"):
        site.materialise(site.lock(tool, lying))
    assert site.left_over() == []
    assert not [each for each in (site.root / "cache" / "wheels").iterdir() if lying.artifact.digest.hex in each.name]
    assert not [each for each in (site.root / "prefixes").iterdir() if not each.name.endswith(".lock")]


def test_eight_processes_make_it_once(site: Site, tool: LockedPackage, tmp_path: Path) -> None:
    # Enough files that all eight have begun before one is done.
    many = make_wheel(tmp_path / "wheels", "many", files={f"many/m{number}.py": b"" for number in range(3000)})
    lock = site.lock(tool, site.blobs.add_wheel(many))
    children = [site.child() for _ in range(8)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    said = [child.communicate(timeout=120)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0] * 8
    assert sorted(said) == ["False 2"] + ["True 0"] * 7
    assert prefix_path(lock, site.python, site.root / "prefixes").is_dir()
    assert site.left_over() == []


@pytest.mark.parametrize("point", ["wheel.unpacked", "wheel.unpacked#2", "prefix.staged", "prefix.kept"])
def test_a_kill_leaves_nothing_half_made(site: Site, tool: LockedPackage, tmp_path: Path, point: str) -> None:
    lock = site.lock(tool, site.blobs.add_wheel(make_wheel(tmp_path / "wheels", "other")))
    path = prefix_path(lock, site.python, site.root / "prefixes")
    with site.child(MLENV_FAULT=point) as child:
        child.communicate("\n", timeout=60)
        assert child.returncode == -signal.SIGKILL
    assert path.exists() == (point == "prefix.kept")
    prefix = site.materialise(lock)
    assert prefix.reused == (point == "prefix.kept")
    report = installed_in(prefix.interpreter).check(lock)
    assert (report.findings, report.matching) == ((), 2)
    # Another prefix sweeps what the dead process left.
    site.materialise(site.lock(tool))
    assert site.left_over() == []


def test_a_copy_across_file_systems_is_the_same(
    site: Site, tool: LockedPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    prefix = site.materialise(site.lock(tool))
    assert installed_in(prefix.interpreter).check(site.lock(tool)).findings == ()
    assert run_command(["some-tool"], environment=variables_in(prefix.path, os.environ)).exit_code == 5


def test_a_read_only_tree_can_be_removed(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool))
    remove_tree(prefix.path)
    assert not prefix.path.exists()


def test_activate_sets_and_deactivate_restores(site: Site, tool: LockedPackage) -> None:
    prefix = site.materialise(site.lock(tool), prefixes="a 'quoted' place")
    script = '. "$1/bin/activate"; command -v some-tool; echo "$VIRTUAL_ENV"; deactivate; echo "$PATH|${VIRTUAL_ENV-}"'
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", script, "sh", prefix.path], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(prefix.path / "bin" / "some-tool"), str(prefix.path), "/usr/bin:/bin|"]
