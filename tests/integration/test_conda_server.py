"""Conda files that need conda, through a server: it solves and builds, clients run, and it asks its own channels only."""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.azure import azure_client
from support.builds import AMD64, alive, make_site, solvers_below
from support.conda_channel import CondaChannels, serve_channels
from support.conda_packages import make_package
from support.conda_world import USUAL, CondaWorld, make_conda_world
from support.index import addresses
from support.loopback import Answering, serve_here
from support.server import Server, run_server, wait_until
from support.world import BASE, MINOR, make_world

from mlenv.api.definition import load_definition
from mlenv.core.digest import Digest
from mlenv.core.records import BuildStatus
from mlenv.work.hosting import Limits
from mlenv.work.runner import Workers

#: A channel that the server may ask, at a port where nothing listens.
SILENT = f"{addresses()[0]}/none"
_CODE = "import toolbox, shelf, alpha, beta; print(toolbox.VERSION, shelf.VERSION, alpha.VALUE)"


@dataclass
class Stall:
    """A channel that says nothing until it is let go."""

    url: str
    reached: threading.Event
    opened: threading.Event


@contextmanager
def serve_stall() -> Iterator[Stall]:
    """Serve one."""
    made = Stall("", threading.Event(), threading.Event())

    class Handler(Answering):
        def answer(self) -> None:
            made.reached.set()
            made.opened.wait(120)
            self.send(404, b"", {})

    with serve_here(Handler) as url:
        made.url = f"{url}/stall"
        try:
            yield made
        finally:
            made.opened.set()


@dataclass
class Site:
    """
    A server with workers, and commands that work with its workspace `default`.

    Attributes:
        world: The commands' world. Its channel `forge` may be asked by the server, its channel `other` may not.
        mirror: Where the client's own settings have it fetch the packages of `forge`.
        stall: A channel that the server may ask.
    """

    server: Server
    world: CondaWorld
    mirror: CondaChannels
    stall: Stall

    def lock(self, name: str) -> Any:
        """The server's answer to whoever wants a lock."""
        with self.server.client() as client:
            return client.post(f"/api/v1/workspaces/default/environments/{name}/versions/1/locks/linux/amd64")

    def refused(self, *command: str) -> list[str]:
        """The lines of the error of a command that must fail."""
        done = self.world.run("--quiet", *command)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()

    def build(self, made: str) -> Any:
        """Have the server begin a build of `name:1`."""
        with self.server.client() as client:
            address = f"/api/v1/workspaces/default/environments/{made.partition(':')[0]}/versions/1/builds"
            answer = client.post(address)
            assert answer.status_code == 202, answer.text
            return answer.json()

    def ended(self, kind: str, id: str) -> dict[str, Any]:
        """A build or job, once it has ended."""
        found: dict[str, Any] = {}
        with self.server.client() as client:

            def ended() -> bool:
                found.update(client.get(f"/api/v1/workspaces/default/{kind}/{id}").json())
                return found["status"].lower() in {"succeeded", "completed", "failed", "canceled"}

            wait_until(ended, f"{id} does not end", 60, self.server)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("conda-server")
    with ExitStack() as stack:
        world = stack.enter_context(make_conda_world(directory))
        stall = stack.enter_context(serve_stall())
        mirror = stack.enter_context(serve_channels(CondaChannels(channels=world.channels.channels)))
        world.channels.add("other", make_package("elsewhere"))
        world.ok("base", "import", "oci:conda-base", "--name", BASE)
        listed = {"MLENV_INDEXES": ",".join((*addresses(), world.channel, stall.url))}
        server = stack.enter_context(
            run_server(directory, home=world.home, workers=2, environment=world.environment | listed)
        )
        own = directory / "client.condarc"
        own.write_text(json.dumps({"mirrored_channels": {world.channel: [f"{mirror.url}/forge"]}}))
        world.home = directory / "client"
        world.environment |= {
            "MLENV_SERVER": server.url,
            "MLENV_CA": str(server.ca),
            "MLENV_TOKEN": server.token,
            "MLENV_CONFIG_HOME": str(directory / "config"),
            "CONDARC": str(own),
        }
        yield Site(server, world, mirror, stall)


@pytest.fixture(scope="module")
def image(site: Site) -> str:
    """The image of `both:1`, which the server has locked and built."""
    world = site.world
    world.create("both", *USUAL, "beta", pip=("alpha",))
    built = world.run("environment", "build", "both:1")
    assert built.returncode == 0, built.stderr
    for step in ("Solving 4 conda packages for linux/amd64", "Resolving", "Fetching", "Building conda layers"):
        assert any(step in line for line in built.stderr.splitlines()), f"{step} is not in the log:\n{built.stderr}"
    found: str = json.loads(built.stdout)["image"]
    return found


# What works.


def test_the_server_solves(site: Site, image: str) -> None:
    lock = site.world.ok("environment", "lock", "both:1")
    packages = {each["name"]: (each["version"], each["manager"]) for each in lock["packages"]}
    assert packages == {
        "alpha": ("1.0", "pypi"),
        "beta": ("1.0", "conda"),
        "pip": ("25.0", "conda"),
        "python": (f"{MINOR}.2", "conda"),
        "shelf": ("3.0", "conda"),
        "teller": ("1.0", "conda"),
        "toolbox": ("1.1", "conda"),
    }
    assert lock["resolver"].startswith("py-rattler ")
    assert {each["channel"] for each in lock["packages"] if each["manager"] == "conda"} == {site.world.channel}
    assert (lock["python"], lock["glibc"], lock["assumed"]) == (f"{MINOR}.2", "2.36", False)
    # The client has not solved anything.
    assert not (site.world.home / "remote" / "cache" / "rattler").exists()
    shown = site.world.ok("environment", "show", "both:1")
    assert "toolbox" in json.dumps(shown)


def test_a_lock_alone_is_made_on_the_server(site: Site) -> None:
    made = site.world.run("environment", "lock", site.world.create("only-locked", "shelf"))
    assert made.returncode == 0, made.stderr
    assert "on the server" in made.stderr
    assert "shelf" in {each["name"] for each in json.loads(made.stdout)["packages"]}


def test_what_was_built_is_pulled_whole(site: Site, image: str) -> None:
    with site.server.client() as client:
        answer = client.get("/v2/default/both/manifests/1")
        assert answer.status_code == 200, answer.text
        assert str(Digest.of(answer.content)) == image
        manifest = answer.json()
        config, *layers = (
            client.get(f"/v2/default/both/blobs/{each['digest']}").content
            for each in (manifest["config"], *manifest["layers"])
        )
    assert [str(Digest.of(each)) for each in layers] == [each["digest"] for each in manifest["layers"]]
    assert {each["mediaType"] for each in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    assert [str(Digest.of(gzip.decompress(each))) for each in layers] == diff_ids


def test_a_run_happens_here_with_packages_from_the_clients_own_mirror(site: Site, image: str) -> None:
    site.world.channels.log.clear()
    ran = site.world.run("run", "both:1", "--", "python", "-c", _CODE)
    assert (ran.returncode, ran.stdout) == (0, "1.1 3.0 conda\n"), ran.stderr
    assert site.world.run("run", "both:1", "--", "teller").stdout == "hello\n"
    assert len(site.mirror.asked(r"\.conda$")) == 6
    assert site.world.channels.log == []


def test_check_and_diff_know_condas_packages(site: Site, image: str) -> None:
    world = site.world
    world.create("before", *USUAL, "beta", "toolbox=1.0", pip=("alpha",))
    difference = json.dumps(world.ok("diff", "before:1", "both:1", "-o", "json"))
    assert "toolbox" in difference
    assert "1.1" in difference
    inner = [sys.executable, "-m", "mlenv", "check", "both:1", "--quiet", "--python", "python", "-o", "json"]
    checked = world.run("run", "both:1", "--", *inner)
    findings = json.loads(checked.stdout)["findings"]
    # The interpreter that stands in for conda's has more of its own.
    of_ours = [each for each in findings if each["name"] in {"toolbox", "shelf", "beta", "alpha", "teller", "python"}]
    assert of_ours == []


def test_provenance_lists_condas_packages(site: Site, image: str) -> None:
    complete = lambda: len(site.world.ok("environment", "evidence", "both:1")) >= 4
    wait_until(complete, "the evidence is not attached", 20, site.server)
    told = site.world.run("environment", "evidence", "both:1", "--type", "provenance", "--output-file", "-")
    assert told.returncode == 0, told.stderr
    named = {
        each["uri"]: each["digest"]["sha256"]
        for each in json.loads(told.stdout)["predicate"]["buildDefinition"]["resolvedDependencies"]
        if "uri" in each
    }
    offered = {
        f"{site.world.channel}/{each.subdir}/{each.filename}": each for each in site.world.channels.channels["forge"]
    }
    toolbox = next(url for url in offered if "/toolbox-1.1-" in url)
    assert named[toolbox] == offered[toolbox].sha256


def test_a_conflict_is_told_as_without_a_server_and_not_tried_again(site: Site) -> None:
    world = site.world
    made = world.create("clash", *USUAL, "beta", pip=("beta==2.0",))
    there = site.refused("environment", "lock", made)
    assert there[0] == "error: clash-conda.yml:8: beta==2.0: conda gives beta 1.0 (clash-conda.yml:6: beta)"
    world.ok("--embedded", "base", "import", "oci:conda-base", "--name", BASE)
    world.ok("--embedded", "environment", "create", "-f", "clash.yml")
    assert site.refused("--embedded", "environment", "lock", made) == there
    failed = site.ended("builds", site.build(made)["id"])
    assert (failed["status"], failed["attempts"], f"error: {failed['error']}") == ("failed", 1, there[0])


def test_a_package_that_is_nowhere_is_told_with_near_names(site: Site) -> None:
    made = site.world.create("typo", f"python={MINOR}", "toolbx")
    error = site.refused("environment", "lock", made)
    assert error[0].startswith("error: typo-conda.yml:4: toolbx: ")
    assert "toolbox" in error[-1]
    assert site.lock("typo").status_code == 422


# What the server refuses to ask.


@pytest.mark.parametrize(
    ("kind", "spec", "channel", "place"),
    [
        ("channel", "elsewhere", "{url}/other", "{url}/other"),
        ("package", "{url}/other::elsewhere", "{url}/forge", "{url}/other"),
        ("address", "{url}/other/noarch/elsewhere-1.0-0.conda", "{url}/forge", "{url}/other"),
        ("file", "elsewhere", "file:///srv/channel", "file:///srv/channel"),
    ],
)
def test_other_channels_are_refused_in_one_sentence(site: Site, kind: str, spec: str, channel: str, place: str) -> None:
    channels, words = site.world.channels, {"url": site.world.channels.url}
    made = site.world.create(f"refused-{kind}", spec.format(**words), channels=(channel.format(**words),))
    channels.log.clear()
    error = site.refused("environment", "lock", made)
    assert error[0].startswith(f"error: this server fetches nothing from {place.format(**words)}")
    assert error[0].endswith(": it is not among the channels that this server uses")
    assert error[1].startswith("hint: whoever runs the server lists what it may use in `indexes` (MLENV_INDEXES)")
    assert len(error) == 2
    answer = site.lock(f"refused-{kind}")
    assert (answer.status_code, answer.json()["code"]) == (403, "AddressNotListed")
    assert f"error: {answer.json()['detail']}" == error[0]
    assert channels.asked("/other/") == []


def test_an_index_that_is_not_listed_is_refused_before_anything_is_solved(site: Site) -> None:
    world = site.world
    document = json.loads(world.conda("refused-index", *USUAL, pip=("alpha",)).read_text())
    document["indexes"] = [{"name": "inner", "url": "http://127.0.0.1:9/simple", "default": True}]
    (world.directory / "refused-index.yml").write_text(json.dumps(document))
    world.ok("environment", "create", "-f", "refused-index.yml")
    world.channels.log.clear()
    answer = site.lock("refused-index")
    assert (answer.status_code, answer.json()["code"]) == (403, "AddressNotListed")
    assert "http://127.0.0.1:9/simple" in answer.json()["detail"]
    assert world.channels.log == []


def test_builds_and_jobs_refuse_them_too_and_once(site: Site) -> None:
    channels = site.world.channels
    made = site.world.create("refused-work", "elsewhere", channels=(f"{channels.url}/other",))
    why = f"this server fetches nothing from {channels.url}/other: it is not among the channels that this server uses"
    channels.log.clear()
    build, job = site.build(made), "refused-job"
    body = {"jobType": "Command", "command": "true", "environmentId": made}
    with site.server.client() as client:
        assert client.put(f"{_AZURE}/jobs/{job}", json={"properties": body}).status_code == 201
    failed = site.ended("builds", build["id"])
    assert (failed["status"], failed["attempts"], failed["error"]) == ("failed", 1, why)
    assert site.refused("environment", "build", made)[0] == f"error: {why}"
    ended = site.ended("jobs", job)
    assert (ended["status"], ended["error"]) == ("Failed", why)
    assert channels.asked("/other/") == []


_AZURE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)


# Channels that do not answer.


def test_a_channel_that_does_not_answer_is_named_and_asked_again_later(site: Site) -> None:
    made = site.world.create("silent", "shelf", channels=(SILENT,))
    answer = site.lock("silent")
    assert (answer.status_code, answer.json()["code"]) == (503, "ChannelUnreachable")
    build = site.build(made)
    log = f"/api/v1/workspaces/default/builds/{build['id']}/logs"
    with site.server.client() as client:
        waits = lambda: "attempt 1 of 5 failed; the next one begins in 5 s" in client.get(log).text
        wait_until(waits, "the build does not wait", 60, site.server)
        assert f"error: {SILENT}" in client.get(log).text
    assert site.world.run("build", "cancel", build["id"]).returncode == 0
    assert site.ended("builds", build["id"])["status"] == "canceled"


def test_a_channel_that_never_answers_fails_the_build_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HOME": str(tmp_path), "CONDARC": str(tmp_path / "none"), "CONDA_ROOT": ""}.items():
        monkeypatch.setenv(name, value)
    with make_site(tmp_path, None) as made:
        conda = {"channels": [SILENT, "nodefaults"], "dependencies": ["shelf"]}
        (made.world.directory / "conda.yml").write_text(json.dumps(conda))
        (made.world.directory / "silent.yml").write_text(
            json.dumps({"name": "e", "image": BASE, "conda_file": "conda.yml"})
        )
        definition = load_definition(made.world.directory / "silent.yml")
        build = made.builds.request(made.services.environments.create(definition).version, AMD64)
        workers = Workers(made.hosted, Limits(attempts=2, back_off=0.1, longest_back_off=0.2, kill=1.0))
        workers.start()
        try:
            ended = made.ended(build)
        finally:
            workers.stop(20)
    assert (ended.status, ended.attempts) == (BuildStatus.FAILED, 2)
    assert str(ended.error).startswith(SILENT)


def test_a_build_that_is_canceled_while_it_solves_leaves_no_solver(site: Site) -> None:
    build = site.build(site.world.create("stalled", "shelf", channels=(site.stall.url,)))
    wait_until(site.stall.reached.is_set, "the channel is not asked", 60, site.server)
    solvers = solvers_below(site.server.process.pid)
    assert solvers
    assert site.world.run("build", "cancel", build["id"]).returncode == 0
    wait_until(lambda: not alive(solvers), "the solver lives on", 20, site.server)
    ended = site.ended("builds", build["id"])
    assert (ended["status"], ended["error"]) == ("canceled", None)


# Azure's own client.


def test_azures_client_creates_an_environment_and_runs_a_job_in_it(site: Site, tmp_path: Path) -> None:
    world = site.world
    conda = {
        "channels": [world.channel, "nodefaults"],
        "dependencies": [*USUAL, {"pip": [f"--index-url {world.index.simple}", "alpha"]}],
    }
    with azure_client(site.server, tmp_path) as client:
        status, text = client.run(
            """
            import contextlib, io, json, pathlib
            pathlib.Path("conda.yml").write_text(json.dumps(conda))
            made = Environment(name="azure", version="1", image=base, conda_file="conda.yml")
            client.environments.create_or_update(made)
            job = client.jobs.create_or_update(command(command=line, environment="azure:1", compute="cpu-cluster"))
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                client.jobs.stream(job.name)
            result = [client.jobs.get(job.name).status, text.getvalue()]
            """,
            conda=conda,
            base=BASE,
            line="teller && python -c 'import toolbox, alpha; print(toolbox.VERSION, alpha.VALUE)'",
        )
    assert status == "Completed", text
    assert "hello" in text
    assert "1.1 43" in text
    with site.server.client() as http:
        uses = http.get("/api/v1/workspaces/default/environments/azure/uses").json()["value"]
    assert [(each["kind"], each["exit_code"]) for each in uses] == [("job", 0)]


# Settings.


@pytest.mark.parametrize(
    ("command", "settings", "why"),
    [
        ("server", "channels: [a\n", ": not YAML"),
        ("server", "custom_channels: {team: 'https://host:port/x'}\n", "conda's settings: not a conda channel: "),
        ("worker", "channel_alias: nowhere\n", ": channel_alias: expected an address"),
    ],
)
def test_settings_that_can_not_be_read_end_a_server_before_it_begins(
    tmp_path: Path, command: str, settings: str, why: str
) -> None:
    (tmp_path / "condarc").write_text(settings)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
    environment |= {"MLENV_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "CONDARC": str(tmp_path / "condarc")}
    arguments = [command, "start", *(["--port", "0"] if command == "server" else [])]
    ended = subprocess.run(
        [sys.executable, "-m", "mlenv", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1, ended.stderr
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: ")
    assert why in error
    assert hint.startswith("hint: correct it")


def test_commands_that_need_no_conda_do_not_read_its_settings(tmp_path: Path) -> None:
    (tmp_path / "condarc").write_text("channels: [a\n")
    with make_world(tmp_path) as world:
        world.environment |= {"HOME": str(tmp_path), "CONDARC": str(tmp_path / "condarc")}
        world.ok("environment", "create", "-f", str(world.define("plain", "alpha", image=None)))
        world.ok("environment", "lock", "plain:1")
        ran = world.run("run", "plain:1", "--", "python", "-c", "import alpha; print(alpha.VALUE)")
        assert (ran.returncode, ran.stdout) == (0, "43\n"), ran.stderr
