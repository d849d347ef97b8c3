"""What Azure's command line asks of a cloud, and a token for a secret, with the library that it uses for that."""

from collections.abc import Iterator

import pytest
from support.azure import NEWEST, OLDEST, AzureError, Client, azure_client
from support.server import Server, run_server

pytestmark = pytest.mark.online

_LOGIN = """
    import msal
    authority = settings["base"] + "/adfs"
    app = msal.ConfidentialClientApplication("client", client_credential=secret, authority=authority,
        instance_discovery=False, verify=__import__("os").environ["REQUESTS_CA_BUNDLE"])
    result = app.acquire_token_for_client(scopes=[settings["base"] + "/.default"])
    """


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("azure")) as server:
        with server.client() as client:
            assert client.post("/api/v1/registries", json={"name": "shared"}).status_code == 201
        yield server


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def azure(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Both releases of the client, one after the other."""
    with azure_client(server, tmp_path_factory.mktemp("azure"), version=request.param) as client:
        yield client


def test_clouds_are_a_list_or_one(server: Server) -> None:
    with server.client("") as client:
        clouds = client.get("/metadata/endpoints?api-version=2019-05-01").json()
        cloud = client.get("/metadata/endpoints?api-version=2022-09-01").json()
    assert clouds == [cloud]
    assert cloud["resourceManager"] == f"{server.url}/"
    assert cloud["authentication"]["loginEndpoint"] == f"{server.url}/adfs"
    assert cloud["authentication"]["audiences"] == [server.url]
    assert {"name", "portal", "suffixes", "graphAudience", "batch", "gallery", "media", "sqlManagement"} <= set(cloud)


def test_a_secret_becomes_a_token(azure: Client, server: Server) -> None:
    got = azure.run(_LOGIN, secret=server.token)
    assert got["token_type"] == "Bearer"
    with server.client(got["access_token"]) as client:
        subscriptions = client.get("/subscriptions?api-version=2022-12-01").json()["value"]
        tenants = client.get("/tenants?api-version=2022-12-01").json()["value"]
    assert [each["state"] for each in subscriptions] == ["Enabled"]
    assert subscriptions[0]["tenantId"] == tenants[0]["tenantId"]
    assert subscriptions[0]["managedByTenants"] == []


def test_a_wrong_secret_becomes_none(azure: Client) -> None:
    got = azure.run(_LOGIN, secret="mlenv_wrong")
    assert got["error"] == "invalid_client"
    assert "access_token" not in got


@pytest.mark.parametrize("body", [b"", b"grant_type=password&username=a&password=b", b"\xff", b"a=b&" * 40_000])
def test_other_ways_to_a_token_are_refused(server: Server, body: bytes) -> None:
    with server.client("") as client:
        answer = client.post("/adfs/oauth2/token", content=body)
    assert answer.status_code in {400, 413}
    assert set(answer.json()) == {"error", "error_description"}


def test_the_client_finds_everything_by_the_metadata(azure: Client) -> None:
    got = azure.run(
        """
        import os
        os.environ["ARM_CLOUD_METADATA_URL"] = settings["base"] + "/metadata/endpoints?api-version=2019-05-01"
        os.environ["REGISTRY_DISCOVERY_ENDPOINT_URL"] = settings["base"] + "/"
        from azure.core.credentials import AccessToken
        class Credential:
            def get_token(self, *scopes, **options):
                return AccessToken(settings["token"], 9999999999)
        where = [settings["subscription"], settings["group"], settings["workspace"]]
        mine = MLClient(Credential(), *where, cloud="mlenv")
        made = mine.environments.create_or_update(Environment(name="found", image="python:3.11"))
        shared = MLClient(Credential(), registry_name="shared", cloud="mlenv")
        result = [made.version, shared.environments.create_or_update(Environment(name="f", version=version, image="i")).version]
        """,
        version=str(id(azure)),
    )
    assert got == ["1", str(id(azure))]


def test_without_a_token_nothing_is_told(server: Server) -> None:
    with server.client("") as client:
        for path in ("/subscriptions", "/tenants", "/registrymanagement/v1.0/registries/shared/discovery"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "AuthenticationFailed"


def test_a_workspace_that_is_not_there_is_not_found(server: Server, azure: Client) -> None:
    with pytest.raises(AzureError) as caught:
        azure.run('connect({**settings, "workspace": "nowhere"}).environments.get("e", "1")')
    assert (caught.value.kind, caught.value.status) == ("ResourceNotFoundError", 404)
