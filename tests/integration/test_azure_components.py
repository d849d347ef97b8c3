"""Components through Azure's own client: kept as they are, versions that never change, environments that are there."""

import textwrap
from collections.abc import Iterator

import pytest
from support.azure import AzureError, Client, azure_client
from support.server import Server, run_server

_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)

_MAKE = """
    def make(name, command="echo ${{inputs.text}}", environment="azureml:train:1", **more):
        return CommandComponent(
            name=name, command=command, environment=environment, inputs={"text": {"type": "string"}}, **more
        )
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("azure-components")) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with azure_client(server, tmp_path_factory.mktemp("client")) as made:
        made.run(
            'client.environments.create_or_update(Environment(name="train", version="1", image="example.org/b:1"))'
        )
        yield made


def _run(client: Client, code: str, **values: object) -> object:
    return client.run(textwrap.dedent(_MAKE) + textwrap.dedent(code), **values)


def test_a_component_comes_back_as_it_was(client: Client) -> None:
    found = _run(
        client,
        """
        client.components.create_or_update(make("score", version="3", description="Scores", tags={"a": "b"}))
        after = client.components.get("score", "3")
        result = [
            after.name, after.version, after.command, after.environment, after.description, after.tags,
            list(after.inputs), str(after.inputs["text"].type),
        ]
        """,
    )
    assert isinstance(found, list)
    name, version, command, environment, description, tags, inputs, kind = found
    assert (name, version, command) == ("score", "3", "echo ${{inputs.text}}")
    assert environment.endswith(("/environments/train/versions/1", "train:1"))
    assert (description, tags, inputs, kind) == ("Scores", {"a": "b"}, ["text"], "string")


def test_versions_are_given_out_and_never_change(client: Client) -> None:
    found = _run(
        client,
        """
        versions = [
            client.components.create_or_update(make("auto", command=text)).version
            for text in ("echo 1", "echo 2", "echo 2")
        ]
        result = versions
        """,
    )
    assert found == ["1", "2", "3"]
    same = 'result = client.components.create_or_update(make("auto", command="echo 1", version="1")).version'
    assert _run(client, same) == "1"
    with pytest.raises(AzureError) as caught:
        _run(client, 'client.components.create_or_update(make("auto", command="echo else", version="1"))')
    assert (caught.value.kind, caught.value.status) == ("ResourceExistsError", 409)
    assert "Component auto with version 1 is already registered and cannot be changed" in caught.value.text
    assert _run(client, 'result = client.components.get("auto", "1").command') == "echo 1"


def test_without_a_version_or_label_the_newest_is_given(client: Client) -> None:
    found = _run(
        client,
        """
        for number in (1, 2):
            client.components.create_or_update(make("newest", command=f"echo {number}", version=str(number)))
        result = client.components.get("newest").version
        """,
    )
    assert found == "2"
    with pytest.raises(AzureError) as caught:
        _run(client, 'client.components.get("none-such")')
    assert caught.value.kind == "ResourceNotFoundError"


def test_tags_change_under_a_version(client: Client) -> None:
    found = _run(
        client,
        """
        client.components.create_or_update(make("tagged", version="1"))
        client.components.create_or_update(make("tagged", version="1", tags={"new": "tag"}))
        result = client.components.get("tagged", "1").tags
        """,
    )
    assert found == {"new": "tag"}


def test_a_missing_environment_is_refused(client: Client) -> None:
    with pytest.raises(AzureError) as caught:
        _run(client, 'client.components.create_or_update(make("lost", version="1", environment="azureml:train:77"))')
    assert (caught.value.status, caught.value.code) == (400, "UserError")
    with pytest.raises(AzureError) as caught:
        _run(client, 'client.components.get("lost", "1")')
    assert caught.value.kind == "ResourceNotFoundError"


def test_lists_archive_and_restore(client: Client) -> None:
    found = _run(
        client,
        """
        for number in (1, 2):
            client.components.create_or_update(make("shelf", command=f"echo {number}", version=str(number)))
        names = lambda view="ActiveOnly": sorted(each.name for each in client.components.list(list_view_type=view))
        versions = lambda: [each.version for each in client.components.list("shelf")]
        states = [versions(), "shelf" in names()]
        client.components.archive("shelf", version="1")
        states.append(versions())
        client.components.archive("shelf")
        states += [versions(), "shelf" in names(), "shelf" in names("ArchivedOnly")]
        client.components.restore("shelf")
        states += [versions(), "shelf" in names()]
        states.append(client.components.get("shelf", label="latest").version)
        result = states
        """,
    )
    assert found == [["2", "1"], True, ["2"], [], False, True, ["2", "1"], True, "2"]


def test_pages_lead_from_one_to_the_next(server: Server, client: Client) -> None:
    found = _run(
        client,
        """
        for number in range(105):
            client.components.create_or_update(make(f"many_{number}", version="1"))
        result = sorted(each.name for each in client.components.list() if each.name.startswith("many_"))
        """,
    )
    assert found == sorted(f"many_{number}" for number in range(105))
    with server.client() as http:
        answer = http.get(f"{_WORKSPACE}/components", params={"$skipToken": "nonsense!"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"properties": None},
        {"properties": {}},
        {"properties": {"componentSpec": []}},
        {"properties": {"componentSpec": {"name": "x", "environment": 5}}},
        {"properties": {"componentSpec": {"name": "x", "environment": "a:b:c"}}},
        {"properties": {"componentSpec": {"name": "x"}, "tags": {"a": {"b": "c"}}}},
        {"properties": {"componentSpec": {"name": "x"}, "isArchived": "no"}},
    ],
)
def test_what_makes_no_sense_is_refused(server: Server, body: object) -> None:
    with server.client() as http:
        answer = http.put(f"{_WORKSPACE}/components/bad/versions/1", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "UserError"
        assert http.get(f"{_WORKSPACE}/components/bad/versions/1").status_code == 404
