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
    buffer = bytearray(count)
    if got := read_at_once(descriptor, offset, memoryview(buffer)):
        return bytes(memoryview(buffer)[:got])
    chunk = await asyncio.get_running_loop().run_in_executor(None, os.pread, descriptor, count, offset)
    if not chunk:
        raise OSError("the file has become shorter")
    return chunk


def read_at_once(descriptor: int, offset: int, buffer: memoryview) -> int:
    """Read from a file what is in memory, into a buffer. Returns how many bytes; 0 where the disk would have to be waited for."""
    try:
        return os.preadv(descriptor, [buffer], offset, _NOWAIT) if _NOWAIT else 0
    except OSError:
        # Memory has not even the first byte (EAGAIN), or this file system can't tell (EOPNOTSUPP).
        return 0


#: preadv2(2): only what needs no waiting. Linux has it.
_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
