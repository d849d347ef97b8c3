"""The OCI distribution specification, "Push", of blobs: every way in, in order and out of it, and what is refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.oci_client import BYTES, CODES, Registry, Repository, codes, content, digest_of

ALGORITHMS = ["sha256", "sha512"]
#: Registries may ask for chunks of a least size; none of ours does.
CHUNK = 1024

Way = Callable[[Repository, bytes, str], httpx.Response]


def post_only(repository: Repository, data: bytes, digest: str) -> httpx.Response:
    headers = {"Content-Type": BYTES}
    answer = repository.request("POST", "blobs/uploads/", params={"digest": digest}, content=data, headers=headers)
    if answer.status_code == 202:
        # Registries may decline; the upload goes on then.
        answer = repository.close(repository.follow(answer), digest, data)
    return answer


def post_and_put(repository: Repository, data: bytes, digest: str) -> httpx.Response:
    return repository.close(repository.follow(repository.start()), digest, data)


def streamed(repository: Repository, data: bytes, digest: str) -> httpx.Response:
    answer = repository.patch(repository.follow(repository.start()), data)
    assert answer.status_code == 202, answer.text
    return repository.close(repository.follow(answer), digest)


def streamed_put(repository: Repository, data: bytes, digest: str) -> httpx.Response:
    location = repository.follow(repository.start()).copy_merge_params({"digest": digest})
    parts = [data[at : at + 100] for at in range(0, len(data), 100)]
    return repository.http.put(location, content=iter(parts), headers={"Content-Type": BYTES})


def one_chunk(repository: Repository, data: bytes, digest: str) -> httpx.Response:
    return _chunks(repository, data, digest, max(len(data), 1), put_last=False)


def three_chunks(repository: Repository, data: bytes, digest: str) -> httpx.Response:
    return _chunks(repository, data, digest, CHUNK, put_last=False)


def last_chunk_in_put(repository: Repository, data: bytes, digest: str) -> httpx.Response:
    return _chunks(repository, data, digest, CHUNK, put_last=True)


def _chunks(repository: Repository, data: bytes, digest: str, size: int, *, put_last: bool) -> httpx.Response:
    answer = repository.start()
    assert answer.status_code == 202, answer.text
    assert int(answer.headers.get("oci-chunk-min-length", "0")) <= CHUNK
    for start in range(0, len(data), size):
        part = data[start : start + size]
        if put_last and start + size >= len(data):
            return repository.close(repository.follow(answer), digest, part, start)
        answer = repository.patch(repository.follow(answer), part, start)
        assert answer.status_code == 202, answer.text
        assert answer.headers["range"] == f"0-{start + len(part) - 1}"
    return repository.close(repository.follow(answer), digest)


WAYS = [post_only, post_and_put, streamed, streamed_put, one_chunk, three_chunks, last_chunk_in_put]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 2, 512, 3 * CHUNK - 5])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_push_a_blob(repository: Repository, way: Way, size: int, algorithm: str) -> None:
    data = b"{}" if size == 2 else content(size)
    digest = digest_of(data, algorithm)
    answer = way(repository, data, digest)
    assert answer.status_code == 201, answer.text
    assert answer.headers["docker-content-digest"] == digest
    assert repository.http.get(repository.follow(answer)).content == data
    head, get = repository.blob(digest, "HEAD"), repository.blob(digest)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-length"] == get.headers["content-length"] == str(size)
    assert get.content == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("way", WAYS)
def test_bytes_of_another_digest_are_refused(repository: Repository, way: Way, algorithm: str) -> None:
    data = content(3 * CHUNK - 10)
    digest = digest_of(data, algorithm)
    answer = way(repository, data + b"oh no", digest)
    assert codes(answer, 400) == {"DIGEST_INVALID"}
    assert repository.blob(digest, "HEAD").status_code == 404
    assert repository.blob(digest_of(data + b"oh no", algorithm), "HEAD").status_code == 404
    # The right bytes are welcome still.
    assert way(repository, data, digest).status_code == 201
    assert repository.blob(digest).content == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("put_last", [False, True], ids=["patch", "put"])
def test_chunks_out_of_order_are_refused_and_the_upload_goes_on(
    repository: Repository, algorithm: str, put_last: bool
) -> None:
    data = content(3 * CHUNK - 5)
    digest = digest_of(data, algorithm)
    answer = repository.start()
    location = repository.follow(answer)
    for start in range(0, len(data), CHUNK):
        # Skip ahead if there is something ahead; else go back to the beginning.
        wrong = start + CHUNK if start + CHUNK < len(data) else 0
        part = data[wrong : wrong + CHUNK]
        if put_last and wrong + CHUNK >= len(data):
            refused = repository.close(location, digest, part, wrong)
        else:
            refused = repository.patch(location, part, wrong)
        assert refused.status_code == 416, refused.text
        location = _status(repository, location, start)
        last = start + CHUNK >= len(data)
        if put_last and last:
            answer = repository.close(location, digest, data[start:], start)
        else:
            answer = repository.patch(location, data[start : start + CHUNK], start)
            assert answer.status_code == 202
            location = _status(repository, repository.follow(answer), min(start + CHUNK, len(data)))
    if not put_last:
        answer = repository.close(location, digest)
    assert answer.status_code == 201, answer.text
    assert repository.blob(digest).content == data


def _status(repository: Repository, location: httpx.URL, size: int) -> httpx.URL:
    """Ask an upload how far it is. Returns where it goes on."""
    answer = repository.http.get(location)
    assert answer.status_code == 204, answer.text
    assert answer.content == b""
    if size:
        assert answer.headers["range"] == f"0-{size - 1}"
    else:
        assert answer.headers["range"].startswith("0-")
    return repository.follow(answer)


def test_an_upload_tells_its_location(repository: Repository) -> None:
    answer = repository.start()
    assert answer.status_code == 202
    assert answer.headers["content-length"] == "0"
    first, second = repository.follow(answer), repository.follow(repository.start())
    assert first != second
    assert str(first).startswith(str(answer.request.url))
    _status(repository, first, 0)


def test_a_stream_may_go_on_without_saying_where(repository: Repository) -> None:
    data = content(300)
    answer = repository.start()
    for at in range(0, 300, 100):
        answer = repository.patch(repository.follow(answer), data[at : at + 100])
        assert answer.status_code == 202
        assert answer.headers["range"] == f"0-{at + 99}"
    assert repository.close(repository.follow(answer), digest_of(data)).status_code == 201
    assert repository.blob(digest_of(data)).content == data


@pytest.mark.parametrize("said", ["0-", "a-b", "5-2", "bytes 0-9/10", "-1-8", "0-9,10-19", "0-99999999999999999999999"])
def test_a_range_of_a_chunk_that_is_none(repository: Repository, said: str) -> None:
    location = repository.follow(repository.start())
    headers = {"Content-Type": BYTES, "Content-Range": said}
    answer = repository.http.patch(location, content=b"0123456789", headers=headers)
    assert codes(answer, 400, 416) <= CODES
    _status(repository, location, 0)


@pytest.mark.parametrize("said", ["0-8", "0-10"])
def test_a_range_of_a_chunk_that_is_not_its_length(repository: Repository, said: str) -> None:
    location = repository.follow(repository.start())
    headers = {"Content-Type": BYTES, "Content-Range": said}
    answer = repository.http.patch(location, content=b"0123456789", headers=headers)
    assert codes(answer, 400, 416) & {"SIZE_INVALID", "BLOB_UPLOAD_INVALID"}


def test_a_cancelled_upload_is_gone(repository: Repository) -> None:
    location = repository.follow(repository.start())
    answer = repository.patch(location, content(100), 0)
    location = repository.follow(answer)
    assert repository.http.delete(location).status_code == 204
    assert codes(repository.http.get(location), 404) == {"BLOB_UPLOAD_UNKNOWN"}
    assert codes(repository.patch(location, b"more", 100), 404) == {"BLOB_UPLOAD_UNKNOWN"}
    assert codes(repository.close(location, digest_of(b"")), 404) == {"BLOB_UPLOAD_UNKNOWN"}
    assert codes(repository.http.delete(location), 404) == {"BLOB_UPLOAD_UNKNOWN"}


def test_a_finished_upload_is_gone(repository: Repository) -> None:
    data = content()
    location = repository.follow(repository.start())
    assert repository.close(location, digest_of(data), data).status_code == 201
    assert codes(repository.http.get(location), 404) == {"BLOB_UPLOAD_UNKNOWN"}
    assert codes(repository.close(location, digest_of(data), data), 404) == {"BLOB_UPLOAD_UNKNOWN"}
    assert repository.blob(digest_of(data)).content == data


@pytest.mark.parametrize("name", ["6f1e2d3c-4b5a-4768-9788-0a1b2c3d4e5f", "..%2f..%2fx", "a" * 300, "%00"])
def test_an_upload_that_nobody_started(repository: Repository, name: str) -> None:
    repository.push_blob(content())
    url = httpx.URL(f"/v2/{repository.name}/blobs/uploads/{name}")
    assert repository.http.get(url).status_code in {400, 404}
    assert repository.patch(url, b"abc", 0).status_code in {400, 404}
    assert repository.close(url, digest_of(b"abc"), b"abc").status_code in {400, 404}


def test_an_upload_belongs_to_its_repository(registry: Registry) -> None:
    one, other = registry.repository(), registry.repository()
    location = one.follow(one.start())
    elsewhere = httpx.URL(str(location).replace(one.name, other.name))
    data = content()
    assert other.close(elsewhere, digest_of(data), data).status_code in {400, 404}
    assert other.blob(digest_of(data), "HEAD").status_code == 404
    assert one.close(location, digest_of(data), data).status_code == 201


@pytest.mark.parametrize("digest", ["", "sha256:baddigeststring", "md5:" + "0" * 32, "sha256:" + "F" * 64, "x"])
def test_an_upload_that_ends_with_no_digest(repository: Repository, digest: str) -> None:
    location = repository.follow(repository.start())
    assert codes(repository.close(location, digest, b"abc"), 400) <= {"DIGEST_INVALID"}
    answer = repository.request("POST", "blobs/uploads/", params={"digest": digest}, content=b"abc")
    assert answer.status_code in {202, 400}


def test_a_blob_may_be_pushed_again_and_by_many_at_once(registry: Registry) -> None:
    data, repositories = content(100_000), [registry.repository() for _ in range(2)] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: post_and_put(each, data, digest_of(data)), repositories))
    assert {each.status_code for each in answers} == {201}
    assert all(each.blob(digest_of(data)).content == data for each in repositories)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_blob_is_mounted_from_another_repository(registry: Registry, algorithm: str) -> None:
    source, target = registry.repository(), registry.repository()
    data = content()
    digest = source.push_blob(data, algorithm)
    answer = target.start(mount=digest, **{"from": source.name})
    assert answer.status_code == 201, answer.text
    assert answer.headers["docker-content-digest"] == digest
    assert target.http.get(target.follow(answer)).content == data
    # Each has its own: what is deleted from one stays in the other.
    assert source.blob(digest, "DELETE").status_code == 202
    assert source.blob(digest).status_code == 404
    assert target.blob(digest).content == data


def test_a_blob_is_mounted_from_wherever_it_is(registry: Registry) -> None:
    source, target = registry.repository(), registry.repository()
    data = content()
    digest = source.push_blob(data)
    answer = target.start(mount=digest)
    # Registries may; those that don't begin an upload.
    assert answer.status_code in {201, 202}
    if answer.status_code == 202:
        assert target.close(target.follow(answer), digest, data).status_code == 201
    assert target.blob(digest).content == data


@pytest.mark.parametrize("there", [False, True], ids=["no such repository", "a repository without it"])
def test_what_cannot_be_mounted_is_uploaded(registry: Registry, there: bool) -> None:
    source, target = registry.repository(), registry.repository()
    if there:
        source.push_blob(content())
    data = content()
    answer = target.start(mount=digest_of(data), **{"from": source.name})
    assert answer.status_code == 202
    assert target.blob(digest_of(data), "HEAD").status_code == 404
    assert target.close(target.follow(answer), digest_of(data), data).status_code == 201
    assert target.blob(digest_of(data)).content == data


@pytest.mark.parametrize(
    "parameters", [{"mount": "sha256:bad", "from": "x/y"}, {"mount": digest_of(b"z"), "from": "../U"}]
)
def test_what_is_no_mount(repository: Repository, parameters: dict[str, str]) -> None:
    answer = repository.start(**parameters)
    assert answer.status_code in {202, 400}
    assert answer.status_code == 202 or codes(answer, 400) <= CODES
