"""
An extension of ASGI: a part of a file as the body of an answer, sent by the kernel where the connection is not
encrypted (sendfile(2)).

    {"type": "http.response.filepart", "file": descriptor, "offset": 0, "count": 1000}

The server that offers it has `http.response.filepart` among the scope's extensions; for others the file is read.
"""

import asyncio
import os
from typing import Final

from mlenv.server.middleware import Scope, Send

EXTENSION: Final = "http.response.filepart"
#: Bytes that are read at once where the kernel does not send.
_CHUNK: Final = 1 << 18


async def send_file(scope: Scope, send: Send, descriptor: int, offset: int, count: int) -> None:
    """Send a part of a file as the whole body of an answer whose head was sent."""
    if EXTENSION in (scope.get("extensions") or {}):
        await send({"type": EXTENSION, "file": descriptor, "offset": offset, "count": count})
        return
    end = offset + count
    while offset < end:
        chunk = await read_part(descriptor, offset, min(_CHUNK, end - offset))
        offset += len(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": offset < end})
    if count == 0:
        await send({"type": "http.response.body", "body": b""})


async def read_part(descriptor: int, offset: int, count: int) -> bytes:
    """
    Read from a file without stopping the event loop: here if it is in memory, else in a thread.

    Raises:
        OSError: The file is shorter.
    """
    chunk = read_at_once(descriptor, offset, count)
    if chunk is None:
        chunk = await asyncio.get_running_loop().run_in_executor(None, os.pread, descriptor, count, offset)
    if not chunk:
        raise OSError("the file has become shorter")
    return chunk


def read_at_once(descriptor: int, offset: int, count: int) -> bytes | None:
    """Read from a file what is in memory; None where the disk would have to be waited for."""
    return os.pread(descriptor, count, offset) or None if _in_memory(descriptor, offset + count - 1) else None


def _in_memory(descriptor: int, offset: int) -> bool:
    """Whether the system has a byte of a file at hand; what stands before it was read with it."""
    try:
        return bool(_NOWAIT and os.preadv(descriptor, [bytearray(1)], offset, _NOWAIT))
    except OSError:
        # It has not (EAGAIN), or this file system can't tell (EOPNOTSUPP).
        return False


_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
