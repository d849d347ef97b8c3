"""Command jobs through Azure's own client, unmodified, over TLS: submitted, followed, failed, canceled, archived."""

import json
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.azure import AzureError, Client, azure_client
from support.index import PackageIndex, serve
from support.server import Server, run_server, wait_until

#: What comes with every environment: the index has to offer it, too.
_SEEDS = ("pip", "setuptools", "wheel")

_SUBMIT = """
    def submit(command_line, environment, **more):
        job = command(command=command_line, environment=environment, compute="cpu-cluster", **more)
        return client.jobs.create_or_update(job)

    def follow(name):
        import contextlib, io
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            client.jobs.stream(name)
        return text.getvalue()
"""


@dataclass
class Place:
    """A server with workers, a client of it, and an index for its packages."""

    server: Server
    client: Client
    directory: Path
    index: PackageIndex

    def run(self, code: str, **values: object) -> object:
        """Run code in the client, with `submit` and `follow` for jobs."""
        return self.client.run(textwrap.dedent(_SUBMIT) + textwrap.dedent(code), **values)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("azure-jobs")
    with serve() as index:
        for seed in _SEEDS:
            index.wheel(seed, "25.0", files={f"{seed}/__init__.py": "", f"{seed}/__main__.py": ""})
        index.wheel("alpha", "1.0", files={"alpha/__init__.py": "VALUE = 42\n"})
        code = directory / "code"
        (code / "parts").mkdir(parents=True)
        (code / "train.py").write_text(
            "import alpha, os, sys\nfrom parts.more import say\n"
            "say(alpha.VALUE, sys.argv[1:], os.environ['GREETING'])\n"
            "open('outputs/model.txt', 'w').write('trained')\n"
        )
        (code / "parts" / "more.py").write_text("def say(*words): print('said', *words)\n")
        with run_server(directory, workers=2) as server, azure_client(server, directory) as client:
            made = Place(server, client, directory, index)
            made.run(_CREATE, index=index.simple)
            yield made


_CREATE = """
    import pathlib, json
    conda = {
        "channels": ["conda-forge"],
        "dependencies": ["python=3.11", "pip", {"pip": [f"--index-url {index}", "alpha"]}],
    }
    pathlib.Path("conda.yml").write_text(json.dumps(conda))
    made = Environment(name="train", version="1", image="example.org/base:1", conda_file="conda.yml")
    client.environments.create_or_update(made)
    client.environments.create_or_update(Environment(name="bare", version="1", image="example.org/base:1"))
"""


def test_a_job_runs_its_code_in_its_environment_and_is_followed(place: Place) -> None:
    found = place.run(
        """
        job = submit(
            "python train.py --rate ${{inputs.rate}} && sleep 2 && echo the end",
            "train:1",
            code=source,
            inputs={"rate": 0.5},
            environment_variables={"GREETING": "hello"},
            experiment_name="first",
            display_name="My job",
            tags={"a": "b"},
        )
        text = follow(job.name)
        after = client.jobs.get(job.name)
        result = [job.status, text, after.status, after.experiment_name, after.display_name, after.tags, after.name]
        """,
        source=str(place.directory / "code"),
    )
    assert isinstance(found, list)
    status, text, after, experiment, display_name, tags, name = found
    assert status in {"NotStarted", "Queued", "Preparing", "Running"}
    assert "Streaming user_logs/std_log.txt" in text
    assert "said 42 ['--rate', '0.5'] hello" in text
    assert "the end" in text
    assert (after, experiment, display_name, tags) == ("Completed", "first", "My job", {"a": "b"})
    with place.server.client() as http:
        job = http.get(f"/api/v1/workspaces/default/jobs/{name}").json()
        assert job["exit_code"] == 0
        assert job["environment"] == "train:1"
        uses = http.get("/api/v1/workspaces/default/environments/train/uses").json()["value"]
        assert [(use["kind"], use["exit_code"]) for use in uses if use["kind"] == "job"][:1] == [("job", 0)]
        builds = http.get("/api/v1/workspaces/default/environments/train/versions/1/builds").json()["value"]
        assert len(builds) == 1, "the first use of an environment has its image built"


def test_code_is_uploaded_once(place: Place) -> None:
    found = place.run(
        """
        first = submit("true", "bare:1", code=source)
        second = submit("echo again", "bare:1", code=source)
        result = [client.jobs.get(each.name).code for each in (first, second)]
        """,
        source=str(place.directory / "code"),
    )
    assert isinstance(found, list)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["a#b", "a%20b", "a b?c", "ünï"])
def test_code_comes_from_directories_of_any_name(place: Place, name: str) -> None:
    directory = place.directory / name
    directory.mkdir()
    (directory / "said.txt").write_text(f"words of {name}")
    found = place.run(
        """
        job = submit("cat said.txt", "bare:1", code=source)
        result = [follow(job.name), client.jobs.get(job.name).status]
        """,
        source=str(directory),
    )
    assert isinstance(found, list)
    assert f"words of {name}" in found[0]
    assert found[1] == "Completed"


def test_code_whose_files_are_not_there_is_refused_or_fails(place: Place) -> None:
    with place.server.client() as http:
        pending = http.post(f"{_WORKSPACE}/codes/empty/versions/1/startPendingUpload", json={}).json()
        uri = f"{pending['blobReferenceForConsumption']['blobUri']}/nothing"
        refused = http.put(f"{_WORKSPACE}/codes/empty/versions/1", json={"properties": {"codeUri": uri}})
        assert refused.status_code == 400
        assert "nothing was uploaded to" in refused.json()["error"]["message"]
        assert http.get(f"{_WORKSPACE}/codes/empty/versions/1").status_code == 404
        # A container of nobody, or of another namespace, is not looked into; the job says so.
        other = uri.replace(uri.split("/blobs/")[1].split("/")[0], f"azureml-upload-{'0' * 32}-{'1' * 16}")
        made = http.put(f"{_WORKSPACE}/codes/other/versions/1", json={"properties": {"codeUri": other}})
        assert made.status_code == 201
        properties = {"jobType": "Command", "command": "ls", "environmentId": "bare:1", "codeId": made.json()["id"]}
        assert http.put(f"{_WORKSPACE}/jobs/no-code", json={"properties": properties}).status_code == 201
    with pytest.raises(AzureError, match="the code is not on this server"):
        place.run('follow("no-code")')


def test_a_job_that_fails_raises_what_it_says(place: Place) -> None:
    with pytest.raises(AzureError) as caught:
        place.run('follow(submit("echo before the fall; sleep 2; exit 7", "bare:1").name)')
    assert caught.value.kind == "JobException"
    assert "the command exited with 7" in caught.value.text


def test_an_environment_that_cannot_be_solved_fails_readably(place: Place) -> None:
    name = place.run(
        """
        import json, pathlib
        conda = {"dependencies": ["python=3.11", "pip", {"pip": [f"--index-url {index}", "alpha==9"]}]}
        pathlib.Path("broken.yml").write_text(json.dumps(conda))
        client.environments.create_or_update(
            Environment(name="broken", version="1", image="example.org/base:1", conda_file="broken.yml")
        )
        result = submit("echo never", "broken:1").name
        """,
        index=place.index.simple,
    )
    job = _ended(place, str(name))
    assert job["status"] == "Failed"
    assert "alpha" in job["error"]
    with place.server.client() as http:
        assert "alpha" in http.get(f"/api/v1/workspaces/default/jobs/{name}/logs").text


def test_a_long_job_is_canceled_with_all_it_started(place: Place) -> None:
    marker = place.directory / "beats"
    name = place.run(
        """
        job = submit("(while true; do echo beat >> $MARKER; sleep 0.1; done) & wait", "bare:1",
                     environment_variables={"MARKER": marker})
        result = job.name
        """,
        marker=str(marker),
    )
    wait_until(marker.exists, "the command does not run", 30)
    place.run("client.jobs.begin_cancel(name).result()", name=name)
    assert place.run("result = client.jobs.get(name).status", name=name) == "Canceled"
    _wait_for_silence(marker)
    with place.server.client() as http:
        canceled = http.get(f"/api/v1/workspaces/default/jobs/{name}").json()
    assert canceled["status"] == "Canceled"
    place.run("client.jobs.begin_cancel(name).result()", name=name)
    assert place.run("result = client.jobs.get(name).status", name=name) == "Canceled"


def _wait_for_silence(marker: Path) -> None:
    """Wait until a file has not grown for a second."""
    size, since, deadline = -1, time.monotonic(), time.monotonic() + 30
    while time.monotonic() - since < 1:
        assert time.monotonic() < deadline, "what the job started goes on"
        if marker.stat().st_size != size:
            size, since = marker.stat().st_size, time.monotonic()
        time.sleep(0.05)


def test_jobs_are_listed_archived_and_restored(place: Place) -> None:
    found = place.run(
        """
        job = submit("true", "bare:1", experiment_name="archive")
        names = lambda view: [each.name for each in client.jobs.list(list_view_type=view)]
        states = [job.name in names("ActiveOnly")]
        client.jobs.archive(job.name)
        states += [job.name in names("ActiveOnly"), job.name in names("ArchivedOnly"), job.name in names("All")]
        client.jobs.restore(job.name)
        states += [job.name in names("ActiveOnly"), job.name in names("ArchivedOnly")]
        result = states
        """
    )
    assert found == [True, False, True, True, True, False]


def test_what_people_read_of_a_job_can_be_changed(place: Place) -> None:
    found = place.run(
        """
        job = client.jobs.get(submit("true", "bare:1", tags={"a": "b"}).name)
        job.tags["c"] = "d"
        job.display_name = "better"
        client.jobs.create_or_update(job)
        after = client.jobs.get(job.name)
        result = [after.tags, after.display_name]
        """
    )
    assert found == [{"a": "b", "c": "d"}, "better"]


def test_a_missing_environment_is_refused(place: Place) -> None:
    for reference in ("train:99", "nothing:1", "azureml://registries/none/environments/e/versions/1"):
        with pytest.raises(AzureError) as caught:
            place.run('submit("true", environment)', environment=reference)
        assert (caught.value.status, caught.value.code) == (400, "UserError"), reference
        assert "is not there" in caught.value.text


def test_an_environment_may_be_in_a_registry(place: Place) -> None:
    with place.server.client() as http:
        assert http.post("/api/v1/registries", json={"name": "common"}).status_code == 201
        registry = _WORKSPACE.replace("/workspaces/default", "/registries/common")
        body = {"properties": {"image": "example.org/base:1", "isAnonymous": False, "isArchived": False}}
        address = f"/mferp/managementfrontend{registry}/environments/shared/versions/1"
        assert http.put(address, json=body).status_code in {200, 201, 202}
    reference = "azureml://registries/common/environments/shared/versions/1"
    name = place.run('result = submit("echo from a registry", environment).name', environment=reference)
    job = _ended(place, str(name))
    assert (job["status"], job["environment"]) == ("Completed", reference)


def test_a_label_leads_to_the_newest_version(place: Place) -> None:
    found = place.run('result = submit("true", "train@latest").environment')
    assert isinstance(found, str)
    assert found.endswith(("train:1", "/environments/train/versions/1"))


def test_an_environment_without_a_name_comes_along(place: Place) -> None:
    found = place.run(
        """
        job = submit("sleep 1; echo in an environment without a name", Environment(image="example.org/base:2"))
        result = follow(job.name)
        """
    )
    assert isinstance(found, str)
    assert "in an environment without a name" in found


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"jobType": "Pipeline"}, "only command jobs"),
        ({"jobType": "Sweep"}, "only command jobs"),
        ({}, "only command jobs"),
        ({"jobType": "Command", "environmentId": "bare:1"}, "properties.command"),
        ({"jobType": "Command", "command": "true"}, "properties.environmentId"),
        ({"jobType": "Command", "command": "true", "environmentId": "a:b:c"}, "not a version"),
        ({"jobType": "Command", "command": "echo ${{inputs.x}}", "environmentId": "bare:1"}, "inputs.x"),
        ({"jobType": "Command", "command": "a\0b", "environmentId": "bare:1"}, "NUL"),
        (
            {"jobType": "Command", "command": "true", "environmentId": "bare:1", "codeId": "nothing:1"},
            "there is no code",
        ),
        (
            {
                "jobType": "Command",
                "command": "true",
                "environmentId": "bare:1",
                "inputs": {"data": {"jobInputType": "uri_folder", "uri": "https://example.org/data"}},
            },
            "only literal inputs",
        ),
        (
            {"jobType": "Command", "command": "true", "environmentId": "bare:1", "resources": {"instanceCount": 4}},
            "one machine",
        ),
        (
            {"jobType": "Command", "command": "true", "environmentId": "bare:1", "limits": {"timeout": "soon"}},
            "not a duration",
        ),
        (
            {"jobType": "Command", "command": "true", "environmentId": "bare:1", "environmentVariables": {"a=b": ""}},
            "a=b",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(place: Place, properties: dict[str, object], why: str) -> None:
    with place.server.client() as http:
        address = f"{_WORKSPACE}/jobs/refused?api-version=2025-01-01-preview"
        answer = http.put(address, content=json.dumps({"properties": properties}), headers=_JSON)
        assert answer.status_code == 400, answer.text
        assert why in answer.json()["error"]["message"]
        assert http.get(address).status_code == 404


_JSON = {"Content-Type": "application/json"}
_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)


def test_a_time_limit_ends_a_job(place: Place) -> None:
    found = place.run('result = submit("sleep 600", "bare:1").name')
    assert isinstance(found, str)
    place.run("client.jobs.begin_cancel(name).result()", name=found)
    body = {"jobType": "Command", "command": "sleep 600", "environmentId": "bare:1", "limits": {"timeout": "PT1S"}}
    with place.server.client() as http:
        assert http.put(f"{_WORKSPACE}/jobs/limited", json={"properties": body}).status_code == 201
    job = _ended(place, "limited")
    assert job["status"] == "Failed"
    assert "took longer than its limit of 1 s" in job["error"]


def test_the_same_job_again_is_the_same_job_and_another_is_refused(place: Place) -> None:
    body = {"jobType": "Command", "command": "echo once", "environmentId": "bare:1"}
    with place.server.client() as http:
        address = f"{_WORKSPACE}/jobs/again"
        assert http.put(address, json={"properties": body}).status_code == 201
        assert http.put(address, json={"properties": body | {"tags": {"x": "y"}}}).status_code == 200
        assert http.get(address).json()["properties"]["tags"] == {"x": "y"}
        assert http.put(address, json={"properties": body | {"command": "echo twice"}}).status_code == 409
    assert _ended(place, "again")["attempts"] == 1


def test_a_log_is_read_by_its_signed_address_alone(place: Place) -> None:
    name = place.run('result = submit("echo for your eyes only", "bare:1").name')
    _ended(place, str(name))
    with place.server.client() as http, place.server.client("") as nobody:
        details = http.get(f"/history/v1.0{_WORKSPACE}/runs/{name}/details").json()
        address = details["logFiles"]["user_logs/std_log.txt"]
        assert "for your eyes only" in nobody.get(address).text
        unsigned, _, query = address.partition("?")
        assert nobody.get(unsigned).status_code in {401, 403}
        assert nobody.get(unsigned.replace(str(name), "another") + "?" + query).status_code in {401, 403}
        assert nobody.get(address.replace("sig=", "sig=x")).status_code in {401, 403}
        assert nobody.get(f"/history/v1.0{_WORKSPACE}/runs/{name}/details").status_code == 401


def test_a_job_sees_none_of_the_servers_variables(place: Place) -> None:
    name = place.run('result = submit("env", "bare:1").name')
    _ended(place, str(name))
    with place.server.client() as http:
        log = http.get(f"/api/v1/workspaces/default/jobs/{name}/logs").text
    assert "MLENV_JOB=" in log
    assert "MLENV_HOME" not in log
    assert "DATABASE" not in log


def test_logs_are_followed_as_events(place: Place) -> None:
    name = place.run('result = submit("for n in 1 2 3 4; do echo line $n; sleep 0.3; done", "bare:1").name')
    headers = {"Accept": "text/event-stream"}
    with place.server.client() as http:
        url = f"/api/v1/workspaces/default/jobs/{name}/logs"
        with http.stream("GET", url, headers=headers) as answer:
            text = "".join(answer.iter_text())
        assert "data: line 1\n" in text
        assert "data: line 4\n" in text
        assert text.rstrip().endswith('data: {"status": "Completed"}')
        part = http.get(url, headers={"Range": "bytes=0-5"})
        assert (part.status_code, part.text) == (206, "mlenv:")


def _ended(place: Place, name: str) -> dict[str, Any]:
    """A job, once it has ended and its log is kept."""
    found: dict[str, Any] = {}
    with place.server.client() as http:

        def ended() -> bool:
            found.update(http.get(f"/api/v1/workspaces/default/jobs/{name}").json())
            return found["status"] in {"Completed", "Failed", "Canceled"} and found["log"] is not None

        wait_until(ended, f"job {name} does not end", 60, place.server)
    return found
