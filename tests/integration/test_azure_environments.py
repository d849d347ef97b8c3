"""Environments of a workspace, through Azure's own client, unmodified, over TLS, at a real server process."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.azure import NEWEST, OLDEST, AzureError, Client, azure_client
from support.server import Server, run_server

pytestmark = pytest.mark.online

_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)
_CONDA = "name: c\nchannels:\n- conda-forge\ndependencies:\n- python=3.11\n- pip:\n  - numpy==2.1.0\n"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on either database."""
    database = None
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres_cluster").empty_database()
    with run_server(tmp_path_factory.mktemp("azure"), "--upload-rate", "0", database=database) as server:
        yield server


@pytest.fixture(scope="module")
def newest(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with azure_client(server, tmp_path_factory.mktemp("newest")) as client:
        yield client


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def azure(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Both releases of the client, one after the other."""
    with azure_client(server, tmp_path_factory.mktemp("azure"), version=request.param) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of the test's own."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


def _put(server: Server, path: str, body: Any) -> Any:
    with server.client() as client:
        url = f"{_WORKSPACE}/environments/{path}?api-version=2023-04-01-preview"
        return client.put(url, content=json.dumps(body), headers={"Content-Type": "application/json"})


def _get(server: Server, path: str) -> Any:
    with server.client() as client:
        return client.get(f"{_WORKSPACE}/environments{path}")


def test_everything_that_is_sent_comes_back(azure: Client, name: str, tmp_path: Path) -> None:
    conda = tmp_path / "conda.yml"
    conda.write_text(_CONDA)
    got = azure.run(
        """
        route = lambda path: {"port": 5001, "path": path}
        made = client.environments.create_or_update(Environment(
            name=name, version="7", image="python:3.11", conda_file=conda, description="what it is for",
            tags={"team": "vision"}, properties={"cost": "low"}, inference_config={
                "liveness_route": route("/live"), "readiness_route": route("/ready"), "scoring_route": route("/score")},
        ))
        found = client.environments.get(name, "7")
        result = [made._to_dict(), found._to_dict(), found.properties, found.os_type, found.creation_context.created_at is not None]
        """,
        name=name,
        conda=str(conda),
    )
    made, found, properties, os_type, has_time = got
    assert made == found
    assert found["id"].endswith(f"{_WORKSPACE}/environments/{name}/versions/7")
    assert (found["name"], found["version"], found["image"]) == (name, "7", "python:3.11")
    assert found["conda_file"]["dependencies"] == ["python=3.11", {"pip": ["numpy==2.1.0"]}]
    assert found["description"] == "what it is for"
    assert found["tags"] == {"team": "vision"}
    assert found["inference_config"]["liveness_route"] == {"port": 5001, "path": "/live"}
    assert (properties, os_type, has_time) == ({"cost": "low"}, "Linux", True)


def test_versions_are_numbered_by_the_content(azure: Client, name: str) -> None:
    """Surprise 2: equal content is the latest version, other content the next."""
    versions = azure.run(
        """
        make = lambda image: client.environments.create_or_update(Environment(name=name, image=image)).version
        result = [make("python:3.10"), make("python:3.10"), make("python:3.11"), make("python:3.11"), make("python:3.10")]
        """,
        name=name,
    )
    assert versions == ["1", "1", "2", "2", "3"]


def test_other_content_under_one_version_is_a_conflict(azure: Client, name: str) -> None:
    make = 'result = client.environments.create_or_update(Environment(name=name, version="1", image=image)).image'
    assert azure.run(make, name=name, image="python:3.11") == "python:3.11"
    with pytest.raises(AzureError) as caught:
        azure.run(make, name=name, image="python:3.12")
    assert (caught.value.kind, caught.value.status, caught.value.code) == ("ResourceExistsError", 409, "UserError")
    assert caught.value.text == f"Environment {name} with version 1 is already registered and cannot be changed."


def test_lists_leave_out_what_is_archived(azure: Client, name: str) -> None:
    got = azure.run(
        """
        environments = client.environments
        for image in ("a", "b", "c"):
            environments.create_or_update(Environment(name=name, image=image))
        shown = lambda view: [each.version for each in environments.list(name=name, list_view_type=view)]
        environments.archive(name, version="2")
        views = ListViewType
        one = [shown(views.ACTIVE_ONLY), shown(views.ARCHIVED_ONLY), shown(views.ALL), environments.get(name, "2").image]
        environments.restore(name, version="2")
        environments.archive(name, label="latest")
        latest = environments.get(name, label="latest").version
        two = shown(views.ACTIVE_ONLY)
        result = [one, two, latest]
        """,
        name=name,
    )
    assert got == [[["3", "1"], ["2"], ["3", "2", "1"], "b"], ["2", "1"], "2"]


def test_archiving_an_environment_archives_all_its_versions(azure: Client, name: str) -> None:
    got = azure.run(
        """
        environments = client.environments
        for image in ("a", "b"):
            environments.create_or_update(Environment(name=name, image=image))
        listed = lambda view: name in [each.name for each in environments.list(list_view_type=view)]
        versions = lambda view: [each.version for each in environments.list(name=name, list_view_type=view)]
        views = ListViewType
        environments.archive(name)
        result = [listed(views.ACTIVE_ONLY), listed(views.ARCHIVED_ONLY), versions(views.ACTIVE_ONLY), versions(views.ARCHIVED_ONLY)]
        result.append(environments.get(name, "1").image)
        """,
        name=name,
    )
    assert got == [False, True, [], ["2", "1"], "a"]
    with pytest.raises(AzureError, match="all of environment"):
        azure.run('client.environments.restore(name, version="1")', name=name)
    got = azure.run(
        """
        environments = client.environments
        environments.restore(name)
        result = [each.version for each in environments.list(name=name)]
        """,
        name=name,
    )
    assert got == ["2", "1"]


def test_an_archived_version_that_is_created_again_is_restored(azure: Client, name: str) -> None:
    """Surprise 5."""
    got = azure.run(
        """
        environments = client.environments
        make = lambda: environments.create_or_update(Environment(name=name, version="1", image="python:3.11"))
        make()
        environments.create_or_update(Environment(name=name, version="2", image="python:3.12"))
        environments.archive(name, version="1")
        before = [each.version for each in environments.list(name=name)]
        make()
        result = [before, [each.version for each in environments.list(name=name)]]
        """,
        name=name,
    )
    assert got == [["2"], ["2", "1"]]


def test_tags_that_are_sent_replace_the_others_and_none_leave_them(azure: Client, name: str) -> None:
    """Surprise 6."""
    got = azure.run(
        """
        def make(**more):
            made = client.environments.create_or_update(Environment(name=name, version="1", image="i", **more))
            return [made.tags, made.description]
        result = [make(tags={"a": "1", "b": "2"}, description="first"), make(), make(tags={"c": "3"}), make(description="other")]
        """,
        name=name,
    )
    assert got == [
        [{"a": "1", "b": "2"}, "first"],
        [{"a": "1", "b": "2"}, "first"],
        [{"c": "3"}, "first"],
        [{"c": "3"}, "other"],
    ]


def test_empty_tags_sent_by_others_clear_them(server: Server, name: str) -> None:
    version = {"image": "i", "tags": {"a": "1"}, "description": "d"}
    assert _put(server, f"{name}/versions/1", {"properties": version}).status_code == 201
    cleared = _put(server, f"{name}/versions/1", {"properties": {"image": "i", "tags": {}, "description": ""}})
    assert cleared.status_code == 200
    assert cleared.json()["properties"]["tags"] == {}
    assert "description" not in cleared.json()["properties"]


def test_names_come_from_ids_of_the_right_case(server: Server, name: str) -> None:
    """Surprise 1."""
    assert _put(server, f"{name}/versions/V1", {"properties": {"image": "i"}}).status_code == 201
    lower = _WORKSPACE.replace("resourceGroups/local", "resourcegroups/LOCAL").replace("Microsoft.M", "microsoft.m")
    with server.client() as client:
        found = client.get(f"{lower}/environments/{name}/versions/V1")
        assert client.get(f"{lower}/environments/{name}/versions/v1").status_code == 404
    pattern = (
        r"^/?subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft.MachineLearningServices"
        r"/workspaces/([^/]+)/environments/([^/]+)/versions/([^/]+)"
    )
    match = re.match(pattern, found.json()["id"])
    assert match is not None
    assert match.groups()[1:] == ("local", "default", name, "V1")


def test_neither_version_of_an_environment_is_null(server: Server, name: str) -> None:
    """Surprise 4."""
    _put(server, f"{name}/versions/2024-01-01", {"properties": {"image": "i"}})
    properties = _get(server, f"/{name}").json()["properties"]
    assert (properties["latestVersion"], properties["nextVersion"]) == ("2024-01-01", "1")


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"image": ""}, "image"),
        ({}, "Docker image or Dockerfile is required"),
        ({"image": "i", "build": {"contextUri": "https://example.org/x/"}}, "not both"),
        ({"build": {}}, "contextUri"),
        ({"build": {"contextUri": ""}}, "contextUri"),
        ({"build": {"contextUri": "/etc"}}, "contextUri"),
        ({"build": {"contextUri": "https://user:secret@example.org/x"}}, "credentials"),
        ({"build": {"contextUri": "https://example.org/x/"}, "condaFile": _CONDA}, "can't be given together"),
        ({"image": "i", "tags": {"a": 5}}, "tags.a"),
        ({"image": "i", "tags": {"a": {"b": "c"}}}, "tags.a"),
        ({"image": "i", "properties": {"a": ["b"]}}, "properties.properties.a"),
        ({"image": "i", "condaFile": "a: [unclosed"}, "condaFile"),
        ({"image": "i", "condaFile": "a: b: c"}, "condaFile"),
        ({"image": "i", "condaFile": {"dependencies": []}}, "condaFile"),
        ({"image": "i", "condaFile": "dependencies: [python, {pip: [-r other.txt]}]"}, "other"),
        ({"image": "i", "osType": "BeOS"}, "linux or windows"),
        ({"image": "i", "inferenceConfig": {"livenessRoute": {"port": 1, "path": "/"}}}, "readinessRoute"),
        ({"image": "i", "isArchived": "yes"}, "isArchived"),
        ({"image": "i", "stage": "\ud800"}, "can't be kept"),
        ({"image": "i", "properties": {"a": "b" * 70_000}}, "too long"),
        ({"image": "i", "intellectualProperty": {"a": "b" * 70_000}}, "too long"),
        ({"image": "i", "tags": {str(number): "" for number in range(101)}}, "too many"),
    ],
)
def test_what_the_client_does_not_stop_is_refused(server: Server, properties: dict[str, Any], said: str) -> None:
    """Surprises 7 and 8."""
    answer = _put(server, "refused/versions/1", {"properties": properties})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "UserError"
    assert said in error["message"], error
    assert "secret" not in answer.text
    assert _get(server, "/refused").status_code == 404


@pytest.mark.parametrize("arguments", ['image=""', 'image="i", tags={"a": {"b": "c"}}', 'image="i", tags={"a": 5}'])
def test_the_client_reads_why_something_is_refused(newest: Client, name: str, arguments: str) -> None:
    with pytest.raises(AzureError) as caught:
        newest.run(f"client.environments.create_or_update(Environment(name=name, version='1', {arguments}))", name=name)
    assert (caught.value.kind, caught.value.status, caught.value.code) == ("HttpResponseError", 400, "UserError")


def test_text_that_is_not_unicode_is_refused_also_where_the_version_is_there(server: Server, name: str) -> None:
    routes = {f"{each}Route": {"path": "/\ud800", "port": 80} for each in ("liveness", "readiness", "scoring")}
    bad = {"properties": {"image": "example.org/a:1", "inferenceConfig": routes}}
    assert _put(server, f"{name}/versions/1", bad).status_code == 400
    assert _put(server, f"{name}/versions/1", {"properties": {"image": "example.org/b:1"}}).status_code == 201
    answer = _put(server, f"{name}/versions/1", bad)
    assert (answer.status_code, answer.json()["error"]["innererror"]["code"]) == (400, "InvalidText")


def test_anonymous_environments_are_the_same_each_time_and_in_no_list(azure: Client) -> None:
    got = azure.run(
        """
        make = lambda: client.environments.create_or_update(Environment(image="python:3.11", conda_file={"dependencies": ["python=3.11"]}))
        first, second = make(), make()
        names = [each.name for each in client.environments.list(list_view_type=ListViewType.ALL)]
        result = [first.id, second.id, "CliV2AnonymousEnvironment" in names, first.id.split("/")[-3]]
        """
    )
    assert got[0] == got[1]
    assert got[2:] == [False, "CliV2AnonymousEnvironment"]


def test_lists_are_paged(newest: Client, server: Server, name: str) -> None:
    with server.client() as client:
        for number in range(1, 131):
            path = f"{_WORKSPACE}/environments/{name}/versions/{number}"
            assert client.put(path, json={"properties": {"image": f"i:{number}"}}).status_code == 201
        page = client.get(f"{_WORKSPACE}/environments/{name}/versions", params={"listViewType": "All"}).json()
        assert len(page["value"]) == 100
        assert "+" not in page["nextLink"]
        assert page["nextLink"].startswith(f"{server.url}{_WORKSPACE}/environments/{name}/versions?")
        rest = client.get(page["nextLink"]).json()
        assert len(rest["value"]) == 30
        assert not rest.get("nextLink")
        wrong = client.get(f"{_WORKSPACE}/environments/{name}/versions", params={"$skipToken": "abc"})
        assert wrong.status_code == 400
    versions = newest.run("result = [each.version for each in client.environments.list(name=name)]", name=name)
    assert versions == [str(number) for number in range(130, 0, -1)]


def test_latest_is_what_was_created_last(newest: Client, name: str) -> None:
    got = newest.run(
        """
        for version in ("9", "2"):
            client.environments.create_or_update(Environment(name=name, version=version, image=f"i:{version}"))
        result = client.environments.get(name, label="latest").version
        """,
        name=name,
    )
    assert got == "2"


@pytest.mark.parametrize("call", ['get(name, "1")', 'get(name, label="latest")', "archive(name)", "list(name=name)"])
def test_what_is_not_there_is_not_found(azure: Client, name: str, call: str) -> None:
    with pytest.raises(AzureError) as caught:
        azure.run(f"result = str(list(client.environments.{call}))", name=name)
    assert caught.value.kind in {"ResourceNotFoundError", "ValidationException"}
    assert caught.value.status in {404, None}


def test_a_wrong_token_is_said_so_at_once(server: Server, tmp_path: Path) -> None:
    with azure_client(server, tmp_path, token="mlenv_wrong") as client, pytest.raises(AzureError) as caught:
        client.run('client.environments.get("e", "1")')
    assert (caught.value.kind, caught.value.status) == ("ClientAuthenticationError", 401)


def test_versions_can_not_be_deleted(server: Server, name: str) -> None:
    _put(server, f"{name}/versions/1", {"properties": {"image": "i"}})
    with server.client() as client:
        for path in (name, f"{name}/versions/1"):
            refused = client.delete(f"{_WORKSPACE}/environments/{path}")
            assert refused.status_code == 405
            assert "can't be deleted" in refused.json()["error"]["message"]
        assert client.delete(f"{_WORKSPACE}/environments/none/versions/1").status_code == 404
    assert _get(server, f"/{name}/versions/1").status_code == 200


def test_what_only_the_native_dialect_can_say_survives_being_archived(
    newest: Client, server: Server, name: str
) -> None:
    with server.client() as client:
        spec = {"image": "python:3.11", "requirements": [{"text": "numpy"}]}
        made = client.post("/api/v1/workspaces/default/environments", json={"name": name, "version": "1", "spec": spec})
        assert made.status_code == 201, made.text
    newest.run('client.environments.archive(name, version="1")', name=name)
    assert _get(server, f"/{name}/versions/1").json()["properties"]["isArchived"] is True
    newest.run('client.environments.restore(name, version="1")', name=name)
    assert _get(server, f"/{name}/versions/1").json()["properties"]["isArchived"] is False
    other = _put(server, f"{name}/versions/1", {"properties": {"image": "python:3.11"}})
    assert other.status_code == 409


def test_properties_and_stage_may_change_and_the_rest_not(server: Server, name: str) -> None:
    path = f"{name}/versions/1"
    first = {"image": "i", "stage": "Development", "properties": {"a": "1"}, "autoRebuild": "Disabled"}
    assert _put(server, path, {"properties": first}).status_code == 201
    changed = _put(server, path, {"properties": {"image": "i", "stage": "Production", "properties": {"b": "2"}}})
    assert changed.status_code == 200
    assert changed.json()["properties"]["stage"] == "Production"
    assert changed.json()["properties"]["properties"] == {"b": "2"}
    rebuild = _put(server, path, {"properties": {"image": "i", "autoRebuild": "OnBaseImageUpdate"}})
    assert rebuild.status_code == 409
    assert _put(server, path, {"properties": {"image": "i", "osType": "windows"}}).status_code == 409
    assert _put(server, path, {"properties": {"image": "i", "osType": "LINUX"}}).status_code == 200


def test_eight_clients_at_once_lose_nothing(newest: Client, name: str) -> None:
    """What one of them was told is registered, is: under the version it was told, and with its own content."""
    got = newest.run(
        """
        import threading
        from azure.core.exceptions import ResourceExistsError
        done, failed, start = [], [], threading.Barrier(8)
        def work(number):
            mine = connect(settings).environments
            start.wait()
            for round in range(5):
                image = f"i:{number}-{round}"
                for attempt in range(60):
                    try:
                        done.append([image, mine.create_or_update(Environment(name=name, image=image)).version])
                        break
                    except ResourceExistsError:
                        continue
                    except Exception as error:
                        failed.append(repr(error))
                        break
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        [each.start() for each in threads]
        [each.join() for each in threads]
        kept = {each.version: each.image for each in client.environments.list(name=name)}
        result = [failed, done, kept]
        """,
        name=name,
    )
    failed, done, kept = got
    assert failed == []
    assert len(done) == 40
    assert {version: image for image, version in done} == kept
    assert sorted(kept, key=int) == [str(number) for number in range(1, 41)]
