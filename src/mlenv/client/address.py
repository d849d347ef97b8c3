"""What a client needs to begin: a server's address, a token, and whose certificates are trusted."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mlenv.core.redact import redact
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    import ssl

#: What may follow `Bearer` (RFC 6750, section 2.1), and a little more.
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,8192}")


class InvalidServer(InvalidInput):
    """Text that should be a server's address, and is not."""

    hint = "write it as https://mlenv.example.org:8443"

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"not a server's address: {redact(text)!r}: {why}")


class InvalidToken(InvalidInput):
    """A token with characters that no token has. The message does not show it."""

    hint = "log in again with `mlenv login URL`, or set MLENV_TOKEN to a token as the server printed it"

    def __init__(self) -> None:
        super().__init__("what is given as a token is none: it is too long, or has spaces or line ends in it")


class UnreadableAuthority(InvalidInput):
    """The file that should hold the authority's certificate can't be read, or holds none."""

    hint = "`mlenv server ca` tells, where the server runs, which file to copy"

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"no certificate authority can be read from {file}: {why}")
        self.file = file


def parse_server(text: str) -> str:
    """
    A server's address, checked, without a `/` at its end.

    Raises:
        InvalidServer: It has no scheme `https` or `http`, no host, or holds what an address here can't.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        # NOTE: reading the port is what checks it.
        _ = parts.port
    except ValueError as error:
        raise InvalidServer(text, str(error)) from error
    if parts.scheme not in {"https", "http"}:
        raise InvalidServer(text, "it begins neither with https:// nor with http://")
    if not parts.hostname:
        raise InvalidServer(text, "it names no host")
    if "@" in parts.netloc:
        raise InvalidServer(text, "credentials don't belong into it")
    if parts.query or parts.fragment:
        raise InvalidServer(text, "it has a query or a fragment")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidServer(text, "it has characters that an address can't have")
    return text.rstrip("/")


def parse_token(text: str) -> str:
    """A token, checked. Raises `InvalidToken`."""
    text = text.strip()
    if not _TOKEN.fullmatch(text):
        raise InvalidToken
    return text


def trusting(authority: Path | None) -> "ssl.SSLContext":
    """
    A context for connections to a server.

    Args:
        authority: A PEM file: only certificates of these authorities are good. None trusts what the machine does, with
            `SSL_CERT_FILE` and `SSL_CERT_DIR` honoured (OpenSSL, SSL_CTX_load_verify_locations).

    Raises:
        UnreadableAuthority: There is no such file, or no certificate in it.
    """
    if authority is not None:
        import ssl

        try:
            return ssl.create_default_context(cafile=authority)
        except ssl.SSLError as error:
            raise UnreadableAuthority(authority, "it is not PEM, or has no certificate") from error
        except OSError as error:
            raise UnreadableAuthority(authority, error.strerror or str(error)) from error
    from mlenv.certificates import trusting_context

    return trusting_context()
