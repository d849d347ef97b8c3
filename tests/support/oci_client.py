"""
A small client of the OCI distribution specification, for tests that read as the specification does.

`registry` is what they speak to: a server process of ours, or any registry whose address is in `OCI_UNDER_TEST`, so that
the same tests can be tried elsewhere.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
BYTES: Final = "application/octet-stream"
DOCKER: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

#: The codes of the specification, "Error Codes".
CODES: Final = frozenset(
    [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ]
)
_numbers = itertools.count()


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def content(size: int = 512) -> bytes:
    """Bytes that no other test has."""
    return os.urandom(size)


@dataclass(frozen=True)
class Content:
    """Bytes with their type: a blob or a manifest, and how a descriptor names them."""

    data: bytes
    media_type: str = BYTES
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return digest_of(self.data, self.algorithm)

    def descriptor(self, **more: Any) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **more}


@dataclass(frozen=True)
class Artifact:
    """
    What is pushed and pulled together.

    Attributes:
        blobs: To be pushed first.
        manifests: In the order in which they are pushed; the last is the one that gets the tag.
    """

    blobs: Sequence[Content]
    manifests: Sequence[Content]

    @property
    def top(self) -> Content:
        return self.manifests[-1]


def manifest(
    config: Mapping[str, Any], layers: Iterable[Mapping[str, Any]], *, algorithm: str = "sha256", **more: Any
) -> Content:
    """An image manifest; `more` are its other fields."""
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": list(layers), **more}
    return Content(json.dumps(document).encode(), MANIFEST, algorithm)


def index(manifests: Iterable[Mapping[str, Any]], *, algorithm: str = "sha256", **more: Any) -> Content:
    """An image index; `more` are its other fields."""
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests), **more}
    return Content(json.dumps(document).encode(), INDEX, algorithm)


def image(layers: int = 2, *, algorithm: str = "sha256", architecture: str = "amd64", **more: Any) -> Artifact:
    """An image of random layers."""
    blobs = [Content(content(), f"{LAYER}+gzip", algorithm) for _ in range(layers)]
    diff_ids = [digest_of(each.data) for each in blobs]
    document = {"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = Content(json.dumps({**document, "author": content(8).hex()}).encode(), CONFIG, algorithm)
    top = manifest(config.descriptor(), [each.descriptor() for each in blobs], algorithm=algorithm, **more)
    return Artifact([config, *blobs], [top])


def index_of(*parts: Artifact, algorithm: str = "sha256", **more: Any) -> Artifact:
    """An index over other artifacts, for one platform each."""
    names = ("amd64", "arm64", "ppc64le", "s390x")
    entries = [
        part.top.descriptor(platform={"os": "linux", "architecture": name})
        for part, name in zip(parts, names, strict=False)
    ]
    blobs = [blob for part in parts for blob in part.blobs]
    manifests = [each for part in parts for each in part.manifests]
    return Artifact(blobs, [*manifests, index(entries, algorithm=algorithm, **more)])


def artifact(kind: str, *, algorithm: str = "sha256", **more: Any) -> Artifact:
    """What is no image: the empty configuration and one blob, of a type of its own."""
    config, blob = Content(b"{}", EMPTY, algorithm), Content(content(), kind, algorithm)
    top = manifest(config.descriptor(), [blob.descriptor()], algorithm=algorithm, artifactType=kind, **more)
    return Artifact([config, blob], [top])


@dataclass
class Repository:
    """
    One repository of a registry.

    Attributes:
        http: Shows what the registry wants to see.
        name: As it is on the wire.
    """

    http: httpx.Client
    name: str

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A request to a path below the repository's."""
        return self.http.request(method, f"/v2/{self.name}/{path}", **more)

    def follow(self, answer: httpx.Response) -> httpx.URL:
        """Where an answer's Location leads; it may be relative."""
        return answer.request.url.join(answer.headers["location"])

    def start(self, **parameters: str) -> httpx.Response:
        """Ask for an upload."""
        return self.request("POST", "blobs/uploads/", params=parameters, headers={"Content-Length": "0"})

    def patch(self, location: httpx.URL, data: bytes, start: int | None = None, **more: Any) -> httpx.Response:
        """Send a chunk; without `start`, a stream of unknown length."""
        if start is None:
            return self.http.patch(location, content=iter([data]), headers={"Content-Type": BYTES}, **more)
        headers = {"Content-Type": BYTES, "Content-Range": f"{start}-{start + len(data) - 1}"}
        return self.http.patch(location, content=data, headers=headers, **more)

    def close(
        self, location: httpx.URL, digest: str, data: bytes | None = None, start: int | None = None
    ) -> httpx.Response:
        """End an upload, with the last chunk if there is one."""
        headers = {} if data is None else {"Content-Type": BYTES}
        if data is not None and start is not None:
            headers["Content-Range"] = f"{start}-{start + len(data) - 1}"
        return self.http.put(location.copy_merge_params({"digest": digest}), content=data or b"", headers=headers)

    def push_blob(self, data: bytes, algorithm: str = "sha256") -> str:
        """Push a blob in the usual way. Returns its digest."""
        started = self.start()
        assert started.status_code == 202, started.text
        ended = self.close(self.follow(started), digest_of(data, algorithm), data)
        assert ended.status_code == 201, ended.text
        return digest_of(data, algorithm)

    def put(self, what: Content, reference: str | None = None, **more: Any) -> httpx.Response:
        """Send a manifest, by its digest unless `reference` says otherwise."""
        headers = {"Content-Type": what.media_type}
        return self.request("PUT", f"manifests/{reference or what.digest}", content=what.data, headers=headers, **more)

    def push(self, what: Artifact, tag: str | None = None) -> None:
        """Push all of an artifact."""
        for blob in what.blobs:
            self.push_blob(blob.data, blob.algorithm)
        for each in what.manifests:
            answer = self.put(each)
            assert answer.status_code == 201, answer.text
        if tag is not None:
            answer = self.put(what.top, tag)
            assert answer.status_code == 201, answer.text

    def blob(self, digest: str, method: str = "GET", **more: Any) -> httpx.Response:
        return self.request(method, f"blobs/{digest}", **more)

    def manifest(self, reference: str, method: str = "GET") -> httpx.Response:
        accept = f"{INDEX}, {MANIFEST}, {DOCKER}, {DOCKER_LIST}, */*"
        return self.request(method, f"manifests/{reference}", headers={"Accept": accept})

    def tags(self, **parameters: object) -> list[str]:
        """The tags that one request lists."""
        answer = self.request("GET", "tags/list", params={key: str(value) for key, value in parameters.items()})
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert document["name"] == self.name
        return list(document["tags"] or [])

    def referrers(self, digest: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Descriptors of what has this subject, of one artifact type if one is given."""
        found: list[dict[str, Any]] = []
        parameters = {} if kind is None else {"artifactType": kind}
        answer = self.request("GET", f"referrers/{digest}", params=parameters)
        while True:
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == INDEX
            if kind is not None:
                assert "artifactType" in answer.headers["oci-filters-applied"].replace(" ", "").split(",")
            document = answer.json()
            assert (document["schemaVersion"], document["mediaType"]) == (2, INDEX)
            found += document["manifests"]
            if "next" not in answer.links:
                return found
            answer = self.http.get(answer.request.url.join(answer.links["next"]["url"]))


def codes(answer: httpx.Response, *statuses: int) -> set[str]:
    """The codes of an error, whose form is checked."""
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    found = {each["code"] for each in answer.json()["errors"]}
    assert found
    assert all(re.fullmatch("[A-Z_]+", each) for each in found)
    return found


@dataclass
class Registry:
    """
    A registry.

    Attributes:
        http: Shows a token that may do everything.
        prefix: What repositories are below.
    """

    http: httpx.Client
    prefix: str

    def repository(self, name: str | None = None) -> Repository:
        """A repository that nobody has used, unless a name is given."""
        return Repository(self.http, f"{self.prefix}/{name or f'battery-{os.getpid()}-{next(_numbers)}'}")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One server process for all tests of the specification, or the registry that `OCI_UNDER_TEST` names."""
    if (address := os.environ.get("OCI_UNDER_TEST")) is not None:
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
            yield Registry(client, "default")
        return
    # NOTE: this module is a plugin of all tests, most of which need no server.
    from support.server import run_server

    with (
        run_server(tmp_path_factory.mktemp("registry"), "--insecure-http") as server,
        server.client() as client,
    ):
        yield Registry(client, "default")


@pytest.fixture
def repository(registry: Registry) -> Repository:
    """A repository that nobody has used."""
    return registry.repository()
