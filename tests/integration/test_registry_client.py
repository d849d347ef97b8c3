"""The client of registries against Debian's docker-registry, as it is and behind what breaks requests."""

import gzip
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.oci_front import Answer, CutAnswer, CutRequest, Front, Seen, Spoil, once, run_front
from support.oci_registry import PASSWORD, USER, OciRegistry, free_port, run_registry
from support.token_server import REFRESH, TokenServer, run_token_server

from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.image import CONFIG_TYPE, INDEX_TYPE, MANIFEST_TYPE, Descriptor, encode
from mlenv.distribution.client import MANIFEST_LIMIT, Repository, Sent, open_repository
from mlenv.distribution.credentials import Credentials
from mlenv.distribution.guard import HostNotListed
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import (
    AccessRefused,
    NotInRegistry,
    RegistryFails,
    RegistryUnreachable,
    Stopped,
    TooLarge,
    UnexpectedAnswer,
    UntrustedRegistry,
)
from mlenv.distribution.registries import Registries, open_registries
from mlenv.distribution.settings import RegistrySettings

BYTES = "application/octet-stream"
#: So that tests of what fails for good are quick.
QUICK = RegistrySettings(attempts=3, connect=2.0, silent=5.0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def front(registry: OciRegistry) -> Iterator[Front]:
    with run_front(registry.url) as found:
        yield found


def descriptor_of(data: bytes, media_type: str = BYTES) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


def opened(
    host: str,
    repository: str,
    settings: RegistrySettings = QUICK,
    credentials: Credentials | None = None,
    *,
    write: bool = True,
) -> Repository:
    name = RemoteName.parse(f"{host}/{repository}")
    return open_repository(name, credentials=credentials or Credentials(), settings=settings, write=write)


def manifest_of(*layers: bytes, **more: object) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor_of(b"{}", CONFIG_TYPE).to_dict(),
        "layers": [descriptor_of(each).to_dict() for each in layers],
    }
    return encode({**document, **more})


def push_image(repository: Repository, *layers: bytes, tag: str | None = None, **more: object) -> Descriptor:
    for each in (b"{}", *layers):
        repository.push_blob(descriptor_of(each), each)
    return repository.push_manifest(manifest_of(*layers, **more), MANIFEST_TYPE, tag=tag)


# What there is.


@pytest.mark.parametrize("size", [0, 1, 2, 4096, 4097, 10_000])
def test_a_blob_goes_in_and_comes_out(registry: OciRegistry, size: int) -> None:
    data = os.urandom(size)
    with opened(registry.host, "round/trip", replace(QUICK, chunk=4096)) as repository:
        told: list[int] = []
        assert not repository.has_blob(descriptor_of(data).digest) or size == 0
        assert repository.push_blob(descriptor_of(data), data, advance=told.append) in {Sent.SENT, Sent.SKIPPED}
        assert sum(told) == size
        assert b"".join(repository.blob(descriptor_of(data))) == data
        assert repository.push_blob(descriptor_of(data), data) is Sent.SKIPPED


def test_a_file_and_a_function_are_content_too(registry: OciRegistry, tmp_path: Path) -> None:
    first, second = os.urandom(9000), os.urandom(9000)
    (tmp_path / "blob").write_bytes(first)

    def pieces(start: int) -> Iterator[bytes]:
        yield from (second[place : place + 1000] for place in range(start, len(second), 1000))

    with opened(registry.host, "content", replace(QUICK, chunk=2500)) as repository:
        assert repository.push_blob(descriptor_of(first), tmp_path / "blob") is Sent.SENT
        assert repository.push_blob(descriptor_of(second), pieces) is Sent.SENT
        assert b"".join(repository.blob(descriptor_of(first), start=8000)) == first[8000:]


def test_content_that_is_not_what_it_should_be(registry: OciRegistry) -> None:
    data = os.urandom(5000)
    with opened(registry.host, "wrong") as repository:
        with pytest.raises(UnexpectedAnswer, match="DIGEST_INVALID"):
            repository.push_blob(descriptor_of(data), bytes(len(data)))
        with pytest.raises(DigestMismatch, match="more bytes"):
            repository.push_blob(descriptor_of(data), data[:-1])
        assert not repository.has_blob(descriptor_of(data).digest)


def test_blobs_are_mounted_from_another_repository(registry: OciRegistry) -> None:
    data = os.urandom(3000)
    with opened(registry.host, "mount/source") as source, opened(registry.host, "mount/target") as target:
        source.push_blob(descriptor_of(data), data)
        assert target.push_blob(descriptor_of(data), data, mount_from="mount/source") is Sent.MOUNTED
        other = os.urandom(3000)
        assert target.push_blob(descriptor_of(other), other, mount_from="mount/nowhere") is Sent.SENT


def test_manifests_tags_and_referrers(registry: OciRegistry) -> None:
    with opened(registry.host, "images/one") as repository:
        image = push_image(repository, b"layer", tag="1.0")
        assert repository.manifest("1.0") == (image, manifest_of(b"layer"))
        assert repository.manifest(str(image.digest))[0] == repository.head("1.0") == image
        assert repository.head("2.0") is None
        index = encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [image.to_dict()]})
        assert repository.push_manifest(index, INDEX_TYPE, tag="all").media_type == INDEX_TYPE
        assert set(repository.tags()) == {"1.0", "all"}
        assert repository.referrers(image.digest) == []
        # docker-registry 2.8 has no referrers API: a tag stands in for it.
        first = push_image(repository, subject=image.to_dict(), artifactType="text/one", annotations={"a": "b"})
        second = push_image(repository, b"x", subject=image.to_dict(), artifactType="text/two")
        assert push_image(repository, b"x", subject=image.to_dict(), artifactType="text/two") == second
        found = repository.referrers(image.digest)
        assert [(each.digest, each.artifact_type) for each in found] == [
            (first.digest, "text/one"),
            (second.digest, "text/two"),
        ]
        assert found[0].annotations == {"a": "b"}
        assert [each.digest for each in repository.referrers(image.digest, "text/two")] == [second.digest]
        with pytest.raises(NotInRegistry, match="MANIFEST_UNKNOWN"):
            repository.manifest("nothing")


def test_lists_of_many_pages(registry: OciRegistry, front: Front) -> None:
    with opened(registry.host, "many/tags") as repository:
        image = push_image(repository)
        for number in range(5):
            repository.push_manifest(manifest_of(), MANIFEST_TYPE, tag=f"v{number}")
    assert image.size

    def paged(seen: Seen) -> Answer | None:
        if not seen.path.endswith("/tags/list"):
            return None
        return Answer(307, {"Location": f"http://{registry.host}{seen.path}?n=2"})

    front.fault = paged
    with opened(front.host, "many/tags") as repository:
        assert sorted(repository.tags()) == [f"v{number}" for number in range(5)]


# Who may.


def test_basic_authentication_and_tls(tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry", password=True, tls=True) as registry:
        credentials = Credentials((registry.docker_config(tmp_path / "docker"),))
        trusting = replace(QUICK, authority=registry.ca)
        with opened(registry.host, "a", trusting, credentials) as repository:
            image = push_image(repository, b"secret", tag="1")
        with opened(registry.host, "a", trusting) as repository, pytest.raises(AccessRefused, match="UNAUTHORIZED"):
            repository.manifest("1")
        registry.password = "wrong"
        wrong = Credentials((registry.docker_config(tmp_path / "wrong"),))
        with opened(registry.host, "a", trusting, wrong) as repository, pytest.raises(AccessRefused) as refused:
            repository.manifest("1")
        assert "wrong" not in str(refused.value)
        assert "podman login" in str(refused.value.hint)
        # Loopback does without trusted TLS, as with docker; another authority than the right one is no way in.
        with opened(registry.host, "a", QUICK, credentials) as repository:
            assert repository.head("1") == image
        other = replace(QUICK, authority=Path("/etc/ssl/certs/ca-certificates.crt"))
        with opened(registry.host, "a", other, credentials) as repository, pytest.raises(UntrustedRegistry) as error:
            repository.head("1")
        assert "--insecure-registry" in str(error.value.hint)
        # certs.d has the same authority.
        directory = tmp_path / "certs.d" / registry.host
        directory.mkdir(parents=True)
        assert registry.ca is not None
        (directory / "ca.crt").write_bytes(registry.ca.read_bytes())
        listed = replace(other, certificates=(tmp_path / "certs.d",))
        with opened(registry.host, "a", listed, credentials) as repository:
            assert repository.head("1") == image


@pytest.fixture(scope="module")
def token_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OciRegistry, TokenServer]]:
    directory = tmp_path_factory.mktemp("token")
    with (
        run_token_server(directory / "tokens") as tokens,
        run_registry(directory / "registry", token=tokens.configuration) as registry,
    ):
        registry.user, registry.password = USER, PASSWORD
        yield registry, tokens


def test_tokens_are_asked_for_once(token_registry: tuple[OciRegistry, TokenServer], tmp_path: Path) -> None:
    registry, tokens = token_registry
    credentials = Credentials((registry.docker_config(tmp_path),))
    tokens.asked.clear()
    data = os.urandom(2000)
    with opened(registry.host, "team/one", QUICK, credentials) as repository:
        push_image(repository, data, tag="1")
    assert tokens.asked == [["repository:team/one:pull,push"]]
    with opened(registry.host, "team/two", QUICK, credentials) as repository:
        assert repository.push_blob(descriptor_of(data), data, mount_from="team/one") is Sent.MOUNTED
    assert tokens.asked[2:] == [["repository:team/one:pull", "repository:team/two:pull,push"]]
    with opened(registry.host, "team/one", QUICK, credentials, write=False) as repository:
        repository.head("1")
        repository.manifest("1")
    assert tokens.asked[3:] == [["repository:team/one:pull"]]


def test_a_token_is_renewed_before_it_ends(
    token_registry: tuple[OciRegistry, TokenServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, tokens = token_registry
    credentials = Credentials((registry.docker_config(tmp_path),))
    now = time.monotonic()
    monkeypatch.setattr("mlenv.distribution.auth.time.monotonic", lambda: now)
    tokens.asked.clear()
    with opened(registry.host, "team/renewed", QUICK, credentials) as repository:
        repository.head("1")
        now += tokens.life * 0.7
        repository.head("1")
        assert len(tokens.asked) == 1
        now += tokens.life * 0.2
        repository.head("1")
        assert len(tokens.asked) == 2


def test_nobody_and_a_refresh_token(token_registry: tuple[OciRegistry, TokenServer], tmp_path: Path) -> None:
    registry, tokens = token_registry
    with opened(registry.host, "public/x", write=False) as repository:
        assert repository.head("1") is None
    with opened(registry.host, "private/x", write=False) as repository, pytest.raises(AccessRefused):
        repository.head("1")
    config = tmp_path / "config.json"
    config.write_text(f'{{"auths": {{"{registry.host}": {{"identitytoken": "{REFRESH}"}}}}}}')
    with opened(registry.host, "private/x", QUICK, Credentials((config,))) as repository:
        assert repository.head("1") is None
    assert tokens.forms[-1]["grant_type"] == ["refresh_token"]
    registry.docker_config(tmp_path / "wrong")
    config.write_text(f'{{"auths": {{"{registry.host}": {{"identitytoken": "other"}}}}}}')
    with opened(registry.host, "private/x", QUICK, Credentials((config,))) as repository:
        with pytest.raises(AccessRefused) as refused:
            repository.head("1")
        assert "other" not in repr(refused.value)


def test_no_token_follows_a_redirect_to_another_host(tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry", password=True) as registry, run_front(registry.url) as front:
        registry.docker_config(tmp_path / "docker", registry.host, front.host)
        credentials = Credentials((tmp_path / "docker" / "config.json",))
        data = os.urandom(2000)
        with opened(registry.host, "a", QUICK, credentials) as repository:
            repository.push_blob(descriptor_of(data), data)
        with run_front(registry.url) as storage:
            storage.fault = once("GET", "/blobs/", Answer(200, {}, data), times=9)
            front.fault = once("GET", "/blobs/", Answer(307, {"Location": f"http://{storage.host}/v2/a/blobs/x?sig=1"}))
            with opened(front.host, "a", QUICK, credentials) as repository:
                assert repository.has_blob(descriptor_of(data).digest)
                assert b"".join(repository.blob(descriptor_of(data))) == data
        assert any("authorization" in each.headers for each in front.seen)
        assert len(storage.seen) == 1
        assert "authorization" not in storage.seen[0].headers


def test_a_storage_service_that_refuses_is_not_the_registry(front: Front, registry: OciRegistry) -> None:
    with run_front(registry.url) as storage:
        storage.fault = once("GET", "/blobs/", Answer(403))
        front.fault = once("GET", "/blobs/", Answer(307, {"Location": f"http://{storage.host}/v2/a/blobs/x?sig=1"}))
        why = rf"{storage.host}, where the registry leads: it says 403"
        with opened(front.host, "a") as repository, pytest.raises(UnexpectedAnswer, match=why):
            list(repository.blob(descriptor_of(b"abc")))


def test_a_redirect_to_what_is_no_registry(front: Front) -> None:
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        front.fault = once("GET", "/blobs/", Answer(307, {"Location": place}))
        with opened(front.host, "a") as repository, pytest.raises(UnexpectedAnswer, match="it leads to"):
            list(repository.blob(descriptor_of(b"abc")))
    front.fault = once("GET", "/blobs/", Answer(302, {"Location": "/v2/a/blobs/again"}), times=100)
    with opened(front.host, "a") as repository, pytest.raises(UnexpectedAnswer, match="circle"):
        list(repository.blob(descriptor_of(b"abc")))


def test_a_token_server_without_tls_gets_no_password(front: Front, tmp_path: Path, registry: OciRegistry) -> None:
    challenge = 'Bearer realm="http://registry.example.org/token",service="x"'
    front.fault = once("HEAD", "/manifests/", Answer(401, {"WWW-Authenticate": challenge}), times=9)
    registry.docker_config(tmp_path, front.host)
    trusted = replace(QUICK, insecure=frozenset({front.host}))
    with (
        opened(front.host, "a", trusted, Credentials((tmp_path / "config.json",)), write=False) as repository,
        pytest.raises((UnexpectedAnswer, RegistryUnreachable)),
    ):
        repository.head("1")


# What breaks.


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(front: Front, registry: OciRegistry, status: int) -> None:
    with opened(registry.host, "again") as repository:
        image = push_image(repository, tag="1")
    front.fault = once("GET", "/manifests/", Answer(status, {"Retry-After": "0"}), times=2)
    with opened(front.host, "again") as repository:
        assert repository.manifest("1")[0] == image
    assert front.count("GET", "/manifests/") == 3


def test_what_does_not_pass_is_given_up(front: Front) -> None:
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow\\u001b[2J down"}]}'
    front.fault = once("GET", "/manifests/", Answer(429, {"Retry-After": "0"}, body), times=99)
    with opened(front.host, "never") as repository, pytest.raises(RegistryFails, match=r"fails: .*slow .2J") as error:
        repository.manifest("1")
    assert error.value.hint == "try it again later, or tell whoever runs it"
    assert front.count("GET", "/manifests/") == QUICK.attempts
    assert "\x1b" not in str(error.value)


def test_retry_after_is_waited_for(front: Front, registry: OciRegistry) -> None:
    with opened(registry.host, "patience") as repository:
        push_image(repository, tag="1")
    front.fault = once("GET", "/manifests/", Answer(503, {"Retry-After": "1"}))
    started = time.monotonic()
    with opened(front.host, "patience") as repository:
        repository.manifest("1")
    assert 1.0 <= time.monotonic() - started < 5.0


def test_a_download_goes_on_where_it_broke_off(front: Front, registry: OciRegistry) -> None:
    data = os.urandom(300_000)
    with opened(registry.host, "resume") as repository:
        repository.push_blob(descriptor_of(data), data)
    front.fault = once("GET", "/blobs/", CutAnswer(100_000), times=2)
    with opened(front.host, "resume") as repository:
        assert b"".join(repository.blob(descriptor_of(data))) == data
    ranges = [each.headers.get("range") for each in front.seen if each.method == "GET" and "/blobs/" in each.path]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(each is not None and each.startswith("bytes=") for each in ranges[1:])


def test_a_download_that_is_something_else(front: Front, registry: OciRegistry) -> None:
    data = os.urandom(50_000)
    with opened(registry.host, "spoiled") as repository:
        repository.push_blob(descriptor_of(data), data)
        push_image(repository, tag="1")
        digest = str(repository.manifest("1")[0].digest)
    with opened(front.host, "spoiled") as repository:
        front.fault = once("GET", "/blobs/", Spoil())
        with pytest.raises(DigestMismatch, match="expected sha256"):
            list(repository.blob(descriptor_of(data)))
        front.fault = once("GET", "/manifests/", Spoil(), times=2)
        with pytest.raises(DigestMismatch):
            repository.manifest(digest)
        with pytest.raises(DigestMismatch):
            repository.manifest("1")
        front.fault = once("GET", "/blobs/", Answer(200, {}, data + b"x"))
        with pytest.raises(DigestMismatch, match="expected 50000 bytes, got"):
            list(repository.blob(descriptor_of(data)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(200, {}, b" " * (MANIFEST_LIMIT + 1)), TooLarge),
        (Answer(200, {}, b"[1]"), UnexpectedAnswer),
        (Answer(200, {}, b"{" * 100_000), UnexpectedAnswer),
        (Answer(200, {"Content-Type": INDEX_TYPE}, manifest_of()), UnexpectedAnswer),
        (Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(10_000_000))), UnexpectedAnswer),
        (Answer(418), UnexpectedAnswer),
    ],
)
def test_manifests_that_are_none(front: Front, answer: Answer, error: type[Exception]) -> None:
    front.fault = once("GET", "/manifests/", answer)
    with opened(front.host, "strange") as repository, pytest.raises(error):
        repository.manifest("1")


def test_lists_without_an_end(front: Front) -> None:
    front.fault = once("GET", "/tags/list", Answer(200, {"Link": '</v2/a/tags/list>; rel="next"'}, b"{}"), times=9999)
    with opened(front.host, "a") as repository, pytest.raises(UnexpectedAnswer, match="does not end"):
        repository.tags()


@pytest.mark.parametrize(
    "fault",
    [
        once("POST", "/uploads/", Answer(500)),
        once("PATCH", "/uploads/", CutRequest(1000)),
        once("PATCH", "/uploads/", CutRequest(40_000)),
        once("PATCH", "/uploads/", Answer(503), times=2),
        once("PUT", "/uploads/", CutRequest(0)),
        once("PUT", "/uploads/", Answer(502)),
        # The registry has it, and the answer is lost.
        once("PUT", "/uploads/", CutAnswer(0)),
    ],
)
def test_an_upload_survives_what_passes(
    front: Front, registry: OciRegistry, fault: Callable[[Seen], CutRequest | None]
) -> None:
    data = os.urandom(150_000)
    front.fault = fault
    told: list[int] = []
    with opened(front.host, "broken/upload", replace(QUICK, chunk=50_000, attempts=4)) as repository:
        assert repository.push_blob(descriptor_of(data), data, advance=told.append) is Sent.SENT
    assert sum(told) == len(data)
    with opened(registry.host, "broken/upload") as repository:
        assert b"".join(repository.blob(descriptor_of(data))) == data


def test_an_upload_that_never_gets_through_is_cancelled(front: Front) -> None:
    data = os.urandom(100_000)
    front.fault = lambda seen: Answer(503, {"Retry-After": "0"}) if seen.method == "PATCH" else None
    with (
        opened(front.host, "hopeless", replace(QUICK, chunk=50_000)) as repository,
        pytest.raises(RegistryUnreachable, match="503"),
    ):
        repository.push_blob(descriptor_of(data), data)
    assert front.count("POST") == front.count("DELETE") >= 1


def test_an_upload_that_is_stopped_leaves_nothing(registry: OciRegistry, front: Front) -> None:
    data = os.urandom(200_000)
    reached, go_on = threading.Event(), threading.Event()

    def slow(start: int) -> Iterator[bytes]:
        yield data[start : start + 1000]
        reached.set()
        assert go_on.wait(20)
        yield data[start + 1000 :]

    errors: list[BaseException] = []
    with opened(front.host, "stopped", replace(QUICK, chunk=50_000)) as repository:

        def push() -> None:
            try:
                repository.push_blob(descriptor_of(data), slow)
            except Stopped as error:
                errors.append(error)

        thread = threading.Thread(target=push)
        thread.start()
        assert reached.wait(20)
        repository.stop()
        go_on.set()
        thread.join(20)
    assert len(errors) == 1
    assert front.count("DELETE", "/uploads/") == 1
    with opened(registry.host, "stopped") as repository:
        assert not repository.has_blob(descriptor_of(data).digest)


def test_many_blobs_at_once(registry: OciRegistry) -> None:
    blobs = [os.urandom(30_000) for _ in range(16)]
    with opened(registry.host, "parallel") as repository:
        threads = [threading.Thread(target=repository.push_blob, args=(descriptor_of(each), each)) for each in blobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert all(b"".join(repository.blob(descriptor_of(each))) == each for each in blobs)


# Whether there is anything at all.


def test_nothing_answers(tmp_path: Path) -> None:
    now = [0.0]
    registries = Registries(Credentials(), QUICK, clock=lambda: now[0])
    port = free_port()
    name = RemoteName.parse(f"127.0.0.1:{port}/a/b")
    with pytest.raises(RegistryUnreachable, match="refused"):
        registries.check_reachable(name)
    with run_registry(tmp_path, port=port):
        with pytest.raises(RegistryUnreachable, match="a moment ago"):
            registries.check_reachable(name)
        now[0] = 61.0
        registries.check_reachable(name)
    with opened(f"127.0.0.1:{port}", "a"), pytest.raises(RegistryUnreachable, match="answer: Connection refused"):
        opened(f"127.0.0.1:{port}", "a").head("1")


def test_a_server_reaches_only_what_is_public_or_listed(registry: OciRegistry, tmp_path: Path) -> None:
    guarded = open_registries({}, tmp_path, guarded=True)
    name = RemoteName.parse(f"{registry.host}/a/b")
    with pytest.raises(HostNotListed, match="not on the public Internet"):
        guarded.check_reachable(name)
    # Nor is it without asking first.
    settings = replace(QUICK, listed=frozenset({"example.org"}))
    with opened(registry.host, "a", settings) as repository, pytest.raises(HostNotListed):
        repository.head("1")
    variables = {"MLENV_REGISTRIES": registry.host, "MLENV_INSECURE_REGISTRIES": registry.host}
    listed = open_registries(variables, tmp_path, guarded=True)
    listed.check_reachable(name)
    with opened(registry.host, "a", listed.settings) as repository:
        assert repository.head("1") is None
    # What is listed need not be without TLS.
    only = open_registries({"MLENV_REGISTRIES": registry.host}, tmp_path, guarded=True)
    assert not only.settings.is_insecure(registry.host)
