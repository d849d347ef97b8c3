"""Random requests at every address of Azure's dialect: whatever comes, the answer is never the server's own failure."""

import json
import os
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.server import InProcess, in_process

from mlenv.core.scope import DEFAULT_GROUP, DEFAULT_SUBSCRIPTION
from mlenv.server.azure.errors import WRITERS

#: Seconds that all of it may take.
_LIMIT: Final = float(os.environ.get("MLENV_FUZZ_SECONDS", "20"))
#: How many lots of requests are made, however long they take.
_LEAST: Final = 3
_PROVIDER: Final = "providers/Microsoft.MachineLearningServices"
_WORKSPACE: Final = (
    f"/subscriptions/{DEFAULT_SUBSCRIPTION}/resourceGroups/{DEFAULT_GROUP}/{_PROVIDER}/workspaces/default"
)

_TEXTS = st.one_of(
    st.sampled_from(
        ["1", "latest", "e", "a/b", "..", "%00", "\0", "ü", "\ud800", "'", "true", "-1", "9" * 400, "x" * 3000]
    ),
    st.text(max_size=20),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=8,
)
#: Names that bodies have, so that what is in them is looked at.
_NAMES: Final = (
    "image", "condaFile", "build", "osType", "inferenceConfig", "description", "tags", "properties", "isAnonymous",
    "isArchived", "stage", "autoRebuild", "intellectualProperty", "contextUri", "dockerfilePath", "codeUri",
    "componentSpec", "jobType", "command", "environmentId", "codeId", "computeId", "inputs", "outputs", "limits",
    "environmentVariables", "experimentName", "displayName", "sourceAssetId", "destinationName", "destinationVersion",
    "registryName", "referenceType", "hidden", "authMode", "traffic", "model", "sku", "location", "scaleSettings",
    "livenessRoute", "readinessRoute", "scoringRoute", "port", "path", "expireAfterHours", "hash_sha256", "identity",
)  # fmt: skip
_GOOD = st.sampled_from(
    [
        "python:3.11", "Command", "Linux", "name: c\ndependencies:\n- python=3.11\n", "a: [", "https://127.0.0.1/blobs/x/y/",
        "azureml://registries/shared/environments/e/versions/1", f"{_WORKSPACE}/environments/e/versions/1",
        "azureml://locations/l/workspaces/w/environments/e/versions/1", "Key", "true",
    ]
)  # fmt: skip
_VALUES = st.recursive(
    st.one_of(_JSON, _GOOD),
    lambda inner: st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=10,
)
_PROPERTIES = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=6)
_BODIES = st.one_of(
    st.binary(max_size=60),
    _JSON.map(lambda value: json.dumps(value).encode()),
    _PROPERTIES.map(lambda value: json.dumps(value).encode()),
    _PROPERTIES.map(lambda value: json.dumps({"properties": value}).encode()),
)
_QUERIES = st.dictionaries(
    st.sampled_from(
        ["$skipToken", "$top", "$orderBy", "listViewType", "hash", "hashVersion", "api-version", "comp", "blockid",
         "prefix", "marker", "maxresults", "delimiter", "restype", "include", "isDefault", "sig", "se", "sp", "skoid", "x"]
    ),
    st.one_of(_TEXTS, st.sampled_from(["ActiveOnly", "createdtime desc", "list", "block", "blocklist", "metadata"])),
    max_size=4,
)  # fmt: skip
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["x-ms-range", "range", "if-match", "if-none-match", "content-md5", "x-ms-blob-type", "x-ms-meta-a", "x-ms-meta-é",
         "content-type", "x-ms-meta-"]
    ).filter(str.isascii),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20),
    max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    database = None
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres_cluster").empty_database()
    with in_process(tmp_path_factory.mktemp("fuzz"), database, upload_rate=0) as server:
        server.client.post("/api/v1/registries", json={"name": "shared"})
        server.client.put(f"{_WORKSPACE}/environments/e/versions/1", json={"properties": {"image": "i"}})
        yield server


@pytest.fixture(scope="module")
def routes(server: InProcess) -> list[tuple[str, str]]:
    """Method and path of every route of the dialect."""
    found = [
        (method, route.path)
        for route in server.app.state.routes
        if route.path.lstrip("/").partition("/")[0].lower() in WRITERS
        for method in sorted(route.methods)
        # It does not end before the job does.
        if not route.path.endswith("/logs/{name}")
    ]
    assert len(found) > 60
    return found


def _path(template: str, data: Any, container: str) -> str:
    known = {
        "subscription": DEFAULT_SUBSCRIPTION,
        "group": DEFAULT_GROUP,
        "workspace": "default",
        "registry": "shared",
        "container": container,
    }
    parts = []
    for part in template.split("/"):
        if not part.startswith("{"):
            parts.append(part)
            continue
        name = part.strip("{}").partition(":")[0]
        usual = known.get(name, "e" if name == "name" else "1")
        value = data.draw(st.one_of(st.just(usual), st.just(usual), st.just(usual), _TEXTS), name)
        parts.append(quote(value, safe="", errors="replace"))
    return "/".join(parts)


def test_no_request_makes_the_server_fail(server: InProcess, routes: list[tuple[str, str]]) -> None:
    store = server.client.get(f"{_WORKSPACE}/datastores/workspaceblobstore").json()
    container = store["properties"]["containerName"]
    secrets = server.client.post(f"{_WORKSPACE}/datastores/workspaceblobstore/listSecrets", json={}).json()
    signature = dict(parse_qsl(secrets["sasToken"]))
    asked: set[tuple[str, str]] = set()
    met: set[int] = set()

    @settings(
        max_examples=120,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def ask(data: Any) -> None:
        method, template = data.draw(st.sampled_from(routes), "route")
        path = _path(template, data, container)
        query = {
            name: value.encode("utf-8", "replace").decode() for name, value in data.draw(_QUERIES, "query").items()
        }
        if template.startswith("/blobs") and data.draw(st.booleans(), "signed"):
            query |= signature
        headers = {name: value.strip() for name, value in data.draw(_HEADERS, "headers").items()}
        body = data.draw(_BODIES, "body") if method in {"PUT", "POST", "PATCH"} else None
        if body is not None and "content-type" not in headers:
            headers["content-type"] = "application/json"
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = server.client.request(method, path, params=query, headers=httpx.Headers(raw), content=body)
        asked.add((method, template))
        met.add(answer.status_code)
        assert answer.status_code < 500, f"{method} {path} {query} {headers} {body!r}: {answer.text}"
        # A client takes `..` out of a path, which may lead to another dialect.
        dialect = answer.request.url.path.lstrip("/").partition("/")[0].lower()
        if answer.status_code >= 400 and method != "HEAD" and dialect in WRITERS and dialect != "adfs":
            if dialect == "blobs":
                assert answer.text.startswith("<?xml")
            else:
                assert set(answer.json()["error"]) >= {"code", "message"}

    # One lot after the other, while there is time; on the busiest machine so many that most routes have their turn.
    first, deadline = int(os.environ.get("MLENV_FUZZ_SEED", "0")), time.monotonic() + _LIMIT
    for number in count(first):
        if number >= first + _LEAST and time.monotonic() >= deadline:
            break
        seed(number)(ask)()
    assert len(asked) > len(routes) // 2
    assert {200, 201, 400, 404} <= met
