"""The client of registries against an mlenv server: tokens, mounts, referrers, and uploads that go on where they broke."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server, run_server

from mlenv.core.digest import Digest
from mlenv.core.image import CONFIG_TYPE, MANIFEST_TYPE, Descriptor, encode
from mlenv.distribution.client import Repository, Sent, open_repository
from mlenv.distribution.credentials import Credentials
from mlenv.distribution.http import Passing
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import AccessRefused
from mlenv.distribution.settings import RegistrySettings

EMPTY = b"{}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("own")) as found:
        yield found


@pytest.fixture
def credentials(server: Server, tmp_path: Path) -> Credentials:
    secret = base64.b64encode(f"anybody:{server.token}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host_of(server): {"auth": secret}}}))
    return Credentials((tmp_path / "config.json",))


def host_of(server: Server) -> str:
    return server.url.removeprefix("https://")


def opened(server: Server, repository: str, credentials: Credentials) -> Repository:
    settings = RegistrySettings(authority=server.ca, chunk=100_000, attempts=3)
    name = RemoteName.parse(f"{host_of(server)}/default/{repository}")
    return open_repository(name, credentials=credentials, settings=settings, write=True)


def descriptor_of(data: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


def test_an_image_with_referrers(server: Server, credentials: Credentials) -> None:
    data = os.urandom(350_000)
    parts = {"config": descriptor_of(EMPTY, CONFIG_TYPE).to_dict(), "layers": [descriptor_of(data).to_dict()]}
    document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, **parts}
    with opened(server, "own/one", credentials) as repository:
        assert repository.push_blob(descriptor_of(data), data) is Sent.SENT
        repository.push_blob(descriptor_of(EMPTY), EMPTY)
        image = repository.push_manifest(encode(document), MANIFEST_TYPE, tag="1")
        assert repository.manifest("1") == (image, encode(document))
        about = encode({**document, "artifactType": "text/x", "subject": image.to_dict()})
        attached = repository.push_manifest(about, MANIFEST_TYPE)
        assert [(each.digest, each.artifact_type) for each in repository.referrers(image.digest)] == [
            (attached.digest, "text/x")
        ]
        assert repository.referrers(image.digest, "text/y") == []
        # The server has the API: no tag stands in for it.
        assert repository.tags() == ["1"]
        assert b"".join(repository.blob(descriptor_of(data), start=123)) == data[123:]
    with opened(server, "own/two", credentials) as repository:
        assert repository.push_blob(descriptor_of(data), data, mount_from="default/own/one") is Sent.MOUNTED
        assert b"".join(repository.blob(descriptor_of(data))) == data


def test_an_upload_goes_on_where_it_broke_off(server: Server, credentials: Credentials) -> None:
    data = os.urandom(450_000)
    starts: list[int] = []

    def content(start: int) -> Iterator[bytes]:
        starts.append(start)
        for place in range(start, len(data), 10_000):
            if len(starts) < 3 and place >= 200_000 * len(starts):
                raise Passing("the source breaks off")
            yield data[place : place + 10_000]

    with opened(server, "own/broken", credentials) as repository:
        assert repository.push_blob(descriptor_of(data), content) is Sent.SENT
        assert b"".join(repository.blob(descriptor_of(data))) == data
    assert starts[0] == 0
    assert starts[1] >= 100_000
    assert starts == sorted(starts)


def test_nobody_gets_in(server: Server) -> None:
    with opened(server, "own/one", Credentials()) as repository, pytest.raises(AccessRefused) as refused:
        repository.manifest("1")
    assert server.token not in str(refused.value)
