"""Uploads and downloads in the blob dialect: what Azure's client needs of it for build contexts and code."""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from mlenv.core.access import Operation
from mlenv.core.files import FileExists, StoredFile, check_path
from mlenv.errors import Conflict, InvalidInput
from mlenv.server.azure import blob_documents as documents
from mlenv.server.azure.blob_door import blobs_opened
from mlenv.server.threads import in_thread
from mlenv.service.files import BLOCK_LIMIT, FILE_LIMIT, FileTooLarge, Receiving, Upload
from mlenv.service.services import Services

router = APIRouter(include_in_schema=False)

CONTAINER: Final = "/blobs/{container}"
BLOB: Final = f"{CONTAINER}/{{path:path}}"
#: Bytes that are handed to a thread at once.
_BATCH: Final = 1 << 20
_PAGE: Final = 5000
_VERSION: Final = {"x-ms-version": "2022-11-02"}

Reading = Annotated[Services, blobs_opened(Operation.BLOB_READ, "r")]
Listing = Annotated[Services, blobs_opened(Operation.BLOB_READ, "lr")]
Writing = Annotated[Services, blobs_opened(Operation.BLOB_WRITE, "acw")]


class Md5Mismatch(InvalidInput):
    """What came in is not what was sent."""

    def __init__(self) -> None:
        super().__init__("the body does not have the MD5 that its Content-MD5 says")


class ConditionNotMet(Conflict):
    """The file is not, or not any more, the one that was meant."""

    status = 412

    def __init__(self) -> None:
        super().__init__("the file's ETag is not the one in If-Match")


@router.get(CONTAINER)
def list_files(
    services: Listing,
    container: str,
    comp: str | None = None,
    prefix: Annotated[str, Query(max_length=1024)] = "",
    delimiter: Annotated[str, Query(max_length=8)] = "",
    marker: Annotated[str, Query(max_length=4096)] = "",
    include: str = "",
    maxresults: Annotated[int, Query(ge=1)] = _PAGE,
) -> Response:
    """A page of files; without `comp=list`, the container's properties."""
    if comp is None:
        return Response(status_code=200, headers={**_VERSION, "ETag": '"0x1"', "x-ms-lease-state": "available"})
    if comp != "list":
        raise documents.NotOfThisDialect(f"comp={comp[:100]!r} is not known for a container")
    size = min(maxresults, _PAGE)
    after = _after(marker)
    if "\0" in prefix or "\0" in (after or ""):
        raise documents.NotOfThisDialect("no path has a NUL character")
    found = services.files.page(container, prefix, after=after, limit=size + 1)
    shown: list[StoredFile | str] = []
    for file in found[:size]:
        rest = file.path.removeprefix(prefix)
        if delimiter and delimiter in rest:
            directory = prefix + rest.partition(delimiter)[0] + delimiter
            if directory not in shown:
                shown.append(directory)
        else:
            shown.append(file)
    last = base64.urlsafe_b64encode(found[size - 1].path.encode()).decode() if len(found) > size else ""
    text = documents.list_document(
        container, shown, prefix=prefix, marker=marker, next_marker=last, metadata="metadata" in include
    )
    return Response(text.encode("utf-8", "replace"), media_type="application/xml", headers=_VERSION)


@router.head(CONTAINER)
def container_properties(services: Listing, container: str) -> Response:
    """Whether a container is there: it is, if this is reached."""
    return Response(status_code=200, headers={**_VERSION, "ETag": '"0x1"'})


@router.put(CONTAINER)
def create_container(services: Writing, container: str) -> Response:
    """Refused: containers are there, or made by the server."""
    raise FileExists(container, "")


@router.head(BLOB)
def file_properties(services: Reading, container: str, path: str) -> Response:
    """What is known of a file."""
    file = services.files.get(container, _checked(path))
    headers = {**documents.headers_of(file), "Content-Length": str(file.size), **_VERSION}
    return Response(status_code=200, headers=headers, media_type="application/octet-stream")


@router.get(BLOB)
def download(request: Request, services: Reading, container: str, path: str, comp: str | None = None) -> Response:
    """A file, or a range of it."""
    file = services.files.get(container, _checked(path))
    headers = {**documents.headers_of(file), **_VERSION}
    if comp == "metadata":
        return Response(status_code=200, headers=headers)
    if (wanted := request.headers.get("if-match")) is not None and wanted not in {"*", file.etag}:
        raise ConditionNotMet
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    part = documents.part_of(request.headers, file.size)
    first, size = (part.first, part.size) if part else (0, file.size)
    headers["Content-Length"] = str(size)
    if part is not None:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{file.size}"
    chunks = _chunks(services.files.content(file), first, size)
    return StreamingResponse(chunks, 206 if part else 200, headers, "application/octet-stream")


@router.put(BLOB)
async def upload(
    request: Request,
    services: Writing,
    container: str,
    path: str,
    comp: str | None = None,
    blockid: str | None = None,
) -> Response:
    """A file, a block of one, the list of blocks that make one, or its metadata."""
    _checked(path)
    metadata = documents.metadata_in(request.headers.items())
    replace = request.headers.get("if-none-match") != "*"
    files = services.files
    if comp is None:
        if (kind := request.headers.get("x-ms-blob-type", "BlockBlob")) != "BlockBlob":
            raise documents.NotOfThisDialect(f"x-ms-blob-type: {kind[:40]!r}; only BlockBlob is kept here")
        if request.headers.get("x-ms-copy-source"):
            raise documents.NotOfThisDialect("copies are not made here: send the bytes")
        received = await _receive(request, services, "the file", FILE_LIMIT)
        file = await in_thread(files.put, container, path, received, metadata, replace=replace)
        return _written(file)
    if comp == "block":
        block = documents.check_block_id(blockid or "")
        received = await _receive(request, services, "the block", BLOCK_LIMIT)
        await in_thread(files.put_block, container, path, block, received)
        return Response(status_code=201, headers=_VERSION)
    if comp == "blocklist":
        blocks = documents.read_block_list(await _small_body(request))
        file = await in_thread(files.put_blocks, container, path, blocks, metadata, replace=replace)
        return _written(file)
    if comp == "metadata":
        return _written(await in_thread(files.set_metadata, container, path, metadata), 200)
    if comp == "properties":
        return _written(await in_thread(files.get, container, path), 200)
    raise documents.NotOfThisDialect(f"comp={comp[:100]!r} is not known for a file")


def _written(file: StoredFile, status: int = 201) -> Response:
    headers = documents.headers_of(file)
    told = {name: headers[name] for name in ("ETag", "Last-Modified")}
    return Response(status_code=status, headers={**told, "x-ms-request-server-encrypted": "false", **_VERSION})


async def _receive(request: Request, services: Services, what: str, limit: int) -> Upload:
    """The body as a blob, written while it comes in; of one that is not whole, nothing stays."""
    expected = _md5(request)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise FileTooLarge(what, limit)
    digest = hashlib.md5(usedforsecurity=False)
    with ExitStack() as stack:
        writer = await in_thread(stack.enter_context, services.files.writer())
        receiving, batch = Receiving(writer, what, limit), bytearray()

        def write(data: bytes) -> None:
            if expected is not None:
                digest.update(data)
            receiving.write(data)

        async for chunk in request.stream():
            batch += chunk
            if len(batch) >= _BATCH:
                await in_thread(write, bytes(batch))
                batch.clear()
        if batch:
            await in_thread(write, bytes(batch))
        if expected is not None and digest.digest() != expected:
            raise Md5Mismatch
        return await in_thread(receiving.finish)


def _md5(request: Request) -> bytes | None:
    text = request.headers.get("content-md5")
    if not text:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise documents.NotOfThisDialect("Content-MD5 is not base64") from error


async def _small_body(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > documents.BLOCK_LIST_LIMIT:
            raise FileTooLarge("the list of blocks", documents.BLOCK_LIST_LIMIT)
    return bytes(data)


def _checked(path: str) -> str:
    """A path that a file could have, so that no database is asked for another."""
    return check_path(path)


def _after(marker: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(marker.encode()).decode() if marker else None
    except (binascii.Error, ValueError) as error:
        raise documents.NotOfThisDialect("marker: not one of this list") from error


def _chunks(path: Path, first: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(first)
        while size > 0 and (chunk := file.read(min(size, _BATCH))):
            size -= len(chunk)
            yield chunk
