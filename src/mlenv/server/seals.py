"""
Small documents that a server hands out and gets back, and nobody else can read or make: sealed with a key that all
processes of a server share (Fernet: AES-128-CBC and HMAC-SHA256, with a time).
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken

from mlenv.errors import InvalidInput

_FILE: Final = "seal.key"


class BrokenSeal(InvalidInput):
    """What came back is not what was handed out, or came too late."""

    hint = "begin again"

    def __init__(self) -> None:
        super().__init__("what came back was not handed out here, or too long ago")


class Seals:
    """Seals documents, each for one purpose."""

    def __init__(self, key: bytes, *, now: Callable[[], float] = time.time) -> None:
        self._fernet = Fernet(key)
        self._now = now

    def seal(self, purpose: str, document: dict[str, Any]) -> str:
        """The document, as text that stands in addresses and cookies."""
        data = json.dumps({"purpose": purpose, **document}).encode()
        return self._fernet.encrypt_at_time(data, int(self._now())).decode()

    def open(self, purpose: str, text: str, *, lifetime: int) -> dict[str, Any]:
        """
        The document again.

        Args:
            lifetime: How long ago it may have been sealed, in seconds.

        Raises:
            BrokenSeal: It was not sealed here for that purpose, or longer ago.
        """
        try:
            data = self._fernet.decrypt_at_time(text.encode(), lifetime, int(self._now()))
        except (InvalidToken, ValueError) as error:
            raise BrokenSeal from error
        document: dict[str, Any] = json.loads(data)
        if document.pop("purpose") != purpose:
            raise BrokenSeal
        return document


def ensure_key(directory: Path) -> bytes:
    """The key in a directory that all processes of a server see. Whoever is first makes it."""
    file = directory / _FILE
    if not file.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=directory, prefix=f".{_FILE}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(Fernet.generate_key())
                stream.flush()
                os.fsync(stream.fileno())
            # A link is made by one only, and never of half a file.
            os.link(name, file)
        except FileExistsError:
            pass
        finally:
            Path(name).unlink()
    return file.read_bytes()
