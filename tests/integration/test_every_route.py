"""
Every route of every dialect, with every role, and with nobody: no answer without a rule.

The routes are those of the application, so that one that is added later is asked here as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from support.server import in_process

from mlenv.core.access import EVERYWHERE, FOR_ANYBODY_KNOWN, RULES, Caller, Operation, Principal, Role
from mlenv.core.scope import DEFAULT_GROUP, DEFAULT_SUBSCRIPTION, ScopeKey, ScopeKind, scope_key
from mlenv.service.administration import Administration, NewScope
from mlenv.service.tokens import NewToken, Tokens

_WORKSPACE: Final = ScopeKey("team")
_REGISTRY: Final = scope_key(ScopeKind.REGISTRY, "shared")
#: What nobody needs a token for, and why.
_PUBLIC: Final = {
    # Whoever looks after the server asks these.
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    # Descriptions of the server that hold nothing of anybody's.
    "GET /api/v1/openapi.json",
    "GET /metadata/endpoints",
    # How somebody comes to have a token.
    "GET /api/v1/login",
    "GET /api/v1/login/start",
    "GET /api/v1/login/callback",
    "POST /api/v1/login/token",
    # The same, for Azure's clients, which ask before they have a token.
    "GET /discovery/workspaces/{workspace_id}",
    "GET /.well-known/openid-configuration",
    "GET /adfs/.well-known/openid-configuration",
    "GET /{tenant}/v2.0/.well-known/openid-configuration",
    "GET /adfs/discovery/keys",
    # They answer a token with itself, and anything else with 401.
    "POST /adfs/oauth2/token",
    "POST /adfs/{tenant}/oauth2/token",
    "POST /adfs/oauth2/v2.0/token",
}
#: What shows a signature in place of a token: the blob dialect, and the addresses of logs. Without one it is refused;
#: tests of that dialect say with which it is let pass.
_SIGNED: Final = ("/blobs/", "/history/")
#: What stands in for the parameters of a path.
_VALUES: Final = {
    "workspace": "team",
    "registry": "shared",
    "subscription": DEFAULT_SUBSCRIPTION,
    "group": DEFAULT_GROUP,
    "digest": "sha256:" + "0" * 64,
    "location": "local",
}


@dataclass(frozen=True)
class Asked:
    """One way to ask a route: its method, path, and what it says of its rule."""

    method: str
    template: str
    path: str
    operations: tuple[Operation, ...]
    public: bool

    @property
    def name(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def signed(self) -> bool:
        """Whether a signature is shown in place of a token."""
        return self.public and self.template.startswith(_SIGNED)

    @property
    def scope(self) -> ScopeKey:
        """The namespace in the path, or all."""
        if "{registry}" in self.template:
            return _REGISTRY
        return _WORKSPACE if "{workspace}" in self.template else EVERYWHERE


@dataclass(frozen=True)
class Walk:
    """An application, its routes, and a token for everybody who is tried, with who they are."""

    client: httpx.Client
    routes: tuple[Asked, ...]
    everybody: dict[str, tuple[Principal, str]]

    def ask(self, route: Asked, token: str | None) -> int:
        request = self.client.build_request(route.method, route.path)
        del request.headers["Authorization"]
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return self.client.send(request).status_code


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    home = tmp_path_factory.mktemp("every-route")
    with in_process(home, upload_rate=0) as server:
        site = server.hosted.site
        caller = Caller(site.authenticate(server.token))
        administration = Administration(site)
        administration.create_scope(caller, NewScope(ScopeKind.WORKSPACE, "team"))
        administration.create_scope(caller, NewScope(ScopeKind.REGISTRY, "shared"))
        everybody = {}
        roles: dict[str, Role | None] = {"stranger": None, **{role.value: role for role in Role}}
        for who, role in roles.items():
            name = f"some-{who}"
            administration.create_principal(caller, name)
            for kind, scope in ((ScopeKind.WORKSPACE, "team"), (ScopeKind.REGISTRY, "shared")):
                if role is not None:
                    administration.set_role(caller, name, role, kind, scope)
            _, secret = Tokens(site).create(caller, NewToken("walk", owner=name))
            everybody[who] = site.authenticate(secret), secret
        # A token of an administrator everywhere that is good elsewhere only.
        _, secret = Tokens(site).create(caller, NewToken("elsewhere", only=frozenset({ScopeKey("default")})))
        everybody["elsewhere"] = site.authenticate(secret), secret
        everybody["administrator everywhere"] = caller.principal, server.token
        routes = tuple(_routes(server.app))
        yield Walk(server.client, routes, everybody)


def _routes(app: Any) -> Iterator[Asked]:
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        assert route.path is not None
        assert route.endpoint is not None, f"{route.path} is not a route of the framework: nothing can be said of it"
        path = _filled(route.path)
        operations = tuple(dict.fromkeys(_operations(dependant))) if dependant is not None else ()
        for method in sorted(route.methods or ()):
            yield Asked(method, route.path, path, operations, getattr(route.endpoint, "public", False))


def _operations(dependant: Dependant) -> Iterator[Operation]:
    if (operation := getattr(dependant.call, "operation", None)) is not None:
        yield operation
    for each in dependant.dependencies:
        yield from _operations(each)


def _filled(template: str) -> str:
    pieces = []
    for piece in template.replace("}", "{").split("{")[1::2]:
        name = piece.partition(":")[0]
        pieces.append((f"{{{piece}}}", _VALUES.get(name, "nothing1")))
    for text, value in pieces:
        template = template.replace(text, value)
    return template


def _expected(route: Asked, principal: Principal) -> set[int] | None:
    """What somebody must be answered; None for anything that is no refusal."""
    (operation,) = route.operations
    if operation in FOR_ANYBODY_KNOWN:
        return None
    role = principal.role(route.scope)
    if role is not None and role.includes(RULES[operation]):
        return None
    # Who has no role in a namespace is not told that it is there.
    return {404} if role is None and route.scope != EVERYWHERE else {403}


def test_every_dialect_is_walked(walk: Walk) -> None:
    paths = {route.template for route in walk.routes}
    assert len(paths) > 40
    for start in ("/api/v1/workspaces/{workspace}/environments", "/api/v1/registries/{registry}/environments"):
        assert start in paths
    assert any(path.startswith("/subscriptions/") for path in paths)


def test_every_route_has_a_rule_or_is_known_to_be_public(walk: Walk) -> None:
    public = {route.name for route in walk.routes if route.public and not route.signed}
    assert public == _PUBLIC, "a route became public, or is so no more"
    without = [route.name for route in walk.routes if not route.public and len(route.operations) != 1]
    assert without == [], "routes that do not have exactly one operation (`opened`, `known`), nor are `public`"
    both = [route.name for route in walk.routes if route.public and route.operations]
    assert both == []
    lost = [
        route.name for route in walk.routes for each in route.operations if each not in {*RULES, *FOR_ANYBODY_KNOWN}
    ]
    assert lost == [], "their operation has no rule"


@pytest.mark.parametrize("token", [None, "", "mlenv_" + "A" * 43, "\x7f" * 20], ids=["none", "empty", "unknown", "odd"])
def test_nobody_is_refused_everywhere(walk: Walk, token: str | None) -> None:
    wrong = []
    for route in walk.routes:
        if route.public and not route.signed:
            continue
        status = walk.ask(route, token)
        if status not in ({401, 403} if route.template.startswith(_SIGNED) else {401}):
            wrong.append(f"{route.name}: {status}")
    assert wrong == []


@pytest.mark.parametrize("who", ["stranger", *Role, "elsewhere", "administrator everywhere"])
def test_everybody_may_what_their_role_says(walk: Walk, who: str) -> None:
    principal, token = walk.everybody[who]
    wrong = []
    for route in walk.routes:
        if route.public or route.template.startswith(_SIGNED):
            continue
        status, expected = walk.ask(route, token), _expected(route, principal)
        good = status not in {401, 403} and status < 500 if expected is None else status in expected
        if not good:
            wrong.append(f"{route.name} ({route.operations[0]}): {status}, expected {expected or 'no refusal'}")
    assert wrong == []


def test_a_stranger_changes_nothing(walk: Walk) -> None:
    """Whoever may not is refused before anything is done: the audit has nothing of theirs."""
    records = walk.client.get("/api/v1/audit", params={"limit": 500}).json()["value"]
    who = {each["who"] for each in records}
    assert "administrator" in who
    assert "some-stranger" not in who
