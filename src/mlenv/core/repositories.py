"""Repositories of images: how they, their tags and what is in them are called (distribution-spec 1.1, "Pull", "Push")."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NewType

from msgspec import Struct, field

from mlenv.core.digest import Digest
from mlenv.core.image import Descriptor
from mlenv.core.layer import Compression
from mlenv.core.platform import Platform
from mlenv.core.reference import VersionName
from mlenv.errors import Conflict, Forbidden, InvalidInput, NotFound

#: A repository's name inside its namespace: `iris`, `bases/debian`.
RepositoryName = NewType("RepositoryName", str)
#: A name for a manifest.
Tag = NewType("Tag", str)

#: The longest name, namespace included, so that it fits in 255 characters with the host in front.
_NAME_LIMIT: Final = 255
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class InvalidRepository(InvalidInput):
    """Text that should name a repository, and does not."""

    hint = "write WORKSPACE/NAME in lowercase letters and digits, with single `.`, `_` or `-` between them"

    def __init__(self, text: str) -> None:
        super().__init__(f"not a name of a repository: {text[:_NAME_LIMIT]!r}")
        self.text = text


class InvalidTag(InvalidInput):
    """Text that should be a tag, and is not."""

    hint = "use 1 to 128 letters, digits, `_`, `.` and `-`, beginning with a letter, a digit or `_`"

    def __init__(self, text: str) -> None:
        super().__init__(f"not a tag: {text[:200]!r}")
        self.text = text


class RepositoryNotFound(NotFound):
    """There is no such repository, or none that the caller may see."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no repository {name!r}, or none that you may see")
        self.name = name


class ManifestNotFound(NotFound):
    """A repository has no manifest of that tag or digest."""

    def __init__(self, repository: str, reference: str, why: str = "") -> None:
        super().__init__(f"{repository} has no manifest {reference!r}" + (f": {why}" if why else ""))
        self.repository, self.reference = repository, reference


class BlobNotInRepository(NotFound):
    """A repository has no blob of that digest."""

    def __init__(self, repository: str, digest: Digest) -> None:
        super().__init__(f"{repository} has no blob {digest}")
        self.repository, self.digest = repository, digest


class UploadNotFound(NotFound):
    """No upload of that id goes on: it was never begun, has ended, was cancelled, or is too old."""

    hint = "begin the upload anew"

    def __init__(self, id: str) -> None:
        super().__init__(f"no upload {id[:64]!r} goes on here")
        self.id = id


class UploadBusy(Conflict):
    """Another request writes to the same upload."""

    hint = "ask how far it has come when that request has ended"

    def __init__(self, id: str) -> None:
        super().__init__(f"another request writes to the upload {id}")
        self.id = id


class ChunkOutOfOrder(InvalidInput):
    """A chunk does not begin where the upload ends."""

    #: HTTP's status for it.
    status = 416

    def __init__(self, said: str, offset: int) -> None:
        super().__init__(f"the chunk {said[:100]!r} does not continue the upload, which has {offset} bytes")
        self.offset = offset


class WrongLength(InvalidInput):
    """A body, or a blob, does not have the length that was said."""

    def __init__(self, what: str, *, expected: int, got: int) -> None:
        super().__init__(f"{what}: expected {expected} bytes, got {got}")
        self.expected, self.got = expected, got


class InvalidManifest(InvalidInput):
    """A manifest that is none, or is not what was said."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the manifest {why}")


class ManifestTooLarge(InvalidInput):
    """A manifest above the limit."""

    #: HTTP's status for it.
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"the manifest is larger than {limit} bytes")
        self.limit = limit


class PartsMissing(InvalidInput):
    """A manifest names blobs or manifests that its repository does not have."""

    hint = "push what it names first"

    def __init__(self, repository: str, digests: Iterable[Digest]) -> None:
        self.repository, self.digests = repository, tuple(digests)
        super().__init__(
            f"{repository} does not have {', '.join(map(str, self.digests[:3]))}, which the manifest names"
        )


class WrittenByBuilds(Forbidden):
    """An environment's image was to be changed by a push: its tags are its versions and labels."""

    hint = "push to a repository that no environment is called by, or build a new version of the environment"

    def __init__(self, repository: str) -> None:
        super().__init__(
            f"{repository} is an environment: its tags are its versions and labels, which builds write, not pushes"
        )
        self.repository = repository


class StoredManifest(Struct, frozen=True):
    """
    A manifest in a repository.

    Attributes:
        size: In bytes.
        subject: What it is about, if it refers to another manifest; which need not be there.
        artifact_type: What kind of thing it is, if it says so; for an image manifest that does not, its
            configuration's media type (distribution-spec, "Listing Referrers").
        created_at: When it was first pushed, UTC.
    """

    digest: Digest
    media_type: str
    size: int
    created_at: datetime
    subject: Digest | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def descriptor(self) -> dict[str, Any]:
        """As a list of referrers has it."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


class Built(Struct, frozen=True):
    """An image of a version: for which platform, with which compression of its layers, and its manifest."""

    version: VersionName
    platform: Platform
    compression: Compression
    manifest: Descriptor


def parse_repository(text: str) -> str:
    """Check a repository's whole name, as it is on the wire. Raises `InvalidRepository`."""
    if len(text) > _NAME_LIMIT or not _NAME.fullmatch(text):
        raise InvalidRepository(text)
    return text


def parse_tag(text: str) -> Tag:
    """Check a tag. Raises `InvalidTag`."""
    if not _TAG.fullmatch(text):
        raise InvalidTag(text)
    return Tag(text)


def order_of_tag(tag: str) -> tuple[str, str]:
    """What tags are listed by: letters of either case together (distribution-spec, "Listing Tags")."""
    return tag.lower(), tag
