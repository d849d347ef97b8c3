"""Downloads on a site's machines: what connections are refused, and that nothing is sent over them."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.index import PackageIndex, serve

from mlenv.core.site_policy import AddressNotListed, SitePolicy
from mlenv.resolve.guard import Guard
from mlenv.resolve.index_http import HttpFetcher


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with serve() as found:
        found.wheel("alpha", "1.0")
        yield found


def _fetcher(*indexes: str, own: str | None = None) -> HttpFetcher:
    return HttpFetcher(guard=Guard(SitePolicy(indexes=indexes), own), pause=lambda _: None)


def test_a_listed_host_may_be_anywhere(index: PackageIndex) -> None:
    url = index.address("alpha-1.0-py3-none-any.whl")
    assert _fetcher(index.simple).read(url)
    assert _fetcher(own=index.simple).size_of(url) > 0


def test_what_is_not_listed_must_be_https(index: PackageIndex) -> None:
    with pytest.raises(AddressNotListed, match="https"):
        _fetcher().read(index.address("alpha-1.0-py3-none-any.whl"))
    assert index.log == []


def test_an_https_address_that_leads_to_this_machine_is_told_nothing() -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            connection, _ = listening.accept()
            with connection:
                heard.append(connection.recv(100))

        thread = threading.Thread(target=listen)
        thread.start()
        # A name that resolves to this machine, as anybody's name may.
        with pytest.raises(AddressNotListed, match="not on the public Internet"):
            _fetcher().read(f"https://localhost:{listening.getsockname()[1]}/x.whl")
        thread.join(10)
    assert heard == [b""]


def test_a_redirect_does_not_lead_past_the_guard(index: PackageIndex) -> None:
    with serve() as inner:
        inner.wheel("alpha", "1.0")
        index.redirect = inner.url
        with pytest.raises(AddressNotListed):
            _fetcher(index.simple).read(index.address("alpha-1.0-py3-none-any.whl"))
        assert inner.log == []
        assert index.log


def test_no_file_of_the_machine_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    for url in (secret.as_uri(), "file:///etc/passwd"):
        with pytest.raises(AddressNotListed):
            _fetcher("https://wheels.example.org").read(url)
        with pytest.raises(AddressNotListed):
            _fetcher().size_of(url)
