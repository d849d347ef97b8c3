"""`mlenv.Client` against a real server process, over TLS."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.index import serve
from support.server import Server, run_server

import mlenv
from mlenv.client.client import BuildTimeout, Client, NoServer
from mlenv.client.http import Http, ServerUnreachable, UntrustedServer
from mlenv.core.environment import Definition, View
from mlenv.core.lock import Lock
from mlenv.core.records import BuildStatus
from mlenv.core.reference import parse_name
from mlenv.core.refusals import EnvironmentNotFound, LabelNotFound, VersionConflict, VersionNotFound
from mlenv.core.spec import Spec
from mlenv.errors import InvalidInput, MlenvError, NotAuthenticated, NotFound
from mlenv.service.environments import Environments

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("client")) as made:
        yield made


def workspace(server: Server) -> str:
    """A new workspace."""
    name = f"team-{os.urandom(6).hex()}"
    with server.client() as client:
        assert client.post("/api/v1/workspaces", json={"name": name}).status_code == 201
    return name


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of a new workspace."""
    with Client(server.url, server.token, workspace=workspace(server), ca=server.ca) as made:
        yield made


def test_environment_from_a_file_to_its_archive(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "environment.yml"
    file.write_text("name: iris\nimage: base:1\nrequirements: [numpy]\ntags: {team: vision}\n")
    made = client.create(file)
    assert (str(made), made.spec.image, dict(made.tags)) == ("iris:1", "base:1", {"team": "vision"})
    assert client.create(file) == made
    second = client.create(file, image="base:2", description="newer")
    assert (second.version, client.get("iris"), client.get("iris@latest")) == ("2", second, second)
    assert client.get("azureml:iris:1") == made
    assert [each.version for each in client.versions("iris")] == ["2", "1"]
    assert client.set_label("iris:1", "production") == made
    assert client.get("iris@production") == made
    client.set_label("iris:2", "production")
    history = client.labels("iris")
    assert {label: [each.version for each in changes] for label, changes in history.items()} == {
        "production": ["2", "1"]
    }
    changed = client.update("iris:1", description="old", set_tags={"a": "b"}, remove_tags=("team",))
    assert (changed.description, dict(changed.tags)) == ("old", {"a": "b"})
    assert client.get("iris:1") == changed
    client.archive("iris:1")
    assert [each.version for each in client.versions("iris")] == ["2"]
    client.archive("iris")
    assert list(client.environments()) == []
    assert [each.name for each in client.environments(View.ARCHIVED)] == ["iris"]
    client.restore("iris")
    client.restore("iris:1")
    assert client.environment("iris").archived is False
    assert [each.version for each in client.versions("iris")] == ["2", "1"]


def test_what_a_spec_holds_comes_back_as_it_was(client: Client) -> None:
    examples = Path(__file__).parents[2] / "examples"
    files = sorted(examples.rglob("environment.yml"))
    assert files
    for file in files:
        made = client.create(file, name=f"from-{file.parent.name}")
        assert client.get(str(made)).spec.to_dict() == made.spec.to_dict()


def test_what_is_not_there_is_the_error_with_its_facts(client: Client) -> None:
    client.create(name="e", image="a")
    with pytest.raises(EnvironmentNotFound) as nothing:
        client.get("ee")
    assert (nothing.value.near, nothing.value.hint) == (("e",), "did you mean 'e'?")
    with pytest.raises(VersionNotFound) as version:
        client.get("e:9")
    assert version.value.versions == ("1",)
    with pytest.raises(LabelNotFound):
        client.get("e@production")
    with pytest.raises(VersionConflict) as conflict:
        client.create(name="e", version="1", image="b")
    assert conflict.value.difference == ["image:", "  - a", "  + b"]
    with pytest.raises(InvalidInput, match="in the registry 'r'"):
        client.get("azureml://registries/r/environments/e/versions/1")


def test_long_lists_come_page_by_page(client: Client) -> None:
    names = [f"e{number:03}" for number in range(205)]
    for name in names:
        client.create(Definition(parse_name(name), Spec(image="a")))
    assert [each.name for each in client.environments()] == names
    # The use cases of the command line ask by the last name of a page.
    use_cases = Environments(client._registry, lambda: pytest.fail("the server's clock counts"))
    assert [each.name for each in use_cases.environments(limit=203)] == names[:203]


def test_changes_at_the_same_time_lose_nothing(client: Client, server: Server) -> None:
    client.create(name="e", image="a")
    faults: list[BaseException] = []

    def change(number: int) -> None:
        try:
            with Client(server.url, server.token, workspace=client.name, ca=server.ca) as own:
                own.update("e:1", set_tags={f"t{number}": "x"})
        except MlenvError as error:
            faults.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert set(client.get("e:1").tags) == {f"t{number}" for number in range(6)}


def test_lock_is_made_once_by_the_server(client: Client, tmp_path: Path) -> None:
    with serve() as index:
        index.wheel("pip", "25.0", files={"pip/__init__.py": ""})
        index.wheel("alpha", "1.0", files={"alpha/__init__.py": ""})
        file = tmp_path / "requirements.txt"
        file.write_text(f"--index-url {index.simple}\nalpha\n")
        client.create(file, name="locked", python=MINOR)
        lock = client.lock("locked", "linux/amd64")
        assert [each.name for each in lock.packages] == ["alpha", "pip"]
        index.wheel("alpha", "2.0", files={"alpha/__init__.py": ""})
        assert client.lock("locked:1", "linux-64") == lock
    assert Lock.from_pylock(lock.to_pylock()).digest == lock.digest


def test_build_waits_for_a_worker_and_can_be_canceled(client: Client) -> None:
    client.create(name="e", image="example.org/base:1", python=MINOR)
    build = client.build("e", "linux/amd64")
    assert build.status is BuildStatus.QUEUED
    assert client.build("e:1", "linux/amd64").id == build.id
    with pytest.raises(BuildTimeout) as caught:
        client.wait(build, timeout=0.3)
    assert caught.value.build.id == build.id
    assert client.cancel(build).status is BuildStatus.CANCELED
    assert client.wait(build.id, timeout=5).status is BuildStatus.CANCELED
    assert list(client.logs(build)) == []
    assert [(each.id, each.status) for each in client.builds("e")] == [(build.id, BuildStatus.CANCELED)]
    with pytest.raises(NotFound):
        client.get_build("nothing")


def test_who_asks_and_where(client: Client, server: Server) -> None:
    assert client.whoami().name
    assert client.scope().name == client.name
    assert client.name in [each.name for each in client.workspaces()]
    assert list(client.registries()) == []
    assert server.token not in repr(client)


def test_server_whose_certificate_is_not_trusted_is_not_talked_to(server: Server, tmp_path: Path) -> None:
    with Client(server.url, server.token) as client, pytest.raises(UntrustedServer) as caught:
        client.whoami()
    assert "mlenv server ca" in (caught.value.hint or "")
    assert server.token not in str(caught.value)
    with Http(server.url.replace("https", "http"), server.token) as http, pytest.raises(ServerUnreachable):
        http.request("GET", "/whoami")


@pytest.mark.parametrize("token", ["", "mlenv_wrong"])
def test_nobody_known_is_told_so(server: Server, token: str) -> None:
    with (
        Client(server.url, token, ca=server.ca) as client,
        pytest.raises(NotAuthenticated, match=r"no token was shown|unknown, expired or revoked"),
    ):
        client.whoami()


def test_workspace_that_is_not_there_is_told(server: Server) -> None:
    with (
        Client(server.url, server.token, workspace="no/where", ca=server.ca) as client,
        pytest.raises((NotFound, InvalidInput)),
    ):
        client.environment("e")


def test_variables_say_which_server(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLENV_CONFIG_HOME", str(tmp_path))
    with pytest.raises(NoServer):
        Client()
    for name, value in (("SERVER", server.url), ("TOKEN", server.token), ("CA", str(server.ca))):
        monkeypatch.setenv(f"MLENV_{name}", value)
    with mlenv.Client() as client:
        assert (client.server, client.name) == (server.url, "default")
        assert client.scope().name == "default"


def test_importing_mlenv_imports_no_client() -> None:
    code = "import sys, mlenv; print(sorted({'httpx', 'pydantic', 'ssl'} & set(sys.modules)), mlenv.Client.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] Client\n"
