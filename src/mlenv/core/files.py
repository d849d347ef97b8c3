"""Files by name, as clients of the blob dialect upload them; their bytes are blobs."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from msgspec import Struct, field

from mlenv.core.digest import Digest
from mlenv.errors import Conflict, InvalidInput, NotFound

#: The longest path, in characters (Blob service, "Naming and referencing containers, blobs, and metadata").
PATH_LIMIT: Final = 1024
_LASTING: Final = "azureml-blobstore-"
_TEMPORARY: Final = "azureml-upload-"
_CONTAINER: Final = re.compile(
    rf"(?:{_LASTING}(?P<own>[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})|{_TEMPORARY}(?P<of>[0-9a-f]{{32}})-[0-9a-f]{{8,16}})"
)


_ADDRESS: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://[^/]+/(?:[^/]+/)*?blobs/(?P<container>[^/]+)/(?P<path>.+?)(?:\?(?:[^/?]+&)?sig=[^/?]*)?",
    re.DOTALL,
)


class InvalidPath(InvalidInput):
    """A path that no file can have."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"not a file's path: {path[:200]!r}: {why}")
        self.path = path


class FileNotHere(NotFound):
    """There is no such file or container."""

    def __init__(self, container: str, path: str) -> None:
        super().__init__(f"there is no file {path[:200]!r} in {container[:100]!r}")
        self.container, self.path = container, path


class FileExists(Conflict):
    """There is a file of that path already, and it was not to be replaced."""

    def __init__(self, container: str, path: str) -> None:
        super().__init__(f"there is a file {path[:200]!r} in {container[:100]!r} already")
        self.container, self.path = container, path


class FileSealed(Conflict):
    """The file belongs to something that was registered, and never changes again."""

    hint = "upload to another directory; the client does so by itself when the content is another"

    def __init__(self, container: str, path: str) -> None:
        super().__init__(f"{path[:200]!r} in {container[:100]!r} belongs to a registered version and can't be changed")
        self.container, self.path = container, path


class StoredFile(Struct, frozen=True):
    """
    A file.

    Attributes:
        metadata: Free text by name, of the client's.
        created_at, modified_at: UTC.
    """

    container: str
    path: str
    digest: Digest
    size: int
    created_at: datetime
    modified_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        """Changes whenever the file does (RFC 9110, section 8.8.3)."""
        return f'"0x{self.digest.hex[:16].upper()}{int(self.modified_at.timestamp() * 1e6):X}"'


def lasting_container(scope_id: str) -> str:
    """The container of a namespace that is always there."""
    return f"{_LASTING}{scope_id}"


def temporary_container(scope_id: str, lot: str) -> str:
    """A container of a namespace for one upload; `lot` is 8 to 16 hexadecimal digits that nobody drew before."""
    return f"{_TEMPORARY}{scope_id.replace('-', '')}-{lot}"


def scope_of(container: str) -> str | None:
    """The id of the namespace that a container belongs to; None if it is no container's name."""
    match = _CONTAINER.fullmatch(container)
    if match is None:
        return None
    digits = (match["own"] or match["of"]).replace("-", "")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def upload_at(address: str) -> tuple[str, str] | None:
    """
    Container and path of what was uploaded to an address: `https://HOST/…/blobs/CONTAINER/PATH`; None if it is none.

    The path is taken as it stands: Azure's client puts the names of directories there as they are, so that `#`, `?` and
    `%20` are a part of them. A signature behind it (`?sv=…&sig=…`) is left out.
    """
    match = _ADDRESS.fullmatch(address)
    return (match["container"], match["path"]) if match else None


def check_path(path: str) -> str:
    """Refuse what is no file's path. Raises `InvalidPath`."""
    if not path or len(path) > PATH_LIMIT:
        raise InvalidPath(path, f"it has {len(path)} characters, expected 1 to {PATH_LIMIT}")
    if not path.isprintable() or "\\" in path:
        raise InvalidPath(path, "it has a character that no path can have")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise InvalidPath(path, "it has an empty part, `.` or `..`")
    return path
