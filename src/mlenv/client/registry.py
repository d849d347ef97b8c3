"""
The rows of a workspace or registry on a server: `mlenv.service.interface.Registry` over HTTP.

What a server does by itself (layers, images, whole-store checks) can't be asked of it this way, and is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from mlenv.api.wire import (
    CreatedAnswer,
    EnvironmentAnswer,
    LabelAnswer,
    VersionAnswer,
    definition_document,
    encode,
)
from mlenv.api.wire_records import (
    BaseAnswer,
    BuildAnswer,
    UseAnswer,
    lock_options_document,
    platform_document,
    use_body,
)
from mlenv.api.wire_site import ScopeAnswer
from mlenv.client.answers import OtherVersion
from mlenv.client.http import Answer, Http
from mlenv.client.logs import log_lines
from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange, View
from mlenv.core.facts import BaseFacts
from mlenv.core.files import lasting_container
from mlenv.core.image import Descriptor
from mlenv.core.layer import Compression, Layer
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.records import BuildRecord, BuildStatus, ImageKey, UseRecord
from mlenv.core.reference import EnvironmentName, LabelName, VersionName
from mlenv.core.refusals import VersionChanged
from mlenv.core.scope import Scope, ScopeKind
from mlenv.errors import Conflict, InvalidInput, NotFound

M = TypeVar("M", bound=BaseModel)

#: Most rows of one page.
_PAGE: Final = 500
#: How long a server may take to resolve, in seconds.
_RESOLVING: Final = 900.0
#: How long it may take to pull a base image, in seconds.
_PULLING: Final = 3600.0


class NotFromHere(InvalidInput):
    """Something that only works where the store is."""

    hint = "do it on the server itself, or leave the server out with `--embedded`"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} can't be done through a server")


class SmallBlobs(Protocol):
    """Bytes on this machine, by their digest."""

    def read(self, digest: Digest) -> bytes:
        """A small blob."""

    def put(self, chunks: Iterable[bytes], *, digest: Digest, size: int, what: str) -> None:
        """Store one."""


class RemoteRegistry:
    """One workspace or registry of a server."""

    def __init__(self, http: Http, kind: ScopeKind, name: str, blobs: SmallBlobs) -> None:
        """
        Args:
            blobs: Where locks are kept on this machine.
        """
        self.http, self.kind, self.name = http, kind, name
        self.root = f"/{'workspaces' if kind is ScopeKind.WORKSPACE else 'registries'}/{quoted(name)}"
        self._blobs = blobs
        self._cursors: dict[tuple[str, str], str | None] = {}
        self._tags: dict[tuple[str, str], tuple[datetime, str]] = {}

    def scope(self) -> Scope:
        """The workspace or registry itself."""
        return self.parse(ScopeAnswer, self._get("")).to_core()

    # Environments and versions.

    def add_version(self, definition: Definition, *, now: datetime) -> tuple[EnvironmentVersion, bool]:
        """Register a definition. The server's clock counts."""
        answer = self._send("POST", "/environments", content=encode(definition_document(definition)))
        created = self.parse(CreatedAnswer, answer.data)
        return created.to_core(), created.new

    def version(self, name: EnvironmentName, version: VersionName) -> EnvironmentVersion:
        """One version."""
        answer = self._send("GET", _version_path(name, version))
        found = self.parse(VersionAnswer, answer.data).to_core()
        self._remember(found, answer)
        return found

    def environment(self, name: EnvironmentName) -> Environment:
        """One environment."""
        return self.parse(EnvironmentAnswer, self._get(f"/environments/{quoted(name)}")).to_core()

    def environments(self, view: View, *, limit: int, after: str | None = None) -> list[Environment]:
        """Environments by name."""
        rows = self._rows(EnvironmentAnswer, "/environments", view, limit, after, lambda each: each.name)
        return [each.to_core() for each in rows]

    def versions(
        self, name: EnvironmentName, view: View, *, limit: int, after: str | None = None
    ) -> list[EnvironmentVersion]:
        """Versions of one environment, the newest first."""
        path = f"/environments/{quoted(name)}/versions"
        rows = self._rows(VersionAnswer, path, view, limit, after, lambda each: each.version)
        return [each.to_core() for each in rows]

    def update_version(
        self,
        name: EnvironmentName,
        version: VersionName,
        *,
        now: datetime,
        description: str | None,
        tags: Mapping[str, str],
        archived: bool | None = None,
        unless_modified_after: datetime | None = None,
    ) -> EnvironmentVersion:
        """Set what may change."""
        headers = {}
        if unless_modified_after is not None:
            headers["if-match"] = self._entity_tag(name, version, unless_modified_after)
        body: dict[str, Any] = {"description": description or "", "tags": dict(tags)}
        if archived is not None:
            body["archived"] = archived
        return self.change_version(name, version, body, headers)

    def change_version(
        self,
        name: EnvironmentName,
        version: VersionName,
        change: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> EnvironmentVersion:
        """Change what may change, as `mlenv.api.wire.ChangeBody` says it."""
        self._tags.pop((name, version), None)
        answer = self._send("PATCH", _version_path(name, version), content=encode(change), headers=headers or {})
        found = self.parse(VersionAnswer, answer.data).to_core()
        self._remember(found, answer)
        return found

    def set_archived(
        self,
        name: EnvironmentName,
        archived: bool,
        *,
        now: datetime,
        check: Callable[[Environment], None] | None = None,
    ) -> Environment:
        """Archive or restore an environment with all its versions."""
        path, headers = f"/environments/{quoted(name)}", {}
        if check is not None:
            seen = self._send("GET", path)
            check(self.parse(EnvironmentAnswer, seen.data).to_core())
            headers["if-match"] = seen.headers["etag"]
        answer = self._send("PATCH", path, content=encode({"archived": archived}), headers=headers)
        return self.parse(EnvironmentAnswer, answer.data).to_core()

    def set_label(self, name: EnvironmentName, label: LabelName, version: VersionName, *, now: datetime) -> None:
        """Point a label at a version."""
        path = f"/environments/{quoted(name)}/labels/{quoted(label)}"
        self._send("PUT", path, content=encode({"version": version}))

    def label_history(self, name: EnvironmentName, label: LabelName) -> list[LabelChange]:
        """Where a label pointed, the newest first."""
        return self.labels(name).get(label, [])

    def labels(self, name: EnvironmentName) -> dict[LabelName, list[LabelChange]]:
        """Every label with where it points and pointed, the newest first."""
        pages = self._pages(LabelAnswer, f"/environments/{quoted(name)}/labels")
        return {LabelName(each.label): [change.to_core() for change in each.history] for each in pages}

    # Files.

    def upload(self, path: str, content: Path) -> str:
        """Put a file among the namespace's own, under a path; gives its address."""
        place = f"/blobs/{lasting_container(self.scope().id)}/{path}"
        self.http.put_file(place, content)
        return f"{self.http.server}{place}"

    # Locks.

    def lock_of(self, name: EnvironmentName, version: VersionName, platform: Platform) -> Digest | None:
        """The lock's blob, which is kept here, too; or None."""
        try:
            answer = self._send("GET", _lock_path(name, version, platform), headers=_ANYTHING)
        except NotFound as error:
            if type(error).__name__ == "LockNotMade":
                return None
            raise
        return self._keep(answer.body)

    def make_lock(
        self, name: EnvironmentName, version: VersionName, platform: Platform, options: LockOptions | None
    ) -> Digest:
        """Let the server resolve a version, unless it has; gives the lock's blob, which is kept here, too."""
        answer = self._send(
            "POST",
            _lock_path(name, version, platform),
            content=encode(lock_options_document(options)) if options else b"{}",
            headers=_ANYTHING,
            silent=_RESOLVING,
            patient=False,
        )
        return self._keep(answer.body)

    def add_lock(
        self, name: EnvironmentName, version: VersionName, platform: Platform, lock: Digest, *, now: datetime
    ) -> Digest:
        """Name a lock whose blob is kept here. The first one stays, and is what is returned."""
        try:
            self._send(
                "PUT",
                _lock_path(name, version, platform),
                content=self._blobs.read(lock),
                headers={**_ANYTHING, "content-type": "application/toml"},
            )
        except Conflict:
            return self.lock_of(name, version, platform) or lock
        return lock

    # Images, layers and bases.

    def layer(self, key: Digest) -> Layer | None:
        """None: layers are made where images are."""
        return None

    def add_layer(self, key: Digest, layer: Layer) -> None:
        """Refused."""
        raise NotFromHere("making layers")

    def remove_layer(self, key: Digest) -> None:
        """Refused."""
        raise NotFromHere("forgetting layers")

    def image_of(self, key: ImageKey) -> Descriptor | None:
        """None: the server's builds say what is built."""
        return None

    def add_image(self, key: ImageKey, manifest: Descriptor, *, now: datetime) -> None:
        """Refused."""
        raise NotFromHere("naming an image")

    def base(self, name: str) -> Digest | None:
        """The manifest that a base image's name points at there, or None."""
        try:
            return Digest.parse(self.parse(BaseAnswer, self._get("/base", {"name": name})).manifest)
        except NotFound as error:
            if type(error).__name__ == "BaseNotHere":
                return None
            raise

    def bases(self) -> Mapping[str, Digest]:
        """All base names, sorted."""
        return {each.name: Digest.parse(each.manifest) for each in self._pages(BaseAnswer, "/bases")}

    def pull_base(self, image: str, platform: Platform | None, name: str | None) -> BaseFacts:
        """Let the server take a base image from its registry; gives what it offers, once it is at hand there."""
        body: dict[str, Any] = {"image": image, "name": name}
        if platform is not None:
            body["platform"] = platform_document(platform)
        answer = self._send("POST", "/bases", content=encode(body), silent=_PULLING, patient=False)
        found = self.parse(BaseAnswer, answer.data).facts
        if found is None:
            raise OtherVersion(self.http.server, "it does not say what the base image offers")
        return found.to_core()

    def set_base(self, name: str, manifest: Digest, *, now: datetime) -> None:
        """Refused."""
        raise NotFromHere("naming a base image that is on this machine")

    def facts(self, manifest: Digest) -> BaseFacts | None:
        """What was read from a base, or None."""
        for each in self._pages(BaseAnswer, "/bases"):
            if each.manifest == str(manifest) and each.facts is not None:
                return each.facts.to_core()
        return None

    def add_facts(self, facts: BaseFacts) -> None:
        """Refused."""
        raise NotFromHere("telling what a base image offers")

    # Builds and uses.

    def save_build(self, build: BuildRecord) -> None:
        """Refused: see `request_build`."""
        raise NotFromHere("recording a build")

    def builds(self, name: EnvironmentName, version: VersionName) -> list[BuildRecord]:
        """Builds of a version, the newest first."""
        return [each.to_core() for each in self._pages(BuildAnswer, f"{_version_path(name, version)}/builds")]

    def all_builds(
        self,
        *,
        of: tuple[EnvironmentName, VersionName] | None = None,
        status: BuildStatus | None = None,
        limit: int | None = None,
    ) -> Iterator[BuildRecord]:
        """Builds, the newest first; of one version, or all."""
        path = f"{_version_path(*of)}/builds" if of else "/builds"
        params = {"status": status.value if status else None, "limit": _PAGE if limit is None else min(limit, _PAGE)}
        return (each.to_core() for each in self._pages(BuildAnswer, path, params, limit))

    def request_build(
        self,
        name: EnvironmentName,
        version: VersionName,
        platform: Platform,
        *,
        compression: Compression = Compression.ZSTD,
        options: LockOptions | None = None,
    ) -> BuildRecord:
        """Ask for a build, which waits in the server's queue; gives the one under way or ended if there is one."""
        body: dict[str, Any] = {"platform": platform_document(platform), "compression": compression.value}
        if options is not None:
            body["options"] = lock_options_document(options)
        answer = self._send("POST", f"{_version_path(name, version)}/builds", content=encode(body))
        return self.parse(BuildAnswer, answer.data).to_core()

    def build(self, id: str) -> BuildRecord:
        """A build as it stands."""
        return self.parse(BuildAnswer, self._get(f"/builds/{quoted(id)}")).to_core()

    def log_lines(self, id: str) -> Iterator[str]:
        """The lines of a build's log, from the first on, as they come, until the build has ended."""
        yield from log_lines(self.http, f"{self.root}/builds/{quoted(id)}/logs")

    def log(self, id: str) -> Iterator[str]:
        """A build's log so far, in pieces."""
        with self.http.stream(
            "GET", f"{self.root}/builds/{quoted(id)}/logs", headers={"accept": "text/plain"}
        ) as answer:
            yield from answer.iter_text()

    def cancel_build(self, id: str) -> BuildRecord:
        """Cancel a build; gives how it stands then."""
        data = self._send("POST", f"/builds/{quoted(id)}/cancel").data
        return self.parse(BuildAnswer, data).to_core() if data else self.build(id)

    def save_use(self, use: UseRecord) -> None:
        """Tell of a use, or of its end."""
        self._send("POST", f"/environments/{quoted(use.name)}/uses", content=encode(use_body(use)))

    def uses(self, name: EnvironmentName, version: VersionName | None = None, *, limit: int) -> list[UseRecord]:
        """Uses, the newest first."""
        path = f"/environments/{quoted(name)}/uses"
        rows = self._pages(UseAnswer, path, {"version": version, "limit": min(limit, _PAGE)}, limit=limit)
        return [each.to_core() for each in rows]

    # What only the store itself can tell.

    def all_locks(self) -> NoReturn:
        """Refused."""
        raise NotFromHere("looking through a whole store")

    def all_images(self) -> NoReturn:
        """Refused."""
        raise NotFromHere("looking through a whole store")

    def all_layers(self) -> NoReturn:
        """Refused."""
        raise NotFromHere("looking through a whole store")

    def check(self) -> NoReturn:
        """Refused."""
        raise NotFromHere("looking through a whole store")

    def close(self) -> None:
        """Let go of connections."""
        self.http.close()

    # How it is asked.

    def _keep(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        self._blobs.put([data], digest=digest, size=len(data), what="pylock.toml")
        return digest

    def parse(self, model: type[M], data: Any) -> M:
        """Data of an answer, checked. Raises `OtherVersion`."""
        try:
            # NOTE: in JSON's way, in which times and enumerations are text.
            return model.model_validate_json(encode(data))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            path = ".".join(map(str, first["loc"]))
            raise OtherVersion(self.http.server, f"{path}: {first['msg']}" if path else first["msg"]) from error

    def _send(self, method: str, path: str, **more: Any) -> Answer:
        content = more.pop("content", None)
        headers = dict(more.pop("headers", {}))
        if content is not None:
            headers.setdefault("content-type", "application/json")
        return self.http.send(method, self.root + path, content=content, headers=headers, **more)

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self.http.request("GET", self.root + path, params=params)

    def _pages(
        self, model: type[M], path: str, params: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[M]:
        for each in self.http.pages(self.root + path, params={"limit": _PAGE, **(params or {})}, limit=limit):
            yield self.parse(model, each)

    def _rows(
        self, model: type[M], path: str, view: View, limit: int, after: str | None, key: Callable[[M], str]
    ) -> list[M]:
        """
        A page that follows a row. The server's cursors are opaque: the one that came with the row is remembered.

        Raises:
            InvalidInput: No page that ended with that row was seen.
        """
        memory = f"{path}?{view}&{limit}"
        params: dict[str, Any] = {"view": view.value, "limit": limit}
        if after is not None:
            if (memory, after) not in self._cursors:
                raise InvalidInput(f"no page of this list ended with {after!r}")
            if (cursor := self._cursors[memory, after]) is None:
                return []
            params["cursor"] = cursor
        page = self.http.page(self.root + path, params)
        rows = [self.parse(model, each) for each in page["value"]]
        if rows:
            self._cursors[memory, key(rows[-1])] = page.get("next")
        return rows

    def _remember(self, version: EnvironmentVersion, answer: Answer) -> None:
        if tag := answer.headers.get("etag"):
            self._tags[version.name, version.version] = (version.modified_at, tag)

    def _entity_tag(self, name: EnvironmentName, version: VersionName, seen: datetime) -> str:
        """The tag of a version as it was seen (RFC 9110, section 13.1.1). Raises `VersionChanged` if it is another now."""
        if (name, version) not in self._tags:
            self.version(name, version)
        modified, tag = self._tags.get((name, version), (seen, "*"))
        if modified > seen:
            raise VersionChanged(name, version)
        return tag


#: Locks are TOML, problems are JSON.
_ANYTHING: Final = {"accept": "*/*"}


def quoted(text: str) -> str:
    """A name as one part of a path (RFC 3986, section 3.3)."""
    return quote(text, safe="")


def _version_path(name: EnvironmentName, version: VersionName) -> str:
    return f"/environments/{quoted(name)}/versions/{quoted(version)}"


def _lock_path(name: EnvironmentName, version: VersionName, platform: Platform) -> str:
    return f"{_version_path(name, version)}/locks/{platform.os}/{platform.architecture}"
