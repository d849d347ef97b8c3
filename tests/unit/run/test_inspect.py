"""What an interpreter says of itself, asked by the script that needs nothing but the standard library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlenv.run import _inspect_script
from mlenv.run.inspect import InspectionFailed, inspect_by, installed_in, script


def _distribution(site: Path, name: str, version: str, files: dict[str, str], record: str | None) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this one\n")
    for path, content in files.items():
        (site / path).write_text(content)
    if record is not None:
        (info / "RECORD").write_text(record)


def _found(*sites: Path, check_files: bool = True) -> list[dict[str, object]]:
    found: list[dict[str, object]] = _inspect_script.inspect([str(each) for each in sites], check_files)[
        "distributions"
    ]
    return found


def test_this_interpreter_and_the_same_as_another_process_agree() -> None:
    here = installed_in(check_files=False)
    there = installed_in(Path(sys.executable), check_files=False)
    assert (here.python, here.prefix) == (there.python, there.prefix)
    versions = {each.name: each.version for each in here.distributions}
    assert "pytest" in versions
    assert versions == {each.name: each.version for each in there.distributions}


def test_files_are_compared_with_record(tmp_path: Path) -> None:
    good = "2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824"  # sha256 of "hello"
    import base64

    digest = base64.urlsafe_b64encode(bytes.fromhex(good)).rstrip(b"=").decode()
    record = (
        f"same.py,sha256={digest},5\nchanged.py,sha256={digest},5\ngone.py,sha256={digest},5\n"
        f"odd.py,md5=abc,5\ncached.pyc,sha256={digest},5\nwithout.py,,\n\ndemo-1.0.dist-info/RECORD,,\n"
    )
    _distribution(tmp_path, "demo", "1.0", {"same.py": "hello", "changed.py": "Hello", "odd.py": "x"}, record)
    [found] = _found(tmp_path)
    assert (found["modified"], found["missing"], found["recorded"]) == (["changed.py", "odd.py"], ["gone.py"], True)
    [unread] = _found(tmp_path, check_files=False)
    assert (unread["modified"], unread["missing"]) == ([], [])


def test_a_directory_counts_once_and_the_first_comes_first(tmp_path: Path) -> None:
    _distribution(tmp_path / "a", "demo", "1.0", {}, "")
    _distribution(tmp_path / "b", "demo", "2.0", {}, None)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = _found(tmp_path / "a", tmp_path / "link", tmp_path / "nowhere", tmp_path / "b")
    assert [(each["version"], each["recorded"]) for each in found] == [("1.0", True), ("2.0", False)]


def test_links_to_source_trees_and_old_metadata(tmp_path: Path) -> None:
    _distribution(tmp_path, "linked", "1.0", {}, "")
    (tmp_path / "linked-1.0.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}, "url": "x"}')
    (tmp_path / "old-2.0.egg-info").write_text("Metadata-Version: 1.0\nName: old\nVersion: 2.0\n")
    (tmp_path / "broken-1.dist-info").mkdir()
    assert [(each["name"], each["editable"]) for each in _found(tmp_path)] == [("linked", True), ("old", False)]


def test_the_script_stands_alone_and_does_not_see_the_current_directory(tmp_path: Path) -> None:
    _distribution(tmp_path, "stray", "1.0", {}, "")
    done = subprocess.run([sys.executable, "-"], input=script(), capture_output=True, cwd=tmp_path, check=True)
    assert "stray" not in {each["name"] for each in json.loads(done.stdout)["distributions"]}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('first', file=sys.stderr); sys.exit('no module here')", "no module here"),
        ("print('hello')", "did not answer with JSON"),
        ("print('{}')", "lacks"),
    ],
)
def test_an_interpreter_that_does_not_answer(code: str, message: str) -> None:
    with pytest.raises(InspectionFailed, match=message):
        inspect_by([sys.executable, "-c", code], what="it")


def test_an_interpreter_that_is_not_there() -> None:
    with pytest.raises(InspectionFailed, match="/nowhere/python"):
        installed_in(Path("/nowhere/python"))
