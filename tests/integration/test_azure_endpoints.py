"""Online endpoints and deployments through Azure's own client: recorded, with the environments that they refer to."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.azure import OLDEST, AzureError, Client, azure_client
from support.server import Server, run_server

_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)

_DEPLOY = """
    def deploy(endpoint, name, environment="train:1", **more):
        made = ManagedOnlineDeployment(
            name=name, endpoint_name=endpoint, environment=environment, instance_type="Standard_DS3_v2",
            instance_count=1, **more
        )
        return client.online_deployments.begin_create_or_update(made, skip_script_validation=True).result()

    def endpoint(name, **more):
        made = ManagedOnlineEndpoint(name=name, auth_mode="key", **more)
        return client.online_endpoints.begin_create_or_update(made).result()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("azure-endpoints")) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with azure_client(server, tmp_path_factory.mktemp("client")) as made:
        made.run(
            'client.environments.create_or_update(Environment(name="train", version="1", image="example.org/b:1"))'
        )
        yield made


def _run(client: Client, code: str, **values: object) -> object:
    return client.run(textwrap.dedent(_DEPLOY) + textwrap.dedent(code), **values)


def test_an_endpoint_and_its_deployment_come_back_as_they_were(client: Client) -> None:
    found = _run(
        client,
        """
        made = endpoint("iris-one", description="Flowers", tags={"a": "b"})
        blue = deploy("iris-one", "blue", tags={"c": "d"}, environment_variables={"X": "1"})
        after = client.online_endpoints.get("iris-one")
        again = client.online_deployments.get("blue", "iris-one")
        result = [
            made.provisioning_state, after.description, after.tags, after.auth_mode, after.traffic,
            blue.provisioning_state, again.environment, again.tags, again.environment_variables, again.endpoint_name,
            again.scale_settings.type, again.instance_type, again.instance_count,
        ]
        """,
    )
    assert isinstance(found, list)
    assert found[:5] == ["Succeeded", "Flowers", {"a": "b"}, "key", {"blue": 0}]
    assert found[5] == "Succeeded"
    assert found[6].endswith("/environments/train/versions/1")
    assert found[7:10] == [{"c": "d"}, {"X": "1"}, "iris-one"]
    assert found[10:] == ["default", "Standard_DS3_v2", 1]


def test_older_clients_get_what_they_deploy(client: Client, server: Server, tmp_path: Path) -> None:
    with azure_client(server, tmp_path, version=OLDEST) as older:
        found = _run(
            older,
            """
            endpoint("iris-older")
            made = deploy("iris-older", "blue")
            again = deploy("iris-older", "blue", tags={"a": "b"})
            result = [made.name, made.provisioning_state, made.environment, again.tags]
            """,
        )
    assert isinstance(found, list)
    assert found[:2] == ["blue", "Succeeded"]
    assert found[2].endswith("/environments/train/versions/1")
    assert found[3] == {"a": "b"}


def test_lists_and_deletes(client: Client) -> None:
    found = _run(
        client,
        """
        for name in ("iris-two", "iris-three"):
            endpoint(name)
        for name in ("blue", "green"):
            deploy("iris-two", name)
        states = [
            sorted(each.name for each in client.online_endpoints.list() if each.name in ("iris-two", "iris-three")),
            sorted(each.name for each in client.online_deployments.list("iris-two")),
        ]
        client.online_deployments.begin_delete("blue", "iris-two").result()
        states.append(sorted(each.name for each in client.online_deployments.list("iris-two")))
        client.online_endpoints.begin_delete("iris-two").result()
        states.append(sorted(each.name for each in client.online_endpoints.list() if each.name == "iris-two"))
        result = states
        """,
    )
    assert found == [["iris-three", "iris-two"], ["blue", "green"], ["green"], []]


def test_a_deployment_on_kubernetes_needs_no_resources(client: Client) -> None:
    found = _run(
        client,
        """
        made = KubernetesOnlineEndpoint(name="iris-kube", compute="k8s", auth_mode="key")
        client.online_endpoints.begin_create_or_update(made).result()
        scale = TargetUtilizationScaleSettings(min_instances=1, max_instances=3)
        blue = KubernetesOnlineDeployment(
            name="blue", endpoint_name="iris-kube", environment="train:1", instance_count=1, scale_settings=scale
        )
        client.online_deployments.begin_create_or_update(blue, skip_script_validation=True).result()
        after = client.online_deployments.get("blue", "iris-kube")
        result = [after.scale_settings.type, after.scale_settings.max_instances]
        """,
    )
    assert found == ["target_utilization", 3]


def test_what_is_nested_too_deeply_is_refused_and_spoils_no_list(server: Server) -> None:
    deep = '{"properties":' + '{"a":' * 300 + "1" + "}" * 301
    with server.client() as http:
        headers = {"Content-Type": "application/json"}
        answer = http.put(f"{_WORKSPACE}/onlineEndpoints/iris-deep", content=deep, headers=headers)
        listed = http.get(f"{_WORKSPACE}/onlineEndpoints")
    assert (answer.status_code, answer.json()["error"]["innererror"]["code"]) == (400, "InvalidAsset")
    assert listed.status_code == 200
    assert "iris-deep" not in listed.text


def test_traffic_is_changed(client: Client) -> None:
    found = _run(
        client,
        """
        made = endpoint("iris-four")
        deploy("iris-four", "blue")
        made.traffic = {"blue": 100}
        client.online_endpoints.begin_create_or_update(made).result()
        result = client.online_endpoints.get("iris-four").traffic
        """,
    )
    assert found == {"blue": 100}


def test_a_missing_environment_is_refused(client: Client) -> None:
    _run(client, 'endpoint("iris-five")')
    with pytest.raises(AzureError) as caught:
        _run(client, 'deploy("iris-five", "blue", environment="train:88")')
    assert (caught.value.status, caught.value.code) == (400, "UserError")
    with pytest.raises(AzureError) as caught:
        _run(client, 'client.online_deployments.get("blue", "iris-five")')
    assert caught.value.kind == "ResourceNotFoundError"


def test_a_deployment_needs_its_endpoint(server: Server, client: Client) -> None:
    with server.client() as http:
        body = {"location": "local", "properties": {"endpointComputeType": "Managed", "environmentId": "train:1"}}
        answer = http.put(f"{_WORKSPACE}/onlineEndpoints/none/deployments/blue", json=body)
        assert answer.status_code == 404
        bodies: list[object] = [[], {}, {"properties": []}, {"properties": {"environmentId": 5}}]
        for wrong in bodies:
            answer = http.put(f"{_WORKSPACE}/onlineEndpoints/none/deployments/blue", json=wrong)
            assert answer.status_code in {400, 404}, answer.text
