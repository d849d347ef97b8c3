"""Manifests that are pulled, pushed and deleted, by tag or digest (distribution-spec, "Pulling manifests" and others)."""

from typing import Final

from msgspec import Struct

from mlenv.core.access import Operation
from mlenv.core.digest import Digest
from mlenv.core.manifests import MANIFEST_LIMIT
from mlenv.core.repositories import InvalidTag, ManifestTooLarge
from mlenv.server.oci.answers import Answer, Asked, header
from mlenv.server.oci.blobs import FOREVER, is_known
from mlenv.server.oci.door import Door
from mlenv.server.oci.errors import MethodNotAllowed
from mlenv.server.threads import Threads

#: Most tags that one push may set.
_TAGS: Final = 50


class Manifests(Struct, frozen=True):
    """The routes of manifests."""

    door: Door
    threads: Threads

    async def answer(self, asked: Asked, name: str, text: str) -> Answer:
        """One request for one manifest."""
        if asked.method == "PUT":
            return await self._push(asked, name, text)
        if asked.method == "DELETE":
            services, repository = await self.door.open(asked, Operation.BLOB_WRITE, name)
            await self.threads.run(services.repositories.delete_manifest, repository, _reference(text))
            return Answer(202)
        if asked.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed(("GET", "HEAD", "PUT", "DELETE"))
        return await self._pull(asked, name, text)

    async def _pull(self, asked: Asked, name: str, text: str) -> Answer:
        services, repository = await self.door.open(asked, Operation.BLOB_READ, name)
        reference, repositories = _reference(text), services.repositories
        data = b""
        if asked.method == "HEAD":
            found = await self.threads.run(repositories.find_manifest, repository, reference)
        else:
            found, data = await self.threads.run(repositories.manifest, repository, reference)
        etag = f'"{found.digest}"'
        headers = [
            header("content-type", found.media_type),
            header("docker-content-digest", str(found.digest)),
            header("etag", etag),
            FOREVER if isinstance(reference, Digest) else header("cache-control", "private, no-cache"),
        ]
        if is_known(asked, etag):
            return Answer(304, headers)
        return Answer(200, headers, data, length=found.size if asked.method == "HEAD" else None)

    async def _push(self, asked: Asked, name: str, text: str) -> Answer:
        services, repository = await self.door.open(asked, Operation.BLOB_WRITE, name)
        reference, tags = _reference(text), list(asked.query.get("tag", ()))
        if len(tags) > _TAGS:
            raise InvalidTag(f"{len(tags)} tags at once, at most {_TAGS}")
        data = await asked.body(MANIFEST_LIMIT, lambda: ManifestTooLarge(MANIFEST_LIMIT))
        digest = reference if isinstance(reference, Digest) else None
        if digest is None:
            tags.insert(0, text)
        media_type = asked.header(b"content-type")
        stored = await self.threads.run(
            lambda: services.repositories.put_manifest(repository, data, media_type, digest=digest, tags=tags)
        )
        headers = [
            header("location", f"/v2/{name}/manifests/{stored.digest}"),
            header("docker-content-digest", str(stored.digest)),
            *(header("oci-tag", each) for each in tags if digest is not None),
        ]
        if stored.subject is not None:
            headers.append(header("oci-subject", str(stored.subject)))
        return Answer(201, headers)


def _reference(text: str) -> Digest | str:
    """A digest, or else what may be a tag: no tag has a colon. Raises `InvalidDigest`."""
    return Digest.parse(text) if ":" in text else text
