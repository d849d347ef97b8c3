"""Bytes that only the server has: wheels that were built on it, and the parts of images."""

from typing import Annotated, Any, Final

from fastapi import Header, Path
from starlette.responses import FileResponse

from mlenv.core.access import Operation
from mlenv.core.digest import Digest
from mlenv.server.door import opened
from mlenv.server.routes.scoped import scoped, under_both
from mlenv.service.image_files import NoSuchBytes
from mlenv.service.services import Services

_inner = scoped()
_BYTES: Final[dict[str, Any]] = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}

RangeHeader = Annotated[
    str | None, Header(alias="Range", max_length=1024, description="A part of it (RFC 9110, section 14).")
]


@_inner.get(
    "/blobs/{digest}",
    response_class=FileResponse,
    responses={
        200: {"description": "All of it", **_BYTES},
        206: {"description": "The part that was asked for", **_BYTES},
    },
)
def read_blob(
    digest: Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)],
    services: Annotated[Services, opened(Operation.BLOB_READ)],
    range: RangeHeader = None,
) -> FileResponse:
    """A wheel that was built for a lock of this namespace, or a part of one of its images, by its digest."""
    asked = Digest.parse(digest)
    try:
        path = services.image_files.path(asked)
    except NoSuchBytes:
        path = services.lock_files.wheel(asked)
    return FileResponse(path, media_type="application/octet-stream", headers={"ETag": f'"{digest}"'})


router = under_both(_inner, "blobs")
