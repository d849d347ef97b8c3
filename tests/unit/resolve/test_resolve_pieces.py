"""Small parts: names, credentials, pages, sources that are looked into."""

import io
import tarfile
import zipfile
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.spec import Index, Sources
from mlenv.resolve.credentials import credentials_for, index_for
from mlenv.resolve.failures import variable_name
from mlenv.resolve.index_pages import IndexFile, ProjectPage, _entries, _files
from mlenv.resolve.python_fit import fitting_pythons, listed, nearest
from mlenv.resolve.renames import RENAMES, renamed_to
from mlenv.resolve.sdist_peek import declared_needs

TARGET = Target(Platform("linux", "amd64"), "3.11.2", Glibc(2, 28))


def _page(*entries: tuple[str, str | None]) -> ProjectPage:
    rows: list[dict[str, Any]] = [{"filename": name, "requires-python": python} for name, python in entries]
    return ProjectPage("lib", tuple(_files("lib", rows)))


def test_renames_are_normalised_and_lead_somewhere_else() -> None:
    assert renamed_to("sklearn") == "scikit-learn"
    assert renamed_to("scikit-learn") is None
    for old, (new, source) in RENAMES.items():
        assert canonicalize_name(old) == old
        assert canonicalize_name(new) == new
        assert new not in RENAMES
        assert source


def test_the_index_that_an_address_belongs_to() -> None:
    sources = Sources(Index("http://h/a/simple", "a"), (Index("http://h/b/simple", "b"), Index("http://i/", "i")))
    assert (found := index_for("http://h/b/files/x.whl", sources)) is not None
    assert found.name == "b"
    assert index_for("https://h/b/files/x.whl", sources) is None


def test_variables_are_named_as_uv_names_them() -> None:
    assert variable_name("my-feed.2") == "MY_FEED_2"
    variables = {"UV_INDEX_MY_FEED_2_PASSWORD": "token"}
    sources = Sources(extra=(Index("http://h/simple", "my-feed.2"),))
    assert credentials_for("http://h/x.whl", sources, variables) == ("", "token")


def test_pages_in_html() -> None:
    html = b"""<a href="../f/lib-1.0-py3-none-any.whl#sha256=0" data-requires-python="&gt;=3.8" data-yanked="">x</a>
    <a href="../f/lib-1.1.tar.gz">y</a><a href="../f/other-1.1.tar.gz">z</a><a>no</a>"""
    files: list[IndexFile] = list(_files("lib", _entries(html, "http://h/simple/lib/")))
    assert [(each.filename, each.yanked, each.is_wheel) for each in files] == [
        ("lib-1.0-py3-none-any.whl", True, True),
        ("lib-1.1.tar.gz", False, False),
    ]
    assert files[0].admits("3.8")
    assert not files[0].admits("3.7")


def test_withdrawn_files_count_only_when_named() -> None:
    rows: list[dict[str, Any]] = [{"filename": "lib-1.0.tar.gz", "yanked": True}, {"filename": "lib-1.1rc1.tar.gz"}]
    page = ProjectPage("lib", tuple(_files("lib", rows)))
    assert [str(each.version) for each in page.matching(">=1")] == ["1.1rc1"]
    assert [str(each.version) for each in page.matching("==1.0")] == ["1.0"]
    assert page.matching("nonsense") == page.files


def test_pythons_that_would_do() -> None:
    page = _page(
        ("lib-1-cp39-cp39-manylinux1_x86_64.whl", None),
        ("lib-1-cp310-cp310-manylinux_2_17_x86_64.whl", ">=3.10"),
        ("lib-1-cp312-cp312-win_amd64.whl", None),
    )
    assert fitting_pythons(page.files, TARGET) == ("3.9", "3.10")
    assert listed(["3.9", "3.10", "3.11"]) == "3.9 to 3.11"
    assert listed(["3.6", "3.10", "3.11"]) == "3.6, 3.10, 3.11"


def test_versions_near_what_was_asked_for() -> None:
    page = _page(*((f"lib-{each}-py3-none-any.whl", None) for each in ("1.0", "1.2.4", "1.3", "2.0", "2.1rc1")))
    assert nearest("==1.2.3", page, TARGET) == ("1.2.4", "1.3", "1.0")
    assert nearest("", page, TARGET)[0] == "1.0"
    page = _page(*((f"lib-{each}-py3-none-any.whl", None) for each in ("1.26.4", "2.0.0", "2.4.1", "2.5.0", "2.5.5")))
    assert nearest("==99", page, TARGET) == ("2.5.5", "2.5.0", "2.4.1")
    assert nearest("==2.3", page, TARGET)[0] == "2.4.1"
    assert nearest("==1.27", page, TARGET)[0] == "1.26.4"


def _tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_what_a_source_says_it_needs() -> None:
    modern = _tar({"a-1/PKG-INFO": "Metadata-Version: 2.1\nRequires-Dist: b>=1\nRequires-Dist: not a requirement\n\nx"})
    assert declared_needs("a-1.tar.gz", modern) == ("b>=1",)
    old = _tar({"a-1/PKG-INFO": "Name: a\n", "a-1/a.egg-info/requires.txt": "docopt\nsix>=1\n\n[extra]\nmore\n"})
    assert declared_needs("a-1.tar.gz", old) == ("docopt", "six>=1")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a-1/a.egg-info/requires.txt", "docopt\n")
    assert declared_needs("a-1.zip", buffer.getvalue()) == ("docopt",)


@pytest.mark.parametrize("data", [b"", b"nonsense", _tar({"a-1/setup.py": ""})[:40]], ids=["empty", "text", "cut"])
def test_a_source_that_cannot_be_read_says_nothing(data: bytes) -> None:
    assert declared_needs("a-1.tar.gz", data) == ()
    assert declared_needs("a-1.zip", data) == ()
