"""
Finds the route of a request by the parts of its path, in a time that does not grow with the number of routes.

The framework's router tries every route's regular expression in turn, which costs more than most requests do. This one
walks a tree of path parts to the few routes that can match, and lets these decide; what they say is what counts.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, iter_route_contexts
from msgspec import Struct, field
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from mlenv.server.direct import DirectRoute
from mlenv.server.middleware import App, Message, Receive, Scope, Send


class _Node(Struct):
    """Where a path has come to: what may follow, and the routes that end here or take all the rest."""

    parts: "dict[str, _Node]" = field(default_factory=dict)
    any: "_Node | None" = None
    ending: list[int] = field(default_factory=list)
    taking_rest: list[int] = field(default_factory=list)


#: What a route is made of, besides its path and endpoint.
_OPTIONS: Final = (
    "response_model",
    "status_code",
    "dependencies",
    "name",
    "methods",
    "response_model_include",
    "response_model_exclude",
    "response_model_by_alias",
    "response_model_exclude_unset",
    "response_model_exclude_defaults",
    "response_model_exclude_none",
    "include_in_schema",
    "response_class",
    "dependency_overrides_provider",
)


def flattened(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """
    All routes of an application, those of routers that it includes as well, each with its whole path.

    Raises:
        TypeError: There is something that is no route with a path and an endpoint.
    """
    each: Any
    for each in iter_route_contexts(routes):
        route = getattr(each, "original_route", each)
        if not isinstance(route, Route):
            raise TypeError(f"{type(route).__name__} is no route with a path and an endpoint")
        if each is route or each.path == route.path or not isinstance(route, APIRoute):
            yield route
            continue
        options = {name: getattr(each, name) for name in _OPTIONS}
        yield type(route)(each.path, each.endpoint, **options)


class _HeadSent(Exception):
    """All that `HEAD` asks for was answered."""


class Dispatcher:
    """
    An ASGI application that hands requests to routes. `HEAD` is answered wherever `GET` is (RFC 9110, section 9.3.2).

    Args:
        routes: Where several match, the first one counts.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes: Sequence[Any] = list(routes)
        # What matched as a whole is not to be asked again whether it takes the method. The framework's own routes need
        # somebody who closes what they open.
        self._apps: Sequence[App] = [
            each.app if isinstance(each, DirectRoute) else AsyncExitStackMiddleware(each.handle)
            for each in self._routes
        ]
        self._root = _Node()
        for number, route in enumerate(self._routes):
            self._add(number, route)

    @property
    def routes(self) -> Sequence[APIRoute | Route]:
        """All routes, each with its whole path."""
        return self._routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        partial: tuple[Any, Scope] | None = None
        methods: set[str] = set()
        for number in sorted(self._candidates(scope["path"])):
            route = self._routes[number]
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await self._apps[number](scope, receive, send)
                return
            if match is Match.PARTIAL:
                partial = partial or (route, found)
                methods |= route.methods or set()
        if partial is None:
            raise HTTPException(404)
        if "GET" in methods:
            if scope["method"] == "HEAD":
                return await self._head(scope, receive, send)
            methods.add("HEAD")
        scope.update(partial[1])
        raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as to `GET`, up to the first byte of the body."""

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                return await send(message)
            await send({"type": "http.response.body", "body": b""})
            raise _HeadSent

        # Without the server's extensions, or files would be sent by another way.
        asked = {**scope, "method": "GET", "extensions": {}}
        try:
            await self(asked, receive, send_head)
        except _HeadSent:
            pass
        finally:
            scope["route"] = asked.get("route")

    def _add(self, number: int, route: Any) -> None:
        node = self._root
        # The routes themselves decide whether the case of a part matters.
        for part in route.path.lower().lstrip("/").split("/"):
            if ":path}" in part:
                node.taking_rest.append(number)
                return
            if "{" in part:
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.parts.setdefault(part, _Node())
        node.ending.append(number)

    def _candidates(self, path: str) -> list[int]:
        found: list[int] = []
        nodes = [self._root]
        for part in path.lower().lstrip("/").split("/"):
            following = []
            for node in nodes:
                found += node.taking_rest
                if (named := node.parts.get(part)) is not None:
                    following.append(named)
                if node.any is not None:
                    following.append(node.any)
            nodes = following
            if not nodes:
                return found
        for node in nodes:
            # A path parameter may be empty: `/blobs/{path:path}` matches `/blobs/`.
            found += node.ending
            found += node.taking_rest
        return found
