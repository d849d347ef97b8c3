"""The native API over HTTP: environments, versions, labels, uses and bases, on SQLite and on PostgreSQL."""

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from support.server import InProcess, in_process, run_server

from mlenv.api import wire, wire_records
from mlenv.core.audit import Author
from mlenv.core.digest import Digest
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.platform import Glibc, Platform
from mlenv.core.scope import ScopeKind
from mlenv.server import direct, threads
from mlenv.server.routes.conditional import KEPT
from mlenv.wiring.embedded import utc_now

BASE = "/api/v1/workspaces/default"
SPEC = {"image": "debian:bookworm", "requirements": [{"text": "numpy==2.1.0", "origin": ["r.txt", 1]}]}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """An application over a new store. Tests use environments of their own."""
    database = None
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres_cluster").empty_database()
    with in_process(tmp_path_factory.mktemp("site"), database) as found:
        answer = found.client.post("/api/v1/registries", json={"name": "shared"})
        assert answer.status_code == 201, answer.text
        yield found


@pytest.fixture
def client(api: InProcess) -> httpx.Client:
    return api.client


def create(client: httpx.Client, name: str, base: str = BASE, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    return client.post(f"{base}/environments", json={"name": name, "spec": SPEC, **more}, headers=headers)


def code(answer: httpx.Response) -> str:
    """The code of a problem document."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.json()["status"] == answer.status_code
    return str(answer.json()["code"])


def walk(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    """Every entry of a list, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(100):
        page = client.get(path, params={**query, **({"cursor": cursor} if cursor else {})})
        assert page.status_code == 200, page.text
        found += page.json()["value"]
        cursor = page.json()["next"]
        if cursor is None:
            return found
    raise AssertionError("the list does not end")


@pytest.mark.parametrize("base", [BASE, "/api/v1/registries/shared"])
def test_create_says_whether_it_is_new_and_where_it_is(client: httpx.Client, base: str) -> None:
    first = create(client, "create", base, tags={"a": "b"}, description="d", details={"stage": "x"})
    assert first.status_code == 201
    assert first.json()["new"] is True
    assert first.headers["location"] == f"{base}/environments/create/versions/1"
    again = create(client, "create", base)
    assert (again.status_code, again.json()["new"], again.json()["version"]) == (200, False, "1")
    shown = client.get(first.headers["location"])
    assert shown.json() == {key: value for key, value in first.json().items() if key != "new"}
    assert shown.headers["etag"] == first.headers["etag"]
    assert shown.json()["spec"] == SPEC
    assert wire.read(wire.VersionAnswer, shown.content).to_core().details == {"stage": "x"}


def test_other_content_under_the_same_version_is_a_conflict_with_the_difference(client: httpx.Client) -> None:
    assert create(client, "conflict", version="7").status_code == 201
    answer = create(client, "conflict", version="7", spec={"image": "other"})
    assert (answer.status_code, code(answer)) == (409, "VersionConflict")
    assert "  + other" in answer.json()["lines"]
    assert answer.json()["facts"]["stored"] == SPEC


def test_the_same_key_gives_the_same_answer_and_another_request_is_refused(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "create-once"}
    first = create(client, "once", headers=key)
    create(client, "once", spec={"image": "second"})
    again = create(client, "once", headers=key)
    assert (again.status_code, again.content, again.headers["etag"]) == (201, first.content, first.headers["etag"])
    other = create(client, "once", spec={"image": "third"}, headers=key)
    assert (other.status_code, code(other)) == (422, "KeyReused")
    elsewhere = create(client, "once", "/api/v1/registries/shared", headers=key)
    assert elsewhere.status_code == 422
    assert [each["version"] for each in walk(client, f"{BASE}/environments/once/versions")] == ["2", "1"]


def test_the_same_key_twice_at_once_gives_the_same_answer(api: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key = api.hosted.site.store, {"Idempotency-Key": "create-twice-at-once"}
    made, looked_again, looks = Event(), Event(), count(1)
    keep, look = store.add_reply, store.reply

    def keep_late(*values: Any, **named: Any) -> None:
        made.set()
        assert looked_again.wait(30)
        keep(*values, **named)

    def look_and_tell(*values: Any) -> Any:
        found = look(*values)
        # The first look is of the first request, the second and third of the other, before and after its conflict.
        if next(looks) == 3:
            looked_again.set()
        return found

    def ask() -> httpx.Response:
        return api.client.post("/api/v1/workspaces", json={"name": "twice-at-once"}, headers=key)

    monkeypatch.setattr(store, "add_reply", keep_late)
    monkeypatch.setattr(store, "reply", look_and_tell)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask)
        assert made.wait(30)
        second = ask()
        assert (second.status_code, second.content) == (201, first.result().content)
    monkeypatch.undo()
    assert api.client.post("/api/v1/workspaces", json={"name": "twice-at-once"}).status_code == 409
    other = api.client.post("/api/v1/workspaces", json={"name": "twice-at-once"}, headers={"Idempotency-Key": "else"})
    assert (other.status_code, code(other)) == (409, "ScopeExists")


def test_a_key_is_forgotten_after_a_day(api: InProcess) -> None:
    key = {"Idempotency-Key": "create-daily"}
    assert create(api.client, "daily", headers=key).status_code == 201
    api.hosted.site.store.purge(before=utc_now() - KEPT)
    assert create(api.client, "daily", spec={"image": "other"}, headers=key).status_code == 422
    api.hosted.site.store.purge(before=utc_now() + timedelta(seconds=1))
    assert create(api.client, "daily", spec={"image": "other"}, headers=key).json()["version"] == "2"


def test_a_key_is_its_owners_own(api: InProcess) -> None:
    site = api.hosted.site
    key = {"Idempotency-Key": "create-own"}
    assert create(api.client, "own", headers=key).status_code == 201
    made = api.client.post("/api/v1/principals", json={"name": "somebody"})
    assert made.status_code == 201, made.text
    somebody = site.store.principal_by_name("somebody")
    assert somebody is not None
    assert site.store.reply(somebody.id, "create-own") is None


def test_a_failure_is_not_kept_under_a_key(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "create-after-failure"}
    assert create(client, "fails", spec={"image": "a b"}, headers=key).status_code == 400
    assert create(client, "fails", headers=key).status_code == 201


def test_entity_tags_save_answers_and_keep_changes_apart(client: httpx.Client) -> None:
    address = f"{BASE}/environments/tagged/versions/1"
    tag = create(client, "tagged").headers["etag"]
    unchanged = client.get(address, headers={"If-None-Match": f'"x", W/{tag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    changed = client.patch(address, json={"description": "one", "tags": {"a": "b"}}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert (changed.json()["description"], changed.json()["tags"]) == ("one", {"a": "b"})
    late = client.patch(address, json={"description": "two"}, headers={"If-Match": tag})
    assert (late.status_code, code(late)) == (412, "VersionChanged")
    assert client.get(address).json()["description"] == "one"
    further = client.patch(address, json={"set_tags": {"c": "d"}, "remove_tags": ["a"], "description": ""})
    assert (further.json()["tags"], further.json()["description"]) == ({"c": "d"}, None)
    assert client.get(address, headers={"If-None-Match": tag}).status_code == 200
    assert client.patch(address, json={"remove_tags": ["none"]}).status_code == 400
    assert client.patch(address, json={}, headers={"If-Match": "*"}).status_code == 200


def test_only_one_of_many_changes_with_the_same_entity_tag_wins(client: httpx.Client) -> None:
    address = f"{BASE}/environments/raced/versions/1"
    tag = create(client, "raced").headers["etag"]

    def change(number: int) -> int:
        return client.patch(address, json={"description": str(number)}, headers={"If-Match": tag}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(change, range(8))) == [200] + [412] * 7


def test_only_one_of_many_archivings_with_the_same_entity_tag_wins(client: httpx.Client) -> None:
    address = f"{BASE}/environments/raced-whole"
    create(client, "raced-whole")
    tag = client.get(address).headers["etag"]

    def archive(_: int) -> int:
        return client.patch(address, json={"archived": True}, headers={"If-Match": tag}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(archive, range(8))) == [200] + [412] * 7


def test_archive_and_restore_an_environment_and_a_version(client: httpx.Client) -> None:
    address = f"{BASE}/environments/old"
    create(client, "old")
    create(client, "old", spec={"image": "x"})
    tag = client.get(address).headers["etag"]
    assert client.patch(address, json={"archived": True}, headers={"If-Match": tag}).json()["archived"] is True
    late = client.patch(address, json={"archived": True}, headers={"If-Match": tag})
    assert (late.status_code, code(late)) == (412, "PreconditionFailed")
    assert client.get(f"{address}/versions").json() == {"value": [], "next": None}
    assert len(walk(client, f"{address}/versions", view="ArchivedOnly")) == 2
    version = client.patch(f"{address}/versions/1", json={"archived": False})
    assert (version.status_code, code(version)) == (409, "EnvironmentArchived")
    assert "old" not in [each["name"] for each in walk(client, f"{BASE}/environments")]
    assert client.patch(address, json={"archived": False}).json()["archived"] is False
    assert client.patch(f"{address}/versions/1", json={"archived": True}).json()["archived"] is True
    assert [each["version"] for each in walk(client, f"{address}/versions")] == ["2"]


def test_lists_are_paged_to_their_end_without_gaps(client: httpx.Client) -> None:
    for number in range(7):
        create(client, f"paged-{number}", "/api/v1/registries/shared")
        create(client, "paged", spec={"image": str(number)})
    listed = walk(client, "/api/v1/registries/shared/environments", limit=3)
    names = [each["name"] for each in listed]
    assert names == sorted(set(names))
    assert {f"paged-{number}" for number in range(7)} <= set(names)
    versions = walk(client, f"{BASE}/environments/paged/versions", limit=2)
    assert [each["version"] for each in versions] == [str(number) for number in range(7, 0, -1)]
    exact = client.get(f"{BASE}/environments/paged/versions", params={"limit": 7}).json()
    assert (len(exact["value"]), exact["next"]) == (7, None)


def test_a_cursor_that_was_not_given_out_for_this_list_is_refused(client: httpx.Client) -> None:
    for number in range(3):
        create(client, "cursor", spec={"image": str(number)})
    address = f"{BASE}/environments/cursor/versions"
    good = client.get(address, params={"limit": 1}).json()["next"]
    assert client.get(address, params={"cursor": good}).status_code == 200
    forged = base64.urlsafe_b64encode(b"0" * 12 + json.dumps("1").encode()).decode()
    flipped = good[:-3] + ("A" if good[-3] != "A" else "B") + good[-2:]
    for path, bad in [
        (address, flipped),
        (address, forged),
        (address, "~"),
        (address, "a"),
        (address, "é"),
        (f"{address}?view=All", good),
        (f"{BASE}/environments", good),
        (f"{BASE}/environments/cursor/uses", good),
    ]:
        answer = client.get(path, params={"cursor": bad, **({"view": "All"} if "view" in path else {})})
        assert (answer.status_code, code(answer)) == (400, "InvalidCursor"), (path, bad)


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "limit=-1", "view=Some", "cursor=", "limit="])
def test_a_query_out_of_its_bounds_is_refused(client: httpx.Client, query: str) -> None:
    assert client.get(f"{BASE}/environments?{query}").status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/environments/none", None, 404),
        ("GET", "/environments/none/versions", None, 404),
        ("GET", "/environments/none/labels", None, 404),
        ("GET", "/environments/none/uses", None, 404),
        ("GET", "/environments/none/versions/1", None, 404),
        ("GET", "/environments/a%20b", None, 400),
        ("GET", "/environments/" + "a" * 256, None, 400),
        ("PATCH", "/environments/none", {"archived": True}, 404),
        ("PATCH", "/environments/none", {"archived": "yes"}, 400),
        ("PATCH", "/environments/none", {}, 400),
        ("PATCH", "/environments/none/versions/1", {"version": "2"}, 400),
        ("POST", "/environments", {"name": "a:b", "spec": SPEC}, 400),
        ("POST", "/environments", {"name": "a", "spec": {}}, 400),
        ("POST", "/environments", {"name": "a", "spec": SPEC, "tags": {"a\0": ""}}, 400),
        ("DELETE", "/environments/none", None, 405),
        ("GET", "/base?name=none", None, 404),
        ("GET", "/blobs/sha256:0", None, 400),
        ("GET", "/blobs/sha256:" + "0" * 64, None, 404),
        ("GET", "/nothing", None, 404),
    ],
)
def test_what_is_wrong_is_said_in_a_problem_document(
    client: httpx.Client, method: str, path: str, body: Any, status: int
) -> None:
    answer = client.request(method, BASE + path, json=body)
    assert answer.status_code == status, answer.text
    assert code(answer)


def test_head_is_answered_like_get_without_a_body(client: httpx.Client) -> None:
    create(client, "headed")
    for path in ("/healthz", "/api/v1/openapi.json", f"{BASE}/environments/headed/versions/1", f"{BASE}/nothing"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers.get("etag") == get.headers.get("etag")
        assert get.status_code == 404 or head.headers["content-length"] == str(len(get.content))


def test_a_body_of_another_type_or_of_none_is_refused(client: httpx.Client) -> None:
    address = f"{BASE}/environments"
    assert client.post(address, content=b"name: a", headers={"Content-Type": "application/yaml"}).status_code == 415
    assert client.post(address).status_code == 415
    assert client.post(address, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post(address, content=b"\xff", headers={"Content-Type": "application/json"}).status_code == 400


def test_an_unknown_name_is_answered_with_near_ones(client: httpx.Client) -> None:
    create(client, "training-gpu")
    answer = client.get(f"{BASE}/environments/trainng-gpu")
    assert "training-gpu" in answer.json()["facts"]["near"]


def test_labels_move_and_keep_their_history(client: httpx.Client) -> None:
    address = f"{BASE}/environments/labelled"
    create(client, "labelled")
    create(client, "labelled", spec={"image": "x"})
    assert client.get(f"{address}/labels").json() == {"value": [], "next": None}
    for version in ("1", "2", "2"):
        assert client.put(f"{address}/labels/production", json={"version": version}).status_code == 200
    shown = wire.read(wire.LabelAnswer, client.get(f"{address}/labels/production").content)
    assert (shown.version, [each.version for each in shown.history]) == ("2", ["2", "1"])
    assert client.get(f"{address}/labels/latest").json() == {"label": "latest", "version": "2", "history": []}
    client.put(f"{address}/labels/canary", json={"version": "1"})
    assert [each["label"] for each in walk(client, f"{address}/labels", limit=1)] == ["canary", "production"]
    assert client.get(address).json()["labels"] == {"canary": "1", "production": "2"}
    assert code(client.put(f"{address}/labels/latest", json={"version": "1"})) == "ComputedLabel"
    assert code(client.put(f"{address}/labels/a", json={"version": "9"})) == "VersionNotFound"
    assert code(client.get(f"{address}/labels/a")) == "LabelNotFound"


def test_nobody_replaces_what_somebody_else_told_of_a_use(api: InProcess, client: httpx.Client) -> None:
    address = f"{BASE}/environments/lineage/uses"
    create(client, "lineage")
    assert client.post("/api/v1/principals", json={"name": "eve"}).status_code == 201
    grant = client.put("/api/v1/workspaces/default/grants/eve", json={"role": "reader"})
    assert grant.status_code == 200, grant.text
    eve = api.headers(client.post("/api/v1/tokens", json={"name": "eve", "owner": "eve"}).json()["secret"])
    use: dict[str, Any] = {"id": "mine", "version": "1", "kind": "run", "engine": "local", "lock": "sha256:" + "0" * 64}
    use |= {"command": ["python"], "user": "me", "host": "here", "started_at": "2026-01-02T03:04:05Z"}
    assert client.post(address, json=use).status_code == 200
    forged = use | {"command": ["rm"], "exit_code": 1}
    assert client.post(address, json=forged, headers=eve).json()["id"] == "mine"
    kept = walk(client, address)
    assert sorted((each["id"], *each["command"]) for each in kept) == [("mine", "python"), ("mine", "rm")]
    assert client.post(address, json=use | {"exit_code": 0}).status_code == 200
    assert sorted(each["exit_code"] for each in walk(client, address)) == [0, 1]


def test_uses_are_recorded_ended_and_paged(client: httpx.Client) -> None:
    address = f"{BASE}/environments/used/uses"
    create(client, "used")
    create(client, "used", spec={"image": "x"})
    use = {
        "id": "u0",
        "version": "1",
        "kind": "run",
        "engine": "local",
        "lock": "sha256:" + "0" * 64,
        "command": ["python", "--index", "https://user:secret@example.org/simple"],
        "user": "me",
        "host": "here",
        "started_at": "2026-01-02T03:04:05.5+01:00",
    }
    began = client.post(address, json=use)
    assert began.status_code == 200
    assert "secret" not in began.text
    assert began.json()["started_at"] == "2026-01-02T02:04:05.500000Z"
    ended = use | {"exit_code": 3, "ended_at": "2026-01-02T03:05:00+01:00"}
    assert client.post(address, json=ended).json()["exit_code"] == 3
    for number in range(1, 5):
        more = {"id": f"u{number}", "version": "2", "started_at": f"2026-01-03T03:04:0{number}Z"}
        assert client.post(address, json=use | more).status_code == 200
    assert [each["id"] for each in walk(client, address, limit=2)] == ["u4", "u3", "u2", "u1", "u0"]
    of_first = walk(client, address, version="1")
    assert [(each["id"], each["exit_code"]) for each in of_first] == [("u0", 3)]
    assert wire_records.UseAnswer.model_validate_json(json.dumps(of_first[0])).to_core().exit_code == 3
    assert code(client.post(address, json=use | {"version": "9"})) == "VersionNotFound"
    assert client.post(address, json=use | {"lock": "md5:0"}).status_code == 400
    assert client.get(f"{address}?version=9").status_code == 404


def test_bases_are_told_with_what_they_offer(api: InProcess) -> None:
    manifest = Digest.of(b"manifest")
    facts = BaseFacts(
        manifest, Platform("linux", "amd64"), glibc=Glibc(2, 36), pythons=(Interpreter("/usr/bin/python3", "3.11.2", "/usr"),)
    )  # fmt: skip
    scope = api.hosted.site.scope(ScopeKind.WORKSPACE, "default")
    registry = api.hosted.services(scope, Author("x", "x", None, "", "")).registry
    registry.add_facts(facts)
    registry.set_base("docker.io/library/debian:bookworm", manifest, now=utc_now())
    registry.set_base("docker.io/library/other:latest", Digest.of(b"other"), now=utc_now())
    listed = walk(api.client, f"{BASE}/bases", limit=1)
    assert [each["name"] for each in listed] == ["docker.io/library/debian:bookworm", "docker.io/library/other:latest"]
    assert listed[1]["facts"] is None
    shown = wire.read(
        wire_records.BaseAnswer, api.client.get(f"{BASE}/base", params={"name": "debian:bookworm"}).content
    )
    assert shown.facts is not None
    assert shown.facts.to_core() == facts
    assert api.client.get("/api/v1/registries/shared/bases").json()["value"] == []


def test_namespaces_do_not_see_each_other(api: InProcess) -> None:
    assert api.client.post("/api/v1/workspaces", json={"name": "apart"}).status_code == 201
    create(api.client, "mine")
    assert api.client.get("/api/v1/workspaces/apart/environments/mine").status_code == 404
    assert api.client.get("/api/v1/registries/default/environments/mine").status_code == 404
    assert api.client.get("/api/v1/workspaces/shared/environments/mine").status_code == 404


def test_the_description_of_the_api_names_every_route_with_its_models(client: httpx.Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            assert route["responses"], path
            placeholders = {part[1:-1] for part in path.split("/") if part.startswith("{")}
            named = {each["name"] for each in route.get("parameters", ()) if each["in"] == "path"}
            assert placeholders == named, (method, path)
            if any(each["name"] == "if-none-match" for each in route.get("parameters", ())):
                assert "304" in route["responses"], (method, path)
    text = json.dumps(document)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in document["components"]["schemas"]


def test_eight_clients_creating_versions_of_one_environment_lose_nothing(
    tmp_path: Path, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    for database in (None, postgres_url):
        directory = tmp_path / ("postgresql" if database else "sqlite")
        with run_server(directory, "--insecure-http", database=database, processes=2) as server:

            def run(number: int, url: str = server.url, token: str = server.token) -> list[tuple[int, str]]:
                headers = {"Authorization": f"Bearer {token}"}
                with httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as client:
                    answers = [create(client, "race", spec={"image": f"i{number}-{each}"}) for each in range(15)]
                return [(each.status_code, each.json()["version"]) for each in answers]

            with ThreadPoolExecutor(8) as pool:
                found = [each for answers in pool.map(run, range(8)) for each in answers]
            assert {status for status, _ in found} == {201}
            assert sorted(int(version) for _, version in found) == list(range(1, 121))
            with server.client() as client:
                images = {each["spec"]["image"] for each in walk(client, f"{BASE}/environments/race/versions")}
            assert images == {f"i{number}-{each}" for number in range(8) for each in range(15)}


def test_short_reads_take_no_thread_where_the_event_loop_can_wait(
    api: InProcess, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create(client, "short").status_code == 201
    called: list[str] = []

    async def in_thread(work: Callable[..., Any], **arguments: Any) -> Any:
        called.append(work.__name__)
        return await threads.in_thread(work, **arguments)

    monkeypatch.setattr(direct, "in_thread", in_thread)
    paths = ["", "/short", "/short/versions", "/short/versions/1", "/short/versions/9", "?limit=101"]
    answers = [client.get(f"{BASE}/environments{path}").status_code for path in paths]
    assert answers == [200, 200, 200, 200, 404, 200]
    short = ["list_environments", "show_environment", "list_versions", "show_version", "show_version"]
    # A long page would hold up others while it is put together.
    long = ["list_environments"]
    assert called == (long if api.hosted.database.in_loop else [*short, *long])


def test_only_reads_are_short(api: InProcess) -> None:
    short = {
        route.endpoint.__name__: route.methods for route in api.app.state.routes if hasattr(route.endpoint, "short")
    }
    assert len(short) == 4
    assert all(methods == {"GET"} for methods in short.values())
