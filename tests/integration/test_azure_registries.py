"""Registries and sharing, through Azure's own client, unmodified."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.azure import NEWEST, OLDEST, AzureError, Client, azure_client
from support.server import Server, run_server

pytestmark = pytest.mark.online

_SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
_PROVIDER = "providers/Microsoft.MachineLearningServices"
_REGISTRY = f"/mferp/managementfrontend{_SUBSCRIPTION}/{_PROVIDER}/registries/shared"
_WORKSPACE = f"{_SUBSCRIPTION}/{_PROVIDER}/workspaces/default"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("azure"), "--upload-rate", "0") as server:
        with server.client() as client:
            for name in ("shared", "private"):
                assert client.post("/api/v1/registries", json={"name": name}).status_code == 201
        yield server


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def azure(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Both releases of the client, one after the other."""
    with azure_client(server, tmp_path_factory.mktemp("azure"), version=request.param, registry="shared") as client:
        yield client


@pytest.fixture(scope="module")
def newest(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with azure_client(server, tmp_path_factory.mktemp("newest"), registry="shared") as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of the test's own."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


def test_a_version_is_registered_found_listed_and_archived(azure: Client, name: str) -> None:
    got = azure.run(
        """
        environments = registry.environments
        made = environments.create_or_update(Environment(name=name, version="1", image="python:3.11", tags={"a": "b"}))
        found = environments.get(name, "1")
        listed = name in [each.name for each in environments.list()]
        environments.archive(name, version="1")
        archived = [each.version for each in environments.list(name=name)]
        environments.restore(name, version="1")
        restored = [each.version for each in environments.list(name=name)]
        latest = environments.get(name, label="latest").version
        result = [made.id, found.image, found.tags, listed, archived, restored, latest]
        """,
        name=name,
    )
    expected = f"azureml://registries/shared/environments/{name}/versions/1"
    assert got == [expected, "python:3.11", {"a": "b"}, True, [], ["1"], "1"]


def test_a_version_that_is_not_named_is_always_the_next(azure: Client, name: str) -> None:
    """Surprise 3: a registry's client does not try the latest version first."""
    got = azure.run(
        """
        make = lambda: registry.environments.create_or_update(Environment(name=name, image="python:3.11")).version
        result = [make(), make()]
        """,
        name=name,
    )
    assert got == ["1", "2"]


def test_an_environment_is_archived_as_a_whole(newest: Client, server: Server, name: str) -> None:
    got = newest.run(
        """
        registry.environments.create_or_update(Environment(name=name, version="1", image="python:3.11"))
        registry.environments.archive(name)
        before = name in [each.name for each in registry.environments.list()]
        registry.environments.restore(name)
        result = [before, name in [each.name for each in registry.environments.list()]]
        """,
        name=name,
    )
    assert got == [False, True]
    with server.client() as client:
        answer = client.put(f"{_REGISTRY}/environments/{name}", json={"properties": {"isArchived": False}})
    assert answer.status_code == 201


def test_other_content_is_a_conflict(azure: Client, name: str) -> None:
    make = 'registry.environments.create_or_update(Environment(name=name, version="1", image=image))'
    azure.run(make, name=name, image="a")
    with pytest.raises(AzureError) as caught:
        azure.run(make, name=name, image="b")
    assert caught.value.status == 409
    assert caught.value.text == f"Environment {name} with version 1 is already registered and cannot be changed."


def test_a_registration_is_answered_as_one_that_takes_a_while(server: Server, name: str) -> None:
    """Surprise 9: `Retry-After: 0` would count as absent, and the client would wait for half a minute."""
    with server.client() as client:
        path = f"{_REGISTRY}/environments/{name}/versions/1"
        answer = client.put(path, json={"properties": {"image": "i"}})
        assert (answer.status_code, answer.headers["retry-after"], answer.content) == (202, "1", b"")
        done = client.get(answer.headers["location"])
        assert done.status_code == 200
        assert done.json()["id"] == f"azureml://registries/shared/environments/{name}/versions/1"


def test_a_build_context_is_uploaded_and_named_by_its_content(
    azure: Client, server: Server, name: str, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    (context / "deep").mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM scratch\n")
    (context / "deep" / "ünï code.txt").write_text("text")
    make = """
        made = registry.environments.create_or_update(Environment(name=name, version="1", build=BuildContext(path=path)))
        result = [made.build.path, made.build.dockerfile_path]
        """
    first = azure.run(make, name=name, path=str(context))
    assert azure.run(make, name=name, path=str(context)) == first
    assert first[0].endswith("/context/")
    assert first[1] == "Dockerfile"
    with server.client() as client:
        assert client.get(f"{first[0]}Dockerfile").content == b"FROM scratch\n"
        assert client.get(f"{first[0]}deep/ünï code.txt").content == b"text"
        other = client.put(f"{first[0]}Dockerfile", content=b"FROM other\n", headers={"x-ms-blob-type": "BlockBlob"})
        assert other.status_code == 409
    (context / "Dockerfile").write_text("FROM other\n")
    with pytest.raises(AzureError, match="already registered"):
        azure.run(make, name=name, path=str(context))


def test_a_registry_that_is_not_there_is_not_found(server: Server, tmp_path: Path) -> None:
    with azure_client(server, tmp_path) as client, pytest.raises(AzureError) as caught:
        client.run('connect(settings, registry_name="nowhere").environments.get("e", "1")')
    assert caught.value.kind == "ResourceNotFoundError"


def test_a_version_is_shared(azure: Client, name: str) -> None:
    """Surprise 10: the answer to an import has no body."""
    got = azure.run(
        """
        made = client.environments.create_or_update(Environment(name=name, version="3", image="python:3.11", tags={"a": "b"},
            properties={"p": "q"}))
        shared = client.environments.share(name, "3", share_with_name=name + "-there", share_with_version="9", registry_name="shared")
        found = registry.environments.get(name + "-there", "9")
        result = [shared.id, found.image, found.tags, found.properties]
        """,
        name=name,
    )
    expected = f"azureml://registries/shared/environments/{name}-there/versions/9"
    assert got == [expected, "python:3.11", {"a": "b"}, {"p": "q"}]


def test_what_is_shared_already_is_said_so(newest: Client, name: str) -> None:
    share = 'client.environments.share(name, "1", share_with_name=name, share_with_version="1", registry_name="shared")'
    newest.run(
        f'client.environments.create_or_update(Environment(name=name, version="1", image="i"))\n{share}', name=name
    )
    with pytest.raises(AzureError, match="already exists in registry"):
        newest.run(share, name=name)


def _import(server: Server, token: str, source: str, name: str, version: str = "1") -> Any:
    body = {"referenceType": "Id", "destinationName": name, "destinationVersion": version, "sourceAssetId": source}
    with server.client(token) as client:
        return client.post(f"{_REGISTRY}/import", json={"properties": body})


def test_who_may_not_read_the_source_or_write_the_target_shares_nothing(server: Server, name: str) -> None:
    with server.client() as client:
        path = f"{_WORKSPACE}/environments/{name}/versions/1"
        assert client.put(path, json={"properties": {"image": "i"}}).status_code == 201
        id = client.get(_WORKSPACE).json()["properties"]["workspaceId"]
        tokens = {}
        for who, roles in {
            "target-only": [("registries", "shared", "contributor")],
            "source-only": [("workspaces", "default", "administrator"), ("registries", "shared", "reader")],
            "both": [("workspaces", "default", "reader"), ("registries", "shared", "contributor")],
        }.items():
            assert client.post("/api/v1/principals", json={"name": who}).status_code == 201
            for kind, scope, role in roles:
                given = client.put(f"/api/v1/{kind}/{scope}/grants/{who}", json={"role": role})
                assert given.status_code < 300, given.text
            tokens[who] = client.post("/api/v1/tokens", json={"name": "t", "owner": who}).json()["secret"]
    source = f"azureml://locations/local/workspaces/{id}/environments/{name}/versions/1"
    assert _import(server, tokens["target-only"], source, name).status_code == 404
    assert _import(server, tokens["source-only"], source, name).status_code == 403
    shared = _import(server, tokens["both"], source, name)
    assert (shared.status_code, shared.content) == (200, b"")
    assert _import(server, tokens["both"], source, name).status_code == 200


def test_publish_shares_as_well(server: Server, name: str) -> None:
    with server.client() as client:
        path = f"{_WORKSPACE}/environments/{name}/versions/1"
        client.put(path, json={"properties": {"image": "i"}})
        body = {"registryName": "shared", "destinationName": f"{name}-2", "destinationVersion": "5"}
        assert client.post(f"{path}/publish", json=body).status_code == 200
        assert client.get(f"{_REGISTRY}/environments/{name}-2/versions/5").status_code == 200
        other = client.put(f"{_WORKSPACE}/environments/{name}-o/versions/5", json={"properties": {"image": "other"}})
        assert other.status_code == 201
        conflict = client.post(f"{_WORKSPACE}/environments/{name}-o/versions/5/publish", json=body)
        assert conflict.status_code == 409
