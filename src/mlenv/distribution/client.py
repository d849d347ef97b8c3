"""
One repository of one registry: manifests, blobs, tags and referrers (distribution-spec 1.1).

Everything that comes in is checked against its digest, and nothing larger than its limit is held in memory.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from mlenv.core.digest import Digest, DigestMismatch, InvalidDigest
from mlenv.core.image import INDEX_TYPE, MANIFEST_TYPE, Descriptor, encode
from mlenv.core.progress import Progress, Silent
from mlenv.distribution.credentials import Credentials
from mlenv.distribution.http import Passing, Session, pause_before
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import (
    AccessRefused,
    NotInRegistry,
    UnexpectedAnswer,
)
from mlenv.distribution.settings import RegistrySettings
from mlenv.distribution.uploads import Content, Upload

#: The largest manifest (distribution-spec, "Pushing Manifests"), and the largest list of tags or referrers, in bytes.
MANIFEST_LIMIT: Final = 4 << 20
_PAGES: Final = 1000
#: The most of one list that is read, in bytes.
_LIST_LIMIT: Final = 64 << 20
#: What a connection must bring before it may break without counting as a failure, in bytes; and what must come in the
#: time in which a registry may be silent.
_PROGRESS: Final = 64 << 10
_ENTRIES: Final = 100_000
_DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT: Final = f"{MANIFEST_TYPE}, {INDEX_TYPE}, {_DOCKER_MANIFEST}, {_DOCKER_LIST}"
_NEXT: Final = re.compile(r'<([^<>]{1,4096})>\s*;[^,]*\brel="?next"?')


class Sent(StrEnum):
    """What became of a blob that was to be pushed."""

    SKIPPED = "skipped"
    MOUNTED = "mounted"
    SENT = "sent"


class Repository:
    """A repository. A context manager; safe for several threads."""

    def __init__(self, name: RemoteName, session: Session, *, write: bool = False) -> None:
        """
        Args:
            write: Ask for a token that may write with the first request.
        """
        self.name = name
        self._session = session
        self._pull = frozenset({f"repository:{name.repository}:pull"})
        self._push = frozenset({f"repository:{name.repository}:pull,push"})
        if write:
            self._pull = self._push
        self._path = f"/v2/{name.repository}"
        self._referrers_lock = threading.Lock()

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()

    def stop(self) -> None:
        """Let transfers in other threads end soon, with `Stopped`; uploads are cancelled on the registry."""
        self._session.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Manifests.

    def manifest(self, reference: str) -> tuple[Descriptor, bytes]:
        """
        A manifest or index by tag or digest, as it is stored.

        Raises:
            NotInRegistry: There is none.
            DigestMismatch: It is not what the reference, or the registry, says.
            TooLarge, UnexpectedAnswer, AccessRefused, RegistryUnreachable: It can't be had.
        """
        what = f"the manifest {reference} of {self.name.host}/{self.name.repository}"
        path = f"{self._path}/manifests/{quote(reference, safe=':')}"
        response, data = self._document(path, what, {"Accept": _ACCEPT})
        digest = _checked(data, reference if ":" in reference else response.headers.get("docker-content-digest"), what)
        media_type = _media_type(response)
        document = _object(data, what)
        # NOTE: an image and an index in one would be the one where it is looked at, and the other where it is used
        # (CVE-2021-41190).
        if "manifests" in document and not document.keys().isdisjoint(("config", "layers")):
            raise UnexpectedAnswer(what, "it is both an image and an index")
        inside = document.get("mediaType")
        if inside is not None and inside != media_type:
            raise UnexpectedAnswer(what, f"the registry calls it {media_type!r}, and it says that it is {inside!r}")
        return Descriptor(media_type, digest, len(data)), data

    def head(self, reference: str) -> Descriptor | None:
        """What a manifest is, without fetching it; None if there is none. Raises as `manifest`."""
        what = f"the manifest {reference} of {self.name.host}/{self.name.repository}"
        path = f"{self._path}/manifests/{quote(reference, safe=':')}"
        good = frozenset({200, 404})
        with self._session.send(
            "HEAD", path, what=what, scopes=self._pull, good=good, headers={"Accept": _ACCEPT}
        ) as response:
            if response.status_code == 404:
                return None
        try:
            digest = Digest.parse(response.headers["docker-content-digest"])
            size = int(response.headers["content-length"])
        except (KeyError, ValueError, InvalidDigest):
            # The header is not obligatory.
            return self.manifest(reference)[0]
        return Descriptor(_media_type(response), digest, size)

    def push_manifest(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """
        Store a manifest or index under its digest, and a tag.

        One with a `subject` becomes a referrer of that: on a registry without that API, by the referrers tag schema.

        Raises:
            AccessRefused, UnexpectedAnswer, RegistryUnreachable: It was not stored.
        """
        digest = Digest.of(data)
        what = f"the manifest {tag or digest} of {self.name.host}/{self.name.repository}"
        with self._session.send(
            "PUT",
            f"{self._path}/manifests/{quote(tag or str(digest), safe=':')}",
            what=what,
            scopes=self._push,
            good=frozenset({201}),
            headers={"Content-Type": media_type},
            body=lambda: data,
        ) as response:
            said = response.headers.get("docker-content-digest")
        _checked(data, said, what)
        descriptor = Descriptor(media_type, digest, len(data))
        document = _object(data, what)
        subject = document.get("subject")
        if isinstance(subject, dict) and "oci-subject" not in response.headers:
            self._add_referrer(Digest.parse(str(subject.get("digest"))), _as_referrer(descriptor, document))
        return descriptor

    # Blobs.

    def has_blob(self, digest: Digest) -> bool:
        """Whether the repository has a blob. Raises `AccessRefused`, `RegistryUnreachable`."""
        what = f"the blob {digest} of {self.name.host}/{self.name.repository}"
        good = frozenset({200, 404})
        with self._session.send(
            "HEAD", f"{self._path}/blobs/{digest}", what=what, scopes=self._pull, good=good
        ) as response:
            return response.status_code == 200

    def blob(self, descriptor: Descriptor, *, start: int = 0) -> Iterator[bytes]:
        """
        A blob's bytes as they come, resumed where a connection breaks.

        Args:
            start: The first byte that is wanted. Only a whole blob is checked against its digest; its size always is.

        Raises:
            DigestMismatch: It was something else; raised after its last byte at the latest.
            NotInRegistry, AccessRefused, RegistryUnreachable, Stopped: It can't be had.
        """
        what = f"the blob {descriptor.digest} of {self.name.host}/{self.name.repository}"
        content, done, failures = hashlib.new(descriptor.digest.algorithm), start, 0
        while done < descriptor.size or failures == done == 0:
            before = done
            try:
                for chunk in self._part(descriptor, done, what):
                    done += len(chunk)
                    if done > descriptor.size:
                        raise DigestMismatch(what, expected=f"{descriptor.size} bytes", got="more")
                    content.update(chunk)
                    yield chunk
                if done < descriptor.size:
                    raise Passing(f"it broke off after {done} of {descriptor.size} bytes")
                break
            except Passing as error:
                failures = 0 if done - before >= _PROGRESS else failures + 1
                if failures >= self._session.settings.attempts:
                    raise error.for_good(self._session.host) from error.__cause__
                self._session.pause(pause_before(failures, error.after))
        if start == 0 and content.hexdigest() != descriptor.digest.hex:
            got = f"{descriptor.digest.algorithm}:{content.hexdigest()}"
            raise DigestMismatch(what, expected=str(descriptor.digest), got=got)

    def push_blob(
        self,
        descriptor: Descriptor,
        content: Content,
        *,
        mount_from: str | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Sent:
        """
        Have a blob in the repository: it is there already, or is mounted, or is sent.

        Args:
            content: Bytes, a file, or a function that gives the bytes from an offset on.
            mount_from: A repository of the same registry that should have it.
            advance: Told how many more bytes the registry has of it.

        Raises:
            AccessRefused, UnexpectedAnswer, RegistryUnreachable, Stopped: It is not there now.
        """
        if self.has_blob(descriptor.digest):
            return Sent.SKIPPED
        location = None
        if mount_from is not None and mount_from != self.name.repository:
            mounted, location = self._mount(descriptor.digest, mount_from)
            if mounted:
                return Sent.MOUNTED
        Upload(
            self._session,
            f"{self._path}/blobs/uploads/",
            descriptor,
            content,
            scopes=self._push,
            exists=lambda: self.has_blob(descriptor.digest),
            advance=advance,
        ).run(location)
        return Sent.SENT

    # Lists.

    def tags(self) -> list[str]:
        """All tags, in the registry's order. Raises `NotInRegistry`, `AccessRefused`, `RegistryUnreachable`."""
        what = f"the tags of {self.name.host}/{self.name.repository}"
        found: list[str] = []
        for document in self._pages(f"{self._path}/tags/list", what):
            tags = document.get("tags") or []
            if not isinstance(tags, list):
                raise UnexpectedAnswer(what, "the answer has no list of tags")
            found += [each for each in tags if isinstance(each, str)]
        return found

    def referrers(self, digest: Digest, artifact_type: str | None = None) -> list[Descriptor]:
        """
        The manifests whose `subject` is that digest, with their artifact types; of one artifact type, or all.

        Raises:
            AccessRefused, UnexpectedAnswer, RegistryUnreachable: They can't be had.
        """
        what = f"the referrers of {digest} in {self.name.host}/{self.name.repository}"
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        found: list[Descriptor] = []
        try:
            for document in self._pages(f"{self._path}/referrers/{digest}{query}", what):
                found += _descriptors(document, what)
        except NotInRegistry:
            found = self._tagged_referrers(digest)
        return [each for each in found if artifact_type in (None, each.artifact_type)]

    # How it is done.

    def _document(self, path: str, what: str, headers: Mapping[str, str] | None = None) -> tuple[httpx.Response, bytes]:
        return self._session.fetch(path, limit=MANIFEST_LIMIT, what=what, scopes=self._pull, headers=headers)

    def _part(self, descriptor: Descriptor, start: int, what: str) -> Iterator[bytes]:
        """A blob from a byte on. Raises `Passing` where it breaks off."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._session.send(
            "GET",
            f"{self._path}/blobs/{descriptor.digest}",
            what=what,
            scopes=self._pull,
            good=frozenset({200, 206}),
            headers=headers,
        ) as response:
            if response.status_code == 206 and not response.headers.get("content-range", "").startswith(
                f"bytes {start}-"
            ):
                raise UnexpectedAnswer(what, "the registry sent another part than was asked for")
            # Known beforehand, it is not fetched in vain, nor asked for again as if it had broken off.
            if (whole := _whole_size(response)) not in (None, descriptor.size):
                raise DigestMismatch(what, expected=f"{descriptor.size} bytes", got=f"{whole} bytes")
            skip = start if response.status_code == 200 else 0
            try:
                pace = _Pace(self._session.settings.silent)
                for chunk in response.iter_raw():
                    self._session.check()
                    pace.note(len(chunk))
                    fresh = chunk[skip:]
                    skip -= len(chunk) - len(fresh)
                    if fresh:
                        yield fresh
            except httpx.TransportError as error:
                raise Passing(str(error) or type(error).__name__) from error

    def _mount(self, digest: Digest, source: str) -> tuple[bool, str | None]:
        """Whether a blob could be taken over from another repository; if not, where an upload was begun instead."""
        scopes = self._push | {f"repository:{source}:pull"}
        what = f"the mount of {digest} from {source}"
        path = f"{self._path}/blobs/uploads/?mount={digest}&from={quote(source, safe='')}"
        try:
            with self._session.send(
                "POST",
                path,
                what=what,
                scopes=scopes,
                good=frozenset({201, 202}),
                headers={"Content-Length": "0"},
            ) as response:
                if response.status_code == 201:
                    return True, None
                place = response.headers.get("location")
                return False, self._session.resolve(str(response.url), place) if place else None
        except (AccessRefused, NotInRegistry, UnexpectedAnswer):
            # Not from there, then. Whether it may be sent shows when it is sent.
            return False, None

    def _pages(self, path: str, what: str) -> Iterator[Mapping[str, Any]]:
        """The documents of a list (distribution-spec, "Listing Tags": `Link`)."""
        count = size = 0
        for _ in range(_PAGES):
            response, data = self._document(path, what)
            document = _object(data, what)
            count += sum(len(each) for each in document.values() if isinstance(each, list))
            size += len(data)
            yield document
            match = _NEXT.search(response.headers.get("link", "")[:8192])
            if match is None:
                return
            following = self._session.resolve(str(response.url), match[1])
            if not self._session.is_own(following):
                raise UnexpectedAnswer(what, "the list goes on elsewhere")
            if following == str(response.url) or count > _ENTRIES or size > _LIST_LIMIT:
                break
            path = following
        raise UnexpectedAnswer(what, "the list does not end")

    def _tagged_referrers(self, digest: Digest) -> list[Descriptor]:
        """The index under the tag that stands in for the API (distribution-spec, "Referrers Tag Schema")."""
        try:
            descriptor, data = self.manifest(_referrers_tag(digest))
        except NotInRegistry:
            return []
        if descriptor.media_type != INDEX_TYPE:
            return []
        what = f"the referrers of {digest}"
        return _descriptors(_object(data, what), what)

    def _add_referrer(self, subject: Digest, referrer: Descriptor) -> None:
        with self._referrers_lock:
            found = self._tagged_referrers(subject)
            if any(each.digest == referrer.digest for each in found):
                return
            document = {
                "schemaVersion": 2,
                "mediaType": INDEX_TYPE,
                "manifests": [each.to_dict() for each in (*found, referrer)],
            }
            self.push_manifest(encode(document), INDEX_TYPE, tag=_referrers_tag(subject))


def open_repository(
    name: RemoteName,
    *,
    credentials: Credentials,
    settings: RegistrySettings,
    progress: Progress | None = None,
    write: bool = False,
    seconds: float | None = None,
) -> Repository:
    """
    A repository, to be closed. Nothing is asked yet.

    Args:
        progress: Is warned of a registry that is spoken to without trusted TLS.
        write: Whether something is going to be pushed.
        seconds: How long everything together may take; None for as long as something comes.
    """
    if settings.is_insecure(name.registry) and name.registry in settings.insecure:
        (progress or Silent()).warn(f"{name.registry} is spoken to without trusted TLS, as you said")
    session = Session(name, credentials=credentials, settings=settings, seconds=seconds)
    return Repository(name, session, write=write)


def _checked(data: bytes, said: str | None, what: str) -> Digest:
    """The digest of a manifest, which must be the one that is said. Raises `DigestMismatch`, `InvalidDigest`."""
    if said is None:
        return Digest.of(data)
    expected = Digest.parse(said)
    got = Digest.of(data, expected.algorithm)
    if got != expected:
        raise DigestMismatch(what, expected=said, got=str(got))
    return got


def _referrers_tag(digest: Digest) -> str:
    """A digest as a tag; one of sha512 is cut off where tags end."""
    return f"{digest.algorithm}-{digest.hex}"[:128]


def _as_referrer(descriptor: Descriptor, document: Mapping[str, Any]) -> Descriptor:
    """How a list of referrers has a manifest (distribution-spec, "Listing Referrers")."""
    config = document.get("config")
    artifact_type = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    annotations = document.get("annotations")
    return Descriptor(
        descriptor.media_type,
        descriptor.digest,
        descriptor.size,
        annotations=annotations if isinstance(annotations, dict) else {},
        artifact_type=artifact_type if isinstance(artifact_type, str) else None,
    )


def _object(data: bytes, what: str) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswer(what, "it is not JSON") from error
    if not isinstance(document, dict):
        raise UnexpectedAnswer(what, "it is not a JSON object")
    return document


def _descriptors(document: Mapping[str, Any], what: str) -> list[Descriptor]:
    try:
        return [Descriptor.from_dict(each) for each in document["manifests"]]
    except (KeyError, TypeError, ValueError, AttributeError, InvalidDigest) as error:
        raise UnexpectedAnswer(what, "the answer has no list of descriptors") from error


def _media_type(response: httpx.Response) -> str:
    text: str = response.headers.get("content-type", "")
    return text.partition(";")[0].strip() or MANIFEST_TYPE


class _Pace:
    """Sees that what comes byte by byte does not take for ever. `seconds` is the time in which `_PROGRESS` must come."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since, self._size = time.monotonic(), 0

    def note(self, size: int) -> None:
        """So many bytes came. Raises `Passing` if they are too few."""
        self._size += size
        now = time.monotonic()
        if now - self._since > self._seconds:
            if self._size < _PROGRESS:
                raise Passing(f"it is too slow: {self._size} bytes in {self._seconds:g} s")
            self._since, self._size = now, 0


def _whole_size(response: httpx.Response) -> int | None:
    """How large the answer says that the whole is, in bytes, if it says so (RFC 9110, sections 8.6 and 14.4)."""
    name = "content-length" if response.status_code == 200 else "content-range"
    text = response.headers.get(name, "").rpartition("/")[2].strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None
