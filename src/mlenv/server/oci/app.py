"""`/v2/`: finds out what a request asks, has it answered, and says what goes wrong in the dialect's words."""

import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from mlenv.core.repositories import InvalidRepository, parse_repository
from mlenv.errors import MlenvError, NotAuthenticated
from mlenv.server.middleware import App, Receive, Scope, Send
from mlenv.server.oci.answers import Answer, Asked, header, write
from mlenv.server.oci.blobs import Blobs
from mlenv.server.oci.door import Door
from mlenv.server.oci.errors import MethodNotAllowed, NoSuchAddress, refusal
from mlenv.server.oci.lists import Lists
from mlenv.server.oci.manifests import Manifests
from mlenv.server.oci.uploads import Uploading
from mlenv.server.threads import Threads
from mlenv.service.site import Site

#: Told with every answer, so that clients know what they speak to.
_VERSION: Final = header("docker-distribution-api-version", "registry/2.0")
_ROUTE: Final = re.compile(
    r"/v2/(?P<name>.+)/(?:"
    r"(?P<uploads>blobs/uploads)/?(?P<upload>[^/]*)|"
    r"(?P<kind>blobs|manifests|referrers)/(?P<reference>[^/]+)|"
    r"(?P<tags>tags/list))"
)
#: What a method needs, in the words of the token's scope.
_ACTIONS: Final = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}


class Template(Struct, frozen=True):
    """A route's path without what varies, for figures and logs."""

    path: str


_TEMPLATES: Final = {
    "blobs": Template("/v2/{name}/blobs/{digest}"),
    "manifests": Template("/v2/{name}/manifests/{reference}"),
    "referrers": Template("/v2/{name}/referrers/{digest}"),
    "uploads": Template("/v2/{name}/blobs/uploads/{id}"),
    "start": Template("/v2/{name}/blobs/uploads/"),
    "tags": Template("/v2/{name}/tags/list"),
    "/v2/": Template("/v2/"),
    "/v2/_catalog": Template("/v2/_catalog"),
    "/v2/token": Template("/v2/token"),
}


class Distribution:
    """
    Answers what is below `/v2/`, and leaves the rest to the application that it is put in front of.

    Args:
        public_url: How clients reach the server, if not as they address it.
        sweep: Removes uploads that nobody goes on with.
    """

    def __init__(self, app: App, *, site: Site, public_url: str | None, sweep: Callable[[], object]) -> None:
        self._app = app
        # Threads of its own: clients that push slowly hold up nobody else.
        threads = Threads()
        self._door = door = Door(site, threads, public_url)
        self._blobs, self._manifests = Blobs(door, threads), Manifests(door, threads)
        self._uploads, self._lists = Uploading(door, threads, sweep), Lists(site, door, threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"] == "/v2" or scope["path"].startswith("/v2/")):
            return await self._app(scope, receive, send)
        asked = Asked(scope, receive)
        try:
            answer = await self._answer(asked)
        except NotAuthenticated as error:
            error.hint = "log in as with `docker login`: any user name, and a token as the password"
            answer = refusal(error)
            answer.headers = [each for each in answer.headers if each[0].lower() != b"www-authenticate"]
            answer.headers.append(self._door.challenge(asked, _wanted(asked)))
        except (MlenvError, ExceptionGroup, OSError) as error:
            answer = refusal(error)
        answer.headers.append(_VERSION)
        await write(answer, scope, send)

    async def _answer(self, asked: Asked) -> Answer:
        if (match := _ROUTE.fullmatch(asked.path)) is None:
            return await self._special(asked)
        name = match["name"]
        if match["uploads"]:
            id = match["upload"]
            _note(asked, "uploads" if id else "start")
            return await (self._uploads.answer(asked, name, id) if id else self._uploads.start(asked, name))
        if match["tags"]:
            _note(asked, "tags")
            return await self._lists.tags(asked, name)
        kind, reference = match["kind"], match["reference"]
        _note(asked, kind)
        if kind == "blobs":
            return await self._blobs.answer(asked, name, reference)
        if kind == "manifests":
            return await self._manifests.answer(asked, name, reference)
        return await self._lists.referrers(asked, name, reference)

    async def _special(self, asked: Asked) -> Answer:
        path = asked.path if asked.path != "/v2" else "/v2/"
        if path not in _TEMPLATES:
            await self._door.caller(asked)
            raise NoSuchAddress
        _note(asked, path)
        if path == "/v2/token":
            return await self._door.token(asked)
        if path == "/v2/_catalog":
            return await self._lists.catalog(asked)
        if asked.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed(("GET", "HEAD"))
        await self._door.caller(asked)
        return Answer(200, [header("content-type", "application/json")], b"{}")


def _note(asked: Asked, which: str) -> None:
    asked.scope["route"] = _TEMPLATES[which]


def _wanted(asked: Asked) -> str | None:
    """The scope that a request without a token asks for, or None if it is about no repository."""
    match = _ROUTE.fullmatch(asked.path)
    if match is None:
        return "registry:catalog:*" if asked.path == "/v2/_catalog" else None
    try:
        name = parse_repository(match["name"])
    except InvalidRepository:
        return None
    return f"repository:{name}:{_ACTIONS.get(asked.method, 'pull,push')}"
