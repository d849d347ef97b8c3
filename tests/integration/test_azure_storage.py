"""Uploads: build contexts and code through Azure's own client, and the blob dialect by hand."""

import base64
import hashlib
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from support.azure import NEWEST, OLDEST, AzureError, Client, azure_client
from support.server import Server, run_server, wait_until

from mlenv.server.azure.signatures import sign, signing_key

pytestmark = pytest.mark.online

_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)
_BLOB = {"x-ms-blob-type": "BlockBlob"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on either database."""
    database = None
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres_cluster").empty_database()
    with run_server(tmp_path_factory.mktemp("azure"), "--upload-rate", "0", database=database) as server:
        yield server


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def azure(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Both releases of the client, one after the other."""
    with azure_client(server, tmp_path_factory.mktemp("azure"), version=request.param) as client:
        yield client


@pytest.fixture(scope="module")
def container(server: Server) -> str:
    with server.client() as client:
        found = client.get(f"{_WORKSPACE}/datastores/workspaceblobstore").json()
    name = found["properties"]["containerName"]
    assert isinstance(name, str)
    return name


@pytest.fixture(scope="module")
def signature(server: Server) -> str:
    with server.client() as client:
        path = f"{_WORKSPACE}/datastores/workspaceblobstore/listSecrets"
        found = client.post(path, json={"expirableSecret": True, "expireAfterHours": 1}).json()
    assert found["secretsType"] == "Sas"
    return str(found["sasToken"])


@pytest.fixture
def storage(server: Server, container: str, signature: str) -> Iterator[httpx.Client]:
    """Requests to the workspace's container, with a signature and no token."""
    with server.client("", base_url=f"{server.url}/blobs/{container}/", params=dict(parse_qsl(signature))) as client:
        yield client


def _context(directory: Path, **files: str) -> Path:
    for name, text in {"Dockerfile": "FROM scratch\n", **files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def test_a_build_context_is_uploaded_once_and_can_be_fetched(azure: Client, server: Server, tmp_path: Path) -> None:
    context = _context(tmp_path / "ctx", unique=secrets.token_hex(8), **{"src/app.py": "print(1)\n"})
    make = """
        made = client.environments.create_or_update(Environment(name="built", build=BuildContext(path=path)))
        result = [made.version, made.build.path, made.build.dockerfile_path]
        """
    first = azure.run(make, path=str(context))
    before = server.log.count("PUT /blobs/")
    assert azure.run(make, path=str(context)) == first
    assert server.log.count("PUT /blobs/") == before
    _, uri, dockerfile = first
    assert re.fullmatch(rf"{server.url}/blobs/[^/]+/LocalUpload/[0-9a-f]+/ctx/", uri)
    assert dockerfile == "Dockerfile"
    with server.client() as client:
        assert client.get(f"{uri}src/app.py").text == "print(1)\n"
        assert client.get(f"{uri}Dockerfile").headers["x-ms-meta-upload_status"] == "completed"
    with server.client("") as client:
        assert client.get(f"{uri}Dockerfile").status_code == 401


@pytest.mark.parametrize("name", ["c t x", "a#b", "a%20b"])
def test_a_context_comes_from_directories_of_any_name(azure: Client, server: Server, tmp_path: Path, name: str) -> None:
    context = _context(tmp_path / name, unique=secrets.token_hex(8))
    made = azure.run(
        """
        made = client.environments.create_or_update(Environment(name="odd", build=BuildContext(path=path)))
        result = [made.version, made.build.path]
        """,
        path=str(context),
    )
    assert made[1].endswith(f"/{name}/")
    with server.client() as client:
        answer = client.post(f"/api/v1/workspaces/default/environments/odd/versions/{made[0]}/locks/linux/amd64")
    assert answer.status_code == 200, answer.text
    assert 'dockerfile = "Dockerfile"' in answer.text


def test_what_a_registered_version_is_built_of_does_not_change(azure: Client, server: Server, tmp_path: Path) -> None:
    context = _context(tmp_path / "ctx", unique=secrets.token_hex(8))
    uri = azure.run(
        """
        made = client.environments.create_or_update(Environment(name="sealed", build=BuildContext(path=path)))
        result = made.build.path
        """,
        path=str(context),
    )
    with server.client() as client:
        changed = client.put(f"{uri}Dockerfile", content=b"FROM evil\n", headers=_BLOB)
        added = client.put(f"{uri}more", content=b"more", headers=_BLOB)
        assert [changed.status_code, added.status_code] == [409, 409]
        assert changed.headers["x-ms-error-code"] == "BlobImmutableDueToPolicy"
        assert client.get(f"{uri}Dockerfile").text == "FROM scratch\n"


def test_a_large_file_of_a_context_comes_in_blocks(azure: Client, server: Server, tmp_path: Path) -> None:
    context = _context(tmp_path / "big", unique=secrets.token_hex(8))
    piece, digest = secrets.token_bytes(1 << 20), hashlib.sha256()
    with (context / "weights.bin").open("wb") as file:
        for _ in range(70):
            file.write(piece)
            digest.update(piece)
    uri = azure.run(
        """
        made = client.environments.create_or_update(Environment(name="large", build=BuildContext(path=path)))
        result = made.build.path
        """,
        path=str(context),
    )
    got = hashlib.sha256()
    with server.client() as client, client.stream("GET", f"{uri}weights.bin") as answer:
        assert answer.headers["content-length"] == str(70 << 20)
        for chunk in answer.iter_bytes():
            got.update(chunk)
    assert got.digest() == digest.digest()


def test_a_file_is_put_asked_for_and_read_in_parts(storage: httpx.Client) -> None:
    path = "LocalUpload/a/ctx/some file ü.txt"
    assert storage.head(path).status_code == 404
    assert storage.head(path).headers["x-ms-error-code"] == "BlobNotFound"
    made = storage.put(path, content=b"0123456789", headers={**_BLOB, "If-None-Match": "*"})
    assert made.status_code == 201
    assert made.headers["etag"]
    assert made.headers["last-modified"]
    again = storage.put(path, content=b"other", headers={**_BLOB, "If-None-Match": "*"})
    assert (again.status_code, again.headers["x-ms-error-code"]) == (409, "BlobAlreadyExists")
    assert "<Code>BlobAlreadyExists</Code>" in again.text
    told = storage.put(
        path, params={"comp": "metadata"}, headers={"x-ms-meta-Upload_Status": "completed", "x-ms-meta-name": "n"}
    )
    assert told.status_code == 200
    known = storage.head(path)
    assert known.headers["x-ms-meta-upload_status"] == "completed"
    assert known.headers["content-length"] == "10"
    assert known.headers["etag"] == told.headers["etag"]
    part = storage.get(path, headers={"x-ms-range": "bytes=2-4", "If-Match": known.headers["etag"]})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert storage.get(path, headers={"x-ms-range": "bytes=8-33554431"}).content == b"89"
    assert storage.get(path).content == b"0123456789"
    beyond = storage.get(path, headers={"x-ms-range": "bytes=10-20"})
    assert (beyond.status_code, beyond.headers["x-ms-error-code"]) == (416, "InvalidRange")
    assert storage.get(path, headers={"If-Match": '"0x0"'}).status_code == 412
    replaced = storage.put(path, content=b"new", headers=_BLOB)
    assert replaced.status_code == 201
    assert replaced.headers["etag"] != known.headers["etag"]
    assert storage.get(path).content == b"new"


def test_files_are_listed_in_pages(storage: httpx.Client, container: str) -> None:
    names = [f"listed/{number}/<&>.txt" for number in range(5)]
    for name in names:
        assert storage.put(name, content=b"x", headers={**_BLOB, "x-ms-meta-a": "<b>"}).status_code == 201
    found: list[str] = []
    marker = ""
    for _ in range(3):
        query = {"restype": "container", "comp": "list", "prefix": "listed/", "include": "metadata", "maxresults": "2"}
        page = storage.get(str(storage.base_url)[:-1], params={**query, "marker": marker})
        assert page.status_code == 200
        found += re.findall(r"<Name>(.*?)</Name>", page.text)
        assert "<Metadata><a>&lt;b&gt;</a></Metadata>" in page.text
        marker = (re.search(r"<NextMarker>(.*?)</NextMarker>", page.text) or [""])[1]
    assert found == [name.replace("<&>", "&lt;&amp;&gt;") for name in names]
    assert marker == ""
    tops = storage.get(
        str(storage.base_url)[:-1],
        params={"comp": "list", "restype": "container", "prefix": "listed/", "delimiter": "/"},
    )
    assert re.findall(r"<BlobPrefix><Name>(.*?)</Name>", tops.text) == [f"listed/{number}/" for number in range(5)]


def test_blocks_make_a_file_in_the_order_of_their_list(storage: httpx.Client) -> None:
    ids = [base64.b64encode(f"{number:05}".encode()).decode() for number in range(3)]
    for number, block in enumerate(ids):
        sent = storage.put("blocks.bin", params={"comp": "block", "blockid": block}, content=bytes([65 + number]) * 3)
        assert sent.status_code == 201
    assert storage.head("blocks.bin").status_code == 404
    body = "".join(f"<Latest>{block}</Latest>" for block in (ids[2], ids[0], ids[0]))
    listed = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{body}</BlockList>'
    made = storage.put("blocks.bin", params={"comp": "blocklist"}, content=listed, headers={"x-ms-meta-a": "b"})
    assert made.status_code == 201
    assert storage.get("blocks.bin").content == b"CCCAAAAAA"
    assert storage.head("blocks.bin").headers["x-ms-meta-a"] == "b"
    forgotten = storage.put("blocks.bin", params={"comp": "blocklist"}, content=listed)
    assert (forgotten.status_code, forgotten.headers["x-ms-error-code"]) == (400, "InvalidBlockList")


@pytest.mark.parametrize(
    ("path", "query", "headers", "body", "status"),
    [
        ("x", {"comp": "block", "blockid": "no base64!"}, {}, b"x", 400),
        ("x", {"comp": "block"}, {}, b"x", 400),
        ("x", {"comp": "blocklist"}, {}, b"<BlockList><Latest>", 400),
        ("x", {"comp": "blocklist"}, {}, b'<!DOCTYPE a [<!ENTITY b "c">]><BlockList/>', 400),
        ("x", {"comp": "blocklist"}, {}, b"<Other/>", 400),
        ("x", {"comp": "lease"}, {}, b"", 400),
        ("x", {}, {"x-ms-blob-type": "PageBlob"}, b"", 400),
        ("x", {}, {"Content-MD5": base64.b64encode(b"0" * 16).decode()}, b"x", 400),
        ("x", {}, {"x-ms-meta-a-b": "c"}, b"x", 400),
        ("x", {}, {"x-ms-meta-a": "c" * 9000}, b"x", 413),
        ("a//b", {}, {}, b"x", 400),
        ("a/%2e%2e/b", {}, {}, b"x", 400),
        ("a/%00", {}, {}, b"x", 400),
        ("a" * 1025, {}, {}, b"x", 400),
    ],
)
def test_what_makes_no_sense_is_refused(
    storage: httpx.Client, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = storage.put(path, params=query, headers={**_BLOB, **headers}, content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-ms-error-code"]
    assert answer.text.startswith("<?xml")


def _signed(server: Server, container: str, query: dict[str, str], method: str = "GET") -> httpx.Response:
    with server.client("") as client:
        return client.request(
            method,
            f"/blobs/{container}/signed.txt",
            params=query,
            headers=_BLOB,
            content=b"x" if method == "PUT" else None,
        )


def test_a_signature_is_good_for_one_container_and_what_it_says(server: Server, container: str, signature: str) -> None:
    query = dict(parse_qsl(signature))
    assert set(query) == {"sv", "sr", "se", "sp", "sig", "skoid"}
    assert query["sp"] == "racwl"
    assert _signed(server, container, query, "PUT").status_code == 201
    assert _signed(server, container, {**query, "se": "2999-01-01T00:00:00Z"}).status_code == 403
    assert _signed(server, container, {**query, "sp": "racwld"}).status_code == 403
    assert _signed(server, container, {**query, "sig": query["sig"][::-1]}).status_code == 403
    assert _signed(server, container, {**query, "skoid": "somebody"}).status_code == 403
    with server.client() as client:
        client.post("/api/v1/workspaces", json={"name": "other"})
        place = _WORKSPACE.replace("/default", "/other")
        other = client.get(f"{place}/datastores/workspaceblobstore").json()["properties"]["containerName"]
    assert _signed(server, other, query).status_code == 403
    refused = _signed(server, container, {})
    assert (refused.status_code, refused.headers["x-ms-error-code"]) == (401, "NoAuthenticationInformation")


def test_a_signature_allows_what_it_says_until_it_ends(server: Server, container: str, signature: str) -> None:
    key, who = signing_key(server.home), dict(parse_qsl(signature))["skoid"]
    now = datetime.now(UTC)

    def made(permissions: str, at: datetime = now) -> dict[str, str]:
        return dict(parse_qsl(sign(key, container, who, now=at, permissions=permissions)))

    assert _signed(server, container, made("w"), "PUT").status_code == 201
    assert _signed(server, container, made("rl"), "PUT").status_code == 403
    assert _signed(server, container, made("w")).status_code == 403
    assert _signed(server, container, made("r")).status_code == 200
    assert _signed(server, container, made("r", now - timedelta(hours=2))).status_code == 403


def test_a_signature_ends_with_the_role_of_whoever_asked_for_it(server: Server, container: str) -> None:
    with server.client() as admin:
        admin.post("/api/v1/principals", json={"name": "leaver"})
        grant = "/api/v1/workspaces/default/grants/leaver"
        assert admin.put(grant, json={"role": "contributor"}).status_code == 200
        secret = admin.post("/api/v1/tokens", json={"name": "t", "owner": "leaver"}).json()["secret"]
        with server.client(secret) as own:
            path = f"{_WORKSPACE}/datastores/workspaceblobstore/listSecrets"
            query = dict(parse_qsl(own.post(path, json={}).json()["sasToken"]))
        assert _signed(server, container, query, "PUT").status_code == 201
        assert admin.put(grant, json={"role": "reader"}).status_code == 200
        assert _signed(server, container, query, "PUT").status_code == 403
        assert _signed(server, container, query).status_code == 200
        assert admin.delete(grant).status_code == 204
        assert _signed(server, container, query).status_code == 404
        with server.client(secret) as own:
            assert own.post(path, json={}).status_code == 404


def test_a_reader_gets_no_signature(server: Server) -> None:
    with server.client() as admin:
        admin.post("/api/v1/principals", json={"name": "looker"})
        admin.put("/api/v1/workspaces/default/grants/looker", json={"role": "reader"})
        secret = admin.post("/api/v1/tokens", json={"name": "t", "owner": "looker"}).json()["secret"]
    with server.client(secret) as own:
        assert own.post(f"{_WORKSPACE}/datastores/workspaceblobstore/listSecrets", json={}).status_code == 403
        assert own.get(f"{_WORKSPACE}/datastores/workspaceblobstore").status_code == 200


def test_of_many_that_put_one_file_one_wins(server: Server, container: str, signature: str) -> None:
    start = threading.Barrier(8)

    def put(number: int) -> int:
        with server.client("", params=dict(parse_qsl(signature))) as client:
            start.wait()
            headers = {**_BLOB, "If-None-Match": "*"}
            return client.put(f"/blobs/{container}/race.txt", content=str(number), headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(put, range(8)))
    assert statuses == [201] + [409] * 7


# Code.


def test_code_is_found_by_its_hash_wherever_it_is(server: Server) -> None:
    """Surprise 12."""
    hash = secrets.token_hex(32)
    with server.client() as client:
        lookup = {"hash": hash, "hashVersion": "202208"}
        assert client.get(f"{_WORKSPACE}/codes/some-name/versions", params=lookup).json() == {"value": []}
        pending = client.post(
            f"{_WORKSPACE}/codes/first/versions/1/startPendingUpload",
            json={"pendingUploadType": "TemporaryBlobReference"},
        ).json()
        place = pending["blobReferenceForConsumption"]
        assert place["credential"]["credentialType"] == "SAS"
        parts = urlsplit(place["credential"]["sasUri"])
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == place["blobUri"]
        with server.client("") as nobody:
            uploaded = nobody.put(f"{place['blobUri']}/src/run.py?{parts.query}", content=b"print()", headers=_BLOB)
            assert uploaded.status_code == 201
        properties = {
            "codeUri": f"{place['blobUri']}/src",
            "isAnonymous": True,
            "properties": {"hash_sha256": hash, "hash_version": 202208},
        }
        made = client.put(f"{_WORKSPACE}/codes/first/versions/1", json={"properties": properties})
        assert made.status_code == 201, made.text
        assert made.json()["id"].endswith("/codes/first/versions/1")
        found = client.get(f"{_WORKSPACE}/codes/another/versions", params=lookup).json()["value"]
        assert [each["id"] for each in found] == [made.json()["id"]]
        assert client.get(f"{_WORKSPACE}/codes/first/versions/1").json() == made.json()
        assert client.put(f"{_WORKSPACE}/codes/first/versions/1", json={"properties": properties}).status_code == 200
        assert client.get(f"{_WORKSPACE}/codes/none/versions/1").status_code == 404


# The rest of the control plane.


def test_the_default_datastore_and_the_workspaces(azure: Client) -> None:
    got: list[Any] = azure.run(
        """
        workspace = client.workspaces.get("default")
        result = [
            workspace.name, workspace.location, workspace.resource_group, workspace.discovery_url is not None,
            "default" in [each.name for each in client.workspaces.list()],
            client.datastores.get_default().name,
            client.datastores.get("workspaceblobstore").container_name.startswith("azureml-blobstore-"),
        ]
        """
    )
    assert got == ["default", "local", "local", True, True, "workspaceblobstore", True]


@pytest.mark.parametrize("call", ['workspaces.get("nowhere")', 'datastores.get("other")'])
def test_other_workspaces_and_datastores_are_not_found(azure: Client, call: str) -> None:
    with pytest.raises(AzureError) as caught:
        azure.run(f"client.{call}")
    assert caught.value.kind == "ResourceNotFoundError"


def test_one_sees_only_ones_own(server: Server) -> None:
    with server.client() as admin:
        admin.post(
            "/api/v1/workspaces", json={"name": "hidden", "subscription": "11111111-0000-0000-0000-000000000000"}
        )
        admin.post("/api/v1/principals", json={"name": "narrow"})
        admin.put("/api/v1/workspaces/default/grants/narrow", json={"role": "reader"})
        secret = admin.post("/api/v1/tokens", json={"name": "t", "owner": "narrow"}).json()["secret"]
        assert len(admin.get("/subscriptions?api-version=2022-12-01").json()["value"]) == 2
    hidden = "/subscriptions/11111111-0000-0000-0000-000000000000"
    with server.client(secret) as own:
        assert [each["subscriptionId"][:8] for each in own.get("/subscriptions").json()["value"]] == ["00000000"]
        workspaces = own.get(f"{hidden}/providers/Microsoft.MachineLearningServices/workspaces")
        assert workspaces.json() == {"value": []}
        groups = own.get(f"{_WORKSPACE.partition('/resourceGroups')[0]}/resourceGroups").json()["value"]
        assert [each["name"] for each in groups] == ["local"]
        assert own.get(hidden).status_code == 404
        place = f"{hidden}/resourceGroups/local/providers/Microsoft.MachineLearningServices/workspaces/hidden"
        assert own.get(place).status_code == 404


def test_a_client_that_vanishes_leaves_nothing(server: Server, container: str, signature: str) -> None:
    address, context = urlsplit(server.url), ssl.create_default_context(cafile=str(server.ca))
    path = f"/blobs/{container}/vanished.bin?{signature}"
    coming_in = server.home / "oci" / "ingest"
    with (
        socket.create_connection(("127.0.0.1", address.port or 0)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        head = f"PUT {path} HTTP/1.1\r\nHost: {address.netloc}\r\nx-ms-blob-type: BlockBlob\r\n"
        secure.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 200_000)
        wait_until(lambda: any(coming_in.glob("*/*")), "nothing comes in", 20, server)
    wait_until(lambda: not any(coming_in.glob("*/*")), "what came in stays", 20, server)
    assert "failed unexpectedly" not in server.log
    with server.client() as client:
        assert client.get(f"/blobs/{container}/vanished.bin").status_code == 404
