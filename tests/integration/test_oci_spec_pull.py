"""The OCI distribution specification, "Pull": blobs, manifests, what exists, and what does not."""

import httpx
import pytest
from support.oci_client import CODES, INDEX, MANIFEST, Registry, Repository, codes, content, digest_of, image

ALGORITHMS = ["sha256", "sha512"]
BODY = content(2048)


@pytest.fixture(scope="module", params=ALGORITHMS)
def blob(request: pytest.FixtureRequest, registry: Registry) -> tuple[Repository, str]:
    """A repository with a blob of 2048 bytes, and its digest."""
    repository = registry.repository()
    return repository, repository.push_blob(BODY, request.param)


def test_the_registry_says_that_it_is_one(registry: Registry) -> None:
    for path in ("/v2/", "/v2"):
        answer = registry.http.get(path, follow_redirects=True)
        assert answer.status_code == 200
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


def test_a_blob_is_given_whole(blob: tuple[Repository, str]) -> None:
    repository, digest = blob
    answer = repository.blob(digest)
    assert answer.status_code == 200
    assert answer.content == BODY
    assert answer.headers["content-length"] == "2048"
    assert answer.headers["docker-content-digest"] == digest
    assert "content-encoding" not in answer.headers


def test_head_of_a_blob_says_what_get_says(blob: tuple[Repository, str]) -> None:
    repository, digest = blob
    head, get = repository.blob(digest, "HEAD"), repository.blob(digest)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "content-type", "docker-content-digest", "etag", "accept-ranges"):
        assert head.headers.get(name) == get.headers.get(name)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2047),
        ("bytes=-500", 1548, 2047),
        ("bytes=2000-5000", 2000, 2047),
        ("bytes=0-0", 0, 0),
        ("bytes=-5000", 0, 2047),
        ("bytes=2047-2047", 2047, 2047),
        ("Bytes=5-9", 5, 9),
    ],
)
def test_a_range_of_a_blob(blob: tuple[Repository, str], asked: str, first: int, last: int) -> None:
    repository, digest = blob
    answer = repository.blob(digest, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] in {f"bytes {first}-{last}/2048", f"bytes {first}-{last}/*"}
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.content == BODY[first : last + 1]


@pytest.mark.parametrize("asked", ["bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=-0"])
def test_a_range_that_cannot_be(blob: tuple[Repository, str], asked: str) -> None:
    repository, digest = blob
    answer = repository.blob(digest, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers.get("content-range", "bytes */2048") == "bytes */2048"
    assert BODY[:16] not in answer.content


@pytest.mark.parametrize("asked", ["bytes=abc", "lines=1-2", "bytes=", "bytes=--1", "bytes=1-2,5-6", "bytes=1-²"])
def test_a_range_that_is_none_does_no_harm(blob: tuple[Repository, str], asked: str) -> None:
    # RFC 9110, 14.2: what is not understood may be ignored, and so may several ranges.
    repository, digest = blob
    answer = repository.blob(digest, headers={"Range": asked.encode()})
    assert answer.status_code in {200, 206, 400, 416}
    assert answer.status_code != 200 or answer.content == BODY


def test_a_range_of_another_version_is_not_given(blob: tuple[Repository, str]) -> None:
    # RFC 9110, 13.1.5: who has a part of other bytes gets all of these.
    repository, digest = blob
    headers = {"Range": "bytes=500-", "If-Range": '"another"'}
    answer = repository.blob(digest, headers=headers)
    assert (answer.status_code, answer.content) == (200, BODY)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_manifest_is_given_by_digest_to_the_byte(repository: Repository, algorithm: str) -> None:
    made = image(algorithm=algorithm)
    repository.push(made)
    _check(repository, made.top.digest, made.top.data, made.top.digest)


def test_a_manifest_is_given_by_tag_to_the_byte(repository: Repository) -> None:
    made = image()
    repository.push(made, "v1.0_a-B")
    _check(repository, "v1.0_a-B", made.top.data, made.top.digest)


def test_a_tag_may_be_of_128_characters(repository: Repository) -> None:
    made, tag = image(), "_" + "t" * 127
    repository.push(made, tag)
    _check(repository, tag, made.top.data, made.top.digest)


def _check(repository: Repository, reference: str, data: bytes, digest: str) -> None:
    get, head = repository.manifest(reference), repository.manifest(reference, "HEAD")
    assert (get.status_code, head.status_code) == (200, 200)
    assert (get.content, head.content) == (data, b"")
    for answer in (get, head):
        assert answer.headers["content-type"] == MANIFEST
        assert answer.headers["content-length"] == str(len(data))
        assert answer.headers["docker-content-digest"] == digest


@pytest.mark.parametrize("accept", [None, "*/*", "application/*", f"{INDEX}, {MANIFEST}", f"{MANIFEST};q=0.5"])
def test_what_a_client_accepts_changes_no_bytes(repository: Repository, accept: str | None) -> None:
    made = image()
    repository.push(made, "a")
    headers = httpx.Headers({} if accept is None else {"Accept": accept})
    answer = repository.request("GET", "manifests/a", headers=headers)
    assert (answer.status_code, answer.content) == (200, made.top.data)


def test_several_accept_headers_are_one_list(repository: Repository) -> None:
    made = image()
    repository.push(made, "a")
    url = f"/v2/{repository.name}/manifests/a"
    answer = repository.http.get(url, headers=[("Accept", INDEX), ("Accept", MANIFEST)])
    assert (answer.status_code, answer.content) == (200, made.top.data)


@pytest.mark.parametrize("pushed", [False, True], ids=["no such repository", "a repository"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_blob_that_is_not_there(repository: Repository, pushed: bool, algorithm: str) -> None:
    if pushed:
        repository.push_blob(content())
    missing = digest_of(content(), algorithm)
    assert codes(repository.blob(missing), 404) <= {"BLOB_UNKNOWN", "NAME_UNKNOWN"}
    head = repository.blob(missing, "HEAD")
    assert (head.status_code, head.content) == (404, b"")


@pytest.mark.parametrize("pushed", [False, True], ids=["no such repository", "a repository"])
@pytest.mark.parametrize("reference", ["missing", digest_of(b"missing"), digest_of(b"missing", "sha512")])
def test_a_manifest_that_is_not_there(repository: Repository, pushed: bool, reference: str) -> None:
    if pushed:
        repository.push(image(), "other")
    assert codes(repository.manifest(reference), 404) <= {"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}
    head = repository.manifest(reference, "HEAD")
    assert (head.status_code, head.content) == (404, b"")


def test_repositories_do_not_see_each_others_content(registry: Registry) -> None:
    one, other = registry.repository(), registry.repository()
    made = image()
    one.push(made, "a")
    other.push_blob(content())
    assert one.blob(made.blobs[0].digest, "HEAD").status_code == 200
    for each in made.blobs:
        assert other.blob(each.digest).status_code == 404
        assert other.blob(each.digest, headers={"Range": "bytes=0-9"}).status_code == 404
    assert other.manifest(made.top.digest).status_code == 404
    assert other.manifest("a").status_code == 404


BAD_DIGESTS = [
    "sha256:baddigeststring",
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 63,
    "sha512:" + "0" * 64,
    "md5:" + "0" * 32,
    "sha256:" + "0" * 64 + "0",
    "sha256:..%2f..%2fsecret",
]


@pytest.mark.parametrize("digest", BAD_DIGESTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("kind", ["blobs", "manifests"])
def test_what_is_no_digest(repository: Repository, digest: str, method: str, kind: str) -> None:
    repository.push_blob(content())
    answer = repository.request(method, f"{kind}/{digest}")
    if method == "HEAD":
        assert answer.status_code in {400, 404}
    else:
        assert codes(answer, 400, 404) <= CODES


@pytest.mark.parametrize(
    "name", ["Upper/Case", "default/.hidden", "default/a..b", "default/-a", "default/a_-b", "a@b/c"]
)
@pytest.mark.parametrize("path", ["manifests/latest", "tags/list", "blobs/" + digest_of(b"")])
def test_what_is_no_name(registry: Registry, name: str, path: str) -> None:
    answer = registry.http.get(f"/v2/{name}/{path}")
    assert answer.status_code in {400, 404}
    assert BODY not in answer.content


@pytest.mark.parametrize(
    "path",
    [
        "blobs/../../secret",
        "manifests/..%2f..%2f..%2fetc%2fpasswd",
        "blobs/%00",
        "manifests/a%0d%0ab",
        "manifests/",
        "x",
    ],
)
def test_paths_that_lead_nowhere(repository: Repository, path: str) -> None:
    assert repository.request("GET", path).status_code in {400, 404}


@pytest.mark.parametrize(("method", "path"), [("POST", "manifests/a"), ("PATCH", "manifests/a"), ("PUT", "tags/list")])
def test_methods_that_nothing_has(repository: Repository, method: str, path: str) -> None:
    answer = repository.request(method, path)
    assert answer.status_code in {404, 405}
