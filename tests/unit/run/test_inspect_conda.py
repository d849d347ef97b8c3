"""What the inspecting script says of conda's packages in a real prefix: as they are, changed, spoiled and hostile."""

import ast
import base64
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.conda_locked import conda_lock
from support.conda_packages import PLACEHOLDER, File, Link, interpreter, make_package, python_package
from support.conda_prefixes import laid_out, without

from mlenv.core.check import CheckReport
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.run import _inspect_script
from mlenv.run.inspect import installed_in, script

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
VERSION = ".".join(map(str, sys.version_info[:3]))
SITE = f"lib/python{MINOR}/site-packages"
RECORD = "conda-meta/zlib-1.0-0.json"


class Environment:
    """A prefix of conda packages with a Python that calls it its own, and its lock."""

    def __init__(self, root: Path) -> None:
        zlib = make_package(
            "zlib",
            files={
                "lib/libz.so.1.0": b"code",
                "lib/libz.so": Link("libz.so.1.0"),
                "share/where": File(PLACEHOLDER.encode(), 0o644, "text"),
            },
        )
        tool = python_package("tool", "2.0", entry_points=["tool = tool:main"])
        home = Path(os.path.realpath(sys.executable)).parent
        self.prefix, self.lock = laid_out(root, interpreter(VERSION, home=str(home)), zlib, tool)
        # The package's own python would not do: it is one of the machine in another's clothes.
        self.python = self.prefix / "bin/own-python"
        self.python.symlink_to(os.path.realpath(sys.executable))

    def check(self, lock: Lock | None = None, *, check_files: bool = True) -> CheckReport:
        """What a check says."""
        return installed_in(self.python, check_files=check_files).check(lock or self.lock)

    def kinds(self, lock: Lock | None = None) -> list[tuple[str, str, str, tuple[str, ...]]]:
        """What it finds."""
        return [(each.kind, each.manager, each.name, each.files) for each in self.check(lock).findings]

    def path(self, path: str) -> Path:
        """A file of the prefix, which may be changed."""
        found = self.prefix / path
        if found.exists() and not found.is_symlink():
            found.chmod(0o644)
        return found

    def change(self, change: Callable[[dict[str, Any]], object], record: str = RECORD) -> None:
        """Change a record."""
        document = json.loads(self.path(record).read_text())
        change(document)
        self.path(record).write_text(json.dumps(document))

    def wheel(self, name: str, version: str, files: dict[str, bytes]) -> LockedPackage:
        """Install a wheel over what is there, as pip or an image's layers do."""
        info = f"{name}-{version}.dist-info"
        files = files | {f"{info}/METADATA": f"Name: {name}\nVersion: {version}\n".encode()}
        rows = []
        for path, data in files.items():
            target = self.prefix / SITE / path
            target.parent.mkdir(exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes(data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(data)}\n")
        record = self.prefix / SITE / info / "RECORD"
        record.unlink(missing_ok=True)
        record.write_text("".join(rows))
        artifact = Artifact(f"{name}-{version}-py3-none-any.whl", 1, Digest.of(b""), None)
        return LockedPackage(name, version, artifact)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_what_was_laid_out_is_as_locked(environment: Environment) -> None:
    report = environment.check()
    assert (report.findings, report.locked, report.matching) == ((), 3, 3)
    assert (report.python, report.prefix) == (VERSION, str(environment.prefix))
    [tool] = installed_in(environment.python).distributions
    assert (tool.name, tool.owner) == ("tool", "tool")
    unread = environment.check(check_files=False)
    assert (unread.findings, unread.matching) == ((), 3)


def test_files_that_were_changed(environment: Environment) -> None:
    environment.path("lib/libz.so.1.0").write_bytes(b"evil")
    environment.path("share/where").unlink()
    environment.path(f"{SITE}/tool/__init__.py").write_text("VERSION = '3'\n")
    environment.path("bin/tool").write_text("#!/bin/sh\n")
    assert environment.kinds() == [
        ("modified", "conda", "tool", ("bin/tool", f"{SITE}/tool/__init__.py")),
        ("modified", "conda", "zlib", ("lib/libz.so.1.0", "share/where (missing)")),
    ]
    assert environment.check().matching == 1
    assert environment.check(check_files=False).matching == 3


def test_a_link_is_judged_by_what_it_says(environment: Environment) -> None:
    link = environment.path("lib/libz.so")
    for target in ("./libz.so.1.0", "/etc/passwd", "gone"):
        link.unlink()
        link.symlink_to(target)
        assert environment.kinds() == [("modified", "conda", "zlib", ("lib/libz.so",))]
    link.unlink()
    shutil.copy(environment.path("lib/libz.so.1.0"), link)
    assert environment.kinds() == [("modified", "conda", "zlib", ("lib/libz.so",))]


@pytest.mark.parametrize("recorded", [None, hashlib.sha256().hexdigest(), hashlib.sha256(b"code").hexdigest()])
def test_links_as_other_tools_record_them(environment: Environment, recorded: str | None) -> None:
    def change(document: dict[str, Any]) -> None:
        [row] = [each for each in document["paths_data"]["paths"] if each["path_type"] == "softlink"]
        del row["sha256_in_prefix"]
        if recorded is not None:
            row["sha256_in_prefix"] = recorded

    environment.change(change)
    assert environment.kinds() == []
    environment.path("lib/libz.so").unlink()
    environment.path("lib/libz.so").write_bytes(b"code")
    assert environment.kinds() == [("modified", "conda", "zlib", ("lib/libz.so",))]


def test_no_link_is_followed_out_of_the_prefix_though_its_content_is_recorded(
    environment: Environment, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        [row] = [each for each in document["paths_data"]["paths"] if each["path_type"] == "softlink"]
        row["sha256_in_prefix"] = hashlib.sha256(b"code").hexdigest()

    environment.change(change)
    (tmp_path / "outside").write_bytes(b"code")
    environment.path("lib/libz.so").unlink()
    (environment.prefix / "lib/libz.so").symlink_to(tmp_path / "outside")
    assert environment.kinds() == [("modified", "conda", "zlib", ("lib/libz.so",))]


def test_hashes_of_packages_count_where_none_are_of_the_prefix(environment: Environment) -> None:
    def change(document: dict[str, Any]) -> None:
        for row in document["paths_data"]["paths"]:
            row.pop("sha256_in_prefix", None)
        bytecode = {"_path": "lib/x.pyc", "path_type": "hardlink", "sha256": "0" * 64}
        document["paths_data"]["paths"].append(bytecode)

    environment.change(change)
    assert environment.kinds() == [], "a text with a prefix in it, and bytecode, are nobody's promise"
    environment.path("lib/libz.so.1.0").write_bytes(b"evil")
    environment.path("share/where").write_text("elsewhere")
    assert environment.kinds() == [("modified", "conda", "zlib", ("lib/libz.so.1.0",))]


def test_nothing_but_regular_files_below_the_prefix_is_read(environment: Environment, tmp_path: Path) -> None:
    code = environment.path("lib/libz.so.1.0")
    code.unlink()
    os.mkfifo(code)
    where = environment.path("share/where")
    (tmp_path / "outside").mkdir()
    shutil.copy(where, tmp_path / "outside/where")
    shutil.rmtree(where.parent)
    where.parent.symlink_to(tmp_path / "outside")
    assert environment.kinds() == [("modified", "conda", "zlib", ("lib/libz.so.1.0", "share/where"))]
    (environment.prefix / SITE / "tool-2.0.dist-info" / "METADATA").unlink()
    os.mkfifo(environment.prefix / SITE / "tool-2.0.dist-info" / "METADATA")
    assert [each[2] for each in environment.kinds()] == ["tool", "zlib"]


def test_packages_that_came_and_went(environment: Environment) -> None:
    assert environment.kinds(without(environment.lock, "tool")) == [("extra", "conda", "tool", ())]
    environment.path(RECORD).unlink()
    report = environment.check()
    assert [(each.kind, each.expected, each.found) for each in report.findings] == [("missing", "1.0=0", None)]
    assert (report.locked, report.matching) == (3, 2)


@pytest.mark.parametrize(
    ("key", "value", "kind", "found"),
    [
        ("version", "1.1", "version", "1.1=0"),
        ("build", "1", "build", "1.0=1"),
        ("sha256", "0" * 64, "build", f"1.0=0 (sha256:{'0' * 64})"),
    ],
)
def test_another_version_or_build(environment: Environment, key: str, value: str, kind: str, found: str) -> None:
    environment.change(lambda document: document.update({key: value}))
    document = json.loads(environment.path(RECORD).read_text())
    stem = "-".join(document[each] for each in ("name", "version", "build"))
    environment.path(RECORD).rename(environment.prefix / f"conda-meta/{stem}.json")
    [finding] = environment.check().findings
    assert (finding.kind, finding.found, finding.manager, finding.drift) == (kind, found, "conda", True)


def test_two_records_of_one_package(environment: Environment) -> None:
    document = json.loads(environment.path(RECORD).read_text()) | {"build": "", "version": "0.9"}
    document["build"] = "h"
    (environment.prefix / "conda-meta/zlib-0.9-h.json").write_text(json.dumps(document))
    assert environment.kinds() == [("duplicate", "conda", "zlib", ("conda-meta/zlib-0.9-h.json",))]
    assert environment.check().matching == 3


def _paths(*paths: object) -> Callable[[Path], object]:
    listed = [each if isinstance(each, dict) else {"_path": each, "path_type": "hardlink"} for each in paths]
    document = {"name": "zlib", "version": "1.0", "build": "0", "paths_data": {"paths": listed}}
    return lambda path: path.write_text(json.dumps(document))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.write_text("{"), "is not JSON"),
        (lambda path: path.write_bytes(b'{"name": "\xff"}'), "is not JSON"),
        (lambda path: path.write_text("[" * 100_000), "is not JSON"),
        (lambda path: path.write_text("[]"), "is no record of a package"),
        (lambda path: path.write_text('{"name": "zlib", "version": 1, "build": "0"}'), "is no record of a package"),
        (lambda path: path.write_text('{"name": "z", "version": "1", "build": "0"}'), "is the record of z-1-0"),
        (lambda path: path.write_text('{"name": "\\u001b[2J", "version": "1", "build": "0"}'), "is no record of"),
        (lambda path: path.write_bytes(b" " * (_inspect_script.LIMIT + 1)), "is larger than"),
        (_paths("../../etc/passwd"), "names a path that is not below the prefix"),
        (_paths("/etc/passwd"), "names a path that is not below the prefix"),
        (_paths("a/./b"), "names a path that is not below the prefix"),
        (_paths("a\nb"), "names a path that is not below the prefix"),
        (_paths("\ud800"), "names a path that is not below the prefix"),
        (_paths(7), "names a path that is not below the prefix"),
        (_paths({"_path": None}), "names a path that is not below the prefix"),
        (_fifo, "is no file that can be read"),
        (_link, "is no file that can be read"),
    ],
)
def test_a_damaged_record_is_a_finding(environment: Environment, spoil: Callable[[Path], object], problem: str) -> None:
    spoil(environment.path(RECORD))
    [(kind, manager, name, files)] = environment.kinds()
    assert (kind, manager, name) == ("damaged", "conda", "zlib")
    assert files[0].startswith(f"{RECORD} ({problem}")
    assert environment.check().matching == 2


@pytest.mark.parametrize("paths", [{}, {"paths_data": 7}, {"paths_data": {"paths": "abc"}, "files": 7}])
def test_a_record_without_hashes_is_said_and_does_not_count(environment: Environment, paths: dict[str, Any]) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["paths_data"]
        document.update(paths)

    environment.change(change)
    report = environment.check()
    assert [(each.kind, each.name, each.drift) for each in report.findings] == [("unrecorded", "zlib", False)]
    assert (report.drift, report.matching) == (False, 3)


def test_strange_records_end_no_check(environment: Environment) -> None:
    meta = environment.prefix / "conda-meta"
    (meta / "history").unlink()
    (meta / "a-b.json").mkdir()
    (meta / "x-1-2.json").write_text('{"a": ' + "9" * 100_000 + "}")
    (meta / os.fsdecode(b"\xff-1-0.json")).write_text("")
    assert {(kind, name) for kind, _, name, _ in environment.kinds()} == {
        ("damaged", "a"),
        ("damaged", "x"),
        ("damaged", "\ufffd"),
    }


def test_the_directory_of_records_is_no_link_and_not_endless(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(environment.prefix))
    monkeypatch.setattr(_inspect_script, "MOST", 2)
    found = _inspect_script.inspect([])["conda"]
    assert [each["problem"] for each in found] == [None, None, "has 3 records, at most 2 are read"]
    meta = environment.prefix / "conda-meta"
    meta.rename(environment.prefix / "elsewhere")
    meta.symlink_to("elsewhere")
    assert [each["problem"] for each in _inspect_script.inspect([])["conda"]] == ["is a link"]
    meta.unlink()
    assert _inspect_script.inspect([])["conda"] == []


def test_what_pip_adds_is_extra_and_what_is_locked_over_conda_is_judged_by_the_lock(environment: Environment) -> None:
    changed = {"tool/__init__.py": b"VERSION = '3'\n"}
    wheel = environment.wheel("tool", "3.0", changed)
    assert environment.kinds() == [
        ("modified", "conda", "tool", (f"{SITE}/tool/__init__.py",)),
        ("extra", "pypi", "tool", ()),
    ]
    lock = conda_lock(*environment.lock.conda, wheels=(wheel,))
    report = environment.check(lock)
    assert (report.findings, report.locked, report.matching) == ((), 4, 4)
    environment.path(f"{SITE}/tool/__init__.py").write_text("VERSION = '4'\n")
    assert [each[:3] for each in environment.kinds(lock)] == [
        ("modified", "conda", "tool"),
        ("modified", "pypi", "tool"),
    ]


def test_a_wheel_of_the_same_version_over_a_conda_package(environment: Environment) -> None:
    wheel = environment.wheel("tool", "2.0", {"tool/__init__.py": b"VERSION = '2'\n"})
    lock = conda_lock(*environment.lock.conda, wheels=(wheel,))
    assert environment.kinds(lock) == []
    info = f"{SITE}/tool-2.0.dist-info"
    changed = (f"{info}/METADATA", f"{info}/RECORD", f"{SITE}/tool/__init__.py")
    assert environment.kinds() == [("modified", "conda", "tool", changed)], "it is not locked"
    (environment.prefix / SITE / "tool/__init__.py").unlink()
    assert [each[:3] for each in environment.kinds(lock)] == [
        ("modified", "conda", "tool"),
        ("modified", "pypi", "tool"),
    ]


def test_a_path_of_two_packages_is_as_one_of_them_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, _ = laid_out(tmp_path, make_package("a", files={"x": b"one"}), make_package("b", files={"x": b"two"}))
    monkeypatch.setattr(sys, "prefix", str(prefix))
    assert [each["modified"] for each in _inspect_script.inspect([])["conda"]] == [[], []]
    (prefix / "x").chmod(0o644)
    (prefix / "x").write_bytes(b"three")
    assert [each["modified"] for each in _inspect_script.inspect([])["conda"]] == [["x"], ["x"]]


def test_the_script_is_of_python_3_7() -> None:
    ast.parse(script(), feature_version=(3, 7))
