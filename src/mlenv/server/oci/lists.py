"""What there is: repositories, tags, and what refers to a manifest (distribution-spec, "Content Discovery")."""

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import Struct

from mlenv.core.access import Operation
from mlenv.core.digest import Digest
from mlenv.core.image import INDEX_TYPE
from mlenv.core.image_name import repository_of
from mlenv.core.manifests import MANIFEST_LIMIT
from mlenv.core.repositories import StoredManifest
from mlenv.core.scope import Scope, ScopeKind
from mlenv.errors import InvalidInput
from mlenv.server.oci.answers import Answer, Asked, Headers, header
from mlenv.server.oci.door import Door
from mlenv.server.oci.errors import MethodNotAllowed
from mlenv.server.threads import Threads
from mlenv.service.site import Site

#: Most items of one page, and how many there are if nobody says.
_PAGE: Final = 1000
#: Referrers that are read at once, and the largest list of them, in bytes: clients take it for a manifest.
_REFERRERS: Final = 200
_LIST_LIMIT: Final = MANIFEST_LIMIT - 1024


class InvalidPage(InvalidInput):
    """How many items are asked for is no number."""

    def __init__(self, text: str) -> None:
        super().__init__(f"n: expected a number, got {text[:40]!r}")


class Lists(Struct, frozen=True):
    """The routes of lists."""

    site: Site
    door: Door
    threads: Threads

    async def tags(self, asked: Asked, name: str) -> Answer:
        """A repository's tags."""
        _only_get(asked)
        services, repository = await self.door.open(asked, Operation.BLOB_READ, name)
        count, after = _page(asked)
        read = services.repositories.tags
        found = await self.threads.run(lambda: read(repository, after=after, limit=count + 1))
        shown = found[:count]
        headers = _next(asked, count, shown) if len(found) > count else []
        return _json({"name": name, "tags": shown}, headers)

    async def catalog(self, asked: Asked) -> Answer:
        """The repositories that the caller may read."""
        _only_get(asked)
        caller = await self.door.caller(asked)
        count, after = _page(asked)

        def read() -> list[str]:
            scopes = [each for kind in ScopeKind for each in self.site.visible(caller, kind)]
            found: set[str] = set()
            for scope in scopes:
                services = self.site.open(caller, Operation.BLOB_READ, scope.kind, scope.name)
                found |= _names(scope, services.repositories, after or "", count + 1)
            return sorted(found)

        found = await self.threads.run(read)
        shown = found[:count]
        headers = _next(asked, count, shown) if len(found) > count else []
        return _json({"repositories": shown}, headers)

    async def referrers(self, asked: Asked, name: str, text: str) -> Answer:
        """What refers to a manifest: always an index, if only an empty one."""
        _only_get(asked)
        services, repository = await self.door.open(asked, Operation.BLOB_READ, name)
        subject, kind = Digest.parse(text), asked.parameter("artifactType") or None
        read, after = services.repositories.referrers, asked.parameter("last") or ""
        found = await self.threads.run(
            lambda: read(repository, subject, kind, after=after, limit=_REFERRERS + 1),
        )
        entries, last = _fitting(found[:_REFERRERS])
        headers: Headers = [header("oci-filters-applied", "artifactType")] if kind is not None else []
        if last is not None and len(found) > len(entries):
            parameters = {"artifactType": kind, "last": str(last)} if kind is not None else {"last": str(last)}
            headers.append(_link(asked, parameters))
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
        return _json(index, headers, INDEX_TYPE)


def _names(scope: Scope, repositories: Any, after: str, limit: int) -> set[str]:
    """Names of a namespace's repositories, as they are on the wire, of those after a name."""
    prefix = f"{repository_of(scope.name)}/"
    if after >= f"{prefix}\U0010ffff":
        return set()
    inner = after.removeprefix(prefix) if after.startswith(prefix) else ""
    return {prefix + each for each in repositories.names(after=inner, limit=limit) if prefix + each > after}


def _fitting(found: Sequence[StoredManifest]) -> tuple[list[dict[str, Any]], Digest | None]:
    """As many descriptors as one list may have, and the last one's digest."""
    entries: list[dict[str, Any]] = []
    size, last = 0, None
    for each in found:
        entry = each.descriptor()
        size += len(json.dumps(entry)) + 1
        if entries and size > _LIST_LIMIT:
            break
        entries.append(entry)
        last = each.digest
    return entries, last


def _only_get(asked: Asked) -> None:
    if asked.method not in {"GET", "HEAD"}:
        raise MethodNotAllowed(("GET", "HEAD"))


def _page(asked: Asked) -> tuple[int, str | None]:
    """How many items are asked for, and after which."""
    text = asked.parameter("n")
    if text is None:
        return _PAGE, asked.parameter("last")
    if not (text.isascii() and text.isdigit()):
        raise InvalidPage(text)
    return min(int(text[:10]), _PAGE), asked.parameter("last")


def _next(asked: Asked, count: int, shown: Sequence[str]) -> Headers:
    return [_link(asked, {"n": str(count), "last": shown[-1]})] if shown else []


def _link(asked: Asked, parameters: dict[str, str]) -> tuple[bytes, bytes]:
    """Where the next page is (RFC 8288)."""
    return header("link", f'<{asked.path}?{urlencode(parameters)}>; rel="next"')


def _json(document: Any, headers: Headers, media_type: str = "application/json") -> Answer:
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return Answer(
        200, [header("content-type", media_type), header("cache-control", "private, no-cache"), *headers], body
    )
