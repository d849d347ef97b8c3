"""Who may do what at `/v2/`: the token flow as docker, podman and containerd walk it, and the roles behind it."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from support.oci_client import Repository, codes, content, digest_of, image
from support.server import InProcess, in_process

from mlenv.core.access import Caller, Role
from mlenv.core.scope import ScopeKey, ScopeKind
from mlenv.service.administration import Administration, NewScope
from mlenv.service.tokens import NewToken, Tokens

_CHALLENGE = re.compile(r'Bearer realm="(?P<realm>[^"]+)",service="mlenv"(,scope="(?P<scope>[^"]*)")?(,.*)?')


@dataclass
class People:
    """
    A server with a workspace `team`, another called `other`, a registry `shared`, and somebody of each role in `team`.

    Attributes:
        tokens: By who: `administrator`, `reader`, `contributor`, `stranger`, and `elsewhere`, which is the
            administrator's but good in `other` alone.
    """

    server: InProcess
    tokens: dict[str, str]

    def request(
        self, method: str, path: str, who: str | None = None, *, header: str | None = None, **more: object
    ) -> httpx.Response:
        """Ask as somebody, with a bearer token or another header; as nobody without both."""
        made = self.server.client.build_request(method, path, **more)  # type: ignore[arg-type]
        del made.headers["Authorization"]
        if who is not None or header is not None:
            made.headers["Authorization"] = header or f"Bearer {self.tokens[who or '']}"
        return self.server.client.send(made)

    def repository(self, who: str, name: str) -> Repository:
        http = httpx.Client(
            transport=self.server.client._transport,
            base_url=self.server.client.base_url,
            headers=self.server.headers(self.tokens[who]),
        )
        return Repository(http, name)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    with in_process(tmp_path_factory.mktemp("access")) as server:
        site = server.hosted.site
        caller = Caller(site.authenticate(server.token))
        administration, tokens = Administration(site), Tokens(site)
        for kind, name in (
            (ScopeKind.WORKSPACE, "team"),
            (ScopeKind.WORKSPACE, "other"),
            (ScopeKind.REGISTRY, "shared"),
        ):
            administration.create_scope(caller, NewScope(kind, name))
        found = {"administrator": server.token}
        for who, role in (("reader", Role.READER), ("contributor", Role.CONTRIBUTOR), ("stranger", None)):
            administration.create_principal(caller, who)
            if role is not None:
                administration.set_role(caller, who, role, ScopeKind.WORKSPACE, "team")
            _, found[who] = tokens.create(caller, NewToken("test", owner=who))
        _, found["elsewhere"] = tokens.create(caller, NewToken("elsewhere", only=frozenset({ScopeKey("other")})))
        yield People(server, found)


@pytest.fixture(scope="module")
def pushed(people: People) -> str:
    """The digest of an image `team/app:1`."""
    made = image()
    people.repository("contributor", "team/app").push(made, "1")
    return made.top.digest


def _challenge(answer: httpx.Response) -> re.Match[str]:
    assert codes(answer, 401) == {"UNAUTHORIZED"}
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    found = _CHALLENGE.fullmatch(answer.headers["www-authenticate"])
    assert found, answer.headers["www-authenticate"]
    return found


def _basic(secret: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def _bearer(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert document["token"] == document["access_token"]
    return f"Bearer {document['token']}"


def test_nobody_is_told_where_to_get_a_token(people: People) -> None:
    found = _challenge(people.request("GET", "/v2/"))
    assert httpx.URL(found["realm"]).path == "/v2/token"
    assert httpx.URL(found["realm"]).is_absolute_url


@pytest.mark.parametrize(
    ("method", "path", "actions"),
    [
        ("GET", "manifests/1", {"pull"}),
        ("HEAD", "manifests/1", {"pull"}),
        ("GET", "blobs/" + digest_of(b""), {"pull"}),
        ("GET", "tags/list", {"pull"}),
        ("GET", "referrers/" + digest_of(b""), {"pull"}),
        ("POST", "blobs/uploads/", {"pull", "push"}),
        ("PUT", "manifests/1", {"pull", "push"}),
    ],
)
@pytest.mark.parametrize("name", ["team/app", "team/nothing", "nowhere/at/all"])
def test_the_challenge_names_what_is_needed_and_not_what_there_is(
    people: People, method: str, path: str, actions: set[str], name: str
) -> None:
    answer = people.request(method, f"/v2/{name}/{path}")
    if method == "HEAD":
        assert answer.status_code == 401
        found = _CHALLENGE.fullmatch(answer.headers["www-authenticate"])
        assert found
    else:
        found = _challenge(answer)
    kind, repository, allowed = found["scope"].split(":")
    assert (kind, repository) == ("repository", name)
    assert actions <= set(allowed.split(","))


def test_dockers_way_to_log_in_and_pull(people: People, pushed: str) -> None:
    # `docker login`.
    realm = _challenge(people.request("GET", "/v2/"))["realm"]
    secret = people.tokens["reader"]
    parameters = {"account": "anybody", "client_id": "docker", "offline_token": "true", "service": "mlenv"}
    bearer = _bearer(people.request("GET", realm, header=_basic(secret), params=parameters))
    assert people.request("GET", "/v2/", header=bearer).status_code == 200
    # `docker pull`, with what it kept: it asks for a token anew, for one repository.
    url = "/v2/team/app/manifests/1"
    scope = _challenge(people.request("GET", url))["scope"]
    parameters = {"account": "anybody", "scope": scope, "service": "mlenv"}
    bearer = _bearer(people.request("GET", realm, header=_basic(secret), params=parameters))
    found = people.request("GET", url, header=bearer)
    assert (found.status_code, found.headers["docker-content-digest"]) == (200, pushed)
    for each in (found.json()["config"], *found.json()["layers"]):
        blob = people.request("GET", f"/v2/team/app/blobs/{each['digest']}", header=bearer)
        assert digest_of(blob.content) == each["digest"]


def test_podmans_way_to_push(people: People) -> None:
    # containers/image asks for both at once, and sends several scopes when it mounts.
    realm = _challenge(people.request("GET", "/v2/"))["realm"]
    scopes = [("scope", "repository:team/by-podman:pull,push"), ("scope", "repository:team/app:pull")]
    parameters = httpx.QueryParams([("account", "x"), *scopes, ("service", "mlenv")])
    bearer = _bearer(people.request("GET", realm, header=_basic(people.tokens["contributor"]), params=parameters))
    answer = people.request("POST", "/v2/team/by-podman/blobs/uploads/", header=bearer)
    assert answer.status_code == 202
    assert "mlenv_" not in str(answer.headers)


def test_containerds_way_to_ask_for_a_token(people: People) -> None:
    # It posts a form first, and goes the other way where that is not known.
    secret = people.tokens["reader"]
    form = {
        "grant_type": "password",
        "service": "mlenv",
        "client_id": "containerd",
        "username": "x",
        "password": secret,
    }
    answer = people.request("POST", "/v2/token", data=form)
    assert answer.status_code in {200, 404, 405}
    assert answer.status_code != 200 or answer.json()["access_token"] == secret
    wrong = people.request("POST", "/v2/token", data={**form, "password": "mlenv_wrong"})
    assert wrong.status_code in {400, 401, 404, 405}


def test_a_password_straight_away_is_good_too(people: People, pushed: str) -> None:
    header = _basic(people.tokens["reader"])
    assert people.request("GET", "/v2/", header=header).status_code == 200
    assert people.request("GET", f"/v2/team/app/manifests/{pushed}", header=header).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        _basic("wrong"),
        _basic(""),
        _basic("mlenv_" + "A" * 43),
        "Basic !!!",
        "Basic " + base64.b64encode(b"no-colon").decode(),
        "Bearer ",
        "Bearer mlenv_" + "A" * 43,
        "Digest x",
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
    ],
)
def test_what_is_no_token_opens_nothing(people: People, pushed: str, header: str) -> None:
    for path in ("/v2/", "/v2/token", f"/v2/team/app/manifests/{pushed}"):
        answer = people.request("GET", path, header=header)
        assert answer.status_code == 401
        assert "mlenv_A" not in answer.text
        # What is shown to somebody who has docker or podman in hand.
        message = answer.json()["errors"][0]["message"]
        assert "`docker login`" in message
        assert "MLENV_TOKEN" not in message


def test_there_are_no_tokens_for_nobody(people: People) -> None:
    answer = people.request("GET", "/v2/token", params={"service": "mlenv", "scope": "repository:team/app:pull"})
    assert answer.status_code == 401


READS = [("GET", "manifests/1"), ("HEAD", "manifests/1"), ("GET", "tags/list")]
WRITES = [
    ("POST", "blobs/uploads/"),
    ("PUT", "manifests/1"),
    ("DELETE", "manifests/1"),
    ("DELETE", "blobs/" + digest_of(b"")),
    ("PATCH", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
    ("PUT", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
    ("DELETE", "blobs/uploads/00000000-0000-4000-8000-000000000000"),
]


def test_a_reader_pulls_and_does_not_push(people: People, pushed: str) -> None:
    for method, path in READS:
        assert people.request(method, f"/v2/team/app/{path}", "reader").status_code == 200
    for method, path in WRITES:
        answer = people.request(method, f"/v2/team/app/{path}", "reader", content=b"{}")
        assert codes(answer, 403) == {"DENIED"}
    assert people.repository("reader", "team/app").manifest("1").headers["docker-content-digest"] == pushed


def test_a_contributor_pulls_and_pushes(people: People) -> None:
    repository, made = people.repository("contributor", "team/made/by-a.contributor"), image()
    repository.push(made, "a")
    assert repository.manifest("a").content == made.top.data
    assert repository.manifest("a", "DELETE").status_code == 202


@pytest.mark.parametrize("who", ["stranger", "elsewhere"])
def test_a_workspace_is_hidden_from_who_has_no_role_in_it(people: People, pushed: str, who: str) -> None:
    for method, path in [*READS, *WRITES]:
        there = people.request(method, f"/v2/team/app/{path}", who, content=b"{}")
        nowhere = people.request(method, f"/v2/nowhere/app/{path}", who, content=b"{}")
        assert there.status_code == nowhere.status_code
        assert there.status_code in {403, 404}
        if method != "HEAD":
            assert codes(there, 403, 404) <= {"DENIED", "NAME_UNKNOWN"}


def test_a_token_is_good_where_it_says(people: People) -> None:
    repository, made = people.repository("elsewhere", "other/app"), image()
    repository.push(made, "1")
    assert repository.manifest("1").content == made.top.data
    bearer = _bearer(people.request("GET", "/v2/token", header=_basic(people.tokens["elsewhere"])))
    assert people.request("GET", "/v2/team/app/manifests/1", header=bearer).status_code in {403, 404}


def test_a_registry_has_repositories_too(people: People) -> None:
    repository, made = people.repository("administrator", "shared/bases/debian"), image()
    repository.push(made, "bookworm")
    assert repository.manifest("bookworm").content == made.top.data
    assert people.request("GET", "/v2/shared/bases/debian/manifests/bookworm", "reader").status_code in {403, 404}


def test_a_revoked_token_is_worth_nothing(people: People, pushed: str) -> None:
    site = people.server.hosted.site
    caller = Caller(site.authenticate(people.server.token))
    token, secret = Tokens(site).create(caller, NewToken("short", owner="reader"))
    bearer = _bearer(people.request("GET", "/v2/token", header=_basic(secret)))
    assert people.request("GET", f"/v2/team/app/manifests/{pushed}", header=bearer).status_code == 200
    Tokens(site).revoke(caller, token.id)
    for header in (bearer, _basic(secret)):
        assert people.request("GET", f"/v2/team/app/manifests/{pushed}", header=header).status_code == 401
        assert people.request("GET", "/v2/token", header=header).status_code == 401


@pytest.mark.parametrize("source", ["other/secret", None], ids=["from", "from anywhere"])
def test_nothing_is_mounted_from_where_one_may_not_read(people: People, source: str | None) -> None:
    data = content()
    digest = people.repository("administrator", "other/secret").push_blob(data)
    thief = people.repository("contributor", "team/thief")
    answer = thief.start(mount=digest, **({"from": source} if source else {}))
    assert answer.status_code in {202, 403, 404}
    assert thief.blob(digest).status_code == 404
    # Nor does a manifest that names it make it theirs.
    made = image()
    document = json.loads(made.top.data)
    document["layers"].append({"mediaType": "application/octet-stream", "digest": digest, "size": len(data)})
    for blob in made.blobs:
        thief.push_blob(blob.data)
    headers = {"Content-Type": made.top.media_type}
    refused = thief.request("PUT", "manifests/a", content=json.dumps(document).encode(), headers=headers)
    assert codes(refused, 400, 404) == {"MANIFEST_BLOB_UNKNOWN"}
    assert thief.blob(digest).status_code == 404


def test_uploads_are_their_workspaces(people: People) -> None:
    theirs = people.repository("administrator", "other/app")
    location = theirs.follow(theirs.start())
    for path in (location.path, location.path.replace("/other/", "/team/")):
        answer = people.request("PATCH", path, "contributor", content=b"abc")
        assert answer.status_code in {403, 404}
    assert people.request("DELETE", location.path, "contributor").status_code in {403, 404}
    assert theirs.http.get(location).status_code == 204
