"""What uv is given, and what it gives back."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.spec import Index, Requirement, Sources
from mlenv.resolve.interface import ResolveRequest
from mlenv.resolve.requirement_lines import parse_lines
from mlenv.resolve.uv_input import Attempt, compile_arguments, write
from mlenv.resolve.uv_output import UnreadableAnswer, read_edges, read_pylock
from mlenv.resolve.uv_process import clean_environment

TARGET = Target(Platform("linux", "amd64"), "3.11", Glibc(2, 28))


def test_indexes_and_their_caching(tmp_path: Path) -> None:
    sources = Sources(extra=(Index("http://h/a", "corp", ("Inner",)), Index("http://h/page", flat=True)))
    request = ResolveRequest((), TARGET, sources=sources, as_of=datetime(2023, 6, 1, tzinfo=UTC))
    write(Attempt(request, parse_lines([Requirement("inner")])), tmp_path, public="http://h/public")
    configuration = tomllib.loads((tmp_path / "uv.toml").read_text())
    assert [each["url"] for each in configuration["index"]] == ["http://h/a", "http://h/public"]
    assert [each.get("explicit", False) for each in configuration["index"]] == [True, False]
    assert configuration["index"][1]["default"] is True
    assert all(each["cache-control"]["api"] == "max-age=600" for each in configuration["index"])
    assert configuration["find-links"] == ["http://h/page"]
    assert configuration["exclude-newer"] == "2023-06-01T00:00:00Z"
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert project["tool"]["uv"]["sources"] == {"inner": {"index": "corp"}}


def test_only_what_is_allowed_is_taken_as_source() -> None:
    attempt = Attempt(ResolveRequest((), TARGET), (), source=frozenset({"b"}), assumed={"a": ()})
    arguments = compile_arguments(attempt, "/usr/bin/python3")
    assert arguments[-6:] == ["--only-binary", ":all:", "--no-binary", "a", "--no-binary", "b"]


def test_who_needs_whom() -> None:
    text = """\
certifi==2026.10.18       # via requests
idna==3.15                # via requests, mlenv-request (pyproject.toml)
requests[socks]==2.31.0   # via mlenv-request (pyproject.toml), other-app
other_app @ http://h/o.whl  # via mlenv-request (pyproject.toml)
alone==1
"""
    assert read_edges(text) == {"requests": ("certifi", "idna"), "other-app": ("requests",)}


def test_reads_a_pylock_without_credentials_and_fragments() -> None:
    text = """\
lock-version = "1.0"
[[packages]]
name = "b"
version = "2"
sdist = { url = "http://h/b-2.tar.gz", size = 9, hashes = { sha256 = "00" } }
[[packages]]
name = "a"
version = "1"
wheels = [{ url = "http://me:pw@h/x/a-1-py3-none-any.whl#sha256=0", hashes = {} }]
"""
    first, second = read_pylock(text, TARGET)
    assert first.wheel is not None
    assert (first.name, first.wheel.url, first.wheel.size) == ("a", "http://h/x/a-1-py3-none-any.whl", None)
    assert second.wheel is None
    assert second.source is not None


@pytest.mark.parametrize("text", ["[", "packages = [1]", '[[packages]]\nname = "a"'])
def test_an_answer_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UnreadableAnswer):
        read_pylock(text, TARGET)


def test_what_uv_may_see_of_this_machine() -> None:
    kept = {
        "PATH": "/bin",
        "SSL_CERT_FILE": "/c",
        "HTTPS_PROXY": "http://p",
        "UV_INDEX_MY_FEED_PASSWORD": "x",
        "UV_HTTP_TIMEOUT": "5",
        "PYTHON_KEYRING_BACKEND": "k",
        "NETRC": "/n",
    }
    dropped = dict.fromkeys(
        [
            "UV_INDEX_URL",
            "UV_EXCLUDE_NEWER",
            "UV_CACHE_DIR",
            "PIP_INDEX_URL",
            "PYTHONPATH",
            "VIRTUAL_ENV",
            "CONDA_PREFIX",
        ],
        "1",
    )
    assert clean_environment(kept | dropped) == kept | {"NO_COLOR": "1", "SOURCE_DATE_EPOCH": "1577836800"}
