"""
Logs of builds and jobs: a file that grows while the work is done, and a blob for ever after.

A line of a build is `2026-11-22T18:05:00.123Z text`. Nothing is left out, up to a limit; a log that reaches it says so
where it is cut. What is shown of a log is a range of its bytes, and these never change, so that any number of readers can
follow it, each at the cost of what it reads.
"""

import os
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from mlenv.build.interface import Blobs
from mlenv.core.digest import Digest
from mlenv.core.redact import redact
from mlenv.errors import InvalidInput, NotFound

_CHUNK: Final = 1 << 20
#: A line without an end is passed on in pieces of this many bytes, so that it need not be held in memory.
_LINE: Final = 1 << 16
#: Secrets shorter than this are words that occur by themselves.
_SHORTEST_SECRET: Final = 6
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


class LogNotFound(NotFound):
    """There is no log: nothing was begun yet, or it was made by a program that kept none."""

    def __init__(self, id: str) -> None:
        super().__init__(f"there is no log of {id}")
        self.id = id


class Room:
    """
    What a log may still take of a process's output.

    Args:
        size: Of the log so far, in bytes.
        limit: Of its size; None for none.
    """

    def __init__(self, size: int, limit: int | None) -> None:
        self._size, self._limit = size, limit
        self._full = False

    def take(self, data: bytes) -> tuple[bytes, str | None]:
        """As much of the output as there is room for; and, where that is not all for the first time, what to say there."""
        if self._full:
            return b"", None
        if self._limit is None or self._size + len(data) <= self._limit:
            self._size += len(data)
            return data, None
        self._full = True
        return data[
            : max(0, self._limit - self._size)
        ], f"mlenv: the log is cut here: with more output it would pass {self._limit} bytes (max_log)"


class LogWriter:
    """
    Appends to a log. Safe for several threads; lines come out whole.

    What is written is in the file when a call returns, so that readers see it; only a power cut may lose it.
    """

    def __init__(self, path: Path, secrets: Iterable[str] = (), limit: int | None = None) -> None:
        """
        Args:
            secrets: Texts that are replaced by `****`. Credentials in addresses are, in any case.
            limit: Bytes after which output is left out; our own lines are not. None for no limit.
        """
        self._file = path.open("ab", buffering=0)
        self._room = Room(self._file.tell(), limit)
        self._secrets = sorted({each for each in secrets if len(each) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._guard = threading.Lock()
        self._rest = b""
        self._inside = False

    def line(self, text: str) -> None:
        """Write one line, or several, of our own."""
        with self._guard:
            self._own(text)

    def output(self, chunk: bytes) -> None:
        """Write what a process wrote, as it comes."""
        with self._guard:
            *lines, rest = (self._rest + chunk).split(b"\n")
            self._rest = rest
            pieces = [line + b"\n" for line in lines]
            if len(rest) > _LINE:
                pieces.append(rest)
                self._rest = b""
            self._output(pieces)

    def close(self) -> None:
        """Write what is left of an unfinished line."""
        with self._guard:
            if self._rest:
                self._output([self._rest + b"\n"])
                self._rest = b""
            self._file.close()

    def _own(self, text: str) -> None:
        self._write(self._dated((text.rstrip("\n") + "\n").encode("utf-8", "replace").splitlines(keepends=True)))

    def _output(self, pieces: list[bytes]) -> None:
        if not pieces:
            return
        inside = self._inside
        dated = self._dated(pieces)
        data, notice = self._room.take(dated)
        self._write(data)
        if len(data) < len(dated):
            self._inside = not data.endswith(b"\n") if data else inside
        if notice is not None:
            self._own(f"\n{notice}" if self._inside else notice)

    def _dated(self, pieces: list[bytes]) -> bytes:
        """Lines with their time; a piece without an end is gone on with by the next one."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
        text = []
        for piece in pieces:
            if not self._inside:
                text.append(now + b" ")
            text.append(self._clean(piece))
            self._inside = not piece.endswith(b"\n")
        return b"".join(text)

    def _write(self, content: bytes) -> None:
        data = memoryview(content)
        while data:
            data = data[self._file.write(data) :]

    def _clean(self, piece: bytes) -> bytes:
        text = redact(piece.decode("utf-8", "replace"))
        for secret in self._secrets:
            text = text.replace(secret, "****")
        return text.encode("utf-8", "replace")


class Logs:
    """
    The logs of a store.

    Ids name files, so they are letters, digits, `-`, `_` and `.`.
    """

    def __init__(self, directory: Path, blobs: Blobs) -> None:
        self._directory = directory
        self._blobs = blobs

    def path(self, id: str) -> Path:
        """Where the log of what is not ended is. Raises `InvalidInput` for what is no id."""
        if not _ID.fullmatch(id):
            raise InvalidInput(f"not an id: {id[:64]!r}")
        return self._directory / f"{id}.log"

    def writer(self, id: str, secrets: Iterable[str] = (), limit: int | None = None) -> LogWriter:
        """Begin a log, or go on with one that another process began; of at most so many bytes, but for our own lines."""
        return LogWriter(self.path(id), secrets, limit)

    def size(self, id: str, kept: Digest | None = None) -> int:
        """
        How many bytes there are so far.

        Args:
            kept: The blob of an ended log, as its record has it.

        Raises:
            LogNotFound: There is none.
        """
        with self._open(id, kept) as file:
            return os.fstat(file.fileno()).st_size

    def read(self, id: str, kept: Digest | None = None, *, start: int = 0, limit: int = _CHUNK) -> bytes:
        """At most `limit` bytes from `start` on; empty at the end. Raises `LogNotFound`."""
        with self._open(id, kept) as file:
            file.seek(start)
            return file.read(limit)

    def keep(self, id: str) -> Digest | None:
        """Make a blob of an ended log. Its file stays until `forget`. None if there is no log."""
        try:
            file = self.path(id).open("rb")
        except FileNotFoundError:
            return None
        with file, self._blobs.writer() as writer:
            while chunk := file.read(_CHUNK):
                writer.write(chunk)
            return writer.commit()[0]

    def forget(self, id: str) -> None:
        """Remove the file, once the record names the blob. No error if it is gone."""
        with suppress(FileNotFoundError):
            os.unlink(self.path(id))

    def _open(self, id: str, kept: Digest | None) -> BinaryIO:
        # NOTE: the file may go at any moment, when its blob is there.
        try:
            return self.path(id).open("rb")
        except FileNotFoundError:
            if kept is None:
                raise LogNotFound(id) from None
            return self._blobs.path(kept).open("rb")
