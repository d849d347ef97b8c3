"""
Blobs into a registry: one request for small ones, chunks for large ones, resumed where the registry says it stands.

Distribution-spec 1.1, "Pushing a blob monolithically", "Pushing a blob in chunks".
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import httpx

from mlenv.core.digest import DigestMismatch
from mlenv.core.image import Descriptor
from mlenv.distribution.http import Passing, Session, pause_before
from mlenv.distribution.problems import NotInRegistry, UnexpectedAnswer
from mlenv.errors import MlenvError

#: Bytes, a file, or what gives the bytes from an offset on, anew each time it is called.
Content: TypeAlias = bytes | Path | Callable[[int], Iterator[bytes]]

_PIECE: Final = 1 << 20
#: The smallest chunk that a registry may insist on is at most so large, in bytes.
_LARGEST_MINIMUM: Final = 1 << 30
_RANGE: Final = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class _Lost(Exception):
    """The registry has forgotten the upload, or what it has of it is of no use."""


class Upload:
    """One blob on its way."""

    def __init__(
        self,
        session: Session,
        uploads: str,
        descriptor: Descriptor,
        content: Content,
        *,
        scopes: frozenset[str],
        exists: Callable[[], bool],
        advance: Callable[[int], None],
    ) -> None:
        """
        Args:
            uploads: The path where uploads begin: `/v2/NAME/blobs/uploads/`.
            exists: Asks the registry whether it has the blob.
            advance: Told how many more bytes the registry has; a negative number where it has lost some.
        """
        self._session, self._uploads, self._scopes = session, uploads, scopes
        self._descriptor, self._exists, self._advance = descriptor, exists, advance
        self._reader = _Reader(content, str(descriptor.digest), session)
        self._what = f"the upload of {descriptor.digest} to {session.host}"
        self._done = 0
        self._chunk = session.settings.chunk
        self._location: str | None = None

    def run(self, location: str | None = None) -> None:
        """
        Send it. What is left of it on the registry, if it fails, is cancelled there.

        Args:
            location: Where an upload was begun for it, as after a mount that the registry did not do.

        Raises:
            AccessRefused, UnexpectedAnswer: The registry does not want it.
            RegistryUnreachable: It did not get through, however often it was tried.
            Stopped: The session was stopped.
        """
        self._location = location
        failures = losses = 0
        try:
            while True:
                before = self._done
                try:
                    self._send()
                    return
                except Passing as error:
                    last, lost = error, self._recover(error, failures)
                except _Lost:
                    last, lost = Passing("it lost the upload", answered=True), True
                if lost:
                    self._begin_anew()
                    losses += 1
                    if self._exists():
                        # Only the answer was lost.
                        self._set(self._descriptor.size)
                        return
                failures = 0 if self._done > before else failures + 1
                if max(failures, losses) >= self._session.settings.attempts:
                    raise last.for_good(self._session.host)
        except BaseException:
            self._cancel()
            raise
        finally:
            self._reader.close()

    def _send(self) -> None:
        """Send what is missing, from where the registry stands."""
        if self._location is None:
            self._begin()
        size = self._descriptor.size
        if size - self._done <= self._chunk:
            self._finish(size - self._done)
            return
        while self._done < size:
            self._patch(min(self._chunk, size - self._done))
        self._finish(0)

    def _begin(self) -> None:
        with self._session.send(
            "POST",
            self._uploads,
            what=self._what,
            scopes=self._scopes,
            good=frozenset({202}),
            headers={"Content-Length": "0"},
            once=True,
        ) as response:
            self._note(response)
        least = response.headers.get("oci-chunk-min-length", "")
        if least.isdecimal() and int(least) <= _LARGEST_MINIMUM:
            self._chunk = max(self._chunk, int(least))

    def _patch(self, count: int) -> None:
        start = self._done
        with self._request(
            "PATCH",
            self._location or "",
            count,
            frozenset({202, 416}),
            {"Content-Type": "application/octet-stream", "Content-Range": f"{start}-{start + count - 1}"},
        ) as response:
            if response.status_code == 416:
                raise Passing("it is at another place of the upload")
            self._note(response)
        self._set(start + count)

    def _finish(self, count: int) -> None:
        parts = urlsplit(self._location or "")
        # What the registry put into the location stays as it is.
        query = "&".join(filter(None, (parts.query, f"digest={self._descriptor.digest}")))
        url = urlunsplit(parts._replace(query=query))
        headers = {"Content-Type": "application/octet-stream"}
        with self._request("PUT", url, count, frozenset({201, 204, 416}), headers) as response:
            if response.status_code == 416:
                raise Passing("it is at another place of the upload")
        self._location = None
        self._set(self._descriptor.size)

    @contextmanager
    def _request(
        self, method: str, url: str, count: int, good: frozenset[int], headers: dict[str, str]
    ) -> Iterator[httpx.Response]:
        """Send so many bytes, from where the registry stands."""
        start = self._done
        try:
            with self._session.send(
                method,
                url,
                what=self._what,
                scopes=self._scopes,
                good=good,
                headers={**headers, "Content-Length": str(count)},
                body=(lambda: self._reader.take(start, count)) if count else None,
                once=True,
            ) as response:
                yield response
        except NotInRegistry as error:
            raise _Lost from error

    def _recover(self, error: Passing, failures: int) -> bool:
        """After a failure, ask how far the registry has come. Whether the upload is lost."""
        self._session.pause(pause_before(failures, error.after))
        if self._location is None:
            return False
        with (
            suppress(Passing, MlenvError),
            self._session.send(
                "GET", self._location, what=self._what, scopes=self._scopes, good=frozenset({204, 200, 202})
            ) as response,
        ):
            match = _RANGE.fullmatch(response.headers.get("range", ""))
            # NOTE: `0-0` is what some registries say of nothing, and others of one byte.
            if match is None or match[1] == "0" or int(match[1]) >= self._descriptor.size:
                return True
            self._note(response)
            self._set(int(match[1]) + 1)
            return False
        return True

    def _begin_anew(self) -> None:
        self._cancel()
        self._set(0)

    def _cancel(self) -> None:
        """Let the registry forget what it has of the blob."""
        location, self._location = self._location, None
        if location is not None:
            with (
                suppress(Passing, MlenvError),
                self._session.send(
                    "DELETE", location, what=self._what, scopes=self._scopes, good=frozenset({204, 202, 200}), once=True
                ),
            ):
                pass

    def _note(self, response: httpx.Response) -> None:
        """Where the upload goes on; a relative location is one of the answer's address."""
        place = response.headers.get("location")
        if place is None and self._location is None:
            raise UnexpectedAnswer(self._what, "the registry does not say where to")
        if place is not None:
            self._location = self._session.resolve(str(response.url), place)

    def _set(self, done: int) -> None:
        self._advance(done - self._done)
        self._done = done


class _Reader:
    """The content of a blob, from any place, read once where nothing fails."""

    def __init__(self, content: Content, what: str, session: Session) -> None:
        self._content, self._what, self._session = content, what, session
        self._pieces: Iterator[bytes] | None = None
        self._rest = b""
        self._position = 0

    def take(self, start: int, count: int) -> Iterator[bytes]:
        """So many bytes from there on. Raises `DigestMismatch` if there are fewer, `Stopped`."""
        if self._pieces is None or start != self._position:
            self.close()
            self._pieces, self._rest, self._position = _open(self._content, start), b"", start
        while count:
            self._session.check()
            try:
                piece = self._rest or next(self._pieces, b"")
            except BaseException:
                # What has failed gives nothing more: it is opened anew if it is asked again.
                self.close()
                raise
            if not piece:
                raise DigestMismatch(self._what, expected=f"{count} more bytes", got=f"{self._position} bytes in all")
            now, self._rest = piece[:count], piece[count:]
            self._position += len(now)
            count -= len(now)
            yield now

    def close(self) -> None:
        """Let go of what is read from."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        self._pieces = None


def _open(content: Content, start: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield from (content[place : place + _PIECE] for place in range(start, len(content), _PIECE))
    elif isinstance(content, Path):
        with content.open("rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE):
                yield piece
    else:
        yield from content(start)
