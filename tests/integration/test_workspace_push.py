"""A workspace whose images are pushed to another registry as soon as they are built."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.builds import AMD64, AUTHOR, BuildSite, make_site
from support.index import addresses
from support.oci_registry import OciRegistry, free_port, run_registry
from support.server import InProcess, in_process

from mlenv.core.image import MANIFEST_TYPE
from mlenv.core.records import BuildStatus
from mlenv.core.scope import ScopeKey, ScopeSettings
from mlenv.work.hosting import Limits
from mlenv.work.runner import Workers


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OciRegistry]:
    """A registry with a password, which the server's own docker configuration has."""
    with run_registry(tmp_path / "registry", password=True) as found:
        found.docker_config(tmp_path / "docker")
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        monkeypatch.setenv("MLENV_INSECURE_REGISTRIES", found.host)
        yield found


def push_to(site: BuildSite, prefix: str | None) -> None:
    now = site.version("settings").created_at
    site.hosted.site.store.set_scope_settings(ScopeKey("default"), ScopeSettings(prefix), author=AUTHOR, now=now)


def test_what_is_built_is_pushed(tmp_path: Path, registry: OciRegistry) -> None:
    with make_site(tmp_path, None) as site:
        site.hosted.policy = replace(site.hosted.policy, indexes=addresses())
        workers = Workers(site.hosted, Limits(attempts=1))
        workers.start()
        try:
            push_to(site, f"{registry.host}/team/images")
            ended = site.ended(site.builds.request(site.version("Train.New", "alpha"), AMD64))
            log = site.log(ended)
            assert (ended.status, ended.error) == (BuildStatus.SUCCEEDED, None), log
            assert any(each.title.startswith("Pushing to ") for each in ended.steps)
            place = f"{registry.host}/team/images/train.new:1"
            assert f"pushed {place}@sha256:" in log
            with registry.client() as client:
                answer = client.head("/v2/team/images/train.new/manifests/1", headers={"Accept": MANIFEST_TYPE})
            assert answer.status_code == 200
            assert f"pushed {place}@{answer.headers['docker-content-digest']}" in log
            # One that the server may not speak to: the build is good all the same.
            push_to(site, f"127.0.0.1:{free_port()}/x")
            ended = site.ended(site.builds.request(site.version("other", "alpha"), AMD64))
            assert (ended.status, ended.image is not None) == (BuildStatus.SUCCEEDED, True)
            assert (ended.error or "").startswith(
                "it was built, but not pushed: this server does not speak to 127.0.0.1"
            )
            assert "MLENV_REGISTRIES" in site.log(ended)
        finally:
            site.gate.opened.set()
            workers.stop(20)
    assert "registry-secret" not in log


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with in_process(tmp_path_factory.mktemp("settings") / "home") as made:
        yield made


def test_settings_over_http(application: InProcess) -> None:
    client, path = application.client, "/api/v1/workspaces/default/settings"
    assert client.get(path).json() == {"push_to": None}
    answer = client.put(path, json={"push_to": "Registry.example.org/team"})
    assert (answer.status_code, answer.json()) == (200, {"push_to": "registry.example.org/team"})
    assert client.get(path).json() == answer.json()
    for wrong in ("registry.example.org/team:1", "Not A Name", "", "https://x/y"):
        assert client.put(path, json={"push_to": wrong}).status_code in {400, 422}
    assert client.put("/api/v1/workspaces/nowhere/settings", json={}).status_code == 404
    assert client.put(path, json={}).json() == {"push_to": None}
    records = [each.change for each in application.hosted.site.store.audit(ScopeKey("default"), limit=100)]
    changes = [(each.before, each.after) for each in records if each.action == "settings.set"]
    assert changes == [
        ({"push_to": None}, {"push_to": "registry.example.org/team"}),
        ({"push_to": "registry.example.org/team"}, {"push_to": None}),
    ]


def test_only_administrators_set_it(application: InProcess) -> None:
    client = application.client
    assert client.post("/api/v1/principals", json={"name": "writer"}).status_code == 201
    grant = client.put("/api/v1/workspaces/default/grants/writer", json={"role": "approver"})
    assert grant.status_code == 200
    token = client.post("/api/v1/tokens", json={"name": "t", "owner": "writer"}).json()
    headers = {"Authorization": f"Bearer {token.get('secret') or token.get('token')}"}
    path = "/api/v1/workspaces/default/settings"
    assert client.get(path, headers=headers).status_code == 200
    refused = client.put(path, json={"push_to": "h.example/x"}, headers=headers)
    assert refused.status_code == 403, json.dumps(token)
