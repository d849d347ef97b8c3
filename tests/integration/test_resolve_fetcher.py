"""Downloads, against servers on the loopback interface that break off, redirect and want to know who asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.index import PackageIndex, serve

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact
from mlenv.core.spec import PUBLIC, Index, Sources
from mlenv.resolve.failures import CredentialsRefused, IndexUnreachable
from mlenv.resolve.index_http import HttpFetcher

_BIG = {"big.py": "".join(str(number) for number in range(400_000))}


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with serve() as served:
        yield served


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def fetcher(pauses: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HttpFetcher:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    found = HttpFetcher(pause=pauses.append)
    return found


def _artifact(index: PackageIndex, filename: str) -> Artifact:
    data = index.data(filename)
    return Artifact(filename, len(data), Digest.of(data), index.address(filename))


def test_brings_the_bytes(index: PackageIndex, fetcher: HttpFetcher, pauses: list[float]) -> None:
    filename = index.wheel("app", "1.0", files=_BIG)
    chunks = list(fetcher.fetch(_artifact(index, filename), PUBLIC))
    assert b"".join(chunks) == index.data(filename)
    assert max(map(len, chunks)) <= 1 << 20
    assert pauses == []


@pytest.mark.parametrize("trouble", ["headless", "faltering"])
def test_counts_what_comes_where_head_does_not_tell(index: PackageIndex, fetcher: HttpFetcher, trouble: str) -> None:
    filename = index.wheel("app", "1.0", files=_BIG)
    setattr(index, trouble, 1)
    assert fetcher.size_of(index.address(filename)) == len(index.data(filename))


@pytest.mark.parametrize("etag", [True, False])
def test_goes_on_where_the_server_broke_off(
    index: PackageIndex, fetcher: HttpFetcher, pauses: list[float], etag: bool
) -> None:
    index.broken, index.etag = 2, etag
    filename = index.wheel("app", "1.0", files=_BIG)
    assert b"".join(fetcher.fetch(_artifact(index, filename), PUBLIC)) == index.data(filename)
    half = len(index.data(filename)) // 2
    assert index.ranges[0] == f"bytes={half}-"
    assert len(index.ranges) == 2
    assert len(pauses) == 2


def test_gives_up_after_three_tries(fetcher: HttpFetcher, pauses: list[float]) -> None:
    artifact = Artifact("a.whl", 1, Digest.of(b"a"), "http://127.0.0.1:9/a.whl")
    with pytest.raises(IndexUnreachable, match=r"^http://127\.0\.0\.1:9/a\.whl: "):
        list(fetcher.fetch(artifact, PUBLIC))
    assert pauses == [1.0, 2.0]


def test_a_size_that_nobody_tells_is_an_error_of_its_own(fetcher: HttpFetcher, pauses: list[float]) -> None:
    with pytest.raises(IndexUnreachable, match=r"^http://127\.0\.0\.1:9/a\.whl: "):
        fetcher.size_of("http://127.0.0.1:9/a.whl")
    assert pauses == [1.0, 2.0]


def test_what_is_gone_is_not_asked_for_again(index: PackageIndex, fetcher: HttpFetcher) -> None:
    artifact = Artifact("a.whl", 1, Digest.of(b"a"), f"{index.url}/files/a.whl")
    with pytest.raises(IndexUnreachable, match="it is not there \\(404\\)"):
        list(fetcher.fetch(artifact, PUBLIC))
    assert index.log == ["GET /files/a.whl"]


def test_credentials_by_the_name_of_the_index(
    index: PackageIndex, fetcher: HttpFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.user, index.password = "me", "s3cret"
    artifact = _artifact(index, index.wheel("app", "1.0"))
    sources = Sources(extra=(Index(index.simple, "my-feed"),))
    with pytest.raises(CredentialsRefused) as caught:
        list(fetcher.fetch(artifact, sources))
    assert caught.value.hint is not None
    assert "UV_INDEX_MY_FEED_USERNAME" in caught.value.hint
    monkeypatch.setenv("UV_INDEX_MY_FEED_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_MY_FEED_PASSWORD", "s3cret")
    assert b"".join(fetcher.fetch(artifact, sources)) == index.data(artifact.filename)
    assert b"".join(fetcher.fetch(artifact, sources)) == index.data(artifact.filename)
    # What was found to be wanted is said at once the next time.
    assert len(index.log) == 4


def test_credentials_from_netrc(index: PackageIndex, fetcher: HttpFetcher, tmp_path: Path) -> None:
    index.user, index.password = "me", "s3cret"
    artifact = _artifact(index, index.wheel("app", "1.0"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert b"".join(fetcher.fetch(artifact, PUBLIC)) == index.data(artifact.filename)


def test_a_redirect_to_another_server_takes_no_credentials_along(
    index: PackageIndex, fetcher: HttpFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_INDEX_FEED_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_FEED_PASSWORD", "s3cret")
    index.user, index.password = "me", "s3cret"
    filename = index.wheel("app", "1.0")
    with serve() as storage:
        storage.wheel("app", "1.0")
        index.redirect = storage.url
        sources = Sources(default=Index(index.simple, "feed"))
        assert b"".join(fetcher.fetch(_artifact(index, filename), sources)) == index.data(filename)
        assert storage.log == [f"GET /files/{filename}"]
        assert storage.authorized == []
    assert index.authorized


def test_secrets_in_an_address_are_not_shown(fetcher: HttpFetcher) -> None:
    url = "http://me:s3cret@127.0.0.1:9/a.whl?sig=t0ken"
    with pytest.raises(IndexUnreachable) as caught:
        list(fetcher.fetch(Artifact("a.whl", 1, Digest.of(b"a"), url), PUBLIC))
    assert str(caught.value).startswith("http://****@127.0.0.1:9/a.whl?sig=****: ")
    assert "s3cret" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


def test_files_are_read_as_they_are(fetcher: HttpFetcher, tmp_path: Path) -> None:
    file = tmp_path / "with space.whl"
    file.write_bytes(b"wheel")
    artifact = Artifact(file.name, 5, Digest.of(b"wheel"), file.as_uri())
    assert b"".join(fetcher.fetch(artifact, PUBLIC)) == b"wheel"
    assert fetcher.size_of(file.as_uri()) == 5
    file.unlink()
    with pytest.raises(IndexUnreachable, match="No such file"):
        list(fetcher.fetch(artifact, PUBLIC))


@pytest.mark.parametrize("url", ["ftp://example.org/a.whl", "nonsense", "file://example.org/a.whl"])
def test_addresses_that_cannot_be_fetched(fetcher: HttpFetcher, url: str) -> None:
    with pytest.raises(IndexUnreachable):
        list(fetcher.fetch(Artifact("a.whl", 1, Digest.of(b"a"), url), PUBLIC))


def test_a_document_is_not_read_beyond_its_limit(index: PackageIndex, fetcher: HttpFetcher) -> None:
    filename = index.wheel("app", "1.0", files=_BIG)
    with pytest.raises(IndexUnreachable, match="more than 1000 bytes"):
        fetcher.read(index.address(filename), limit=1000)


def test_a_wheel_that_was_built_here_has_no_address(fetcher: HttpFetcher) -> None:
    with pytest.raises(IndexUnreachable, match="no address"):
        list(fetcher.fetch(Artifact("a.whl", 1, Digest.of(b"a"), None), PUBLIC))
